"""What an earlier release wrote of windows, and what it let Bytewax keep (`-r`), is known again."""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import polars as pl
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

from dataflows.orders import RawOrder, enrich, per_customer
from sources.kafka_start import LaneState
from sources.memory import MemorySource
from tests.faults.storm.window_totals import judged, totals
from tests.migration.definitions import DEFINITIONS
from tests.migration.dump import RELEASES
from tests.migration.going_on import DATA as MESSAGES
from tests.migration.going_on import accepted
from tests.migration.topic import DATA
from tests.migration.visits import BUCKETS, PARTITIONS
from waxwing.operators import map_batch, parse
from waxwing.operators.windows import Bucket, Mark, Opening
from waxwing.operators.windows.plain import windows

State = dict[tuple[str, str], Any]


@pytest.mark.parametrize("release", RELEASES)
def test_each_definition_is_written_as_it_was(release: str) -> None:
    kept = json.loads((DATA / release / "definitions.json").read_text())
    assert kept.keys() == DEFINITIONS.keys()
    for name, windows_of in DEFINITIONS.items():
        # The first release kept characters beyond ASCII as they are; they mean the same.
        assert windows_of.text == kept[name].encode("ascii", "backslashreplace").decode(), name
        assert windows_of.means_the_same(kept[name]), name
    texts = list(kept.values())
    alike = [(a, b) for a, one in DEFINITIONS.items() for b, text in kept.items() if a != b and one.means_the_same(text)]
    assert len(texts) > 30
    # What may be said anew, and what is said in two ways.
    assert {name for pair in alike for name in pair} == {
        "plain",
        "a length as a float",
        "no lateness",
        "lateness in fractions",
        "long lateness",
        "grace",
        "grace in fractions",
        "idle and future",
        "tuples",
        "nulls as a group",
    }


def kept_state(release: str, end: str) -> State:
    """What Bytewax kept, by step and key: unpickled, as Bytewax does it."""
    rows = json.loads((DATA / release / f"recovery-{end}.json").read_text())
    return {(step, key): pickle.loads(bytes.fromhex(pickled)) for step, key, pickled in rows}


def of_step(state: State, step: str) -> dict[str, Any]:
    return {key: value for (name, key), value in state.items() if name == step and value is not None}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("end", ["stopped", "ended"])
def test_what_bytewax_kept_of_ours_loads(release: str, end: str) -> None:
    state = kept_state(release, end)
    read: dict[int, int] = {}
    for lane in of_step(state, "plain.kafka").values():
        assert type(lane) is LaneState
        assert lane.topic_id
        assert lane.ends == (lane.offsets if end == "ended" else dict.fromkeys(lane.offsets))
        read |= lane.offsets
    assert sorted(read) == list(range(PARTITIONS))
    lanes = {key: Opening(*value) for key, value in of_step(state, "plain.totals.lanes").items()}
    buckets = of_step(state, "plain.totals.buckets")
    assert len(buckets) == BUCKETS
    for packed, marks in buckets.values():
        bucket = Bucket.load(per_customer, packed, streams_min=PARTITIONS)
        held = {str(stream): (at.offset_next, at.watermark) for stream, at in bucket.held.items()}
        assert held == {key: (lane.offset, lane.watermark) for key, lane in lanes.items()}
        assert {stream.partition: at.offset_next for stream, at in bucket.held.items()} == {p: n for p, n in read.items() if n}
        assert [(type(mark), mark.ended, mark.offset) for mark in marks] == [
            (Mark, True, bucket.held[mark.stream].offset_next) for mark in marks
        ]
        assert len(marks) == (PARTITIONS if end == "ended" else 0)


def store(state: State, folder: Path) -> RecoveryConfig:
    """A recovery store that holds this."""
    init_db_dir(folder, 1)
    with closing(sqlite3.connect(next(folder.glob("part-*.sqlite3")))) as db, db:
        db.execute("INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (0, 1, 1)")
        db.execute("INSERT INTO fronts (ex_num, worker_index, worker_frontier) VALUES (0, 0, 3)")
        pickled = [(step, key, pickle.dumps(value)) for (step, key), value in state.items()]
        db.executemany("INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, 2, ?)", pickled)
    return RecoveryConfig(str(folder))


@pytest.mark.parametrize("release", RELEASES)
def test_windows_that_bytewax_kept_go_on_exactly(release: str, tmp_path: Path) -> None:
    state = kept_state(release, "stopped")
    lane = next(iter(of_step(state, "plain.kafka").values()))
    stream = next(iter(of_step(state, "plain.totals.lanes"))).partition("[")[0]
    closed_to = max(Bucket.load(per_customer, packed).closed_to for packed, _ in of_step(state, "plain.totals.buckets").values())
    rows: list[Any] = []
    flow = Dataflow("plain")
    source = MemorySource(MESSAGES, flow="plain", topic=stream, source_id=lane.topic_id, lanes=4)  # which reads what Kafka's kept
    orders = map_batch("enrich", parse("parse", op.input("kafka", flow, source), RawOrder), enrich)
    out = windows("totals", orders, per_customer, partitions=PARTITIONS, buckets=BUCKETS)
    op.output("rows", out.rows, TestingSink(rows))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=store(state, tmp_path))

    every = judged(accepted())
    on_time = totals(every.filter(~pl.col("late"))).filter(pl.col("scope") == "customer")
    open_then = on_time.filter((pl.col("start_ms") + 60_000) * 1_000 > closed_to)
    assert len(on_time) > len(open_then) > 50
    got = {
        (row["customer"], row["window_start"].timestamp() * 1000): (row["orders"], row["value"], row["largest"]) for row in rows
    }
    assert len(got) == len(rows)
    assert got == {
        (customer, start_ms): (count, cents / 100, largest / 100)
        for customer, start_ms, count, cents, largest in open_then.select(
            "customer", "start_ms", "orders", pl.col("cents").cast(pl.Decimal(20, 0)), pl.col("largest").cast(pl.Decimal(20, 0))
        ).rows()
    }
