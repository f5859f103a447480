"""Pages with flows (PAGES), done as they say: files in an empty repository, tests run there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"[Ff]ile `([^`]+)`:\n\n```python\n(.*?)```", re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    return dict(FILE.findall((ROOT / "docs" / page).read_text()))


def test_a_first_flow_and_its_test_are_short() -> None:
    files = files_of("your-own-flow.md")
    first = ("dataflows/payments.py", "test_payments.py")
    assert sum(1 for name in first for line in files[name].splitlines() if line.strip()) <= 75


PAGES = [
    ("your-own-flow.md", ["payments", "totals", "customers"]),
    ("windows.md", ["minutes", "days"]),
    ("parquet.md", ["archive"]),
    ("delta.md", ["lake"]),
    ("recipes.md", ["two_tables", "one_transaction", "two_places", "checked", "placed"]),
    ("kafka.md", ["large_payments"]),
]


@pytest.mark.parametrize(("page", "flows"), PAGES)
def test_a_page_s_flows_and_tests_run_in_a_repository_of_their_own(page: str, flows: list[str], tmp_path: Path) -> None:
    files = files_of(page)
    tests = [f"test_{flow}.py" for flow in flows]
    assert set(files) == {f"dataflows/{flow}.py" for flow in flows} | set(tests)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(tests)} passed" in run.stdout


def test_the_drawing_of_the_orders_flow_is_what_visualize_draws() -> None:
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "DATABASE_URL": "sqlite:///never-made.sqlite"}
    command = [sys.executable, "-m", "bytewax.visualize", "dataflows.orders", "-o", "mermaid"]
    drawn = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"```mermaid\n{drawn.strip()}\n```" in (ROOT / "docs/windows.md").read_text()
