"""A Kafka source's lanes in the test's own process, and what they are given to read."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, Producer

from sinks import MemoryTarget
from sources.kafka import KafkaSource
from sources.kit.reading.lane import Lane
from sources.kit.words import Raw
from tests.servers import Kafka
from tests.servers.process import until
from waxwing.change import Change
from waxwing.settings import KafkaSettings

FLOW, STEP = "flow", "step"


def a_target(step: str = STEP) -> MemoryTarget:
    target = MemoryTarget()
    target.bind(FLOW, step)
    return target


def take_in(target: MemoryTarget, batches: Sequence[Raw]) -> None:
    """What a sink does: each stream from its stored position on."""
    for batch in batches:
        session = target.connect(batch.lane, "token")
        before = session.take_over(batch.stream)
        if batch.offset_next > before.offset_next:
            assert batch.offset_first <= before.offset_next
            fresh = batch.after(before.offset_next)
            after = before._replace(offset_next=batch.offset_next)
            session.commit(Change([fresh], {batch.stream: before}, {batch.stream: after}))


class Reading:
    """A source's lanes, driven as Bytewax does. `topic` may be several names; empty where a pattern is among the settings."""

    def __init__(self, topic: str, *feeds: MemoryTarget, resume: dict[str, Any] | None = None, **settings: Any) -> None:
        for feed in feeds:
            feed._claims.clear()  # what a process reads is new to each: this is another one
        wanted = {"lanes": 2, "partition_refresh_interval_s": 0.1, **settings}
        names = {"source_topic": topic} if topic else {}
        self.source = KafkaSource(KafkaSettings(**{**names, **wanted}), feeds=feeds)
        self.batches: list[Raw] = []
        self.marks: list[tuple[int, int, str]] = []
        self._feeds = feeds
        self._lanes: dict[str, Lane] = {
            name: self.source.build_part(f"{FLOW}.kafka", name, (resume or {}).get(name)) for name in self.source.list_parts()
        }
        self.ended: set[str] = set()

    def step(self) -> None:
        for name, lane in self._lanes.items():
            if name in self.ended:
                continue
            try:
                found = lane.next_batch()
            except StopIteration:
                self.ended.add(name)
                continue
            self.marks += [(batch.stream.partition, batch.offset_next, batch.mark) for batch in found if batch.mark]
            found = [batch for batch in found if not batch.mark]
            self.batches += found
            for feed in self._feeds:
                take_in(feed, found)

    def until(self, check: Callable[[], bool], timeout_s: float = 180.0) -> None:
        def stepped() -> bool:
            self.step()
            return check()

        until(stepped, timeout_s=timeout_s, what="what the test waits for")

    def to_end(self) -> Reading:
        self.until(lambda: len(self.ended) == len(self._lanes))
        return self

    def snapshots(self) -> dict[str, Any]:
        return {name: pickle.loads(pickle.dumps(lane.snapshot())) for name, lane in self._lanes.items()}

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.close()

    @property
    def values(self) -> list[bytes | None]:
        return [value for batch in self.batches for value in batch.records]

    @property
    def some_values(self) -> list[bytes]:
        return [value for value in self.values if value is not None]

    def ranges(self, partition: int = 0) -> list[tuple[int, int]]:
        return [(b.offset_first, b.offset_next) for b in self.batches if b.stream.partition == partition]


Start = Callable[..., Reading]


def produce(kafka: Kafka, topic: str, *values: bytes, partition: int = 0, batch: int = 10_000, **options: Any) -> None:
    producer = Producer({**kafka.client(), "linger.ms": 0, "batch.num.messages": batch})
    errors: list[object] = []
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: errors.append(error), **options)
    assert producer.flush(20) == 0
    assert errors == [None] * len(values)


def numbered(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


def contiguous(ranges: Sequence[tuple[int, int]]) -> bool:
    return all(left[1] == right[0] for left, right in pairwise(ranges))


def committed(kafka: Kafka, group: str, topic: str) -> dict[int, int]:
    asked = kafka.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = asked[group].result(20).topic_partitions or []
    return {place.partition: place.offset for place in found if place.topic == topic}
