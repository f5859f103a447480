"""Windows over a real Kafka into a real PostgreSQL: idle partitions, and reading that begins in the middle of the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from confluent_kafka import Producer
from pydantic import SecretStr

from sinks import SqlLiveWindows, SqlWindows
from sinks.partition import TargetPartition, TargetSink
from sinks.windows.sink import Lanes, WindowSink
from sources.kafka import KafkaSource
from tests.servers import Kafka, PostgreSQL
from tests.servers.process import until
from waxwing.databases.ledger import schema
from waxwing.operators.parse import Parser
from waxwing.operators.windows import Count, Sum, Tumbling, Windows
from waxwing.settings import KafkaSettings, SqlWindowSettings

FLOW = "flow"


class Sale(msgspec.Struct):
    at: int
    key: str
    value: int


def windows(length_s: float, **changes: Any) -> Windows:
    return Windows(
        by=("key",), time="at", kind=Tumbling(length_s), aggregates={"n": Count(), "total": Sum("value")}, lateness_s=0, **changes
    )


class Step:
    """A table of windows, and its engine."""

    def __init__(self, url: str, name: str, definition: Windows, steps: dict[str, Any], *, live: bool = False) -> None:
        kinds: dict[str, Any] = {"window_start": sa.BigInteger, "key": sa.String(9), "n": sa.Integer, "total": sa.Integer}
        columns = (sa.Column(k, kind, primary_key=k in ("window_start", "key"), autoincrement=False) for k, kind in kinds.items())
        self.table = sa.Table(name, sa.MetaData(), *columns)
        settings = SqlWindowSettings(
            database_url=SecretStr(url), window_buckets=2, window_snapshot_interval_s=0.0, flush_interval_s=0.0, lanes=2
        )
        self.target = (SqlLiveWindows if live else SqlWindows)(settings, self.table, definition)
        self.target.bind(FLOW, name, steps)
        self.target.prepare()

    def rows(self) -> dict[tuple[int, str], tuple[int, int]]:
        with self.target.place.engine.connect() as connection:
            return {(row[0], row[1]): (row[2], row[3]) for row in connection.execute(sa.select(self.table))}

    def late(self) -> list[int]:
        t = schema.dead_letters
        with self.target.place.engine.connect() as connection:
            found = connection.scalars(sa.select(t.c.message_value).where(t.c.stage == "late", t.c.step == self.table.name))
            return [json.loads(value).get("n", 1) for value in found]


def _live(target: SqlLiveWindows, batch: Any) -> list[tuple[str, Any]]:
    return [(folded.lane, folded) for folded in target.fold(batch)]


class Run:
    """A source and what is behind it, driven as Bytewax does."""

    def __init__(self, topic: str, *steps: Step, **settings: Any) -> None:
        source = KafkaSource(KafkaSettings(source_topic=topic, lanes=2, **settings), feeds=[step.target for step in steps])
        self._lanes = {name: source.build_part(f"{FLOW}.kafka", name, None) for name in source.list_parts()}
        self._parse = Parser(Sale, "parse", False, 1_000_000).parsed
        self._ways: list[tuple[Callable[[Any], Any], dict[str, TargetPartition]]] = []
        for step in steps:
            target = step.target
            if isinstance(target, SqlLiveWindows):
                sink: TargetSink = TargetSink(target)
                fold: Callable[[Any], Any] = partial(_live, target)
            else:
                sink, fold = WindowSink(target), Lanes(target, step.table.name)
            self._ways.append((fold, {name: sink.build_part("", name, None) for name in sink.list_parts()}))
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
            for batch in found:
                parsed = self._parse(batch)
                for fold, parts in self._ways:
                    for to, item in fold(parsed):
                        parts[to].write_batch([item])

    def until(self, check: Callable[[], bool], what: str) -> None:
        def stepped() -> bool:
            self.step()
            return check()

        until(stepped, timeout_s=300, what=what)

    def to_end(self) -> None:
        self.until(lambda: len(self.ended) == len(self._lanes), "the bounded run's end")
        self.flush()

    def flush(self) -> None:
        for _, parts in self._ways:
            for part in parts.values():
                part.snapshot()

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        for _, parts in self._ways:
            for part in parts.values():
                part.close()


@contextmanager
def running(topic: str, *steps: Step, **settings: Any) -> Iterator[Run]:
    with ExitStack() as stack:
        run = Run(topic, *steps, **settings)
        stack.callback(run.close)
        yield run


def produce(kafka: Kafka, topic: str, records: list[dict[str, Any]], partition: int = 0) -> None:
    producer = Producer(kafka.client())
    for record in records:
        producer.produce(topic, json.dumps(record).encode(), partition=partition)
    assert producer.flush(20) == 0


def sale(at: int, key: str = "a", value: int = 1) -> dict[str, Any]:
    return {"at": at, "key": key, "value": value}


def test_once_all_partitions_are_idle_windows_close_by_the_clock_and_what_comes_then_is_late(
    kafka: Kafka, postgresql: PostgreSQL
) -> None:
    topic, url, steps = kafka.new_topic(2), postgresql.new_database(), {}  # type: ignore[var-annotated]  # by the targets
    patient = Step(url, "patient", windows(10), steps)  # in the same flow, it waits for ever
    asks = Step(url, "asks", windows(10, idle_after_s=0.5), steps)
    now_s = int(time.time())
    first, begins = now_s - 100, now_s - now_s % 10 + 10
    first -= first % 10
    with running(topic, patient, asks, kafka_bootstrap_servers=kafka.bootstrap()) as run:
        # Partition 1 is empty. The window of `begins` ends ahead of the clock.
        produce(kafka, topic, [sale(first), sale(first + 3, value=5), sale(begins)])
        run.until(lambda: asks.rows() == {(first, "a"): (2, 6)}, "the first window is closed")
        assert time.time() < begins + 10 or asks.rows().keys() == {(first, "a")}
        run.until(lambda: asks.rows() == {(first, "a"): (2, 6), (begins, "a"): (1, 1)}, "the second window is closed")
        assert time.time() > begins + 10, "not before its end by the clock"
        produce(kafka, topic, [sale(begins + 1), sale(begins + 2)], partition=1)
        run.until(lambda: asks.late() == [2], "what comes later is late")
        run.flush()
        assert asks.rows() == {(first, "a"): (2, 6), (begins, "a"): (1, 1)}
        assert patient.rows() == {(first, "a"): (2, 6)}, "nobody is idle for it: partition 1 has closed the first"
        assert patient.late() == []


def test_windows_begun_in_the_middle_of_the_log_leave_out_those_that_are_not_whole(kafka: Kafka, postgresql: PostgreSQL) -> None:
    records = {0: [sale(at) for at in range(0, 100, 2)], 1: [sale(at) for at in range(1, 100, 10)]}
    whole = {(start, "a"): (6, 6) for start in range(0, 100, 10)}

    def full(topic: str) -> None:
        for partition, some in records.items():
            produce(kafka, topic, some, partition)

    for name, cut in (("retention", {0: 17}), ("both", {0: 17, 1: 5})):
        topic, url = kafka.new_topic(2), postgresql.new_database()
        full(topic)
        kafka.delete_records(topic, cut)
        begins = max(records[partition][at]["at"] for partition, at in cut.items())
        for _ in range(2):  # the second run has nothing to do
            steps: dict[str, Any] = {}
            closed, live = (
                Step(url, f"{name}_closed", windows(10), steps),
                Step(url, f"{name}_live", windows(10), steps, live=True),
            )
            with running(topic, closed, live, kafka_bootstrap_servers=kafka.bootstrap(), until="end") as run:
                run.to_end()
            want = {at: row for at, row in whole.items() if at[0] >= begins}
            assert closed.rows() == live.rows() == want

    # START at a time: what was written before it, in the middle of a window. The last window before it has no records of its own.
    topic, url, steps = kafka.new_topic(2), postgresql.new_database(), {}
    producer = Producer(kafka.client())
    base = 1_700_000_000
    for partition, some in records.items():
        for record in some:
            at = base + record["at"]
            producer.produce(topic, json.dumps(record | {"at": at}).encode(), partition=partition, timestamp=at * 1_000)
    assert producer.flush(20) == 0
    closed, live = Step(url, "time_closed", windows(10), steps), Step(url, "time_live", windows(10), steps, live=True)
    start = datetime.fromtimestamp(base + 40, UTC).isoformat()
    with running(topic, closed, live, kafka_bootstrap_servers=kafka.bootstrap(), until="end", start=start) as run:
        run.to_end()
    assert closed.rows() == live.rows() == {(base + at, key): row for (at, key), row in whole.items() if at >= 40}


def test_a_partition_of_which_nothing_is_left_is_named(
    kafka: Kafka, postgresql: PostgreSQL, capfd: pytest.CaptureFixture[str]
) -> None:
    topic, url = kafka.new_topic(2), postgresql.new_database()
    produce(kafka, topic, [sale(at) for at in range(0, 20, 2)], partition=0)
    produce(kafka, topic, [sale(at) for at in range(1, 4)], partition=1)
    kafka.delete_records(topic, {1: 3})
    for first in (True, False):  # it is said once
        step = Step(url, "closed", windows(10), {})
        with running(topic, step, kafka_bootstrap_servers=kafka.bootstrap(), until="end") as run:
            run.to_end()
        assert step.rows() == {(0, "a"): (5, 5), (10, "a"): (5, 5)}
        assert (f"all records of {topic}[1] (3) were deleted" in capfd.readouterr().err) == first
