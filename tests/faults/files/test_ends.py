"""A flow into folders of files that can't go on ends with a sentence and its code, and goes on exactly once it can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.files.test_files import Reader, check
from tests.servers.disk import small_disk
from tests.servers.process import until
from waxwing.errors import EXIT_CONFIG, EXIT_FENCED, EXIT_TRY_AGAIN

FLOW = "tests.faults.files.flow:flow"


def env(folder: Path) -> dict[str, str]:
    return {
        "FOLDER": str(folder),
        "LANES": "2",
        "WINDOW_BUCKETS": "1",
        "PARQUET_FILE_AGE_S": "0.02",
        "WINDOW_SNAPSHOT_INTERVAL_S": "0.1",
        "OWNER_STALE_S": "0.5",
        "PATH": os.environ["PATH"],
    }


def ends(folder: Path, logs: Path, name: str) -> tuple[int | None, str]:
    """The code of a run, and what it said."""
    with Cluster(FLOW, env(folder), logs, name=name) as cluster:
        until(lambda: not cluster.running(), timeout_s=120, what="it ends")
        (code,) = cluster.codes()
        output = cluster.output()
    assert "Traceback" not in output
    assert "panicked" not in output
    return code, output


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of two megabytes."""
    with small_disk(2) as folder:
        yield folder


def test_a_full_disk_and_one_that_can_only_be_read_are_said_and_it_goes_on_exactly_once_they_are_mended(
    disk: Path, tmp_path: Path
) -> None:
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 60_000))
    code, output = ends(disk, tmp_path, "full")
    assert code == EXIT_TRY_AGAIN
    assert "There is no room for" in output
    assert "Make room on that disk" in output
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, output = ends(disk, tmp_path, "read-only")
    assert code == EXIT_CONFIG
    assert "can't be written" in output
    assert "needs the right to write into" in output
    subprocess.run(["mount", "-o", "remount,rw,size=20m", str(disk)], check=True)
    assert ends(disk, tmp_path, "last")[0] == 0
    check(disk)


def test_of_two_deployments_one_writes_and_one_that_was_frozen_and_comes_back_ends_with_76(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    reader = Reader(folder)
    slowly = {"PARQUET_FILE_AGE_S": "0", "QUEUE_RECORDS_MAX": "20"}  # some hundred commits
    with Cluster(FLOW, env(folder) | slowly, tmp_path, name="old") as old:
        until(lambda: reader.look() > 0, timeout_s=60, what="it writes")
        old.stand_still()
        assert old.running()
        assert ends(folder, tmp_path, "new")[0] == 0
        old.signal(signal.SIGCONT)
        until(lambda: not old.running(), timeout_s=60, what="it ends")
        assert old.codes() == [EXIT_FENCED], old.output()[-2_000:]
        assert "Traceback" not in old.output()
        assert "has taken over" in old.output()
    check(folder)
