"""What we rely on of Bytewax (docs/adr/0024-what-we-rely-on-of-bytewax.md), one behaviour a test: another release that breaks one
fails here, by its name."""

from __future__ import annotations

import pickle
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main
from typing_extensions import override

Event = tuple[str, str, Any]  # who, what, and of what
EVERY_TIME = timedelta(0)


class Log:
    """What partitions were called for, in order, whichever thread they are on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: dict[tuple[str, str], set[int]] = {}

    def add(self, who: str, what: str, of: Any = None) -> None:
        self.events.append((who, what, of))
        self.threads.setdefault((who, what), set()).add(threading.get_ident())

    def of(self, who: str, *what: str) -> list[Any]:
        return [event[1:] for event in self.events if event[0] == who and (not what or event[1] in what)]


class Source(FixedPartitionedSource[Any, int]):
    """Each partition gives pairs of its name and 0, 1, 2..., one a call."""

    def __init__(self, log: Log, names: Sequence[str] = ("only",), size: int = 5) -> None:
        self.log, self.names, self.size = log, names, size

    @override
    def list_parts(self) -> list[str]:
        return list(self.names)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        return Part(self, for_part, resume_state or 0)


class Part(StatefulSourcePartition[Any, int]):
    def __init__(self, source: Source, name: str, number: int) -> None:
        self.log, self.name, self.number, self.size = source.log, name, number, source.size

    @override
    def next_batch(self) -> Iterable[Any]:
        self.log.add(f"in {self.name}", "next", self.number)
        if self.number == self.size:
            raise StopIteration
        self.number += 1
        return [(self.name, self.number - 1)]

    @override
    def snapshot(self) -> int:
        self.log.add(f"in {self.name}", "snapshot", self.number)
        return self.number

    @override
    def close(self) -> None:
        self.log.add(f"in {self.name}", "close")


class Sink(FixedPartitionedSink[Any, None]):
    def __init__(self, log: Log, names: Sequence[str] = ("only",), number: Callable[[str], int] = lambda _: 0) -> None:
        self.log, self.names, self.number = log, names, number

    @override
    def list_parts(self) -> list[str]:
        return list(self.names)

    @override
    def part_fn(self, item_key: str) -> int:
        return self.number(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> SinkPart:
        return SinkPart(self.log, f"out {for_part}")


class SinkPart(StatefulSinkPartition[Any, None]):
    def __init__(self, log: Log, who: str) -> None:
        self.log, self.who = log, who

    @override
    def write_batch(self, values: list[Any]) -> None:
        for value in values:
            self.log.add(self.who, "write", value)
            if value == "bad":
                raise Refused(value)

    @override
    def snapshot(self) -> None:
        self.log.add(self.who, "snapshot")

    @override
    def close(self) -> None:
        self.log.add(self.who, "close")


class Refused(Exception):
    """By the sink."""


NAMES = [f"lane-{number:03}" for number in range(4)]


def of_lanes(log: Log, size: int = 20) -> Dataflow:
    """From four partitions into four of the same names, by way of the operators that ours are made of."""
    flow = Dataflow("flow")
    kept = op.map("map", op.input("in", flow, Source(log, NAMES, size)), lambda item: item)
    op.output("out", op.flat_map("flat", kept, lambda item: [item]), Sink(log, NAMES, NAMES.index))
    return flow


def test_sink_partitions_are_numbered_in_the_order_of_their_sorted_names() -> None:
    log, flow = Log(), Dataflow("flow")
    items = [("0", "a"), ("1", "b"), ("2", "c"), ("5", "c")]  # and by the remainder
    op.output("out", op.input("in", flow, TestingSource(items)), Sink(log, ["part-c", "part-a", "part-b"], int))
    run_main(flow)
    written = {name: [value for _, value in log.of(f"out part-{name}", "write")] for name in "abc"}
    assert written == {"a": ["a"], "b": ["b"], "c": ["c", "c"]}


def test_source_and_sink_partitions_of_one_name_are_on_one_worker_and_keep_their_order() -> None:
    log = Log()
    cluster_main(of_lanes(log), [], 0, worker_count_per_proc=2, epoch_interval=EVERY_TIME)
    threads = [log.threads[f"in {name}", "next"] for name in NAMES]
    assert [log.threads[f"out {name}", "write"] for name in NAMES] == threads
    assert {len(one) for one in threads} == {1}
    assert len(set.union(*threads)) == 2  # both workers had some
    for name in NAMES:
        assert [value for _, value in log.of(f"out {name}", "write")] == list(range(20))


def test_a_source_is_asked_behind_its_snapshot_once_the_sinks_have_theirs_of_all_that_came_before() -> None:
    log = Log()
    run_main(of_lanes(log), epoch_interval=EVERY_TIME)
    seen = dict.fromkeys(NAMES, 0)  # written, and covered by a snapshot of the sink
    written = dict(seen)
    marks: dict[str, list[int]] = {name: [] for name in NAMES}
    for who, what, of in log.events:
        side, name = who.split()
        if (side, what) == ("out", "write"):
            written[name] = of + 1
        elif (side, what) == ("out", "snapshot"):
            seen[name] = written[name]
        elif (side, what) == ("in", "snapshot"):
            marks[name].append(of)
        elif (side, what) == ("in", "next") and marks[name]:
            assert seen[name] >= marks[name][-1], (name, of)
    assert all(len(each) >= 20 for each in marks.values())


def test_snapshot_is_called_behind_the_last_write_and_before_close_without_a_recovery_store() -> None:
    log, flow = Log(), Dataflow("flow")
    op.output("out", op.input("in", flow, Source(log)), Sink(log))
    run_main(flow)
    assert [what for what, _ in log.of("out only")][-3:] in (["write", "snapshot", "close"], ["snapshot", "snapshot", "close"])
    assert log.of("in only", "next")[-1] == ("next", 5)  # StopIteration ends it, and the run
    assert [what for what, _ in log.of("in only")][-1] == "close"


def test_after_an_error_all_are_closed_and_nothing_has_a_snapshot_and_the_error_is_in_what_is_raised() -> None:
    log, flow = Log(), Dataflow("flow")
    items = op.map("bad", op.input("in", flow, Source(log)), lambda item: ("only", "bad" if item[1] == 1 else item[1]))
    op.output("out", items, Sink(log))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a panic is no Exception
        run_main(flow, epoch_interval=timedelta(hours=1))
    assert log.of("out only", "snapshot", "close") == [("close", None)]
    assert log.of("in only", "close") == [("close", None)]
    assert any(isinstance(error, Refused) for error in _chain(caught.value))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_a_source_sleeps_until_it_is_to_wake() -> None:
    log, flow = Log(), Dataflow("flow")
    wakes: list[datetime] = []
    late: list[bool] = []

    class Sleeping(Part):
        @override
        def next_batch(self) -> Iterable[Any]:
            late.append(not wakes or datetime.now(UTC) >= wakes[-1])
            wakes.append(datetime.now(UTC) + timedelta(milliseconds=20))
            return super().next_batch()

        @override
        def next_awake(self) -> datetime:
            return wakes[-1] if wakes else datetime.now(UTC)

    class Sleepy(Source):
        @override
        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
            return Sleeping(self, for_part, resume_state or 0)

    op.output("out", op.input("in", flow, Sleepy(log)), Sink(log))
    run_main(flow)
    assert late == [True] * 6


def test_what_a_partition_gave_has_reached_the_sinks_when_it_is_asked_again() -> None:
    log = Log()
    run_main(of_lanes(log))
    for name in NAMES:
        for number in range(1, 20):
            asked = log.events.index((f"in {name}", "next", number))
            assert log.events.index((f"out {name}", "write", number - 1)) < asked


class Counts(StatefulBatchLogic[Any, Any, "State"]):
    def __init__(self, state: State | None) -> None:
        self.state = state or State(0)

    @override
    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        self.state = State(self.state.count + len(values))
        return [(value, threading.get_ident()) for value in values], StatefulBatchLogic.RETAIN

    @override
    def snapshot(self) -> State:
        return self.state


class State:
    """Pickles by the name of its module and its own."""

    def __init__(self, count: int) -> None:
        self.count = count


def test_all_of_a_key_comes_to_one_worker_in_the_order_of_its_source() -> None:
    out: list[Any] = []
    flow = Dataflow("flow")
    keyed = op.map("key", op.input("in", flow, Source(Log(), NAMES, 40)), lambda item: (str(item[1] % 8), item))
    op.output("out", op.stateful_batch("count", keyed, Counts), TestingSink(out))
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    threads: dict[str, set[int]] = {}
    for key, (_, thread) in out:
        threads.setdefault(key, set()).add(thread)
    assert {len(one) for one in threads.values()} == {1}
    assert len(set.union(*threads.values())) == 2
    for key in map(str, range(8)):
        for name in NAMES:
            mine = [number for k, ((lane, number), _) in out if (k, lane) == (key, name)]
            assert mine == list(range(int(key), 40, 8))


def test_the_recovery_store_has_the_tables_that_prepare_reads_and_pickled_states(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    flow = Dataflow("flow")
    keyed = op.map("key", op.input("in", flow, Source(Log(), size=3)), lambda item: ("key", item))
    op.output("out", op.stateful_batch("count", keyed, Counts), TestingSink([]))
    run_main(flow, epoch_interval=EVERY_TIME, recovery_config=RecoveryConfig(str(tmp_path)))
    (file,) = tmp_path.glob("part-*.sqlite3")
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT ex_num, worker_count FROM exs").fetchall() == [(0, 1)]
        (resume,) = db.execute("SELECT resume_epoch FROM exs").fetchone()
        ((_, front),) = db.execute("SELECT ex_num, worker_frontier FROM fronts").fetchall()
        assert front > resume
        of_key = "SELECT step_id, ser_change FROM snaps WHERE state_key = 'key' AND snap_epoch < ? ORDER BY snap_epoch"
        step, kept = db.execute(of_key, (front,)).fetchall()[-1]
    assert step.startswith("flow.count")
    assert __name__.encode() in kept  # of a class the module's name and its own
    assert pickle.loads(kept).count == 3


def test_what_is_set_on_a_dataflow_stays_and_each_stream_has_a_name_of_its_own() -> None:
    flow = Dataflow("flow")
    vars(flow)["_waxwing_own"] = own = object()
    first = op.input("in", flow, TestingSource([("a", 1)]))
    second = op.map("same", first, lambda item: item)
    assert first.flow() is second.flow() is flow
    assert first.stream_id != second.stream_id
    out: list[Any] = []
    op.output("out", second, TestingSink(out))
    run_main(flow)
    assert vars(flow)["_waxwing_own"] is own
    assert out == [("a", 1)]


def test_epochs_are_no_shorter_than_they_are_told() -> None:
    log, flow = Log(), Dataflow("flow")
    op.output("out", op.input("in", flow, Source(log, size=50)), Sink(log))
    began = time.monotonic()
    run_main(flow, epoch_interval=timedelta(seconds=60))
    assert len(log.of("in only", "snapshot")) <= 1 + (time.monotonic() - began) // 60
