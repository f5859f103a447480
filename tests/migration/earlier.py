"""A process of an earlier release, with that release's own code: it takes in a part of the topic, then waits for its gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.faults.cluster import LAUNCH, ROOT
from tests.migration.topic import FILE

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
    """The release's files, out of the history, below a folder; and the flow beside them."""
    code = folder / release
    code.mkdir()
    archive = subprocess.run(
        ["git", "archive", release, "waxwing", "sinks", "sources", "dataflows"], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
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
