"""When lanes read: a flood without a pause, a trickle in small steps, and nothing at all without being asked for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from typing_extensions import override

from sources.kit import Fetched, LaneReader, Place
from sources.kit.reading import rhythm as module
from sources.kit.reading.rhythm import IDLE_S, REST_S, Rhythm
from waxwing.batch import Stream


class Clock:
    """Stands still but for sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class Reader(LaneReader):
    """Something comes at a time that it knows."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.comes_s = clock, float("inf")
        self.waited: list[float] = []

    @property
    @override
    def waits_with(self) -> object:
        return self

    @override
    def wait(self, timeout_s: float) -> None:
        self.waited.append(timeout_s)
        self.clock.now_s = max(self.clock.now_s, min(self.clock.now_s + timeout_s, self.comes_s))

    @override
    def open(self, places: Sequence[Place]) -> None: ...
    @override
    def read(self, records_max: int) -> Sequence[Fetched]:
        return ()

    @override
    def leave(self, stream: Stream) -> None: ...
    @override
    def close(self) -> None: ...


class Lanes:
    def __init__(self, clock: Clock, number: int) -> None:
        self.rhythm = Rhythm()
        self.readers = [Reader(clock) for _ in range(number)]
        self.numbers = [self.rhythm.enter(reader) for reader in self.readers]

    def turn(self, lane: int, records: int = 0, *, little: bool = True) -> bool:
        """One call of a lane; did it read?"""
        admitted = self.rhythm.admits(self.numbers[lane], self.readers[lane])
        self.rhythm.has_read(self.numbers[lane], records if admitted else 0, little=little)
        return admitted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_flood_is_read_without_a_pause(clock: Clock) -> None:
    lanes = Lanes(clock, 2)
    assert all(lanes.turn(lane, 5_000, little=False) for _ in range(10) for lane in (0, 1))
    assert not clock.slept
    assert not any(reader.waited for reader in lanes.readers)


def test_what_comes_after_a_quiet_time_is_read_at_once_and_then_all_lanes_rest(clock: Clock) -> None:
    lanes = Lanes(clock, 2)
    for _ in range(3):
        assert lanes.turn(0)
        assert lanes.turn(1)
    assert lanes.readers[0].waited == [IDLE_S / 2] * 2, "each its share, once all have found nothing"
    lanes.readers[0].comes_s = clock.now_s + 0.001
    began_s = clock.now_s
    assert lanes.turn(0, 1)
    assert clock.now_s == began_s + 0.001
    assert lanes.turn(1, 1), "in the same turn all may read"
    assert not lanes.turn(0)
    assert not lanes.turn(1)
    assert not clock.slept, "the sinks have not had it yet"
    assert lanes.turn(0, 1), "the rest is over"
    assert clock.slept == [pytest.approx(REST_S)]


def test_one_lane_in_a_flood_keeps_the_others_from_sleeping_and_not_from_resting(clock: Clock) -> None:
    lanes = Lanes(clock, 2)
    assert lanes.turn(0, 1)
    for _ in range(5):
        assert lanes.turn(1, 5_000, little=False)
        assert not lanes.turn(0)
    assert not clock.slept
    clock.now_s += REST_S
    assert lanes.turn(0, 1)


def test_a_lane_that_is_closed_is_not_waited_for(clock: Clock) -> None:
    lanes = Lanes(clock, 2)
    lanes.rhythm.leave(lanes.readers[1])
    assert lanes.turn(0)
    assert lanes.turn(0)
    assert lanes.readers[0].waited == [IDLE_S]
