"""`waxwing.run` on a real Kafka: a program runs the orders flow, stops it, runs it again, and is left as it was."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import waxwing
from dataflows.orders import OrdersSettings, flow
from tests.faults.watch import produce
from tests.servers import Kafka
from tests.servers.process import until
from waxwing.errors import ConfigError


def stored(path: Path) -> int:
    try:
        return int(sqlite3.connect(path).execute("SELECT count(*) FROM orders").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet


def left() -> dict[str, Any]:
    """What a run has to give back."""
    gc.collect()
    return {
        "threads": {thread.name for thread in threading.enumerate() if not thread.name.startswith("pytest")},
        "files": {os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()},  # noqa: PTH115 - of a file
        "handlers": {(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)},
    }


def is_given_back(before: dict[str, Any]) -> bool:
    """Is nothing there that was not before? (What an earlier test had may end meanwhile.)"""
    return all(now <= before[what] for what, now in left().items())


def test_a_program_runs_stops_and_runs_the_flow_again(kafka: Kafka, tmp_path: Path) -> None:
    topic, path = kafka.new_topic(partitions=4), tmp_path / "orders.sqlite"
    settings = OrdersSettings(
        kafka_bootstrap_servers=kafka.bootstrap(),
        source_topic=topic,
        database_url=SecretStr(f"sqlite:///{path}"),
        order_totals="off",
        flow_name="inside",
        kafka_group_id="inside",
    )
    bounded = settings.model_copy(update={"until": "end"})
    produce(kafka.bootstrap(), topic, 500, bad=0.0, seed=1)
    waxwing.run(flow, settings=bounded)
    assert stored(path) == 500
    before = left()
    stop, raised = threading.Event(), []

    def inside() -> None:
        try:
            waxwing.run(flow, settings=settings, stop=stop)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=inside, name="inside")
    thread.start()
    produce(kafka.bootstrap(), topic, 500, bad=0.0, seed=2)
    until(lambda: stored(path) == 1_000, timeout_s=180, what="the orders to be taken in")
    assert thread.is_alive()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not raised
    produce(kafka.bootstrap(), topic, 500, bad=0.0, seed=3)
    waxwing.run(flow, settings=bounded)
    assert stored(path) == 1_500
    flows = sqlite3.connect(path).execute("SELECT DISTINCT flow, step FROM waxwing_progress").fetchall()
    assert flows == [("inside", "orders")]
    until(lambda: is_given_back(before), timeout_s=60, what="threads and files to be gone")
    missing = bounded.model_copy(update={"source_topic": "nowhere", "on_unknown_topic": "fail"})
    with pytest.raises(ConfigError, match="'nowhere' does not exist"):
        waxwing.run(flow, settings=missing)
    waxwing.run(flow, settings=bounded)
    until(lambda: is_given_back(before), timeout_s=60, what="threads and files to be gone after an error, too")
