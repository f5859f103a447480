"""One lane: reads its partitions, and cuts what comes into batches without a gap."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from bytewax.inputs import StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from typing_extensions import override

from sources.group_offsets import Durable
from sources.kafka_messages import Fetched
from sources.kafka_start import LaneState, Lost, OpenPart
from sources.kafka_topic import TopicWatch
from waxwing import runtime
from waxwing.batch import Batch, Stream, lane_name, marked, raw
from waxwing.errors import DataError, OffsetGap
from waxwing.holding import reminders
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings

Raw = Batch[bytes | None]

# After a fetch that left the queue empty: long enough that a brisk producer fills a batch, short against any flush interval.
REST_S = 0.01
# Nothing came: wait up to this long.
IDLE_S = 0.02
# An idle partition says so again: windows are closed by the clock so much later at most.
IDLE_AGAIN_S = 5.0
# A batch has about as many bytes of values at most: records of 2 kB come in batches of 1,000, else they would fill the memory.
BATCH_BYTES_MAX = 2_000_000

_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
_LOOK_AGAIN = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}


class Reader:
    """One partition of a lane: its position, the split points ahead, and where a bounded run ends. Pure."""

    def __init__(self, lane: str, part: OpenPart) -> None:
        self.stream, self.position, self.end = part.stream, part.offset, part.offset_end
        self._lane, self._splits = lane, list(part.splits)
        self._waiting_since_s: float | None = None  # at the log's end
        self._idle_said_s = 0.0

    @property
    def done(self) -> bool:
        """Has the bounded run reached its end here?"""
        return self.end is not None and self.position >= self.end

    def take(self, messages: list[Message], eof: int | None = None) -> list[Raw]:
        """The batches of what was fetched in one go; `eof` is the log's end where it was reached behind them."""
        if messages and _offset(messages[0]) < self.position:
            raise OffsetGap(
                f"{self.stream}: Kafka's client gave offset {_offset(messages[0])} below the position {self.position}."
            )
        self._waiting_since_s, self._idle_said_s = (None if eof is None else time.monotonic()), 0.0
        offset_next = max(self.position, eof or 0, _offset(messages[-1]) + 1 if messages else 0)
        if self.end is not None and offset_next > self.end:
            offset_next = self.end
            messages = messages[: bisect_left(messages, self.end, key=_offset)]
        batches = []
        while self._splits and self._splits[0] < offset_next:
            split = self._splits.pop(0)
            cut = bisect_left(messages, split, key=_offset)
            batches += self._batch(split, messages[:cut])
            messages = messages[cut:]
        return batches + self._batch(offset_next, messages)

    def idle(self, after_s: Sequence[float]) -> list[Raw]:
        """A mark where it has waited at the log's end for one of these times, and then every IDLE_AGAIN_S: what waits for the
        clock is to hear of it."""
        if self._waiting_since_s is None or not after_s:
            return []
        said_s, now_s = self._idle_said_s, time.monotonic() - self._waiting_since_s
        due_s = next((after for after in after_s if after > said_s), said_s + IDLE_AGAIN_S)
        if now_s < min(due_s, max(after_s[0], said_s + IDLE_AGAIN_S)):
            return []
        self._idle_said_s = now_s
        return [marked(self.stream, self._lane, self.position, "idle", now_s)]

    def ended(self) -> Raw:
        """Says that there are no more records."""
        return marked(self.stream, self._lane, self.position, "end")

    def _batch(self, offset_next: int, messages: list[Message]) -> list[Raw]:
        offset_first, self.position = self.position, max(self.position, offset_next)
        if offset_first >= offset_next:
            return []
        return [raw(self.stream, self._lane, offset_first, offset_next, Fetched(messages))]


