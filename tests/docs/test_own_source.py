"""The page your-own-source.md, done as it says: the source, its test and a flow over it, in a repository of their own."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from sources.kit import Log, Run, messages
from sources.kit.checks import check_source
from tests.docs.test_own_flow import ROOT, files_of


def test_a_source_over_a_folder_of_csv_files_is_short_tested_and_read_by_a_flow(tmp_path: Path) -> None:
    files = files_of("your-own-source.md")
    assert set(files) == {"csv_folder.py", "dataflows/readings.py", "test_csv_folder.py"}
    assert sum(1 for line in files["csv_folder.py"].splitlines() if line.strip()) <= 100
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.csv").write_text("sensor,celsius\nattic,21.5\ncellar,warm\n")
    of_run = {"CSV_FOLDER": str(tmp_path / "folder"), "DATABASE_URL": f"sqlite:///{tmp_path / 'house.sqlite'}", "UNTIL": "end"}
    env = {**os.environ, **of_run, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def done(*command: str) -> str:
        run = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout + run.stderr

    assert "3 passed" in done("pytest", "-q", "-p", "no:cacheprovider", "test_csv_folder.py")
    assert "a.csv[0] begins anew at 0" in done("bytewax.run", "dataflows.readings")
    with (tmp_path / "folder/a.csv").open("a") as file:
        file.write("hall,20\n")
    assert "a.csv[0] goes on at 2" in done("bytewax.run", "dataflows.readings")
    with sqlite3.connect(tmp_path / "house.sqlite") as connection:
        assert connection.execute("SELECT sensor, celsius FROM readings").fetchall() == [("attic", 21.5), ("hall", 20)]
        assert connection.execute("SELECT COUNT(*) FROM waxwing_dead_letters").fetchall() == [(1,)]  # "warm" is no number
    connection.close()


def test_numbers_with_holes_are_read_as_the_page_says(tmp_path: Path) -> None:
    made: dict[str, Any] = {"Run": Run, "messages": messages, "accumulate": accumulate}
    exec(files_of("your-own-source.md")["csv_folder.py"], made)
    (snippet,) = re.findall(
        r"```python\n(def read\(self, place\).*?)```", (ROOT / "docs/your-own-source.md").read_text(), re.DOTALL
    )
    exec(snippet, made)

    of_bytes = {"read": made["read"], "describe": lambda _: [Log("a.csv", "1", end=9)]}
    by_bytes = type("ByBytes", (made["CsvFolder"],), of_bytes)
    (tmp_path / "a.csv").write_text("a\nbb\nccc\nd")
    settings = made["CsvSettings"](csv_folder=str(tmp_path), until="end")
    assert check_source(lambda: by_bytes(settings)) == {"a.csv[0]": [b"a", b"bb", b"ccc"]}
