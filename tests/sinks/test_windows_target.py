"""What stands between the source and the buckets of windows: batches come by one path."""

from __future__ import annotations

import pytest

from sinks import MemoryWindows
from sinks.windows.sink import Lanes
from waxwing.batch import Batch, Columns, Stream, marked
from waxwing.change import Start
from waxwing.errors import OffsetGap
from waxwing.operators.windows import Count, Tumbling, Windows

STREAM = Stream("flow", "topic", "id", 0)
MINUTES = Windows(by=("key",), time="time", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=5, fields=("time", "key"))


def target() -> MemoryWindows:
    made = MemoryWindows(MINUTES)
    made.bind("flow", "totals")
    return made


def batch(first: int, end: int) -> Batch[tuple[int, str]]:
    size = end - first
    messages = Columns(range(first, end), [b""] * size, [b""] * size, [-1] * size, [()] * size)
    return Batch(STREAM, "lane-000", first, end, messages, [(n, "a") for n in range(first, end)], range(size))


def test_halves_of_a_batch_that_come_by_two_paths_are_told_with_the_first_batch() -> None:
    totals = target()
    totals.begin([Start(STREAM, 0, None)])
    lanes = Lanes(totals, "totals")
    assert len(lanes(batch(0, 2))) == 2
    for again in (batch(0, 2), marked(STREAM, "lane-000", 0, "idle")):
        with pytest.raises(OffsetGap, match=r"begins at offset 0, not at 2.*one unbroken path"):
            lanes(again)
    assert len(lanes(batch(2, 3))) == 2

    totals.begin([Start(STREAM, 0, None)])  # another run of the same flow, whose predecessor committed nothing
    assert len(lanes(batch(0, 4))) == 2
