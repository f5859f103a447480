"""A program that runs the orders flow, stops it, runs it again, and looks at what is left of it: a process of its own,

because threads and files are a whole process's, and those of earlier tests come and go (a client that nobody closed
connects anew every half second).
"""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import waxwing
from dataflows.orders import OrdersSettings, flow
from tests.faults.watch import produce
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
        "threads": {thread.name for thread in threading.enumerate()},
        "files": {os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()},  # noqa: PTH115 - of a file
        "handlers": {(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)},
    }


def given_back(before: dict[str, Any]) -> None:
    """Wait until nothing is there that was not before.

    Raises:
        TimeoutError: something still is; it is printed.
    """

    def more() -> dict[str, Any]:
        return {what: now - before[what] for what, now in left().items() if now - before[what]}

    try:
        until(lambda: not more(), timeout_s=180, what="threads and files to be gone")
    except TimeoutError:
        print("left:", more())
        raise


def main(bootstrap: str, topic: str, path: Path) -> None:
    settings = OrdersSettings(
        kafka_bootstrap_servers=bootstrap,
        source_topic=topic,
        database_url=SecretStr(f"sqlite:///{path}"),
        order_totals="off",
        flow_name="inside",
        kafka_group_id="inside",
    )
    bounded = settings.model_copy(update={"until": "end"})
    produce(bootstrap, topic, 500, bad=0.0, seed=1)
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
    produce(bootstrap, topic, 500, bad=0.0, seed=2)
    until(lambda: stored(path) == 1_000, timeout_s=180, what="the orders to be taken in")
    assert thread.is_alive()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not raised
    produce(bootstrap, topic, 500, bad=0.0, seed=3)
    waxwing.run(flow, settings=bounded)
    assert stored(path) == 1_500
    flows = sqlite3.connect(path).execute("SELECT DISTINCT flow, step FROM waxwing_progress").fetchall()
    assert flows == [("inside", "orders")]
    given_back(before)
    missing = bounded.model_copy(update={"source_topic": "nowhere", "on_unknown_topic": "fail"})
    with pytest.raises(ConfigError, match="'nowhere' does not exist"):
        waxwing.run(flow, settings=missing)
    waxwing.run(flow, settings=bounded)
    given_back(before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
