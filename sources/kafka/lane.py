"""What a lane reads Kafka with: its share of the consumer that all lanes of its thread have."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message
from typing_extensions import override

from sources.kafka.consumer import SharedConsumer
from sources.kafka.messages import KafkaMessages
from sources.kit import Alert, Fetched, LaneReader, Place, Run
from waxwing.batch import Stream


class KafkaLane(LaneReader):
    """Reads the partitions that are opened.

    Args:
        consumer: of the thread.
        alert: whom to tell of what is odd, with the stream where its log does not hold the position.
    """

    def __init__(self, consumer: SharedConsumer, alert: Alert) -> None:
        self.alert, self._consumer = alert, consumer
        self._found: list[Fetched] = []
        consumer.enter(self)

    @property
    @override
    def waits_with(self) -> object:
        return self._consumer

    @property
    @override
    def found_little(self) -> bool:
        return self._consumer.little

    @override
    def open(self, places: Sequence[Place]) -> None:
        self._consumer.open(self, places)

    @override
    def leave(self, stream: Stream) -> None:
        self._consumer.drop(stream)

    @override
    def read(self, records_max: int) -> Sequence[Fetched]:
        if not self._found:
            self._consumer.look(records_max)
        found, self._found = self._found, []
        self._consumer.taken(sum(len(one.run.messages) for one in found))
        return found

    def take(self, stream: Stream, records: list[Message], eof: int | None) -> None:
        """These records of a stream were found, or the log's end."""
        offset_next = eof if not records else max(eof or 0, (records[-1].offset() or 0) + 1)
        self._found.append(Fetched(stream, Run(KafkaMessages(records), offset_next), at_end=eof is not None))

    @override
    def wait(self, timeout_s: float) -> None:
        if not self._found:
            self._consumer.wait(timeout_s)

    @override
    def close(self) -> None:
        self._consumer.leave(self)
