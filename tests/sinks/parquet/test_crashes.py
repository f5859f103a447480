"""A process that dies at any call of the operating system, of its opening or of a commit: what comes next goes on exactly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sinks.parquet import ParquetTarget, chains, session
from sinks.parquet.place import Place
from tests.sinks.parquet.world import CALLS, Killed, bound, change_of, stream, target_of
from waxwing.change import Change, Start
from waxwing.errors import Fenced
from waxwing.ledger.members import Member

ROOT = Path(__file__).parents[3]
END = 14


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch, at: int, then: Callable[[], None]) -> Iterator[list[str]]:
    """The calls of the operating system, each with the folder (or the file's folder) that it changes; before number `at`, and
    before all that follow, something else happens."""
    made: list[str] = []

    def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if len(made) >= at:
                then()
            made.append(f"{name} {where(name, *args)}")
            return call(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, around(name, getattr(os, name)))
        yield made


def where(name: str, first: Any = None, second: Any = None, *_: Any) -> str:
    """What a call changes: a file is called by its folder."""
    if name == "fsync":
        path = Path(f"/proc/self/fd/{first}").readlink()
        return path.name if path.is_dir() else f"a file of {path.parent.name}"
    path = Path(second if name in ("link", "rename") else first)
    return path.name if name == "listdir" else path.parent.name


def dies() -> None:
    raise Killed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    """Segments are short, and nobody is waited for."""
    for module in (chains, session):
        monkeypatch.setattr(module, "SEGMENT_RECORDS", 3)


def opened(folder: Path, run: int) -> ParquetTarget:
    target = bound(target_of(folder), Member(f"run-{run}", 0, f"own-{run}"))
    target.prepare()
    assert target.ownership.take() == ""
    target.begin([Start(stream(0), 0, None)])
    return target


def write(target: ParquetTarget, end: int) -> None:
    """Two records a commit, up to an offset; every fifth is a dead letter."""
    at = target.connect("lane-000", target.token())
    position = at.take_over(stream(0))
    while position.offset_next < end:
        change = change_of(position, min(end, position.offset_next + 2), bad=frozenset(range(0, END, 5)))
        at.stage(change.batches)
        at.commit(Change([], change.before, change.after, change.dead_letters))
        position = change.after[stream(0)]


def visible(folder: Path) -> list[int]:
    """Offsets of rows and dead letters, as another program finds them."""
    found: list[int] = []
    for column, of in (("o", folder), ('"offset"', folder.with_name("out_dead_letters"))):
        if any(of.rglob("*.parquet")):
            found += [row[0] for row in reader().execute(f"SELECT {column} FROM '{of}/**/*.parquet'").fetchall()]
    return sorted(found)


@cache
def reader() -> duckdb.DuckDBPyConnection:
    """One for all: to connect takes longer than to read."""
    return duckdb.connect()


def test_a_process_that_dies_before_any_call_is_followed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    at = finished = 0
    while not finished:
        folder = tmp_path / f"{at}" / "out"
        target = opened(folder, 0)
        write(target, 6)
        with calls(monkeypatch, at, dies):
            try:
                write(opened(folder, 1), END)
                finished = at
            except Killed:
                pass
        before = visible(folder)
        assert Counter(before).most_common(1)[0][1] == 1, at
        write(opened(folder, 2), END)
        assert visible(folder) == list(range(END)), at
        with pytest.raises(Fenced):
            write(target, END)  # the first one comes back
        staging = Place(folder, target.own_step).staging
        assert len(list(staging.iterdir())) <= 2, at  # what is kept with the stream, at the opening and now
        at += 1
    assert finished > 60


def test_what_a_commit_does_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a record names is durable before it is linked, and the record before anything is moved in."""
    folder = tmp_path / "out"
    target = opened(folder, 0)
    write(target, 4)
    at = target.connect("lane-000", target.token())
    change = change_of(at.take_over(stream(0)), 6)
    at.stage(change.batches)
    (chain,) = target.place.chains.iterdir()
    (segment,) = (path for path in chain.iterdir() if path.is_dir())
    with calls(monkeypatch, 1_000, dies) as made:
        at.commit(Change([], change.before, change.after))
    assert made == [
        "fsync a file of staging",  # rows
        "fsync a file of staging",  # what is kept with the position
        "fsync staging",
        "listdir anchor",  # whose is the step?
        "fsync a file of staging",  # the record
        f"link {segment.name}",
        f"fsync {segment.name}",
        "unlink staging",  # the record's first name
        "listdir anchor",  # whose is the step now?
        "rename p=0",
        "fsync p=0",
        "unlink staging",  # what was kept before
    ]


def test_what_a_head_does_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment outlives a crash before a record names it, and the one before goes last."""
    target = opened(tmp_path / "out", 0)
    monkeypatch.setattr(session, "SEGMENT_RECORDS", 2)
    write(target, 4)
    at = target.connect("lane-000", target.token())
    change = change_of(at.take_over(stream(0)), 6)
    at.stage(change.batches)
    (chain,) = target.place.chains.iterdir()
    with calls(monkeypatch, 1_000, dies) as made:
        at.commit(Change([], change.before, change.after))
    assert made[4:10] == [
        f"mkdir {chain.name}",
        f"fsync {chain.name}",
        "fsync a file of staging",
        f"link {chain.name}",
        f"fsync {chain.name}",
        "unlink staging",
    ]
    assert made[10:13] == ["listdir anchor", "rename p=0", "fsync p=0"]
    assert f"rmdir {chain.name}" in made[13:]


@pytest.mark.parametrize("moved", [False, True])
def test_what_an_opening_does_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, moved: bool) -> None:
    """Nothing can be added to the runs before once the anchor is linked; what it names, or leaves out as it was found moved in,
    is durable before; what those runs have left is removed behind it."""
    folder = tmp_path / "out"
    old = opened(folder, 0)
    write(old, 8)
    at = old.connect("lane-000", old.token())
    change = change_of(at.take_over(stream(0)), 10)
    at.stage(change.batches)
    real = os.rename

    def last(made: Path, path: Path) -> None:
        if moved:
            real(made, path)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", last)
        with pytest.raises(Killed):
            at.commit(Change([], change.before, change.after))
    (gone,) = old.place.chains.iterdir()
    new = bound(target_of(folder), Member("run-1", 0, "own-1"))
    new.prepare()
    with calls(monkeypatch, 1_000, dies) as made:
        assert new.ownership.take() == ""
    anchor = made.index("link anchor")
    before, behind = made[:anchor], made[anchor:]
    seals = [number for number, call in enumerate(before) if call.startswith("link ")]
    assert len(seals) == 2, "a chain of each lane"
    assert seals[-1] < before.index("mkdir chains") < before.index("fsync chains")
    assert ("fsync p=0" in before[seals[-1] :]) == moved
    assert "rename p=0" not in before
    assert before[-1] == "fsync a file of staging"
    assert behind[:3] == ["link anchor", "fsync anchor", "unlink staging"]
    last_of_rows = [call for call in behind if call.endswith("p=0")][-2:]
    assert last_of_rows == ([] if moved else ["rename p=0", "fsync p=0"])
    assert not {"rmdir chains", f"unlink {gone.name}"} & {*before}
    assert "rmdir chains" in behind[0 if moved else behind.index("fsync p=0") :]
    assert visible(folder) == list(range(10))


CHILD = """
import os, signal, sys
from pathlib import Path
import pytest
from tests.sinks.parquet.test_crashes import calls, opened, write, END
with pytest.MonkeyPatch.context() as patch:
    with calls(patch, int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        write(opened(Path(sys.argv[1]), 1), END)
"""


@pytest.mark.parametrize("at", [25, 48, 56])
def test_a_process_that_is_killed_is_followed_exactly(tmp_path: Path, at: int, quick: None) -> None:
    folder = tmp_path / "out"
    child = subprocess.run([sys.executable, "-c", CHILD, str(folder), str(at)], cwd=ROOT, check=False, timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert Counter(visible(folder) or [0]).most_common(1)[0][1] == 1
    write(opened(folder, 2), END)
    assert visible(folder) == list(range(END))


def test_files_that_an_opening_was_to_move_in_are_moved_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    folder = tmp_path / "out"
    target = opened(folder, 0)
    write(target, 4)
    with monkeypatch.context() as patch:
        at = target.connect("lane-000", target.token())
        change = change_of(at.take_over(stream(0)), 6)
        at.stage(change.batches)
        others = [bound(target_of(folder), Member(f"run-{run}", 0, f"own-{run}")) for run in (1, 2)]
        for other in others:
            other.prepare()
        patch.setattr(os, "rename", lambda *_: dies())
        with pytest.raises(Killed):
            at.commit(Change([], change.before, change.after))
        for other in others:  # each is linked, and comes no further
            with pytest.raises(Killed):
                other.ownership.take()
    assert visible(folder) == [0, 1, 2, 3]
    last = opened(folder, 3)
    assert visible(folder) == [0, 1, 2, 3, 4, 5]
    assert last.positions()[0].offset_next == 6
    assert last.place.numbers() == list(range(max(last.place.numbers()) + 1)), "anchors are never removed"


def test_a_head_tells_of_all_streams_of_its_lane(tmp_path: Path, quick: None) -> None:
    target = opened(tmp_path / "out", 0)
    target.begin([Start(stream(0), 0, None), Start(stream(2), 0, None)])
    at = target.connect("lane-000", target.token())
    positions = {number: at.take_over(stream(number)) for number in (0, 2)}
    for number in (2, *[0] * 8):
        change = change_of(positions[number], positions[number].offset_next + 1)
        at.stage(change.batches)
        at.commit(Change([], change.before, change.after))
        positions[number] = change.after[stream(number)]
    found = {one.stream.partition: one.offset_next for one in opened(tmp_path / "out", 1).positions()}
    assert found == {0: 8, 2: 1}


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_a_seal_that_fell_into_a_segment_on_its_way_out_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    folder = tmp_path / "out"
    target = opened(folder, 0)
    write(target, 4)  # a head and a record
    (chain,) = target.place.chains.iterdir()
    (segment,) = (path for path in chain.iterdir() if path.is_dir())
    new = bound(target_of(folder), Member("run-1", 0, "own-1"))
    new.prepare()
    real, struck = os.link, False

    def link(made: Path, path: Path) -> None:
        nonlocal struck
        if not struck and Path(path).parent == segment:
            struck = True
            with monkeypatch.context() as patch:  # the lane gets as far as to remove what the segment holds
                patch.setattr(shutil, "rmtree", lambda gone, **_: emptied(gone))
                write(target, 8)
            assert list(segment.iterdir()) == []
        real(made, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        assert new.ownership.take() == ""
    assert struck
    assert new.positions()[0].offset_next == 8
    with pytest.raises(Fenced):
        write(target, 10)
    write(new, END)
    assert visible(folder) == list(range(END))
