"""A failing run shows one clear message and its exit code: in one process, with -w 2, and in a mesh of two."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.cluster import ROOT, Cluster
from tests.servers.process import free_ports, until

MODES = {"one process": (1, ()), "two workers": (1, ("-w", "2")), "two processes": (2, ())}


def fail(tmp_path: Path, mode: str, where: str, kind: str = "DataError") -> tuple[list[int], str]:
    processes, args = MODES[mode]
    env = {"FAIL_WHERE": where, "FAIL_KIND": kind}
    with Cluster("tests.fixtures.failing", env, tmp_path, processes=processes, args=args) as cluster:
        return cluster.wait(180), cluster.output()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("where", "kind", "code", "message"),
    [
        ("source", "DataError", 65, "the message of the failure. What to do."),
        ("source", "Fenced", 76, "the message of the failure. What to do."),
        ("source", "bug", 70, "a bug"),
        ("sink", "", 65, "a batch covers offsets 1 to 2"),
        ("flow", "", 78, "the message of the failure. What to do."),
    ],
)
def test_one_message_and_the_exit_code(tmp_path: Path, mode: str, where: str, kind: str, code: int, message: str) -> None:
    codes, output = fail(tmp_path, mode, where, kind)
    assert code in codes, output
    assert set(codes) <= {code, 75}, output
    assert re.search(message, output)
    assert "Traceback" not in output
    assert "panicked" not in output


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("one process", 70, "KeyError"),
        ("two workers", 70, "KeyError"),
        ("two processes", 75, "run the flow in one process to see it"),
    ],
)
def test_an_error_in_a_plain_bytewax_step(tmp_path: Path, mode: str, code: int, message: str) -> None:
    codes, output = fail(tmp_path, mode, "operator")
    assert set(codes) == {code}
    assert message in output
    assert "Traceback" not in output
    assert "panicked" not in output


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_cleanly(tmp_path: Path, mode: str, number: signal.Signals) -> None:
    processes, args = MODES[mode]
    with Cluster("tests.fixtures.failing", {}, tmp_path, processes=processes, args=args) as cluster:
        deadline_s = time.monotonic() + 20
        while cluster.output().count('"event": "started"') < processes and time.monotonic() < deadline_s:
            time.sleep(0.05)
        cluster.signal(number)
        assert cluster.wait(180) == [0] * processes, cluster.output()
        assert "Traceback" not in cluster.output()


def test_one_that_was_asked_to_stop_and_loses_its_mesh_has_stopped(tmp_path: Path) -> None:
    """A stop asks all of them; which is gone first is chance."""
    with Cluster("tests.fixtures.failing", {}, tmp_path, processes=2) as cluster:
        until(lambda: cluster.output().count('"event": "reads"') == 4, timeout_s=60, what="all lanes read")
        os.kill(cluster.pids[0], signal.SIGTERM)
        until(lambda: '"event": "stopping"' in cluster.output(), timeout_s=60, what="it stops")
        cluster.kill_one(1)
        assert cluster.wait(180)[0] == 0, cluster.output()


def test_a_process_that_waits_for_its_mesh_stops_on_a_signal(tmp_path: Path) -> None:
    lonely = ("-i", "1", "-a", ";".join(f"127.0.0.1:{port}" for port in free_ports(2)))
    with Cluster("tests.fixtures.failing", {}, tmp_path, args=lonely) as cluster:
        deadline_s = time.monotonic() + 20
        while "error connecting" not in cluster.output() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        cluster.signal(signal.SIGTERM)
        assert cluster.wait(180) == [0]


def test_a_mistake_outside_flow_is_one_message_too_by_our_own_runner(tmp_path: Path) -> None:
    (tmp_path / "mistaken.py").write_text(
        "from waxwing.operators.windows import Count, Tumbling, Windows\n"
        'w = Windows(by=(), time="t", kind=Tumbling(length_s=-1), aggregates={"n": Count()}, lateness_s=0)\n'
    )
    command = [sys.executable, "-m", "waxwing", "run", str(tmp_path / "mistaken.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 78, done.stderr
    assert "length_s=-1" in done.stderr
    assert "Traceback" not in done.stderr


OWN_FLOW = """
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax import operators as op
from sinks import MemoryTarget, SqlTarget, Append, sink
from sources.memory import MemorySource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.settings import Group, KafkaSettings, SqlSettings

class Own(KafkaSettings, SqlSettings):
    rate_url: str

def flow():
    with runtime.starting():
        flow = Dataflow("own")
        target = MemoryTarget()
        up = op.input("in", flow, MemorySource([], feeds=[target]))
        sink("out", up, target)
        {line}
        return flow
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("load(Own)", "RATE_URL is not set"),
        ('sink("out", up, MemoryTarget())', r"(own\.py:20 in flow)"),
        ("1 / 0", r"ZeroDivisionError: division by zero (own\.py:20 in flow)"),
        (
            'SqlTarget(SqlSettings().model_copy(update={"database_url": "sqlite:///x"}), sa.Table("t", sa.MetaData()), Append())',
            r"AttributeError: 'str' object has no attribute 'get_secret_value' (own\.py:20 in flow)",
        ),
        ("from sinks import nothing", r"cannot import name 'nothing' from 'sinks'"),
    ],
)
def test_a_mistake_in_ones_own_flow_names_its_place(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "own.py").write_text(OWN_FLOW.replace("{line}", line))
    with Cluster(str(tmp_path / "own.py"), {}, tmp_path) as cluster:
        assert cluster.wait(180) == [78], cluster.output()
        assert re.search(told.replace("(", r"\(").replace(")", r"\)"), cluster.output()), cluster.output()
        assert "Traceback" not in cluster.output()
        assert "report it" not in cluster.output()


def test_what_bytewax_is_told_wrongly_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = str(other.getsockname()[1])
        for args, env, told in [
            (("-r", str(tmp_path / "missing"), "-s", "1", "-b", "1"), {}, "does not exist"),
            (("-r", str(empty), "-s", "1", "-b", "1"), {}, "python -m bytewax.recovery FOLDER 1"),
            (("-w", "0"), {}, "-w 0 leaves nobody to work"),
            (("-i", "2", "-a", "127.0.0.1:1;127.0.0.1:2"), {}, "-i 2 is none of the 2 addresses"),
            ((), {"BYTEWAX_DATAFLOW_API_ENABLED": "1", "BYTEWAX_DATAFLOW_API_PORT": port}, f"can't be served at port {port}"),
        ]:
            with Cluster("tests.fixtures.failing", env, tmp_path, args=args) as cluster:
                assert cluster.wait(180) == [78], (args, cluster.output())
                assert told in cluster.output()
                assert "Traceback" not in cluster.output()


def test_an_address_that_is_taken_or_none_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for address, code, words in [(taken, 75, "Another process listens"), ("here", 78, "invalid socket address")]:
            with Cluster("tests.fixtures.failing", {}, tmp_path, args=("-i", "0", "-a", f"{address};127.0.0.1:1")) as cluster:
                assert cluster.wait(180) == [code], cluster.output()
                assert words in cluster.output()
                assert "bug" not in cluster.output()
