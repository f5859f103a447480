"""Buckets divided anew hold the same: whatever comes then gives the same rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from waxwing.batch import Columns, Stream, raw
from waxwing.errors import ConfigError
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows import Bucket, Count, Hopping, Lane, Opening, Session, Sum, Tumbling, Windows
from waxwing.operators.windows.bucket.rebucket import rebucket

STREAM = Stream("f", "t", "id", 0)
KINDS: list[Any] = [Tumbling(length_s=60), Hopping(length_s=60, every_s=20), Session(gap_s=5)]


def windows(kind: Any) -> Windows:
    grace_s = 0 if isinstance(kind, Session) else 40
    return Windows(
        by=("key",),
        time="t",
        kind=kind,
        aggregates={"n": Count(), "sum": Sum("v")},
        lateness_s=5,
        grace_s=grace_s,
        future_s=10**7,
        fields=("key", "t", "v"),
    )


def records(count: int) -> list[tuple[int, int, int]]:
    chance = random.Random(3)
    return [(chance.randrange(30), n // 3 + chance.randrange(25), chance.randrange(100)) for n in range(count)]


def run(definition: Windows, counts: list[int]) -> list[tuple[Any, ...]]:
    """All rows, with the number of buckets changing after each part of the records."""
    all_records, rows, offset, watermark = records(1_200), [], 0, NEVER
    states = [Bucket(definition, {STREAM: 0}).pack() for _ in range(counts[0])]
    size = len(all_records) // len(counts)
    for buckets in counts:
        states = rebucket(definition, states, buckets) if len(states) != buckets else states
        lane, held = (
            Lane(definition, STREAM, buckets, Opening(0, offset, watermark)),
            [Bucket.load(definition, s) for s in states],
        )
        part = all_records[offset : offset + size]
        offsets = range(offset, offset + size)
        messages = Columns(offsets, [None] * size, [b""] * size, [-1] * size, [()] * size)
        batch = raw(STREAM, "lane", offset, offset + size, messages).with_records(part, range(size))
        for bucket, piece in zip(held, lane.fold(batch), strict=True):
            bucket.fold(piece)
        rows += [row for bucket in held for row in bucket.emission().rows.tuples()]
        offset, watermark, states = lane.offset, lane.watermark, [bucket.pack() for bucket in held]
    for state in states:
        bucket = Bucket.load(definition, state)
        bucket.mark(lane.mark(ended=True))
        rows += bucket.emission().rows.tuples()
    return sorted(rows)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_rows_do_not_depend_on_how_many_buckets_there_were_when(kind: Any) -> None:
    definition = windows(kind)
    wanted = run(definition, [1] * 6)
    assert len(wanted) > 100
    assert run(definition, [4, 1, 7, 7, 2, 16]) == wanted


def test_buckets_that_stand_at_different_positions_are_not_divided() -> None:
    definition = windows(KINDS[0])
    with pytest.raises(ConfigError, match="different positions"):
        rebucket(definition, [Bucket(definition, {STREAM: 0}).pack(), Bucket(definition, {STREAM: 5}).pack()], 3)
