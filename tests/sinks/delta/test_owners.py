"""Who may write: zombies, openers at the same moment, processes of one start, and those that an opening keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from sinks.delta.files import LocalFiles
from sinks.delta.library import Library
from sinks.delta.log import Conflict, DeltaLog
from sinks.delta.records import draw
from sinks.delta.rows.staging import Staging
from tests.sinks.delta.process import FLOW, STEP, Process, check, stream
from waxwing.change import Start
from waxwing.errors import Fenced, TransientError, TryLater
from waxwing.ledger.store import Race


def at(process: Process) -> Any:
    """What the log and the files say."""
    with process.ledger.held():
        return process.ledger.look()


def commits(path: Path) -> int:
    return DeltaTable(path).version()


def test_a_zombie_that_comes_back_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0, 1)
    old.write(0, 3)
    under_way = old.change(0, 3, bad=[4])
    old.stage(under_way)
    old.is_gone()
    new = Process(path).open(0, 1)
    with pytest.raises(Fenced):
        old.commit(under_way)
    with pytest.raises(Fenced):
        old.write(1, 2)
    with pytest.raises(Fenced):
        old.session(0).take_over(stream(0))
    assert not old.ledger.beat(old.token)
    new.write(0, 2, bad=[4])
    check(path, {0: 5}, [4])


@pytest.mark.parametrize("which", ["rows", "letters"])
def test_a_zombie_that_compared_before_the_fence_commits_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 3)
    change = old.change(0, 3, bad=[4])
    real = DeltaLog.append
    found: list[Process] = []

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        ours = log.folder.path.endswith("_dead_letters") == (which == "letters")
        if not found and ours and (log is old.target.place.rows or log is old.target.place.letters.log):
            old.is_gone()  # it freezes here
            found.append(Process(path))
            found[0].open(0)
        real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", append)
    with pytest.raises(Fenced):
        old.give(change)
    found[0].write(0, 3, bad=[4])
    check(path, {0: 6}, [4])


def test_a_commit_is_made_on_the_snapshot_that_was_compared_and_on_no_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 3)
    real = Staging.demand_there
    found: list[Process] = []

    def demand_there(staging: Staging, added: Any) -> None:
        if not found:
            old.is_gone()  # it freezes behind the comparison
            found.append(Process(path).open(0))
        real(staging, added)

    monkeypatch.setattr(Staging, "demand_there", demand_there)
    with pytest.raises(Fenced):
        old.write(0, 3)
    found[0].write(0, 3)
    check(path, {0: 6})


@pytest.mark.parametrize("at", range(1, 8))
def test_a_commit_into_a_name_that_had_become_free_again_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 3, bad=[1])
    old.is_gone()
    real, calls = DeltaLog.append, []

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        calls.append(log)
        if len(calls) != at:  # else nobody ever reads it: the log was cleaned up behind that version
            real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", append)
    new = Process(path).open(0, 1)
    new.write(0, 3, bad=[4])
    new.write(1, 3, bad=[1])
    assert len(calls) >= at
    new.is_gone()
    Process(path).open(0, 1).write(0, 1)
    check(path, {0: 7, 1: 3}, [1, 4])


def test_who_has_opened_removes_no_file_of_a_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 3)
    old.is_gone()
    one, next_one = Process(path), Process(path)
    tidy, real = one.ledger._tidy, DeltaLog.append
    waiting: list[Any] = []

    def interrupted(*arguments: Any) -> None:
        waiting.append(arguments)
        one.is_gone()
        next_one.open(0)

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if waiting and log is next_one.target.place.rows:
            tidy(*waiting.pop())  # its files are there, and nobody names them yet
        real(log, numbers, files)

    monkeypatch.setattr(one.ledger, "_tidy", interrupted)
    monkeypatch.setattr(DeltaLog, "append", append)
    one.take()
    next_one.write(0, 3)
    check(path, {0: 6})


def test_numbers_are_drawn_so_that_no_two_processes_have_the_same() -> None:
    drawn = [draw() for _ in range(100)]
    assert len(set(drawn)) == 100
    assert drawn != sorted(drawn)
    assert max(drawn) > 2**55
    assert all(0 < number < 2**63 for number in drawn)


def test_of_two_that_open_at_once_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items"
    first = Process(path).open(0)
    first.write(0, 3)
    first.is_gone()
    one, other = Process(path), Process(path)
    real = DeltaLog.append
    done: list[str] = []

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if not done and log is one.target.place.rows:
            done.append(other.take())
        real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", append)
    assert one.take() != ""
    assert done == [""]
    assert one.take() != ""  # the other one lives
    other.at[0] = other.session(0).take_over(stream(0))
    other.write(0, 2)
    check(path, {0: 5})


def test_processes_of_one_start_join_without_a_word_to_those_that_write(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0, lanes=3).open(0)
    one.write(0, 3, bad=[2])
    before = at(one)
    other = Process(path, run="r", number=1, lanes=3).open(1)
    after = at(one)
    assert after.anchor.open == (one.token, other.token)
    assert (after.anchor.opening, after.numbers) == (before.anchor.opening, before.numbers)
    one.write(0, 2)
    other.write(1, 4, bad=[2])
    third = Process(path, run="r", number=2, lanes=3).open(2)
    third.write(2, 2)
    other.write(1, 1)
    one.write(0, 1)
    check(path, {0: 6, 1: 5, 2: 2}, [2])


def test_a_process_that_is_replaced_in_its_start_is_fenced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0, 2)
    gone = Process(path, run="r", number=1).open(1)
    one.write(0, 3, bad=[1])
    gone.write(1, 3, bad=[1])
    under_way = one.change(0, 3, bad=[4])
    one.stage(under_way)
    gone.is_gone()
    opening = at(one).anchor.opening
    new = Process(path, run="r", number=1).open(1)
    assert at(new).anchor.opening != opening
    assert set(at(new).anchor.open) == {one.token, new.token}
    one.commit(under_way)
    one.write(2, 4, bad=[1])
    new.write(1, 2, bad=[4])
    with pytest.raises(Fenced):
        gone.write(1, 2)
    check(path, {0: 6, 1: 5, 2: 4}, [1, 4])


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_one_that_an_opening_keeps_knows_whether_its_lost_commit_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0)
    gone = Process(path, run="r", number=1).open(1)
    one.write(0, 2)
    real = DeltaLog.append
    new: list[Process] = []

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if not new and log is one.target.place.rows:
            if done:
                real(log, numbers, files)
            gone.is_gone()
            new.append(Process(path, run="r", number=1))
            new[0].open(1)
            raise Conflict
        real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", append)
    one.write(0, 3, bad=[3])
    one.write(0, 1)
    new[0].write(1, 2)
    check(path, {0: 6, 1: 2}, [3])


def test_one_with_other_lanes_keeps_nobody(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0, lanes=2).open(0, 1, 2)
    for partition in (0, 1, 2):
        one.write(partition, 3)
    new = Process(path, run="r", number=1, lanes=1).open(0, 1, 2)
    with pytest.raises(Fenced):
        one.write(1, 2)
    for partition in (0, 1, 2):
        new.write(partition, 2)
    assert not one.ledger.beat(one.token)
    more = Process(path, lanes=3)
    for process in (one, new):
        process.is_gone()
    more.open(0, 1, 2)
    for partition in (0, 1, 2):
        more.write(partition, 1)
    assert at(more).anchor.parts == 3
    check(path, {0: 6, 1: 6, 2: 6})


def test_two_that_both_have_a_sink_partition_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0)
    other = Process(path, run="r", number=1).open(0)  # as if Bytewax had given the lane to both
    one.write(0, 3, bad=[1])
    with pytest.raises(TryLater, match="another process"):
        other.write(0, 3, bad=[1])
    one.write(0, 2)
    check(path, {0: 5}, [1])


def test_letters_of_another_with_the_same_sink_partition_are_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0)
    other = Process(path, run="r", number=1).open(0)
    real = DeltaLog.append

    def dies(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if log is other.target.place.rows:
            raise RuntimeError("the power is gone")
        real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", dies)
    with pytest.raises(RuntimeError):
        other.write(0, 3, bad=[1])
    with pytest.raises(TryLater, match="has written dead letters of sink partition 0"):
        one.write(0, 3, bad=[1])
    for process in (one, other):
        process.is_gone()
    Process(path).open(0).write(0, 3, bad=[1])
    check(path, {0: 3}, [1])


def test_an_opener_that_was_overtaken_does_not_fence_its_successor_s_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 1)
    old.is_gone()
    one, successor = Process(path), Process(path)
    settle, look = one.ledger.settle, one.ledger.look
    monkeypatch.setattr(one.ledger, "settle", lambda: None)
    assert one.take() == ""

    def overtaken() -> Any:
        found = look()
        if not successor.at:
            one.is_gone()  # it freezes here
            successor.open(0)
            successor.write(0, 2, bad=[1])
        return found

    monkeypatch.setattr(one.ledger, "look", overtaken)
    with pytest.raises(Race):
        settle()
    check(path, {0: 3}, [1])
    successor.write(0, 2, bad=[4])
    check(path, {0: 5}, [1, 4])


def test_letters_that_were_never_committed_go_with_the_next_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items"
    old = Process(path).open(0)
    old.write(0, 3, bad=[1])
    real = DeltaLog.append

    def dies(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if log is old.target.place.rows:
            raise RuntimeError("the power is gone")
        real(log, numbers, files)

    with monkeypatch.context() as patch:
        patch.setattr(DeltaLog, "append", dies)
        with pytest.raises(RuntimeError):
            old.write(0, 3, bad=[4])
    assert len(DeltaTable(f"{path}_dead_letters").to_pyarrow_table()) == 2
    old.is_gone()
    new = Process(path).open(0)
    assert len(DeltaTable(f"{path}_dead_letters").to_pyarrow_table()) == 1
    new.write(0, 3)  # it is good now
    check(path, {0: 6}, [1])


def test_one_that_joins_fences_the_letters_where_the_opener_has_not_come_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    one, other = Process(path, run="r", number=0), Process(path, run="r", number=1)

    def away() -> None:
        raise TransientError("away")

    monkeypatch.setattr(one.ledger, "settle", away)
    with pytest.raises(TransientError):
        one.take()
    other.open(1)
    other.write(1, 3, bad=[1])
    monkeypatch.undo()
    one.open(0)
    one.write(0, 3, bad=[1])
    other.write(1, 2, bad=[4])
    check(path, {0: 3, 1: 5}, [1, 4])


def test_one_that_an_opening_keeps_fences_the_letters_where_the_opener_died_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0)
    Process(path, run="r", number=1).open(1).is_gone()
    dying = Process(path, run="r", number=1)

    def dies() -> None:
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(dying.ledger, "settle", dies)
    with pytest.raises(RuntimeError):
        dying.take()
    one.write(0, 3, bad=[1])
    opening = at(one).anchor.opening
    letters = DeltaTable(f"{path}_dead_letters")
    assert [letters.transaction_version(name) for name in (one.ledger.names.anchor, one.ledger.names.part(1))] == [opening] * 2
    check(path, {0: 3}, [1])


@pytest.mark.parametrize(("kind", "name"), [(LocalFiles, "listed"), (Library, "first")])
def test_of_two_that_make_the_table_at_once_one_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str
) -> None:
    path = tmp_path / "items"
    one, other = Process(path, run="r", number=0), Process(path, run="r", number=1)
    real = getattr(kind, name)
    calls: list[int] = []

    def meanwhile(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            other.open(1).write(1, 2)
        return real(*arguments)

    monkeypatch.setattr(kind, name, meanwhile)
    one.open(0).write(0, 2)
    other.write(1, 1)
    assert len(calls) > 1
    check(path, {0: 2, 1: 3})


def test_streams_begin_once_whoever_says_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items"
    one = Process(path, run="r", number=0).open(0)
    other = Process(path, run="r", number=1).open(1)
    real = DeltaLog.append
    told: list[int] = []

    def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
        if not told and log is one.target.place.rows:
            told.append(1)
            other.target.begin([Start(stream(7), 40, 90)])
        real(log, numbers, files)

    monkeypatch.setattr(DeltaLog, "append", append)
    found = {one.stream: one for one in one.target.begin([Start(stream(7), 50, 90), Start(stream(8), 5, None)])}
    assert (found[stream(7)].offset_start, found[stream(7)].offset_end) == (40, 90)
    assert found[stream(8)].offset_next == 5
    assert {(p.stream.partition, p.offset_next) for p in other.target.positions()} == {(0, 0), (1, 0), (7, 40), (8, 5)}


def test_a_stream_begins_while_others_are_written_and_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2)
    numbers = at(one).numbers
    one.target.begin([Start(stream(5), 3, None)])
    assert at(one).numbers == numbers
    one.at[5] = one.session(5).take_over(stream(5))
    one.write(0, 1)
    assert one.at[5].offset_next == 3


def test_reading_positions_commits_nothing(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2)
    one.ledger.beat(one.token)
    before = commits(path)
    assert [p.offset_next for p in one.target.positions()] == [2]
    assert one.target.steps() == {STEP: 1}
    assert "pid" in one.target.alive([STEP])
    assert one.target.alive(["other"]) == ""
    one.target.begin([Start(stream(0), 0, None)])
    assert commits(path) == before


def test_a_position_that_jumps_takes_its_dead_letters_along(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0, 1)
    one.write(0, 6, bad=[1, 4])
    one.write(1, 6, bad=[1, 4])
    one.is_gone()
    new = Process(path)
    new.take()
    new.target.jump(stream(0), 6, 3)
    letters = DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()
    assert sorted((one["partition"], one["offset"]) for one in letters) == [(0, 1), (1, 1), (1, 4)]
    new.at[0] = new.session(0).take_over(stream(0))
    assert new.at[0].offset_next == 3
    new.write(0, 3, bad=[5])
    new.is_gone()
    again = Process(path).open(0)
    assert again.at[0].offset_next == 6
    letters = DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()
    assert sorted((one["partition"], one["offset"]) for one in letters) == [(0, 1), (0, 5), (1, 1), (1, 4)]


def test_files_that_nobody_names_are_removed_and_the_last_two_stay(tmp_path: Path) -> None:
    path = tmp_path / "items"
    for _ in range(3):
        process = Process(path).open(0, 1)
        for _ in range(5):
            process.write(0, 1)
        process.is_gone()
    process = Process(path).open(0, 1)
    process.write(0, 1)
    step = path.with_name(".items.waxwing") / FLOW / STEP
    named = {str(n) for n in (at(process).number, *at(process).numbers.values())}
    files = {file.name for file in step.iterdir() if file.is_file()}
    assert named <= files
    assert len(files) <= 2 * len(named) + 3
    assert len(list((step / "beats").iterdir())) <= 6


def test_a_change_that_others_keep_in_the_way_of_is_left_to_the_writers_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    change = one.change(0, 2)
    one.stage(change)

    def conflict(*_: Any) -> None:
        raise Conflict

    with monkeypatch.context() as patch:
        patch.setattr(DeltaLog, "append", conflict)
        with pytest.raises(TransientError) as raised:
            one.commit(change)
    assert raised.value.contended
    one.commit(change)
    check(path, {0: 2})
