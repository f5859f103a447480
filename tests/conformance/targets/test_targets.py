"""What every target promises: each record once, as a row or a dead letter, whoever dies or comes back; and windows likewise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from sinks import sink, window_sink
from sources import read
from sources.memory import MemorySource
from tests.conformance.place import make_place
from tests.conformance.targets.kinds import Delta, Folder, Item, Kind, Sql, Topic
from tests.conformance.writing.test_windows import DEFINITION, Data, Sale, recomputed, sales
from tests.servers.process import until
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, Start
from waxwing.errors import ConfigError, DataError, Fenced, TransientError, WaxwingError
from waxwing.ledger.members import Member
from waxwing.operators import parse
from waxwing.operators.windows import Tumbling
from waxwing.target import Session, Target

KINDS = ("sql", "kafka", "parquet", "delta")
FEEDS: dict[int, list[Any]] = {
    partition: [{"id": 100 * partition + n, "name": f"n{n}", "amount": f"{n}.25"} for n in range(30)] for partition in range(3)
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """Each kind in turn, with a place of its own; a database stands for all of them, which have suites of their own."""
    if request.param == "kafka":
        return Topic(request.getfixturevalue("kafka"))
    if request.param == "parquet":
        return Folder(tmp_path_factory.mktemp("folder"))
    if request.param == "delta":
        return Delta(tmp_path_factory.mktemp("delta"))
    return Sql(make_place(sa.make_url(f"sqlite:///{tmp_path_factory.mktemp('targets')}/targets.sqlite")))


def run(
    kind: Kind, data: dict[int, list[Any]], target: Target | None = None, *, ends: bool = True, size: int = 7, begin: str = ""
) -> None:
    """The flow over what there is; an error of ours comes out as it was."""
    flow, target = Dataflow(kind.flow), target or kind.target()
    source = MemorySource(data, batch_records=size, lanes=2, ends=ends, begin=begin)  # type: ignore[arg-type]
    sink("out", parse("parse", read("in", flow, source), Item), target)
    play(flow)


def fold(kind: Kind, data: Data, target: Target | None = None, *, ends: bool = True, size: int = 7) -> None:
    """The same of windows."""
    flow, target = Dataflow(kind.flow), target or kind.windows()
    source = MemorySource(data, batch_records=size, lanes=2, ends=ends)
    window_sink("totals", parse("parse", read("in", flow, source), Sale), target)  # type: ignore[arg-type]
    play(flow)


def play(flow: Dataflow) -> None:
    try:
        run_main(flow)
    except BaseException as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, WaxwingError):
            found = found.__cause__ or found.__context__
        raise found or error from None


def rows_of(data: dict[int, list[Any]]) -> list[tuple[Any, ...]]:
    good = [msgspec.convert(record, Item) for records in data.values() for record in records if isinstance(record, dict)]
    return sorted((one.id, one.name, one.amount) for one in good)


def part(data: dict[int, list[Any]], size: int) -> dict[int, list[Any]]:
    return {partition: records[:size] for partition, records in data.items()}


def test_each_record_is_there_once_over_any_number_of_runs(kind: Kind) -> None:
    for size in (0, 11, 11, 30):
        run(kind, part(FEEDS, size))
        assert kind.rows() == rows_of(part(FEEDS, size))
    assert kind.letters() == []


def test_bad_records_and_rows_are_dead_letters_once(kind: Kind) -> None:
    long = {"id": 7, "name": "longer than ten", "amount": "1.00"}
    fraction = {"id": 8, "name": "x", "amount": "1.005"}
    data = {0: [*FEEDS[0][:5], b"?", long, *FEEDS[0][5:8], fraction], 1: [b"??"]}
    good = {0: [one for one in data[0] if one not in (long, fraction)], 1: data[1]}
    for size in (6, 7, 30):
        run(kind, part(data, size))
    assert kind.rows() == rows_of(good)
    found = kind.letters()
    assert [one[:3] for one in found] == [("parse", 0, 5), ("parse", 1, 0), ("sink", 0, 6), ("sink", 0, 10)]
    assert found[0].value == b"?"
    assert msgspec.json.decode(found[2].value) == long


def test_a_start_that_finds_its_positions_goes_on_and_says_so(kind: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    run(kind, part(FEEDS, 4))
    run(kind, part(FEEDS, 9))
    said = [msgspec.json.decode(line) for line in capfd.readouterr().err.splitlines() if '"begins"' in line]
    assert [sorted(one["goes_on"].values()) for one in said] == [[], [4, 4, 4]]


class Faults:
    """Something happens in the n-th commit: a crash or a lost connection, before it or behind it."""

    def __init__(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan(0, "")
        kind.around_commits(monkeypatch, self._around)

    def plan(self, at: int, what: str) -> None:
        self._at, self._what, self.commits = at, what, 0

    def _around(self, commit: Callable[[], None]) -> None:
        self.commits += 1
        strikes = self.commits == self._at
        if not strikes or "behind" in self._what:
            commit()
        if strikes:
            raise TransientError("lost") if "lost" in self._what else RuntimeError("crash")


WHAT = ("crash before", "lost behind", "crash behind", "lost before")


@pytest.mark.parametrize("what", WHAT)
def test_a_fault_in_any_commit_changes_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    faults = Faults(kind, monkeypatch)
    struck = False
    for at in range(1, 12, 3):
        faults.plan(at, what)
        size = 8 + at
        for _ in range(3):
            try:
                run(kind, part(FEEDS, size), size=2)
                break
            except (WaxwingError, RuntimeError, Exception):
                continue
        struck |= faults.commits >= at
    faults.plan(0, "")
    run(kind, FEEDS)
    assert struck, "nothing happened"
    assert kind.rows() == rows_of(FEEDS)


def change_of(position: Any, ids: Sequence[int]) -> Change:
    """Some rows behind a position."""
    stream, first = position.stream, position.offset_next
    records = [msgspec.convert({"id": n, "name": "x", "amount": "1.00"}, Item) for n in ids]
    n = len(records)
    messages = Columns(range(first, first + n), [None] * n, [b""] * n, [-1] * n, [()] * n)
    batch = Batch(stream, "lane-000", first, first + n, messages, records, range(n))
    return Change([batch], {stream: position}, {stream: position._replace(offset_next=first + n, records_seen=n)})


def give(session: Session, target: Target, change: Change) -> None:
    """A change, as its target takes it."""
    if target.size.staged:
        session.stage(change.batches)
        change.batches = []
    session.commit(change)


def opened(kind: Kind, **settings: Any) -> tuple[Target, Stream]:
    """A target that has its step, and a stream that has begun."""
    target = kind.target(**settings)
    target.bind(kind.flow, "out")
    target.prepare()
    assert target.ownership.take() == ""
    stream = Stream(kind.flow, "memory", "name:memory", 0)
    target.begin([Start(stream, 0, None)])
    return target, stream


def test_a_live_owner_is_waited_for_and_a_stale_one_fenced(kind: Kind) -> None:
    old, stream = opened(kind, owner_stale_s=30.0)
    session = old.connect("lane-000", old.token())
    give(session, old, change_of(session.take_over(stream), [1, 2]))
    waits = kind.target(owner_stale_s=30.0)
    waits.bind(kind.flow, "out")
    waits.prepare()
    assert "pid" in waits.ownership.take()
    stale = session.take_over(stream)
    # It stands still from here on.
    for heart in old.ownership._hearts.values():
        heart.stop()
    new = kind.target(owner_stale_s=1.0)
    new.bind(kind.flow, "out")
    new.prepare()
    until(lambda: new.ownership.take() == "", timeout_s=60, what="the old one is stale")
    newer = new.connect("lane-000", new.token())
    position = newer.take_over(stream)
    assert position.offset_next == 2
    with pytest.raises(Fenced):
        give(session, old, change_of(stale, [3, 4]))
    give(newer, new, change_of(position, [3]))
    with pytest.raises(Fenced):
        session.take_over(stream)
    assert [row[0] for row in kind.rows()] == [1, 2, 3]
    new.ownership.release()


def test_one_that_has_stopped_is_not_waited_for(kind: Kind) -> None:
    old, _ = opened(kind, owner_stale_s=600.0)
    old.ownership.release()
    new = kind.target(owner_stale_s=600.0)
    new.bind(kind.flow, "out")
    new.prepare()
    until(lambda: new.ownership.take() == "", timeout_s=60, what="nobody is alive")
    new.ownership.release()


def test_who_let_go_and_has_taken_it_again_is_alive(kind: Kind) -> None:
    old, _ = opened(kind, owner_stale_s=600.0)
    owners, me, token = old.owners(), old.ownership.me, old.ownership.token
    assert owners is not None
    owners.release(token)  # as one does for which the flow's next target was not free
    assert owners.take(me, token, {owners.name: owners.ask()}, ()) is not None
    owners.beat(token)
    new = kind.target(owner_stale_s=600.0)
    new.bind(kind.flow, "out")
    new.prepare()
    assert "pid" in new.ownership.take()
    old.ownership.release()


def test_processes_that_start_together_take_a_step_all_of_them(kind: Kind) -> None:
    opened(kind)[0].ownership.release()
    targets = [kind.target(owner_stale_s=60.0) for _ in range(3)]
    for number, target in enumerate(targets):
        target.bind(kind.flow, "out")
        target.ownership.me = Member("a-start", number, f"own-{number}")
        target.prepare()
    taken: list[str] = []

    def take(target: Target) -> None:
        taken.append(target.ownership.take())

    threads = [threading.Thread(target=take, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert taken == ["", "", ""]  # and nobody had to let go
    for target in targets:
        target.ownership.beat("out")  # raises where another one has it
        target.ownership.release()


@pytest.mark.parametrize("kind", KINDS[1:], indirect=True)  # a table may have been filled by others
def test_a_place_that_is_not_empty_while_its_positions_are_gone_is_refused(kind: Kind) -> None:
    bad = {9: [b"?"]}
    run(kind, part(FEEDS, 5) | bad)
    letters = kind.letters()
    kind.forget()
    with pytest.raises(DataError, match="BEGIN=anew"):
        run(kind, part(FEEDS, 8) | bad)
    assert kind.letters() == letters != []
    run(kind, part(FEEDS, 8), begin="anew")
    assert len(kind.rows()) == 5 * 3 + 8 * 3


# -- windows ----------------------------------------------------------------------------------------------------------------


def check_windows(kind: Kind, data: Data) -> None:
    totals, late = recomputed(data)
    assert kind.totals() == sorted((key, start, *row) for (key, start), row in totals.items())
    assert sorted((one.partition, one.offset) for one in kind.letters()) == late


def test_closed_windows_are_those_of_a_plain_recomputation(kind: Kind) -> None:
    data = sales(1)
    fold(kind, data)
    check_windows(kind, data)


def test_open_windows_go_on_where_a_run_left_them(kind: Kind) -> None:
    data = sales(2)
    for size in (5, 20, 21):
        fold(kind, part(data, size), ends=False)
    fold(kind, data)
    check_windows(kind, data)


def test_a_fault_in_any_commit_of_windows_changes_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    faults, data = Faults(kind, monkeypatch), sales(3, size=24)
    for at, what, size in zip(count(2, 3), cycle(WHAT), (6, 12, 18, 24), strict=False):
        faults.plan(at, what)
        for _ in range(3):
            try:
                fold(kind, part(data, size), ends=False, size=4)
                break
            except (WaxwingError, RuntimeError, Exception):
                continue
    faults.plan(0, "")
    fold(kind, data)
    check_windows(kind, data)


def test_windows_of_another_definition_are_refused(kind: Kind) -> None:
    data = sales(4, size=10)
    fold(kind, data, ends=False)
    with pytest.raises(ConfigError, match="another definition"):
        fold(kind, data, kind.windows(replace(DEFINITION, kind=Tumbling(20))))