class Lane(StatefulSourcePartition[Raw, LaneState | None]):
    """Reads the partitions p with p % LANES == its number; the watch over the topic says from where."""

    def __init__(
        self, settings: KafkaSettings, number: int, topic: TopicWatch, durable: Durable, resume: LaneState | None
    ) -> None:
        self._settings, self._name, self._number, self._topic = settings, lane_name(number), number, topic
        self._durable, self._resume = durable, resume
        self._readers: dict[int, Reader] = {}
        self._known: dict[int, Reader] = {}
        self._ended: list[Reader] = []  # at their end from the start, which is still to be said
        self._stream: Stream | None = None
        self._revision = -1
        self._awake_after_s = 0.0
        self._wanted = settings.batch_records_max
        # Whatever is wrong with a connection: the watch asks for itself, logs, waits, and gives up in time.
        self._consumer = make_client(Consumer, {**lane_config(settings), "error_cb": lambda _: topic.look()}, settings)
        topic.enter(number, resume)

    @override
    def next_batch(self) -> list[Raw]:
        try:
            return self._next_batch()
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - the process ends by it, or it is raised
            runtime.fail(error)

    def _next_batch(self) -> list[Raw]:
        topic = self._topic
        self._durable.next_batch_of(self._number)
        if topic.error is not None:
            raise topic.error
        if runtime.stopping():
            raise StopIteration
        if self._revision != topic.revision:
            self._assign()
        if self._ended:
            ended, self._ended = self._ended, []
            return [reader.ended() for reader in ended]
        waking = reminders(topic.feeds, self._name, lambda: {r.stream: r.position for r in self._known.values()})
        if waking:
            return waking
        if topic.bounded and self._revision >= 0 and not self._readers:
            if waking is None:
                self._awake_after_s = IDLE_S
                return []
            raise StopIteration
        wanted = self._wanted
        messages = self._consumer.consume(wanted, 0)
        self._awake_after_s = 0.0 if len(messages) * 2 >= wanted else REST_S if messages else IDLE_S
        if not messages:
            after_s = topic.idle_after_s
            return [mark for r in self._readers.values() for mark in r.idle(after_s)] if after_s else []
        runtime.working()
        some = messages[:: len(messages) // 8 or 1]
        mean_bytes = sum(len(message.value() or b"") for message in some) / len(some)
        self._wanted = max(1, min(self._settings.batch_records_max, int(BATCH_BYTES_MAX / (mean_bytes + 1))))
        return self._batches(messages)

    def _batches(self, messages: list[Message]) -> list[Raw]:
        batches: list[Raw] = []
        for partition, found in _by_partition(messages).items():
            reader = self._readers.get(partition)
            records, eof = found, None
            if any(map(Message.error, found)):
                records, eof = self._without_events(found, reader)
            if reader is not None:  # else it has reached its end, and this was still in the queue
                batches += reader.take(records, eof)
                if reader.done:
                    batches.append(reader.ended())
                    del self._readers[partition]
                    self._consumer.incremental_unassign([TopicPartition(self._settings.source_topic, partition)])
        return batches

    def _without_events(self, found: list[Message], reader: Reader | None) -> tuple[list[Message], int | None]:
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
                self._trouble(error, message.partition(), reader)
        return records, eof

    def _trouble(self, error: KafkaError, partition: int | None, reader: Reader | None) -> None:
        if (refused := refusal(error, self._settings)) is not None:
            raise refused
        if error.code() in _LOST and reader is not None:
            self._topic.lost(Lost(reader.stream, reader.position))
        elif error.code() in _LOOK_AGAIN or error.retriable():
            self._topic.look()
        else:
            raise DataError(
                f"{self._settings.source_topic}[{partition}]: Kafka's client can't read on: {reason_of(error)} ({error.name()}).",
                hint="Nothing behind it was taken in. If the record is damaged on the broker, its log has to be repaired there.",
            )

    def _assign(self) -> None:
        """Read partitions that the topic's thread has opened since."""
        revision, opened = self._topic.opened(self._number)
        if revision < 0:
            return
        self._revision = revision
        fresh = []
        for part in opened:
            number = part.stream.partition
            if number in self._known:
                continue
            self._stream = part.stream
            reader = self._known[number] = Reader(self._name, part)
            if reader.done:
                self._ended.append(reader)
            else:
                self._readers[number] = reader
                fresh.append(TopicPartition(part.stream.source, number, part.offset))
        if fresh:
            self._consumer.incremental_assign(fresh)

    @override
    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=self._awake_after_s) if self._awake_after_s else None

    @override
    def snapshot(self) -> LaneState | None:
        if self._stream is None:
            return self._resume
        offsets = {number: reader.position for number, reader in self._known.items()}
        self._durable.snapshot_of(self._number, offsets)
        return LaneState(self._stream.source_id, offsets, {number: reader.end for number, reader in self._known.items()})

    @override
    def close(self) -> None:
        self._topic.leave(self._number)
        self._consumer.close()


def _by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    first = messages[0].partition()
    if set(map(Message.partition, messages)) == {first}:  # the usual case, at half the price
        return {-1 if first is None else first: messages}
    runs: dict[int, list[Message]] = {}
    for partition, run in groupby(messages, Message.partition):
        runs.setdefault(-1 if partition is None else partition, []).extend(run)
    return runs


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


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset
