"""Skips can't hide: they are listed last, and fail where nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_runs():
    pass

def test_skips():
    pytest.skip("no server here")

@pytest.mark.real_mssql
def test_needs_the_vendors_own():
    pytest.skip("not to be had")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real_mssql: as ours\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    return tmp_path


def lines_of(folder: Path, *, no_skips: str) -> tuple[int, list[str]]:
    """Exit code and output of a run of pytest that has our conftest."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(folder), "-c", str(folder / "pytest.ini")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WAXWING_NO_SKIPS": no_skips, "COLUMNS": "100"}
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, cwd=folder, env=environment)
    return done.returncode, done.stdout.splitlines()


def test_skipped_tests_are_listed_with_their_reason_right_before_the_closing_line(folder: Path) -> None:
    code, lines = lines_of(folder, no_skips="")
    assert code == 0
    assert lines[-3:-1] == ["test_some.py::test_skips: no server here", "test_some.py::test_needs_the_vendors_own: not to be had"]
    assert "skipped, and why" in lines[-4]
    assert "1 passed, 2 skipped in" in lines[-1]


def test_where_nothing_may_be_skipped_a_skip_fails_unless_marked(folder: Path) -> None:
    code, lines = lines_of(folder, no_skips="1")
    assert code == 1
    assert "skipped where nothing may be (WAXWING_NO_SKIPS=1): no server here" in lines
    assert "1 failed, 1 passed, 1 skipped in" in lines[-1]


def test_where_nothing_may_be_skipped_a_whole_file_may_not_be_either(folder: Path) -> None:
    (folder / "test_other.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    code, lines = lines_of(folder, no_skips="1")
    assert code == 2
    assert any("could not import 'no_such_module'" in line for line in lines)
