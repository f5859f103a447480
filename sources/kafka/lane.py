"""What a lane reads Kafka with: one consumer for all of its partitions, of whatever topics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from typing_extensions import override

from sources.kafka.messages import KafkaMessages
from sources.kit import Alert, Fetched, LaneReader, Place, Run
from waxwing.batch import Stream
from waxwing.errors import DataError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings

_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
_LOOK_AGAIN = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}

# A topic's name and a partition's number; None: of no topic at all (trouble).
Where = tuple[str | None, int | None]


class KafkaLane(LaneReader):
    """Reads the partitions that are opened, without ever waiting for the broker.

    Args:
        settings: brokers and login.
        alert: whom to tell of what is odd, with the stream where its log does not hold the position.
    """

    fills_up = True

    def __init__(self, settings: KafkaSettings, alert: Alert) -> None:
        self._settings, self._alert = settings, alert
        self._streams: dict[Where, Stream] = {}
        self._topics: set[str] = set()
        self._waited_for: list[Message] = []
        # Whatever is wrong with a connection: the watch asks for itself, logs, waits, and gives up in time.
        self._consumer = make_client(Consumer, {**lane_config(settings), "error_cb": lambda _: alert()}, settings)

    @override
    def open(self, places: Sequence[Place]) -> None:
        for stream in (place.stream for place in places):
            self._streams[stream.source, stream.partition] = stream
            self._topics.add(stream.source)
        self._consumer.incremental_assign([TopicPartition(p.stream.source, p.stream.partition, p.offset) for p in places])

    @override
    def wait(self, timeout_s: float) -> None:
        self._waited_for += self._consumer.consume(1, timeout_s)  # for more than one it would wait until all have come

    @override
    def leave(self, stream: Stream) -> None:
        del self._streams[stream.source, stream.partition]
        self._consumer.incremental_unassign([TopicPartition(stream.source, stream.partition)])

    @override
    def read(self, records_max: int) -> Sequence[Fetched]:
        messages = self._consumer.consume(records_max, 0)
        if self._waited_for:
            messages, self._waited_for = self._waited_for + messages, []
        if not messages:
            return ()
        out = []
        for place, found in self._by_partition(messages).items():
            stream = self._streams.get(place)
            records, eof = found, None
            if any(map(Message.error, found)):
                records, eof = self._without_events(found, stream)
            if stream is None or (eof is None and not records):  # it was left, and this was still in the queue; or only trouble
                continue
            offset_next = eof if not records else max(eof or 0, (records[-1].offset() or 0) + 1)
            out.append(Fetched(stream, Run(KafkaMessages(records), offset_next), at_end=eof is not None))
        return out

    def _by_partition(self, messages: list[Message]) -> dict[Where, list[Message]]:
        first = messages[0]
        one_topic = len(self._topics) == 1
        if len(set(map(Message.partition, messages))) == 1 and (one_topic or len(set(map(Message.topic, messages))) == 1):
            return {(first.topic(), first.partition()): messages}  # the usual case, at half the price
        runs: dict[Where, list[Message]] = {}
        for topic, of_topic in [(first.topic(), iter(messages))] if one_topic else groupby(messages, Message.topic):
            for partition, run in groupby(of_topic, Message.partition):
                runs.setdefault((topic, partition), []).extend(run)
        return runs

    def _without_events(self, found: list[Message], stream: Stream | None) -> tuple[list[Message], int | None]:
        """The records among what came, and the log's end if it was reached."""
        eof: int | None = None
        records = []
        for message in found:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                eof = message.offset()
            else:
                self._trouble(error, message, stream)
        return records, eof

    def _trouble(self, error: KafkaError, message: Message, stream: Stream | None) -> None:
        if (refused := refusal(error, self._settings)) is not None:
            raise refused
        if error.code() in _LOST and stream is not None:
            self._alert(stream)
        elif error.code() in _LOOK_AGAIN or error.retriable():
            self._alert()
        else:
            raise DataError(
                f"{message.topic()}[{message.partition()}]: Kafka's client can't read on: {reason_of(error)} ({error.name()}).",
                hint="Nothing behind it was taken in. If the record is damaged on the broker, its log has to be repaired there.",
            )

    @override
    def close(self) -> None:
        self._consumer.close()


def lane_config(settings: KafkaSettings) -> dict[str, object]:
    """librdkafka's configuration of a lane's consumer."""
    return {
        # With the default of 1000 ms one consumer stands still most of the time: 131k records/s instead of 800k (benchmarks).
        "fetch.queue.backoff.ms": 5,
        # The default, 100000, takes half as much memory again and is no faster.
        "queued.min.messages": 10_000,
        # Per lane. The default is 64 MB, which records of some kB would fill.
        "queued.max.messages.kbytes": 16_384,
        **client_config(settings),
        "group.id": settings.kafka_group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
