"""The page your-own-target.md, done as it says: the target and its test, in a repository of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.test_own_flow import ROOT, files_of


def test_a_target_of_a_folder_of_json_files_is_short_and_exact(tmp_path: Path) -> None:
    files = files_of("your-own-target.md")
    assert set(files) == {"json_folder.py", "test_json_folder.py"}
    assert sum(1 for line in files["json_folder.py"].splitlines() if line.strip()) < 100
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_json_folder.py"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "3 passed" in run.stdout, run.stdout + run.stderr
