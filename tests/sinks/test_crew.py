"""Writers of one step: while there is little one of them writes for all, a flood is written by each, and each row once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from typing_extensions import override

from sinks import Append, MemoryTarget
from sinks.memory.target import MemorySession
from sinks.writer import writer as writer_module
from sinks.writer.admission import admission_of
from sinks.writer.crew import AT_IT_MAX_S, LITTLE, Crew
from sinks.writer.pace import FILLING_S, PAUSE_S, TURN_S
from sinks.writer.writer import Writer
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, Start
from waxwing.errors import RowError, TransientError
from waxwing.settings import SinkSettings

LANES = ("lane-000", "lane-001", "lane-002")
STREAMS = [Stream("flow", "topic", "id", partition) for partition in range(len(LANES))]
QUICK = SinkSettings(retry_max_s=5.0)


def batch(lane: int, first: int, end: int) -> Batch[tuple[int, int]]:
    size = end - first
    columns = Columns(range(first, end), [None] * size, [b"{}"] * size, [-1] * size, [()] * size)
    return Batch(STREAMS[lane], LANES[lane], first, end, columns, [(lane, n) for n in range(first, end)], range(size))


class Target(MemoryTarget):
    """One whose writers own their positions together; it keeps what each transaction was of."""

    def __init__(self, settings: SinkSettings = QUICK) -> None:
        super().__init__(Append(), settings)
        self.bind("flow", "step")
        self.begin([Start(stream, 0, None) for stream in STREAMS])
        self.changes: list[dict[int, int]] = []  # rows by lane
        self.faults: Iterator[BaseException] = iter(())
        self.gate: threading.Event | None = None
        self.locked: int | None = None  # somebody else has locked rows of this lane

    @override
    def token(self) -> str:
        return "ours"

    @override
    def connect(self, part: str, token: str) -> MemorySession:
        return Session(self, self.open_store(), token)


class Session(MemorySession):
    @override
    def commit(self, change: Change) -> None:
        target = self._target
        assert isinstance(target, Target)
        if target.gate is not None:
            assert target.gate.wait(20)
        for fault in target.faults:
            raise fault
        if target.locked is not None and any(batch.stream.partition == target.locked for batch in change.batches):
            raise TransientError("others hold a lock", contended=True)
        super().commit(change)
        rows: Counter[int] = Counter()
        for one in change.batches:
            rows[one.stream.partition] += len(one.records)
        target.changes.append(dict(rows))


class Stepped(Writer):
    """Without its thread, under the test's clock."""

    @override
    def _start(self) -> None:
        self.woken = 0

    @override
    def wake(self) -> None:
        super().wake()
        self.woken += 1

    def step(self) -> None:
        assert self._step() is not None, self._error


@dataclass
class Steps:
    """The writers of all lanes, stepped."""

    target: Target = field(default_factory=Target)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        crew = Crew(admission_of(self.target))
        self.writers: Sequence[Stepped] = [Stepped(self.target, lane, lambda: self.now_s, crew=crew) for lane in LANES]
        for writer in self.writers:
            writer.step()

    def step(self, lane: int, later_s: float = 2 * TURN_S) -> None:
        self.now_s += later_s
        self.writers[lane].step()


def test_what_comes_by_all_lanes_is_one_transaction_and_wakes_one_writer() -> None:
    all_of = Steps()
    for lane, writer in enumerate(all_of.writers):
        writer.put(batch(lane, 0, 2))
        if not lane:
            writer.step()  # it waits for what else comes in this turn
    all_of.step(0)
    assert all_of.target.changes == [{0: 2, 1: 2, 2: 2}]
    assert [writer.woken for writer in all_of.writers] == [1, 0, 0]
    assert not any(writer._under_way for writer in all_of.writers)


def test_who_wrote_for_all_is_woken_for_the_next_whose_ever_it_is() -> None:
    all_of = Steps()
    all_of.writers[0].put(batch(0, 0, 1))
    all_of.step(0, 0.0)
    all_of.step(0)
    all_of.step(0)  # nothing more
    all_of.writers[2].put(batch(2, 0, 1))
    assert [writer.woken for writer in all_of.writers] == [2, 0, 0]
    all_of.step(0, 0.0)
    all_of.step(0)
    assert all_of.target.changes == [{0: 1}, {2: 1}]


def test_much_is_written_by_its_own_writer() -> None:
    all_of = Steps()
    all_of.writers[0].put(batch(0, 0, 1))
    all_of.step(0, 0.0)
    all_of.writers[1].put(batch(1, 0, LITTLE))
    assert all_of.writers[1].woken == 1
    all_of.step(1, 0.0)
    all_of.step(1, 1.0)
    all_of.step(0)
    assert all_of.target.changes == [{1: LITTLE}, {0: 1}]


