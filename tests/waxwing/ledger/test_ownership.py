"""This process as an owner: what ends its writers, and for how long a target is waited for. Targets and records in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
from typing_extensions import override

from sinks import Append, MemoryTarget
from sinks.memory.target import MemorySession
from sinks.writer.writer import Writer
from sources.kit.starting.preparing import own_feeds, prepare_feeds
from tests.servers.process import until
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, Start
from waxwing.errors import Fenced, TransientError
from waxwing.ledger.members import Member, Record, beating, is_rival
from waxwing.ledger.ownership import Owners, Ownership
from waxwing.settings import SinkSettings
from waxwing.target import Target

STREAM = Stream("flow", "topic", "id", 0)


class Kept(Owners):
    """Records that nobody else has; `answer` says what a heartbeat meets, `taken` whether they can be taken."""

    def __init__(self, name: str) -> None:
        self.name, self.stale_ms = name, 40.0
        self.answer: Callable[[], bool] = lambda: True
        self.taken: Callable[[], bool] = lambda: True
        self.asked: Sequence[Record] = ()

    @override
    def ask(self) -> Sequence[Record]:
        return self.asked

    @override
    def take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        return set() if self.taken() else None

    @override
    def beat(self, token: str) -> bool:
        return self.answer()

    @override
    def release(self, token: str) -> None:
        """Nobody else waits."""


class Owned(MemoryTarget):
    """A memory target with an owner."""

    def __init__(self, step: str, together: dict[str, Target], **settings: Any) -> None:
        super().__init__(Append(), SinkSettings(flush_interval_s=0.0, **settings))
        self.kept = Kept(step)
        self.bind("flow", step, together)
        self.begin([Start(STREAM, 0, None)])

    @override
    def owners(self) -> Kept:  # type: ignore[override]  # memory has none
        return self.kept


def pair(**settings: Any) -> tuple[Owned, Owned]:
    """Two targets of one flow."""
    together: dict[str, Target] = {}
    return Owned("flow.one", together, **settings), Owned("flow.two", together, **settings)


def batch(offset: int) -> Batch[Any]:
    return Batch(STREAM, "lane-000", offset, offset + 1, Columns([offset], [None], [b""], [-1], [()]), [(offset,)], [0])


def write(writer: Writer, one: Batch[Any]) -> None:
    writer.put(one)
    writer.flush()


@pytest.mark.parametrize(
    ("trouble", "error", "said"),
    [
        ("silent", TransientError, "flow.two has not answered a heartbeat"),
        ("broken", ZeroDivisionError, "by zero"),
        ("lost", Fenced, "Another process"),
    ],
)
def test_a_heart_that_stands_still_ends_the_flow_however_idle_and_on_all_targets(
    trouble: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.writer.writer.SILENCE_S", 0.2)
    monkeypatch.setattr("sinks.writer.writer.IDLE_S", 0.02)
    one, two = pair(retry_max_s=0.0)
    gate = threading.Event()
    assert not one.ownership.take()
    writer = Writer(one, "lane-000")
    write(writer, batch(0))
    two.kept.answer = {"silent": lambda: gate.wait(180), "broken": lambda: bool(1 // 0), "lost": lambda: False}[trouble]
    until(lambda: writer._error is not None, timeout_s=180, what="the idle writer ends")
    with pytest.raises(error, match=said):
        writer.put(batch(1))
    writer.close()
    gate.set()
    assert one.rows == [(0,)]


def test_who_has_let_go_writes_nothing_more() -> None:
    one, two = pair()
    assert not one.ownership.take()
    writer = Writer(one, "lane-000")
    write(writer, batch(0))
    two.ownership.last_look(TransientError("the other target is away"))
    with pytest.raises(TransientError, match="has let go"):
        write(writer, batch(1))
    writer.close()
    assert one.rows == [(0,)]


def test_a_writer_is_closed_in_bounded_time_whatever_its_target_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, gate = threading.Event(), threading.Event()

    class Silent(MemorySession):
        def commit(self, change: Change) -> None:
            asked.set()
            gate.wait(180)
            super().commit(change)

    monkeypatch.setattr("sinks.writer.writer.CLOSE_S", 0.1)
    monkeypatch.setattr(MemoryTarget, "connect", lambda self, part, token: Silent(self, self.open_store(), token))
    one, _ = pair()
    writer = Writer(one, "lane-000")
    writer.put(batch(0))
    assert asked.wait(180)
    writer.close()
    assert writer._thread.is_alive(), "it was waited for"
    gate.set()
    writer._thread.join(20)


def test_each_target_is_waited_for_as_long_as_its_own_settings_say() -> None:
    together: dict[str, Target] = {}
    feeds = [Owned(f"flow.{n}", together, retry_max_s=seconds) for n, seconds in enumerate((1.0, 60.0, 5.0))]
    asked: list[float] = []

    def answers(target: Target, call: Callable[[], Any]) -> Any:
        asked.append(target.settings.retry_max_s)
        return call()

    prepare_feeds(feeds, "flow", answers)
    assert asked == [1.0, 1.0, 60.0, 60.0, 5.0, 5.0]
    for order in permutations(feeds):  # owned they are together
        asked.clear()
        own_feeds(order, lambda seconds: None, answers)
        assert asked == [60.0]
    feeds[0].ownership.release()


def test_what_has_been_taken_beats_while_the_next_target_keeps_us_waiting() -> None:
    """Else a neighbour of the same mesh takes its record for one of an earlier start."""
    first, second = Kept("one"), Kept("two")
    beaten = threading.Event()

    def beats() -> bool:
        beaten.set()
        return True

    first.answer = beats
    second.taken = lambda: beaten.wait(180)
    newcomer = Ownership(Member("mesh-a", 0, "a"))
    for step, records in {"one": first, "two": second}.items():
        newcomer.add("flow", step, records)
    assert not newcomer.take()
    assert beaten.is_set()
    newcomer.release()


def test_who_is_robbed_while_it_takes_is_fenced_when_it_asks_again() -> None:
    first, second = Kept("one"), Kept("two")
    second.taken = lambda: False
    newcomer = Ownership(Member("run", 0, "a"))
    for step, records in {"one": first, "two": second}.items():
        newcomer.add("flow", step, records)
    assert newcomer.take()
    first.asked = [Record(1, newcomer.token, newcomer.me, newcomer.me.place, -1, 5)]
    with pytest.raises(Fenced):
        newcomer.take()


def record_of(process: int, age_ms: int, generation: int) -> Record:
    member = Member("mesh-a", process, f"own-{process}")
    return Record(generation, f"token-{process}", member, f"process {process}", 1_000_000 - age_ms, age_ms)


def test_who_beats_on_one_target_of_a_mesh_is_no_rival_where_its_heartbeat_is_late() -> None:
    me = Member("mesh-a", 0, "own-0")
    late, fresh = record_of(1, 3_000, 1), record_of(1, 500, 1)
    assert not is_rival(late, me, beating([[late], [fresh]], 2_000))
    assert is_rival(late, me, beating([[late], [late]], 2_000))  # of an earlier start
    before = Member("mesh-a", 0, "before")  # who has our place in the mesh goes first
    assert is_rival(fresh._replace(member=before), me, beating([[fresh]], 2_000))
