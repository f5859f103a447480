"""Batches of many records over several windows: folded as a whole they say what they say record by record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from waxwing.batch import Batch, Columns, Stream
from waxwing.operators.windows import (
    NEVER,
    Bucket,
    Count,
    First,
    Fold,
    Hopping,
    Last,
    Max,
    Min,
    Opening,
    Session,
    StreamFold,
    Sum,
    Tumbling,
    Windows,
)

STREAM = Stream("flow", "topic", "id", 0)
BUCKETS, RECORDS = 3, 600
AGGREGATES = {
    "n": Count(),
    "present": Count("value"),
    "sum": Sum("value"),
    "whole": Sum("number"),
    "least": Min("value"),
    "largest": Max("number"),
    "first": First("number"),
    "last": Last("number"),
    "squares": Fold("number", int, lambda state, value: state + value * value, lambda a, b: a + b),
}
Record = tuple[float, str, Any, int]  # time, key, value, number
EVERY_S = 0.25  # a record


class Said(NamedTuple):
    """What came of all batches, in an order of its own."""

    rows: list[str]
    late: list[tuple[int, Any, int]]
    rejects: list[tuple[int, str]]


def said(definition: Windows, records: Sequence[Record], batch_records: int) -> Said:
    lane = StreamFold(definition, STREAM, BUCKETS, Opening(0, 0, NEVER))
    buckets = [Bucket(definition, {STREAM: 0}) for _ in range(BUCKETS)]
    for first in range(0, len(records), batch_records):
        some, size = records[first : first + batch_records], len(records[first : first + batch_records])
        offsets = range(first, first + size)
        messages = Columns(offsets, [None] * size, [b"{}"] * size, [-1] * size, [()] * size)
        pieces = lane.fold(Batch(STREAM, "", first, first + size, messages, some, range(size)))
        for bucket, piece in zip(buckets, pieces, strict=True):
            bucket.fold(piece)
    for bucket in buckets:
        bucket.mark(lane.mark(ended=True))
    parts = [bucket.emission() for bucket in buckets]
    return Said(
        sorted(repr(row) for part in parts for row in part.rows.tuples()),
        sorted((late.end_us, late.key, late.letter.offset) for part in parts for late in part.late),
        sorted((letter.offset, letter.reason) for part in parts for letter in part.rejects),
    )


def disordered(chance: random.Random, disorder_s: float, keys: int, kinds: Sequence[Any]) -> list[Record]:
    """Times rise by a quarter of a second, each then moved back by up to the disorder."""
    return [
        (1_000 + n * EVERY_S - chance.random() * disorder_s, f"key-{chance.randrange(keys)}", chance.choice(kinds), n)
        for n in range(RECORDS)
    ]


KINDS: dict[str, list[Any]] = {
    "decimals": [Decimal("1.50"), Decimal("-0.25"), Decimal(7)],
    "decimals and nulls": [Decimal("1.50"), None],
    "ints": [1, -5, 10**20],
    "all": [1, Decimal("2.5"), 0.1, None],
}


@pytest.mark.parametrize("grace_s", [0, 15])
@pytest.mark.parametrize("disorder_s", [0.0, 4.0, 60.0])
@pytest.mark.parametrize("kind", [Tumbling(50), Hopping(60, 20), Hopping(10, 3)])
def test_a_batch_over_several_windows_says_what_its_records_say_one_by_one(kind: Any, disorder_s: float, grace_s: float) -> None:
    definition = Windows(
        by=("key",),
        time="time",
        kind=kind,
        aggregates=AGGREGATES,
        lateness_s=5,
        grace_s=grace_s,
        fields=("time", "key", "value", "number"),
    )
    chance = random.Random(f"{kind} {disorder_s} {grace_s}")
    for (keys, bad), values in zip([(5, False), (100, True), (10_000, False), (100, False)], KINDS.values(), strict=True):
        records = disordered(chance, disorder_s, keys, values)
        if bad:
            records[RECORDS // 2] = (float("nan"), *records[0][1:])
        one_by_one = said(definition, records, 1)
        assert bool(one_by_one.late) == (disorder_s > 5)
        assert bool(one_by_one.rejects) == bad
        for batch_records in (RECORDS, 400):
            assert said(definition, records, batch_records) == one_by_one


@pytest.mark.parametrize("disorder_s", [0.0, 4.0, 60.0])
def test_a_batch_of_many_sessions_says_what_its_records_say_one_by_one(disorder_s: float) -> None:
    definition = Windows(
        by=("key",),
        time="time",
        kind=Session(9),
        aggregates=AGGREGATES,
        lateness_s=5,
        fields=("time", "key", "value", "number"),
    )
    records = disordered(random.Random(disorder_s), disorder_s, 40, KINDS["decimals"])
    one_by_one = said(definition, records, 1)
    assert bool(one_by_one.late) == (disorder_s > 5)
    for batch_records in (RECORDS, 400):
        assert said(definition, records, batch_records) == one_by_one
