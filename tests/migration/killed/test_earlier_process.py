"""A process of an earlier release, with that release's own code: on tables that were carried over, and frozen meanwhile.

It takes in a part of the topic, then waits for its gate.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bytewax.testing import run_main

from tests.faults.cluster import LAUNCH
from tests.faults.storm.databases import file_not_locked
from tests.migration import dump, going_on
from tests.migration.dump import Database, content
from tests.migration.killed.starts import start
from tests.migration.topic import DATA, FILE
from tests.servers.process import until
from waxwing.errors import TransientError, TryLater

IN_ONE = "in a transaction"

# Its flow: written against that release, and no other.
FLOW = """
import gzip, json, os, signal
from pathlib import Path

import sqlalchemy as sa

from dataflows import orders
from sinks import SqlTarget, Upsert
from sources.memory import MemorySource, Message
from waxwing import runtime
from waxwing.configuration import load

PARTITIONS = 3
GATE = Path(os.environ["GATE"])


def messages():
    out = {number: [] for number in range(PARTITIONS)}
    for line in gzip.open(os.environ["MESSAGES"], "rt"):
        partition, time_ms, key, value, headers = json.loads(line)
        raw = lambda text: None if text is None else text.encode("latin-1")
        out[partition].append(Message(raw(value), raw(key), tuple((name, raw(one)) for name, one in headers), time_ms))
    return out


class Gated(MemorySource):
    def build_part(self, step_id, for_part, resume_state):
        return Part(super().build_part(step_id, for_part, resume_state))


class Part:
    def __init__(self, part):
        self._part, self._given = part, 0

    def next_batch(self):
        if self._given >= 2 and not GATE.exists() and not runtime.stopping():
            return []
        self._given += 1
        return self._part.next_batch()

    def next_awake(self):
        return None

    def snapshot(self):
        return None

    def close(self):
        self._part.close()


if os.environ["STOP"] == "in a transaction":
    stopped = []

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def stop(connection, cursor, statement, parameters, context, many):
        if not stopped and GATE.exists() and statement.startswith("UPDATE waxwing_progress"):
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)


def flow():
    with runtime.starting():
        settings = load(orders.OrdersSettings)
        target = SqlTarget(settings, orders.orders, Upsert(keys=("id",)))
        totals = orders.totals_of(settings)
        feeds = [target, *totals.values()]
        return orders.build(Gated(messages(), topic="earlier", batch_records=100, feeds=feeds), target, totals)
"""
# MemorySource's own base class is asked for by Bytewax.
FLOW = FLOW.replace("class Part:", "from bytewax.inputs import StatefulSourcePartition\n\n\nclass Part(StatefulSourcePartition):")


def unpack(release: str, folder: Path) -> Path:
    """The release's files, as `make` kept them, below a folder; and the flow beside them."""
    code = folder / release
    with tarfile.open(DATA / release / "code.tar.xz") as files:
        files.extractall(code, filter="data")
    (code / "earlier_flow.py").write_text(FLOW)
    return code


class Earlier:
    """The process. `stop` says where it is to stand still, once its gate is open: anywhere, or "in a transaction"."""

    def __init__(self, code: Path, url: str, folder: Path, *, stop: str = "", settings: Mapping[str, str] | None = None) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("KAFKA_", "DATABASE_", "BYTEWAX_"))}
        self.gate, self.log = folder / "gate", folder / "earlier.log"
        env = {
            **clean,
            "PYTHONPATH": str(code),
            "GATE": str(self.gate),
            "MESSAGES": str(FILE),
            "STOP": stop,
            "DATABASE_URL": url,
            "FLUSH_INTERVAL_S": "0",
            "WINDOW_SNAPSHOT_INTERVAL_S": "0",
            "RETRY_MAX_S": "5",
            "LANES": "1",
            "KAFKA_BOOTSTRAP_SERVERS": "none",
            **(settings or {}),
        }
        command = [*LAUNCH, sys.executable, "-P", "-m", "bytewax.run", "earlier_flow"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, env=env, cwd=code, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def runs(self) -> bool:
        """It runs; else its last words are raised."""
        assert self.process.poll() is None, f"exit {self.process.returncode}: {self.said()}"
        return True

    def said(self) -> str:
        return self.log.read_text()[-3_000:]

    def stands_still(self) -> bool:
        """Is it stopped, as a whole?"""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return self.runs() and all(task.read_text().rpartition(")")[2].split()[0] in "Tt" for task in tasks)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ended(self, timeout_s: float) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first release's files."""
    return unpack("9766af2", tmp_path_factory.mktemp("earlier"))


def test_an_earlier_release_says_that_the_tables_are_newer(old_code: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.sqlite"
    start(url)
    whole = content(url)
    old = Earlier(old_code, url, tmp_path)
    assert old.ended(60) == 78
    assert "schema version 2, this Waxwing knows version 1" in old.said()
    assert "Traceback" not in old.said()
    start(url)
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole


# On SQLite a frozen transaction locks everybody out for as long as it is frozen: there it has none.
@pytest.mark.parametrize(
    ("database", "stop"), [("sqlite", ""), ("postgresql", IN_ONE), ("mariadb", IN_ONE)], indirect=["database"]
)
def test_a_frozen_process_of_an_earlier_release_moves_nothing_when_it_is_thawed(
    database: Database, stop: str, old_code: Path, tmp_path: Path
) -> None:
    url = database.empty()
    facts = dump.Facts("9766af2", database.kind, "on_close", "earlier", "name:earlier")
    totals = "off" if stop else "on_close"  # with one writer only it is known where it stands
    settings = {"ORDER_TOTALS": totals, "DATABASE_STATEMENT_TIMEOUT_S": "1"}
    old = Earlier(old_code, url, tmp_path, stop=stop, settings=settings)

    def equal() -> bool:
        rows, sums = going_on.differences(facts, url) if totals != "off" else (going_on.compare_orders(facts, url), None)
        assert rows.equal, rows
        assert sums is None or sums.equal, sums
        return True

    try:
        until(lambda: old.runs() and _written(url) >= 150, timeout_s=60, what="it has written a part")
        if stop:
            old.gate.touch()
        else:
            until(lambda: _froze_outside(old, url), timeout_s=60, what="it stands still outside of a transaction")
        until(old.stands_still, timeout_s=60, what="it stands still")
        before = _written(url)
        limits = {"owner_stale_s": 0.5, "database_statement_timeout_s": 2.0, "database_lock_timeout_s": 10.0, "retry_max_s": 60.0}
        until(lambda: _starts(url, **limits), timeout_s=60, what="its owners are stale, and its locks are gone")
        run_main(going_on.orders(facts, url, order_totals=totals, **limits))
        assert equal()
        assert _written(url) > before
        whole = content(url)
        old.gate.touch()
        old.go_on()
        assert old.ended(60) != 0
        assert "Traceback" not in old.said(), old.said()
        assert content(url) == whole
        assert equal()
    finally:
        old.kill()


def _starts(url: str, **settings: Any) -> bool:
    try:
        start(url, **settings)
    except (TryLater, TransientError):  # asked again, as a flow does for RETRY_MAX_S, and a supervisor after it
        return False
    return True


def _written(url: str) -> int:
    try:
        return going_on.taken_in(url)
    except sa.exc.DBAPIError:  # no such table yet
        return 0


def _froze_outside(old: Earlier, url: str) -> bool:
    old.process.send_signal(signal.SIGSTOP)
    until(old.stands_still, timeout_s=20, what="it stands still")
    if file_not_locked(url):
        return True
    old.go_on()
    return False
