"""Buckets divided anew hold the same: whatever comes then gives the same rows."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from waxwing.batch import Columns, Stream, raw
from waxwing.errors import ConfigError
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows import Bucket, Count, Hopping, Mark, Opening, Session, StreamFold, Sum, Tumbling, Windows
from waxwing.operators.windows.bucket.rebucket import rebucket

STREAM, QUIET = Stream("f", "t", "id", 0), Stream("f", "t", "id", 1)
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
            StreamFold(definition, STREAM, buckets, Opening(0, offset, watermark)),
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_windows_that_one_bucket_has_closed_and_another_has_not_are_written_whole(kind: Any) -> None:
    """A decision of the clock, or the end of a bounded run, may have reached one of them."""
    definition, size = windows(kind), 60
    lane, old = StreamFold(definition, STREAM, 4, Opening(0, 0, NEVER)), [Bucket(definition, {STREAM: 0}) for _ in range(4)]
    messages = Columns(range(size), [None] * size, [b""] * size, [-1] * size, [()] * size)
    batch = raw(STREAM, "lane", 0, size, messages).with_records(records(size), range(size))
    for bucket, piece in zip(old, lane.fold(batch), strict=True):
        bucket.fold(piece)

    def ended(buckets: list[Bucket]) -> list[tuple[Any, ...]]:
        for bucket in buckets:
            bucket.mark(lane.mark(ended=True))
        return [row for bucket in buckets for row in bucket.emission().rows.tuples()]

    def loaded() -> list[Bucket]:
        return [Bucket.load(definition, bucket.pack()) for bucket in old]

    def idle(bucket: Bucket) -> list[tuple[Any, ...]]:
        bucket.mark(lane.mark(ended=False, clock_us=68_000_000))
        return list(bucket.emission().rows.tuples())

    wanted = sorted(ended(loaded()))
    for mark in (idle, lambda bucket: ended([bucket])):
        half, written = loaded(), []
        for bucket in half[:2]:
            written += mark(bucket)
        assert 0 < len(written) < len(wanted)
        for buckets in (1, 3):
            anew = rebucket(definition, [bucket.pack() for bucket in half], buckets)
            assert sorted([*written, *ended([Bucket.load(definition, state) for state in anew])]) == wanted


def test_buckets_that_stand_at_different_positions_are_not_divided() -> None:
    definition = windows(KINDS[0])
    with pytest.raises(ConfigError, match="different positions"):
        rebucket(definition, [Bucket(definition, {STREAM: 0}).pack(), Bucket(definition, {STREAM: 5}).pack()], 3)


def fed(
    states: list[bytes], definition: Windows, opening: Opening, part: list[tuple[str, int, int]]
) -> tuple[StreamFold, list[Bucket]]:
    """Buckets of these states with the records taken in, and the lane."""
    lane, size = StreamFold(definition, STREAM, len(states), opening), len(part)
    offsets = range(opening.offset, opening.offset + size)
    messages = Columns(offsets, [None] * size, [b""] * size, [-1] * size, [()] * size)
    buckets = [Bucket.load(definition, state) for state in states]
    batch = raw(STREAM, "lane", offsets.start, offsets.stop, messages).with_records(part, range(size))
    for bucket, piece in zip(buckets, lane.fold(batch), strict=True):
        bucket.fold(piece)
    return lane, buckets


@pytest.mark.parametrize("buckets", [1, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_a_window_that_the_clock_closed_in_one_bucket_alone_loses_no_row_of_the_others(first: int, buckets: int) -> None:
    definition, keys = windows(Tumbling(length_s=60)), [f"key {n}" for n in range(8)]
    start = [Bucket(definition, {STREAM: 0, QUIET: 0}).pack()] * 2
    # Behind 66 what comes at 20 is within the grace.
    data = [*((key, 10, 1) for key in keys[1:]), (keys[1], 66, 1), (keys[0], 20, 1), (keys[1], 20, 1)]
    lane, held = fed(start, definition, Opening(0, 0, NEVER), data)
    held[first].mark(Mark(QUIET, 0, 0, ended=False))  # and the other one was killed before
    rows = [row for bucket in held for row in bucket.emission().rows.tuples()]
    assert 0 < len(rows) < len(keys)
    states = rebucket(definition, [bucket.pack() for bucket in held], buckets)
    lane, held = fed(
        states, definition, Opening(0, lane.offset, lane.watermark), [("key 0", 20, 1), ("key 9", 20, 1), ("", 500, 1)]
    )
    for bucket in held:
        bucket.mark(lane.mark(ended=True))
        bucket.mark(Mark(QUIET, 0, 0, ended=True))
        rows += bucket.emission().rows.tuples()
    of_first = [
        sorted((revision, n) for _, end, k, n, _, revision in rows if (k, end) == (key, 60_000_000)) for key in (*keys, "key 9")
    ]
    assert [at[-1][1] for at in of_first] == [2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert all([revision for revision, _ in at] == list(range(len(at))) for at in of_first)


def test_what_one_bucket_has_forgotten_none_opens_again_whatever_grace_the_others_have_known() -> None:
    short = replace(windows(Tumbling(length_s=60)), grace_s=0)
    longer = replace(short, grace_s=40)
    lane, (one, other) = fed(
        [Bucket(short, {STREAM: 0}).pack()] * 2, short, Opening(0, 0, NEVER), [(f"{n}", 10, 1) for n in range(8)]
    )
    other.mark(lane.mark(ended=False, clock_us=75_000_000))
    written = {row[2]: row[-1] for row in other.emission().rows.tuples()}
    states = rebucket(longer, [Bucket.load(longer, one.pack()).pack(), other.pack()], 1)
    lane, (bucket,) = fed(
        states, longer, Opening(0, lane.offset, lane.watermark), [(next(iter(written)), 20, 1), ("new", 500, 1)]
    )
    bucket.mark(lane.mark(ended=True))
    emission = bucket.emission()
    assert not [row for row in emission.rows.tuples() if row[2] in written]
    assert [[row[2] for row in one.rows.tuples()] for one in emission.late_entries] == [[next(iter(written))]]
