"""Windows before plain Bytewax sinks: the same rows with any number of workers, and again after a crash with recovery."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.dataflow import Stream as Flowing
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main
from typing_extensions import override

from waxwing.batch import Batch, Columns, Stream, marked
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Sum, Tumbling, Windows
from waxwing.operators.windows.plain import windows
from waxwing.recovery import prepare

DEFINITION = Windows(
    by=("key",),
    time="time",
    kind=Tumbling(10),
    aggregates={"n": Count(), "sum": Sum("value")},
    lateness_s=3,
    fields=("time", "key", "value"),
)
PARTITIONS = 3
Rows = dict[tuple[float, str], tuple[int, int]]


def topic(seed: int) -> tuple[list[Any], Rows, int]:
    """Batches of three partitions, interleaved, then their ends; the rows of a plain recomputation; how many are late."""
    rng = random.Random(seed)
    items: dict[int, list[Any]] = {}
    counted: dict[tuple[float, str], list[int]] = defaultdict(list)
    late = 0
    for partition in range(PARTITIONS):
        stream, items[partition], clock, highest = Stream("flow", "topic", "id", partition), [], 0.0, -(10.0**9)
        for first in range(0, 60, 5):
            records = []
            for _ in range(5):
                clock += rng.random() * 2
                record = (clock - rng.choice((0, 0, 1, 2, 9)), rng.choice("abc"), rng.randint(1, 9))
                end = record[0] // 10 * 10 + 10
                if highest - 3 >= end:
                    late += 1
                else:
                    counted[end, record[1]].append(record[2])
                highest = max(highest, record[0])
                records.append(record)
            messages = Columns(range(first, first + 5), [None] * 5, [None] * 5, [-1] * 5, [()] * 5)
            items[partition].append(Batch(stream, "lane-000", first, first + 5, messages, records, range(5)))
        items[partition].append(marked(stream, "lane-000", 60, "end"))
    order = [partition for partition in items for _ in items[partition]]
    rng.shuffle(order)
    return (
        [items[partition].pop(0) for partition in order],
        {at: (len(values), sum(values)) for at, values in counted.items()},
        late,
    )


class Kept(FixedPartitionedSink[dict[str, Any], None]):
    """Rows into a list. With partitions: behind a dynamic sink Bytewax may finish an epoch before its rows are written."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    @override
    def list_parts(self) -> list[str]:
        return ["only"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> StatefulSinkPartition[dict[str, Any], None]:
        return KeptPart(self._rows)


class KeptPart(StatefulSinkPartition[dict[str, Any], None]):
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    @override
    def write_batch(self, values: list[dict[str, Any]]) -> None:
        self._rows += values

    @override
    def snapshot(self) -> None:
        pass


def flow_of(items: list[Any], rows: list[Any], late: list[Any], batch_size: int = 1) -> Dataflow:
    flow = Dataflow("flow")
    out = windows(
        "totals", op.input("in", flow, TestingSource(items, batch_size=batch_size)), DEFINITION, partitions=PARTITIONS, buckets=4
    )
    op.output("rows", op.key_on("key", out.rows, lambda row: row["key"]), Kept(rows))
    op.output("late", out.late, TestingSink(late))
    return flow


def by_window(rows: list[dict[str, Any]]) -> Rows:
    """Rows that were emitted again are equal to what they were."""
    out: Rows = {}
    for row in rows:
        assert row["window_end"] - row["window_start"] == timedelta(seconds=10)
        assert row["revision"] == 0
        assert out.setdefault((row["window_end"].timestamp(), row["key"]), (row["n"], row["sum"])) == (row["n"], row["sum"])
    return out


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_those_of_a_plain_recomputation(workers: int) -> None:
    items, expected, lates = topic(workers)
    rows: list[Any] = []
    late: list[Any] = []
    cluster_main(flow_of(items, rows, late), [], 0, worker_count_per_proc=workers)
    assert by_window(rows) == expected
    assert len(rows) == len(expected)
    assert len(late) == lates > 0


def test_a_crash_at_any_point_emits_again_what_was_not_recorded_and_nothing_else(tmp_path: Path) -> None:
    removed = 0
    for seed in range(8):
        items, expected, _ = topic(seed)
        folder = tmp_path / str(seed)
        rows: list[Any] = []
        rng = random.Random(seed)
        first = rng.randrange(3, len(items) - 5)
        for at in [*sorted(rng.choices(range(first, first + 5), k=5)), None]:
            # Read in other portions, so that epochs hold other records than they did before the crash.
            flow = flow_of(items, rows, [], rng.choice((1, 4)))
            removed += prepare(folder, parts=2)
            # Taken out again behind its run: the testing source counts wrongly behind an ABORT that it passed over.
            if at is not None:
                items.insert(at, TestingSource.ABORT())
            run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(folder)))
            if at is not None:
                del items[at]
        assert by_window(rows) == expected, f"seed {seed}"
    assert removed, "snapshots of epochs that a crash left unfinished, which could otherwise count"


def test_the_end_of_input_alone_closes_nothing() -> None:
    items, _, _ = topic(1)
    rows: list[Any] = []
    run_main(flow_of([item for item in items[:3] if isinstance(item, Batch)], rows, []))
    assert not rows


@pytest.mark.parametrize(("buckets", "partitions"), [(0, 1), (2_000, 1), (4, 0)])
def test_numbers_out_of_bounds_are_refused(buckets: int, partitions: int) -> None:
    up: Flowing[Any] = op.input("in", Dataflow("flow"), TestingSource([]))
    with pytest.raises(ConfigError):
        windows("totals", up, DEFINITION, partitions=partitions, buckets=buckets)
