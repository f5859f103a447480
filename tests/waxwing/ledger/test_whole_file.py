"""A ledger in a file: its lock, its dead letters, what a COMMIT without an answer is, and what it finds damaged."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.errors import DataError, TransientError
from waxwing.ledger import whole_file
from waxwing.ledger.store import Step
from waxwing.ledger.whole import WholeStore, WholeTransaction
from waxwing.ledger.whole_file import WholeFile

STREAM = Stream("flow", "topic", "id", 0)
STEP = Step("flow", "step")


def letter(offset: int, reason: str = "bad") -> DeadLetter:
    return DeadLetter(STREAM, offset, 0, "parse", reason, b"key", b"value", (), 5)


def committed(file: Path, *offsets: int) -> None:
    with WholeStore(WholeFile(file), STEP).transaction() as transaction:
        transaction.bury([letter(offset) for offset in offsets])
        transaction.commit()


def offsets(file: Path) -> list[int]:
    return [one.offset for one in WholeFile(file).dead_letters()]


def test_dead_letters_are_added_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ledger"
    monkeypatch.setattr(WholeFile, "_letters", lambda *_: pytest.fail("they are read"))
    committed(file, 1)
    size = (tmp_path / "ledger.letters-0").stat().st_size
    committed(file, 2, 3)
    assert (tmp_path / "ledger.letters-0").stat().st_size == 3 * size
    monkeypatch.undo()
    assert WholeFile(file).dead_letters() == [letter(1), letter(2), letter(3)]
    assert file.stat().st_size < 50


def test_what_was_never_committed_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ledger"
    committed(file, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: None)  # it dies before the ledger names them
        committed(file, 2, 3)
    assert offsets(file) == [1]
    committed(file, 4)
    assert offsets(file) == [1, 4]


def test_letters_that_give_way_leave_the_others(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    committed(file, 1, 2, 3)
    with WholeStore(WholeFile(file), STEP).transaction() as transaction:
        transaction.unbury([letter(2)])
        transaction.bury([letter(2, "another reason")])
        assert transaction.letter_offset_max("id") == 3
        transaction.commit()
    assert [(one.offset, one.reason) for one in WholeFile(file).dead_letters()] == [(1, "bad"), (3, "bad"), (2, "another reason")]
    assert [one.name for one in sorted(tmp_path.glob("*letters*"))] == ["ledger.letters-1"]
    committed(file, 4)
    assert offsets(file) == [1, 3, 2, 4]


def test_who_holds_it_too_long_is_named_and_waited_for_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "LOCK_MAX_S", 0.2)
    file = tmp_path / "ledger"
    committed(file, 1)
    with (tmp_path / "ledger.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match=rf"held by another process \({os.getpid()}\) for 0 s\. Is it frozen\?"):
            committed(file, 2)
    with WholeFile(file).held(), pytest.raises(TransientError, match="held by another writer of this process"):
        committed(file, 2)
    committed(file, 2)
    assert offsets(file) == [1, 2]


def test_of_what_is_there_and_may_not_outlive_a_crash_the_outcome_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = tmp_path / "ledger"
    with monkeypatch.context() as patch:
        patch.setattr(whole_file, "sync_folder", fails)
        with pytest.raises(TransientError) as refused:
            committed(file, 1)
    assert refused.value.committing
    assert offsets(file) == [1]


@pytest.mark.parametrize("name", ["ledger", "ledger.letters-0"])
def test_a_file_that_is_cut_short_is_told(tmp_path: Path, name: str) -> None:
    committed(tmp_path / "ledger", 1, 2)
    with (tmp_path / name).open("r+b") as file:
        file.truncate(7)
    with pytest.raises(DataError, match=r"damaged: .*Restore it from a backup"):
        offsets(tmp_path / "ledger")


def test_positions_of_two_steps_stand_side_by_side(tmp_path: Path) -> None:
    def in_step(name: str) -> WholeTransaction:
        return transaction.of(Step("flow", name))

    with WholeStore(WholeFile(tmp_path / "ledger"), STEP).transaction() as transaction:
        for name, offset in (("a", 3), ("b", 5)):
            in_step(name).add([Position(STREAM, offset, 0)])
            in_step(name).keep(STREAM, name.encode())
        transaction.commit()
    with WholeStore(WholeFile(tmp_path / "ledger"), STEP).transaction() as transaction:
        kept = {name: [row.position.offset_next for row in in_step(name).positions()] for name in ("a", "b", "step")}
        assert kept == {"a": [3], "b": [5], "step": []}
        assert in_step("b").state(STREAM) == b"b"
