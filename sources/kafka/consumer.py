"""One consumer of Kafka for all lanes of a thread: one look brings what there is for any of them, and one wait ends for all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from waxwing.errors import DataError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings

if TYPE_CHECKING:
    from sources.kafka.lane import KafkaLane
    from sources.kit import Place
    from waxwing.batch import Stream

_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
_LOOK_AGAIN = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
# While so many messages wait for lanes that have not asked for them, no more are fetched.
WAITING_MAX = 20_000

# A topic's name and a partition's number; None: of no topic at all (trouble).
Where = tuple[str | None, int | None]


class SharedConsumer:
    """Reads the partitions of several lanes, without ever waiting for the broker unless it is told to.

    Args:
        settings: brokers and login.

    Attributes:
        little: did the last look bring less than half of what was asked for?
        closed: is it?
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lanes: dict[Where, tuple[KafkaLane, Stream]] = {}
        self._topics: set[str] = set()
        self._users: list[KafkaLane] = []
        self._asked = 1  # for so many messages, the last time
        self._waiting = 0  # messages that lanes have not asked for yet
        self.little, self.closed = True, False
        # Whatever is wrong with a connection: the watch asks for itself, logs, waits, and gives up in time.
        self._consumer = make_client(Consumer, {**lane_config(settings), "error_cb": lambda _: self._look()}, settings)

    def enter(self, lane: KafkaLane) -> None:
        """One more lane."""
        self._users.append(lane)

    def leave(self, lane: KafkaLane) -> None:
        """One less, if it has not left before; with the last one it closes."""
        self._users = [one for one in self._users if one is not lane]
        if not self._users and not self.closed:
            self.closed = True
            self._consumer.close()

    def open(self, lane: KafkaLane, places: Sequence[Place]) -> None:
        """Read these for the lane, as well."""
        for stream in (place.stream for place in places):
            self._lanes[stream.source, stream.partition] = lane, stream
            self._topics.add(stream.source)
        self._consumer.incremental_assign([TopicPartition(p.stream.source, p.stream.partition, p.offset) for p in places])

    def drop(self, stream: Stream) -> None:
        """Read this one no more."""
        del self._lanes[stream.source, stream.partition]
        self._consumer.incremental_unassign([TopicPartition(stream.source, stream.partition)])

    def look(self, records_max: int) -> None:
        """Give the lanes what is there."""
        if self._waiting < WAITING_MAX:
            self._asked = records_max
            messages = self._consumer.consume(records_max, 0)
            self.little = len(messages) * 2 < records_max
            self._give(messages)

    def wait(self, timeout_s: float) -> None:
        """Wait for a message, whichever lane it is for; what came with it is taken, too."""
        found = self._consumer.consume(1, timeout_s)  # for more than one it would wait until all have come
        if found:
            self._give([*found, *(self._consumer.consume(self._asked - 1, 0) if self._asked > 1 else ())])

    def taken(self, messages: int) -> None:
        """So many messages have been taken by their lane."""
        self._waiting -= messages

    def _look(self) -> None:
        for lane in self._users[:1]:
            lane.alert()

    def _give(self, messages: list[Message]) -> None:
        for place, found in self._by_partition(messages) if messages else ():
            lane, stream = self._lanes.get(place, (None, None))
            records, eof = found, None
            if any(map(Message.error, found)):
                records, eof = self._without_events(found, lane, stream)
            # Else it was left, and this was still in the queue; or there is only trouble.
            if lane is not None and stream is not None and (records or eof is not None):
                self._waiting += len(records)
                lane.take(stream, records, eof)

    def _by_partition(self, messages: list[Message]) -> list[tuple[Where, list[Message]]]:
        first = messages[0]
        one_topic = len(self._topics) == 1
        if len(set(map(Message.partition, messages))) == 1 and (one_topic or len(set(map(Message.topic, messages))) == 1):
            return [((first.topic(), first.partition()), messages)]  # the usual case, at half the price
        runs: dict[Where, list[Message]] = {}
        for topic, of_topic in [(first.topic(), iter(messages))] if one_topic else groupby(messages, Message.topic):
            for partition, run in groupby(of_topic, Message.partition):
                runs.setdefault((topic, partition), []).extend(run)
        return list(runs.items())

    def _without_events(
        self, found: list[Message], lane: KafkaLane | None, stream: Stream | None
    ) -> tuple[list[Message], int | None]:
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
                self._trouble(error, message, lane, stream)
        return records, eof

    def _trouble(self, error: KafkaError, message: Message, lane: KafkaLane | None, stream: Stream | None) -> None:
        if (refused := refusal(error, self._settings)) is not None:
            raise refused
        if error.code() in _LOST and lane is not None:
            lane.alert(stream)
        elif error.code() in _LOOK_AGAIN or error.retriable():
            self._look()
        else:
            raise DataError(
                f"{message.topic()}[{message.partition()}]: Kafka's client can't read on: {reason_of(error)} ({error.name()}).",
                hint="Nothing behind it was taken in. If the record is damaged on the broker, its log has to be repaired there.",
            )


def lane_config(settings: KafkaSettings) -> dict[str, object]:
    """librdkafka's configuration of a consumer of lanes."""
    return {
        # With the default of 1000 ms one consumer stands still most of the time: 131k records/s instead of 800k (benchmarks).
        "fetch.queue.backoff.ms": 5,
        # The default, 100000, takes half as much memory again and is no faster.
        "queued.min.messages": 10_000,
        # The default is 64 MB, which records of some kB would fill.
        "queued.max.messages.kbytes": 16_384,
        **client_config(settings),
        "group.id": settings.kafka_group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