def test_what_a_writer_has_begun_to_gather_is_not_passed_by_another() -> None:
    all_of = Steps()
    all_of.writers[1].put(batch(1, 0, LITTLE))
    all_of.step(1, 0.0)  # has taken the first
    all_of.writers[1].put(batch(1, LITTLE, LITTLE + 1))
    all_of.writers[0].put(batch(0, 0, 1))
    with all_of.writers[0]._wake:
        all_of.writers[0].wake()
    all_of.step(0, 0.0)
    all_of.step(0)
    assert all_of.target.changes == [{0: 1}]
    all_of.step(1)
    assert sum(change.get(1, 0) for change in all_of.target.changes) == LITTLE + 1


@pytest.mark.parametrize("locked", [0, 1])
def test_a_lock_on_rows_of_one_lane_holds_up_the_others_once(locked: int) -> None:
    all_of = Steps()
    for lane, writer in enumerate(all_of.writers):
        writer.put(batch(lane, 0, 2))
    all_of.target.locked = locked
    all_of.step(0, 0.0)
    all_of.step(0)  # writes for all, and others hold a lock
    for number in range(1, 4):
        for lane in (0, 1, 2):
            all_of.step(lane, 0.3)
        for lane in (0, 1, 2):
            all_of.writers[lane].put(batch(lane, 2 * number, 2 * number + 2))
    written = sum(map(Counter, all_of.target.changes), Counter())
    free = {0, 1, 2} - {locked}
    assert set(written) == free
    assert all(written[lane] >= 4 for lane in free), written
    all_of.target.locked = None
    for _ in range(4):
        for lane in (0, 1, 2):
            all_of.step(lane, 0.3)
    assert sum(map(Counter, all_of.target.changes), Counter()) == Counter({0: 8, 1: 8, 2: 8})
    for lane, writer in enumerate(all_of.writers):
        writer.put(batch(lane, 8, 9))
    all_of.step(2)  # one that was never locked: the other writes fewer rows at once for a while
    assert all_of.target.changes[-1] == {0: 1, 1: 1, 2: 1}, "afterwards one writes for all again"


def test_who_has_nothing_itself_writes_nothing_when_a_lock_is_in_the_way() -> None:
    all_of = Steps()
    all_of.writers[0].put(batch(0, 0, 1))
    all_of.step(0, 0.0)
    all_of.step(0)  # it writes for all from now on
    all_of.target.locked = 1
    for lane in (1, 2):
        all_of.writers[lane].put(batch(lane, 0, 1))
    for lane in (0, 0, 1, 2):
        all_of.step(lane)
    assert all_of.target.changes == [{0: 1}, {2: 1}]
    assert [writer._under_way for writer in all_of.writers] == [0, 1, 0]


@pytest.mark.parametrize(("rows_max", "first"), [(100, {0: 10, 1: 90}), (1, {0: 10})])
def test_a_transaction_for_all_is_no_larger_than_is_asked(rows_max: int, first: dict[int, int]) -> None:
    all_of = Steps(Target(SinkSettings(flush_rows_max=rows_max)))
    all_of.writers[0].put(batch(0, 0, 10))
    for lane in (1, 2):
        all_of.writers[lane].put(batch(lane, 0, 90))
    all_of.step(0, 0.0)
    all_of.step(0)
    assert all_of.target.changes[0] == first
    for lane in (0, 1, 2, 0, 1, 2):
        all_of.step(lane)
    assert sum(map(Counter, all_of.target.changes), Counter()) == Counter({0: 10, 1: 90, 2: 90})


def test_behind_a_flood_a_trickle_is_quick_again() -> None:
    all_of = Steps()
    all_of.writers[0].put(batch(0, 0, LITTLE))
    all_of.step(0, 0.0)
    all_of.step(0, PAUSE_S)
    assert all_of.target.changes == [{0: LITTLE}]
    for number in range(3):  # with no pause behind it
        all_of.writers[0].put(batch(0, LITTLE + number, LITTLE + number + 1))
        all_of.step(0, PAUSE_S / 3)
    all_of.step(0, PAUSE_S / 3)
    assert all_of.target.changes[1:] == [{0: 3}], "so few are no flood"
    all_of.writers[1].put(batch(1, 0, LITTLE))
    all_of.step(1, 0.0)
    all_of.step(1, PAUSE_S)
    all_of.now_s += 10.0
    all_of.writers[1].put(batch(1, LITTLE, LITTLE + 1))
    all_of.step(1, 0.0)
    all_of.step(1)
    assert all_of.target.changes[2:] == [{1: LITTLE}, {1: 1}], "nothing had come for a while"


def test_a_flood_fills_its_transactions() -> None:
    all_of = Steps()
    all_of.writers[0].put(batch(0, 0, LITTLE))
    all_of.step(0, 0.0)
    all_of.step(0, PAUSE_S)
    all_of.writers[0]._commits.size.learn(10 * LITTLE, 0.01)  # it may be as large
    size = LITTLE // 2
    for number in range(8):
        all_of.writers[0].put(batch(0, LITTLE + number * size, LITTLE + (number + 1) * size))
        all_of.step(0, FILLING_S / 10)
        assert len(all_of.target.changes) == 1
    all_of.step(0, 2 * FILLING_S / 10)
    assert all_of.target.changes[1:] == [{0: 8 * size}]


def slow_steps() -> Steps:
    """Records wait 2 s for others."""
    return Steps(Target(SinkSettings(flush_interval_s=2.0)))


def test_what_waits_for_others_goes_with_the_first_that_has_waited_long_enough() -> None:
    all_of = slow_steps()
    for lane, writer in enumerate(all_of.writers):
        writer.put(batch(lane, 0, 2))
        all_of.step(lane, 0.0)
        all_of.now_s += 0.5
    all_of.step(0, 0.4)
    assert all_of.target.changes == []
    all_of.step(0, 0.2)
    assert all_of.target.changes == [{0: 2, 1: 2, 2: 2}]


def test_a_record_waits_as_long_as_is_asked_though_another_took_along_what_its_lane_had_before() -> None:
    all_of = slow_steps()
    all_of.writers[1].put(batch(1, 0, 1))
    all_of.step(1, 0.0)
    all_of.writers[0].put(batch(0, 0, LITTLE // 2))
    all_of.step(0, 0.0)
    with all_of.writers[0]._wake:
        all_of.writers[0]._flushing = True
    all_of.step(0, 1.0)  # takes it along after half of the time
    all_of.writers[0]._flushing = False
    assert all_of.target.changes == [{0: LITTLE // 2, 1: 1}]
    all_of.writers[1].put(batch(1, 1, 2))
    all_of.step(1, 1.5)
    assert len(all_of.target.changes) == 1, "the second one has waited 1.5 s"
    all_of.step(1, 0.6)
    assert all_of.target.changes[1:] == [{1: 1}]


def test_a_queue_that_takes_no_more_is_emptied_while_a_transaction_waits() -> None:
    all_of = Steps(Target(SinkSettings(flush_interval_s=2.0, queue_records_max=1)))
    for first in range(3):
        all_of.writers[0].put(batch(0, first, first + 1))  # would wait for room
        all_of.step(0, 0.1)
    all_of.step(0, 2.0)
    assert all_of.target.changes == [{0: 3}]


def test_who_tries_again_or_takes_long_lets_the_others_write_for_themselves() -> None:
    all_of = Steps()
    all_of.target.faults = iter([TransientError("away")])
    all_of.writers[0].put(batch(0, 0, 1))
    all_of.step(0, 0.0)
    all_of.step(0)  # fails, and waits
    all_of.writers[1].put(batch(1, 0, 1))
    all_of.step(1, 0.0)
    all_of.step(1)
    assert all_of.target.changes == [{1: 1}]
    all_of.writers[1].put(batch(1, 1, 2))
    all_of.step(1, 0.0)  # is at it
    all_of.writers[2].put(batch(2, 0, 1))
    assert all_of.writers[2].woken == 0, "the second one writes for all by now"
    all_of.now_s += 2 * AT_IT_MAX_S
    all_of.writers[2].put(batch(2, 1, 2))
    assert all_of.writers[2].woken == 1


def test_what_one_has_met_ends_all() -> None:
    target = Target()
    target.gate = threading.Event()
    target.faults = iter([RowError("bad", bad={})] * 100)
    crew = Crew(admission_of(target))
    writers = [Writer(target, lane, crew=crew) for lane in LANES]
    for lane, writer in enumerate(writers):
        writer.put(batch(lane, 0, 1))
    target.gate.set()
    for writer in writers:
        with pytest.raises(Exception, match="bad"):
            writer.flush()
        writer.close()


@pytest.mark.parametrize("seed", range(3))
def test_each_row_is_written_once_whoever_writes_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LITTLE", 5)  # so that both come: help, and writers side by side
    target, chance = Target(), Random(seed)
    target.faults = iter(())
    crew = Crew(admission_of(target))
    writers = [Writer(target, lane, crew=crew) for lane in LANES]
    ends = [0] * len(LANES)
    for _ in range(600):
        lane = chance.randrange(len(LANES))
        end = ends[lane] + chance.randrange(1, 4)
        writers[lane].put(batch(lane, ends[lane], end))
        ends[lane] = end
        if chance.random() < 0.02:
            writers[chance.randrange(len(LANES))].flush()
    for writer in writers:
        writer.flush()
        writer.close()
    assert sorted(target.rows) == [(lane, n) for lane, end in enumerate(ends) for n in range(end)]
    assert [position.offset_next for position in target.positions()] == ends
    for lane in range(len(LANES)):
        assert [n for one, n in target.rows if one == lane] == list(range(ends[lane]))
