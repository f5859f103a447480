"""Windows over parsed records in memory: ours, Bytewax's own, and polars as the limit; and a million open pairs.

All on the same data in the same run, in one thread's worth of CPU, so that what else the machine does counts little: rates are
records a second of CPU. Ours are lanes and buckets as a sink runs them, with an emission and packed state every second.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import median
from typing import Any

import bytewax.operators as op
import msgspec
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import TestingSink, TestingSource, run_main

from benchmarks.report import Report
from waxwing.batch import Batch, Columns, Stream
from waxwing.operators.windows import (
    MESSAGE_TIME,
    NEVER,
    Bucket,
    Count,
    Mark,
    Max,
    Opening,
    StreamFold,
    Sum,
    Tumbling,
    Windows,
)

RECORDS = 2_000_000
# Bytewax's own are slow: they get so many of the same records, by the number of keys.
OWN_RECORDS = {1_000: 100_000, 100_000: 20_000}
PARTITIONS, BUCKETS, BATCH_RECORDS = 4, 4, 5_000
SNAPSHOT_INTERVAL_S = 1.0
LENGTH_S = 60
FIRST_MS = 1_767_225_600_000  # 2026-01-01; a record a millisecond
PAIRS, PAIR_KEYS = 1_000_000, 100_000

Value = Decimal | int


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What is aggregated."""

    key: str
    value: Value


definition = Windows(
    by=("key",),
    time=MESSAGE_TIME,
    kind=Tumbling(length_s=LENGTH_S),
    aggregates={"count": Count(), "total": Sum("value"), "largest": Max("value")},
    lateness_s=1,
)


@dataclass
class Folded:
    """What windows made of records."""

    rows: list[tuple[Any, ...]]
    cpu_s: float
    state_bytes: int = 0  # the most that the buckets kept


def measure(report: Report, repeats: int) -> None:
    """Rates side by side, then a million pairs."""
    rows = []
    for keys, own_records in OWN_RECORDS.items():
        for kind in (Decimal, int):
            rows += _compared(f"{keys:,} keys, {kind.__name__}", readings(RECORDS, keys, kind), own_records, repeats)
    columns = ["data", "windows", "records", "records/s of CPU", "of the limit", "ours are faster, times", "late or lost"]
    report.table(f"Windows of {LENGTH_S} s, a record a millisecond: count, sum and largest by key", columns, rows)
    columns = ["bytes of memory a pair", "pack, s", "MB packed", "load, s"]
    report.table(f"{PAIRS:,} open (key, window) pairs, {PAIR_KEYS:,} keys", columns, [_million()])


def readings(records: int, keys: int, kind: type) -> list[Reading]:
    """Of so many keys; as from a decoder, each with objects of its own."""
    chance = random.Random(1)
    if kind is int:
        return [Reading(f"customer-{chance.randrange(keys)}", chance.randrange(1_000_000)) for _ in range(records)]
    return [Reading(f"customer-{chance.randrange(keys)}", Decimal(chance.randrange(1_000_000)) / 100) for _ in range(records)]


def _compared(data: str, records: list[Reading], own_records: int, repeats: int) -> list[list[str]]:
    """A row each for the limit, ours and Bytewax's own; the first two are held against each other."""
    gc.collect()
    gc.freeze()
    times_ms = range(FIRST_MS, FIRST_MS + len(records))
    every = batches(records, times_ms)
    first = FIRST_MS * 1_000
    frame = pl.DataFrame(
        {"time": [t * 1_000 for t in times_ms], "key": [one.key for one in records], "value": [one.value for one in records]}
    )
    limits, ours, own, late = [], [], [], 0
    for _ in range(repeats):
        began_s = time.process_time()
        limit = _grouped(frame)
        limits.append(len(records) / (time.process_time() - began_s))
        folded = fold(definition, every)
        ours.append(len(records) / folded.cpu_s)
        own_s, own_late = _bytewax(records[:own_records], first)
        own.append(own_records / own_s)
        late = max(late, own_late)
        if {row[1:-1] for row in folded.rows} != set(limit.iter_rows()) or len(folded.rows) != len(limit):
            raise SystemExit(f"{data}: our windows differ from polars'")
    gc.unfreeze()
    out = []
    many = len(records)
    for what, rates, count, lost in (("polars", limits, many, 0), ("ours", ours, many, 0), ("Bytewax", own, own_records, late)):
        ratios = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
        times = [one / rate for one, rate in zip(ours, rates, strict=True)]
        out.append(
            [data, what, f"{count:,}", f"{median(rates):,.0f}", f"{median(ratios):.4f}", f"{median(times):.2f}", f"{lost:,}"]
        )
    return out


# -- ours -------------------------------------------------------------------------------------------


def batches(records: Sequence[Any], times_ms: Sequence[int]) -> list[Batch[Any]]:
    """As a source and a decoder would give them, from partitions by turns."""
    out = []
    for number, first in enumerate(range(0, len(records), BATCH_RECORDS)):
        part, times = records[first : first + BATCH_RECORDS], list(times_ms[first : first + BATCH_RECORDS])
        partition, size = number % PARTITIONS, len(part)
        offset = number // PARTITIONS * BATCH_RECORDS
        nothing = [None] * size
        messages = Columns(range(offset, offset + size), nothing, nothing, times, [()] * size)
        stream = Stream("benchmark", "readings", "id", partition)
        out.append(Batch(stream, "", offset, offset + size, messages, part, range(size)))
    return out


