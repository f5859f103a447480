"""A process dies, or gets no answer, at each point of an opening and of a commit: each record is a row or a dead letter, once."""

from __future__ import annotations

import itertools
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from sinks.delta.log import DeltaLog
from tests.sinks.delta.process import POINTS, Crash, Faults, Process, check, lost
from waxwing.errors import TransientError

BAD = (1, 4, 7)


def story(path: Path, ends: dict[int, int], faults: AbstractContextManager[None] | None = None) -> None:
    """A process goes on, wherever the last one came to, up to these ends."""
    process = Process(path)
    try:
        with faults or nullcontext():
            process.open(*ends)
            for partition, end in ends.items():
                while (first := process.at[partition].offset_next) < end:
                    process.write(partition, min(3, end - first), BAD)
    finally:
        process.is_gone()


def copied(path: Path, to: Path) -> None:
    """The table, the letters, and what is remembered, under another name."""
    for name in ("{}", "{}_dead_letters", ".{}.waxwing"):
        shutil.copytree(path.with_name(name.format(path.name)), to.with_name(name.format(to.name)))


def strikes_at_each(faults: Faults, path: Path, behind: bool) -> int:
    """Another death at every second point; the number of points. What is dead behind one has died before the next."""
    ends = {0: 6, 1: 3}
    story(path, {0: 2})
    for at in itertools.count(1 + behind, 2):
        here = path.with_name(f"{path.name}-{at}")
        copied(path, here)
        try:
            story(here, ends, faults.striking(at, behind=behind))
        except Crash:
            story(here, ends)
            check(here, ends, BAD)
            continue
        check(here, ends, BAD)
        break
    return at


@pytest.mark.slow
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_a_process_that_dies_at_any_point_has_done_its_change_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    assert strikes_at_each(Faults(monkeypatch), tmp_path / "items", behind) > 40


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_two_that_die_at_any_point_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool) -> None:
    faults, ends = Faults(monkeypatch), {0: 5, 1: 2}
    for first, second in [(n, (n * 7) % 45 + 1) for n in range(3, 60, 4)]:
        path = tmp_path / f"items-{first}"
        for at, how in ((first, behind), (second, not behind)):
            try:
                story(path, ends, faults.striking(at, behind=how))
            except Crash:
                continue
        story(path, ends)
        check(path, ends, BAD)


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_an_answer_that_is_lost_at_any_point_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    points = [(kind, name) for kind, name in POINTS if name in ("write", "append", "delete", "refresh")]
    faults, ends = Faults(monkeypatch, points), {0: 6}
    begun, stopped = tmp_path / "begun", 0
    story(begun, {0: 2})
    for at in itertools.count(1):
        path = tmp_path / f"items-{at}"
        copied(begun, path)
        try:
            story(path, ends, faults.striking(at, behind=behind, made=lost))
        except TransientError:
            stopped += 1  # where nobody tries again by himself
        calls = faults.calls
        story(path, ends)
        check(path, ends, BAD)
        if calls < at:
            assert at > 20
            return


def test_a_commit_whose_answers_are_all_lost_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(tmp_path / "items").open(0)
    real = DeltaLog.append

    def append(log: DeltaLog, *arguments: object) -> None:
        real(log, *arguments)  # type: ignore[arg-type]
        raise lost("append")

    monkeypatch.setattr(DeltaLog, "append", append)
    process.write(0, 6, BAD)
    process.write(0, 3, BAD)
    monkeypatch.undo()
    check(tmp_path / "items", {0: 9}, BAD)
