"""The page your-own-target.md, done as it says: the target and its test, in a repository of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from sinks import sink, window_sink
from sources import read
from sources.memory import MemorySource, Message
from tests.docs.test_own_flow import ROOT, files_of
from waxwing.errors import TransientError
from waxwing.ledger.contents import Contents
from waxwing.ledger.whole_file import WholeFile
from waxwing.operators import parse
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.tables.rows import NO_DELETES


def on_a_path(tmp_path: Path) -> dict[str, str]:
    files = files_of("your-own-target.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return files


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's modules, imported."""
    on_a_path(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("json_folder", "json_windows")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


def test_a_target_of_a_folder_of_json_files_is_short_and_exact(tmp_path: Path) -> None:
    files = on_a_path(tmp_path)
    assert set(files) == {"json_folder.py", "json_windows.py", "test_json_folder.py"}
    assert sum(1 for line in files["json_folder.py"].splitlines() if line.strip()) < 100
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_json_folder.py"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "3 passed" in run.stdout, run.stdout + run.stderr


class Item(msgspec.Struct):
    n: int


def items(*numbers: int) -> list[dict[str, int]]:
    return [{"n": n} for n in numbers]


def run(target: Callable[[], Any], messages: Any, *, topic: str = "t", name: str = "demo") -> None:
    flow = Dataflow(name)
    source = MemorySource(messages, batch_records=3, topic=topic)
    sink("files", parse("parse", read("in", flow, source), Item, on_tombstone="delete"), target())
    run_main(flow)


def written(folder: Path) -> list[int]:
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_bytes().splitlines()]
    return sorted(msgspec.json.decode(line)["n"] for line in lines)


def test_names_tell_topics_flows_and_partitions_apart(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    target = partial(page.json_folder.JsonFolder, folder)
    for count in (4, 6, 8):  # a name with a dot; each run goes on
        run(target, items(*range(count)), topic="orders.de")
    run(target, items(*range(100, 110)), topic="orders.de", name="other")
    run(target, {0: items(*range(200, 205)), 1: items(*range(205, 210))}, topic="orders")
    run(target, items(*range(300, 310)), topic="orders-0")
    assert written(folder) == [*range(8), *range(100, 110), *range(200, 210), *range(300, 310)]


def test_a_commit_that_had_no_answer_is_found_done_and_moved_in(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []

    def save(self: WholeFile, contents: Contents) -> None:
        whole(self, contents)
        if contents.letters.added and not lost:
            lost.append(1)
            raise TransientError("no answer", committing=True)

    whole = WholeFile.save
    monkeypatch.setattr(WholeFile, "save", save)
    target = page.json_folder.JsonFolder(tmp_path / "out")
    run(lambda: target, [*items(0, 1), b"no JSON", *items(2, 3, 4)])
    assert lost == [1]
    assert written(tmp_path / "out") == [0, 1, 2, 3, 4]
    assert [letter.offset for letter in target.ledger_file.dead_letters()] == [2]


def test_deletes_are_dead_letters_where_the_target_does_not_say_otherwise(page: Any, tmp_path: Path) -> None:
    target = page.json_folder.JsonFolder(tmp_path / "out")
    run(lambda: target, [*items(0), Message(None, key=b"k"), *items(1), Message(None, key=b"k"), *items(2)])
    assert written(tmp_path / "out") == [0, 1, 2]
    assert [(one.offset, one.reason) for one in target.ledger_file.dead_letters()] == [(1, NO_DELETES), (3, NO_DELETES)]


def test_windows_go_over_it_and_on(page: Any, tmp_path: Path) -> None:
    windows = Windows(by=(), time="at", kind=Tumbling(length_s=10), aggregates={"n": Count()}, lateness_s=0)

    def target() -> Any:
        return page.json_windows.windows_in(tmp_path / "out", windows)

    class At(msgspec.Struct):
        at: datetime

    def fold(*seconds: int, ends: bool) -> None:
        flow = Dataflow("demo")
        messages = [{"at": datetime(2026, 1, 1, 0, n // 60, n % 60, tzinfo=UTC)} for n in seconds]
        window_sink("minutes", parse("parse", read("in", flow, MemorySource(messages, ends=ends)), At), target())
        run_main(flow)

    fold(1, 2, 11, ends=False)
    fold(1, 2, 11, 12, 13, 25, ends=True)
    lines = [line for file in (tmp_path / "out").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    counts = sorted((row["window_start"] // 1_000_000 % 60, row["n"]) for row in map(msgspec.json.decode, lines))
    assert counts == [(0, 2), (10, 3), (20, 1)]