def fold(windows: Windows, every: Iterable[Batch[Any]]) -> Folded:
    """The batches through lanes and buckets, to their end, with packed state every second."""
    streams = [Stream("benchmark", "readings", "id", number) for number in range(PARTITIONS)]
    lanes = {stream: StreamFold(windows, stream, BUCKETS, Opening(0, 0, NEVER)) for stream in streams}
    buckets = [Bucket(windows, dict.fromkeys(streams, 0)) for _ in range(BUCKETS)]
    out = Folded([], 0.0)

    def emit() -> None:
        size = 0
        for bucket in buckets:
            emission, packed = bucket.emission(), bucket.pack()
            emitted.append(emission.rows)
            size += len(packed)
        out.state_bytes = max(out.state_bytes, size)

    emitted: list[Any] = []
    began_s = packed_s = time.process_time()
    for batch in every:
        for bucket, piece in zip(buckets, lanes[batch.stream].fold(batch), strict=True):
            bucket.fold(piece)
        if time.process_time() - packed_s >= SNAPSHOT_INTERVAL_S:
            emit()
            packed_s = time.process_time()
    for stream, lane in lanes.items():
        for bucket in buckets:
            bucket.mark(Mark(stream, 0, lane.offset, ended=True))
    emit()
    out.cpu_s = time.process_time() - began_s
    out.rows = [row for rows in emitted for row in rows.tuples()]
    return out


# -- the others -------------------------------------------------------------------------------------


def _grouped(frame: pl.DataFrame) -> pl.DataFrame:
    length = LENGTH_S * 1_000_000
    end = (pl.col("time") // length + 1) * length
    value = pl.col("value")
    values = pl.len().alias("count"), value.sum().alias("total"), value.max().alias("largest")
    return frame.group_by(end.alias("end"), "key").agg(*values)


def _bytewax(records: list[Reading], first_us: int) -> tuple[float, int]:
    """Seconds of CPU that Bytewax's own windows take, and how many records they leave out as late."""
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    items = [(one.key, (zero + timedelta(microseconds=first_us + n * 1_000), one.value)) for n, one in enumerate(records)]
    out: list[Any] = []
    flow = Dataflow("own")
    keyed = op.input("readings", flow, TestingSource(items, batch_size=1_000))
    clock: EventClock[tuple[datetime, Value]] = EventClock(
        ts_getter=lambda item: item[0], wait_for_system_duration=timedelta(seconds=1)
    )
    windower = TumblingWindower(align_to=zero, length=timedelta(seconds=LENGTH_S))
    windows = fold_window("windows", keyed, clock, windower, lambda: None, _add, _merge)
    op.output("out", windows.down, TestingSink(out))
    began_s = time.process_time()
    run_main(flow)
    cpu_s = time.process_time() - began_s
    return cpu_s, len(records) - sum(state[0] for _, (_, state) in out)


def _add(state: tuple[int, Value, Value] | None, item: tuple[datetime, Value]) -> tuple[int, Value, Value]:
    value = item[1]
    return (1, value, value) if state is None else (state[0] + 1, state[1] + value, max(state[2], value))


def _merge(a: tuple[int, Value, Value] | None, b: tuple[int, Value, Value] | None) -> tuple[int, Value, Value] | None:
    if a is None or b is None:
        return a or b
    return a[0] + b[0], a[1] + b[1], max(a[2], b[2])


# -- many open pairs --------------------------------------------------------------------------------


def _million() -> list[str]:
    """Memory a pair, and what packing and loading take."""
    buckets = _open_pairs()
    times = [time.process_time()]
    packed = [bucket.pack() for bucket in buckets]
    times.append(time.process_time())
    loaded = [Bucket.load(definition, one) for one in packed]
    times.append(time.process_time())
    pack_s, load_s = (after - before for before, after in pairwise(times))
    if [bucket.pack() for bucket in loaded] != packed or sum(bucket.open_entries for bucket in loaded) != PAIRS:
        raise SystemExit("the buckets that were loaded differ from those that were packed")
    tracemalloc.start()
    held = _open_pairs()
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0] / PAIRS
    tracemalloc.stop()
    del held
    return [f"{memory:.0f}", f"{pack_s:.2f}", f"{sum(map(len, packed)) / 1e6:.1f}", f"{load_s:.2f}"]


def _open_pairs() -> list[Bucket]:
    chance = random.Random(1)
    streams = [Stream("benchmark", "readings", "id", number) for number in range(PARTITIONS)]
    lanes = {stream: StreamFold(definition.never_late(), stream, BUCKETS, Opening(0, 0, NEVER)) for stream in streams}
    buckets = [Bucket(definition, dict.fromkeys(streams, 0)) for _ in range(BUCKETS)]
    numbers = range(PAIRS)
    records = (Reading(f"customer-{n % PAIR_KEYS}", Decimal(chance.randrange(1_000_000)) / 100) for n in numbers)
    times_ms = [FIRST_MS + n // PAIR_KEYS * LENGTH_S * 1_000 for n in numbers]
    for batch in batches(list(records), times_ms):
        for bucket, piece in zip(buckets, lanes[batch.stream].fold(batch), strict=True):
            bucket.fold(piece)
    return buckets
