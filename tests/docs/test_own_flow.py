"""The page docs/your-own-flow.md, done as it says: its files in an empty repository, its tests run there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"[Ff]ile `([^`]+)`:\n\n```python\n(.*?)```", re.DOTALL)


def test_the_page_s_flows_and_tests_run_in_a_repository_of_their_own(tmp_path: Path) -> None:
    files = dict(FILE.findall((ROOT / "docs/your-own-flow.md").read_text()))
    first = {"dataflows/payments.py", "test_payments.py"}
    assert set(files) == first | {"dataflows/totals.py", "test_totals.py"}
    assert sum(1 for name in first for line in files[name].splitlines() if line.strip()) <= 75
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_payments.py", "test_totals.py"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
