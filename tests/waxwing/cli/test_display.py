"""What `waxwing run` adds up over its processes and runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from waxwing.cli.display import Display
from waxwing.metrics.shared import VARIABLE, SharedCounts


def counted(**counts: object) -> SharedCounts:
    shared = SharedCounts.make()
    shared.write(counts)
    return shared


def test_records_are_added_up_by_step_because_each_step_takes_in_all_of_them() -> None:
    """The windows' first bucket is in one process only, and counts the records of both."""
    display = Display("orders", 2)
    one = counted(records_of={"rows": 2_090, "totals": 4_000}, rows=7, dead_letters_of={"rows": 3, "totals": 3}, retries=0)
    two = counted(records_of={"rows": 1_910}, rows=7, dead_letters_of={"rows": 1}, retries=2)
    display.run_begins([one, two])
    wanted = {"records": 4_000, "rows": 14, "dead_letters": 7, "dead_letters_of": {"rows": 4, "totals": 3}, "retries": 2}
    assert display._counts() == wanted
    display.run_ended()
    display.run_begins([SharedCounts.make(), counted(records_of={"rows": 5, "totals": 5}, rows=5, dead_letters_of={}, retries=0)])
    assert display._counts() == {**wanted, "records": 4_005, "rows": 19}


# As a process of a flow does, which is killed right behind a transaction.
KILLED = """
import os, signal
from waxwing.metrics import counters
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change
stream = Stream("f", "t", "i", 0)
for n in range(3):
    batch = Batch(stream, "lane-000", n, n + 1, Columns([n], [None], [b""], [-1], [()]), [1, 2], [0, 0])
    counters.transaction("out", "lane-000", Change([batch], {}, {}), 0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_did_is_counted() -> None:
    display, shared = Display("f", 1), SharedCounts.make()
    display.run_begins([shared])
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, VARIABLE: str(shared.descriptor)},
        pass_fds=[shared.descriptor],
        check=False,
    )
    assert done.returncode == -9
    display.run_ended()
    assert display._counts() == {"records": 3, "rows": 6, "dead_letters": 0, "dead_letters_of": {}, "retries": 0}


def test_counts_too_many_to_share_leave_those_before_and_a_strange_file_is_not_written() -> None:
    shared = counted(rows=1)
    shared.write({"rows": 2, "records_of": {f"step {n}": n for n in range(10_000)}})
    assert shared.read() == {"rows": 1}
    os.environ[VARIABLE] = "0"
    try:
        assert SharedCounts.given() is None
    finally:
        del os.environ[VARIABLE]


def test_an_error_that_every_process_meets_is_told_once_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display("orders", 2)
    for _ in range(2):  # and again after a restart
        display.run_begins([])
        for process in range(2):
            display.read(process, io.BytesIO(b'{"level": "error", "message": "The table does not fit."}\n'))
    assert capsys.readouterr().err.count("does not fit") == 2
