"""When buckets write: what has closed at once, where commits are quick; else as seldom as changes may get old, and as told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from typing_extensions import override

from sinks.memory.target import MEMORY_SETTINGS, MemorySession, MemoryTarget
from sinks.windows.admission import WindowAdmission
from sinks.windows.target import WindowTarget
from sinks.writer.writer import Writer
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, Size, Start
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import Count, StreamFold, Tumbling, Windows, first_opening
from waxwing.settings import WindowSettings
from waxwing.tables.modes import Append

STREAM = Stream("flow", "topic", "id", 0)
WINDOWS = Windows(by=("key",), time="time", kind=Tumbling(length_s=10), aggregates={"n": Count()}, lateness_s=0)
INTERVAL_S = 1.0


class Below(MemoryTarget):
    """It lets changes get so old; `staged`: records stand in a spool until they are committed. Its commits are counted.

    `commit_s`: how long a commit should take; `takes` is called while one does.
    """

    def __init__(self, age_s: float, *, commit_s: float | None = None, staged: bool = False) -> None:
        super().__init__(Append(), MEMORY_SETTINGS)
        self._size = Size(1_000, age_s, commit_s, staged)
        self.takes: Callable[[], None] = lambda: None
        self.spool: list[Any] = []
        self.commits = self.messages = 0

    @property
    @override
    def size(self) -> Size:
        return self._size

    @override
    def connect(self, part: str, token: str) -> BelowSession:
        return BelowSession(self, self.open_store(), token)


class BelowSession(MemorySession):
    _target: Below

    @override
    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        self._target.spool += [record for one in batches for record in one.records]

    @override
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        target = self._target
        if target.size.staged:
            assert not prepared.batches
            rows, target.spool = target.spool, []
            place = Columns([0], [None], [None], [-1], [()])
            prepared = replace(prepared, batches=[Batch(STREAM, "", 0, 1, place, rows, [0] * len(rows))])
        target.write_rows(prepared)
        target.takes()
        target.commits += 1
        target.messages += prepared.messages or 0


class OneBucket:
    """The writer of a bucket without its thread, under a clock of its own."""

    def __init__(self, below: Below, interval_s: float = INTERVAL_S, tick_s: float = 0.0) -> None:
        self.now_s = 0.0
        settings = WindowSettings(**{**MEMORY_SETTINGS.model_dump(), "window_snapshot_interval_s": interval_s})
        self.target = WindowTarget(below, WINDOWS, settings, 1, lambda rows: list(rows.tuples()))
        self.target.bind("flow", "step")
        (position,) = self.target.begin([Start(STREAM, 0, None)])
        assert position.offset_next == 0
        self._lane = StreamFold(WINDOWS, STREAM, 1, first_opening(0))

        def now_s() -> float:
            self.now_s += tick_s
            return self.now_s

        self.writer = Stepped(self.target, "bucket-000", now_s, WindowAdmission(self.target, 0, settings, now_s))

    def put(self, *times: float) -> None:
        first = self._lane.offset
        size = len(times)
        columns = Columns(list(range(first, first + size)), [None] * size, [b"{}"] * size, [-1] * size, [()] * size)
        records = [{"key": "a", "time": time} for time in times]
        for piece in self._lane.fold(Batch(STREAM, "lane-000", first, first + size, columns, records, list(range(size)))):
            self.writer.put(piece)
        self.writer.step()

    def at(self, now_s: float) -> None:
        self.now_s = now_s
        self.writer.step()

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def offset_next(self) -> int:
        (position,) = self.target.positions()
        return position.offset_next


class Stepped(Writer):
    @override
    def _start(self) -> None:
        """No thread."""

    def step(self) -> None:
        assert self._step() is not None, self._error


@pytest.mark.parametrize("staged", [False, True])
def test_a_bucket_waits_as_long_as_its_target_lets_changes_get_old_from_the_first_piece_on(staged: bool) -> None:
    below = Below(age_s=60.0, staged=staged)
    bucket = OneBucket(below)
    bucket.put(1)
    bucket.at(5.0)
    bucket.put(12)  # the first window is closed
    bucket.at(59.9)
    assert (below.commits, bucket.offset_next, below.rows) == (0, 0, [])
    bucket.at(60.0)
    assert (below.commits, bucket.offset_next, below.messages) == (1, 2, 2)
    assert [row[:4] for row in below.rows] == [(0, 10_000_000, "a", 1)]
    bucket.at(500.0)
    assert below.commits == 1, "nothing came"
    bucket.put(23)
    bucket.at(559.9)
    assert below.commits == 1
    bucket.at(560.0)
    assert (below.commits, bucket.offset_next, len(below.rows)) == (2, 3, 2)


def test_an_emission_that_is_due_a_moment_after_its_change_is_committed_all_the_same() -> None:
    """Nothing that comes later is needed for it, nor is a flush waited for in vain."""
    below = Below(age_s=60.0, staged=True)
    bucket = OneBucket(below, tick_s=0.000_001)
    bucket.put(1)
    bucket.put(12)
    bucket.at(59.9)
    assert below.commits == 0
    bucket.at(60.0)
    for _ in range(20):
        bucket.writer.step()
    assert (below.commits, bucket.offset_next, below.messages) == (1, 2, 2)
    assert bucket.writer._under_way == 0


def test_a_bucket_of_a_target_that_is_quick_waits_as_long_as_it_is_told_once() -> None:
    below = Below(age_s=0.1)
    bucket = OneBucket(below)
    bucket.put(1)
    bucket.at(0.1)
    bucket.put(12)
    bucket.at(0.99)
    assert below.commits == 0
    bucket.at(1.0)  # and not a gathering and an interval
    assert (below.commits, bucket.offset_next, len(below.rows)) == (1, 2, 1)
    bucket = OneBucket(below := Below(age_s=0.1), interval_s=0.0)
    bucket.put(1)
    bucket.at(0.1)
    assert (below.commits, bucket.offset_next) == (1, 1)


def test_what_has_closed_is_written_at_once_and_what_has_not_as_seldom_as_before() -> None:
    below = Below(age_s=0.5, commit_s=0.1)
    bucket = OneBucket(below)
    bucket.put(1)
    bucket.at(0.9)
    assert below.commits == 0
    bucket.put(12)  # the first window is closed
    assert (below.commits, bucket.offset_next) == (1, 2)
    assert [row[:4] for row in below.rows] == [(0, 10_000_000, "a", 1)]
    bucket.put(13)
    bucket.at(1.8)
    assert below.commits == 1
    bucket.at(1.9)
    assert (below.commits, bucket.offset_next, len(below.rows)) == (2, 3, 1)


def test_a_bucket_whose_rows_have_just_been_written_rests_nine_times_as_long_as_that_took() -> None:
    below = Below(age_s=0.5, commit_s=0.1)
    bucket = OneBucket(below)
    below.takes = lambda: bucket.pass_s(0.02)
    bucket.put(1)
    bucket.put(12)  # written from 0.0 to 0.02
    bucket.put(23)
    bucket.at(0.19)
    assert (below.commits, len(below.rows)) == (1, 1)
    bucket.at(0.21)
    assert (below.commits, len(below.rows)) == (2, 2)


def test_a_rest_is_over_when_emissions_are_as_old_as_they_get() -> None:
    below = Below(age_s=0.5, commit_s=0.1)
    bucket = OneBucket(below)
    below.takes = lambda: bucket.pass_s(1.0)
    bucket.put(1)
    bucket.put(12)
    bucket.put(23)
    bucket.at(1.9)
    assert below.commits == 1
    bucket.at(2.1)
    assert below.commits == 2


def test_a_bucket_does_not_rest_from_an_emission_without_rows() -> None:
    below = Below(age_s=0.5, commit_s=0.1)
    bucket = OneBucket(below)
    below.takes = lambda: bucket.pass_s(0.5)
    bucket.put(1)
    bucket.at(1.0)
    assert (below.commits, len(below.rows)) == (1, 0)
    bucket.put(12)
    assert (below.commits, len(below.rows)) == (2, 1)
