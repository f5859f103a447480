"""Orders and their totals per minute through a short storm, in both forms; a backlog after a pause; and what says so."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.storm.databases import DATABASES
from tests.faults.storm.schedule import Counts
from tests.faults.storm.storm import PARTITIONS, storm
from tests.faults.storm.told import Places
from tests.faults.storm.window_load import TimedLoad
from tests.faults.storm.window_totals import WindowDifference, accepted, compare_totals
from tests.faults.watch import await_progress
from tests.servers import Kafka
from tests.servers.process import until

COUNTS = Counts(kills=2, freezes=0, stalls=1, stall_s=2.0, database_restarts=1, broker_restarts=0, partitions_added=0)
ORDERS = 60_000


@pytest.mark.slow
# Each form once. `make storm` has the long ones, those of MariaDB and SQL Server, frozen processes and a broker that dies: these
# come one by one in test_orders_flow.py and test_kafka_source.py.
@pytest.mark.parametrize(("database", "totals"), [("postgresql", "on_close"), ("sqlite", "live")])
def test_totals_come_out_the_same_in_a_short_storm(
    database: str, totals: str, kafka: Kafka, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(database) if DATABASES[database].server else None
    url = server.new_database() if server else f"sqlite:///{tmp_path}/orders.sqlite"
    topic = kafka.new_topic(PARTITIONS)
    places = Places(database=database, url=url, server=server, kafka=kafka, topic=topic, folder=tmp_path)
    told = storm(places, orders=ORDERS, counts=COUNTS, seed=7, lock_s=3.0, totals=totals)
    assert isinstance(told.difference, WindowDifference)
    assert told.difference.equal, told
    assert (told.difference.late > 100) == (totals == "on_close")
    assert told.kills_at_work >= 1, told  # how many is a matter of the machine's timing


class Punctual(TimedLoad):
    """Out of order, but nothing late; an order every 120 ms."""

    step_ms = 120
    very_late = 0.0


def test_a_backlog_of_an_hour_makes_nothing_late(kafka: Kafka, tmp_path: Path) -> None:
    url, topic = f"sqlite:///{tmp_path}/orders.sqlite", kafka.new_topic(PARTITIONS)
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "DATABASE_URL": url, "SOURCE_TOPIC": topic, "ORDER_TOTALS": "on_close"}
    load = Punctual(kafka.bootstrap(), topic, 35_000, bad=0.0, seed=0)
    with closing(load):
        before = load.allow(5_000)
        until(lambda: load.acknowledged >= before, timeout_s=180, what="the first ten minutes")
        with Cluster("dataflows.orders", env, tmp_path, name="before", args=("-w", "2")) as run:
            await_progress(url, run, before)
            run.signal(signal.SIGTERM)
            assert run.wait(180) == [0], run.output()
        load.finish()
        with Cluster("dataflows.orders", {**env, "UNTIL": "end"}, tmp_path, name="after") as run:
            assert run.wait(180) == [0], run.output()
    difference = compare_totals(url, accepted(kafka.bootstrap(), topic), "on_close")
    assert difference.equal, difference
    assert (difference.records, difference.late, difference.by_clock) == (load.total, 0, 0)


DAMAGES = {
    "a total is gone": "DELETE FROM order_totals WHERE rowid = (SELECT min(rowid) FROM order_totals)",
    "a cent more": "UPDATE order_totals SET value = value + 0.01 WHERE rowid = (SELECT min(rowid) FROM order_totals)",
    "another mean": "UPDATE order_totals SET mean_value = mean_value + 1 WHERE rowid = (SELECT max(rowid) FROM order_totals)",
    "an order more": "UPDATE order_totals SET orders = orders + 1 WHERE rowid = (SELECT max(rowid) FROM order_totals)",
    "a late one is gone": (
        "DELETE FROM waxwing_dead_letters WHERE rowid = (SELECT min(rowid) FROM waxwing_dead_letters WHERE stage = 'late')"
    ),
    "a late one that is not": "UPDATE waxwing_dead_letters SET source_offset = source_offset + 100000",
    "a late one of another window": "UPDATE waxwing_dead_letters SET reason = replace(reason, ':00Z', ':01Z')",
}


def test_the_comparison_sees_every_kind_of_damage(kafka: Kafka, tmp_path: Path) -> None:
    file, topic = tmp_path / "orders.sqlite", kafka.new_topic(PARTITIONS)
    url = f"sqlite:///{file}"
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "DATABASE_URL": url, "SOURCE_TOPIC": topic, "UNTIL": "end"}
    load = TimedLoad(kafka.bootstrap(), topic, 40_000, bad=0.001, seed=1)
    with closing(load):
        load.finish()
    with Cluster("dataflows.orders", env, tmp_path) as run:
        assert run.wait(180) == [0], run.output()
    want = accepted(kafka.bootstrap(), topic)
    found = compare_totals(url, want, "on_close")
    assert found.equal, found
    assert found.late > 30
    for what, damage in DAMAGES.items():
        copy = tmp_path / "damaged.sqlite"
        shutil.copy(file, copy)
        with closing(sqlite3.connect(copy)) as connection, connection:
            assert connection.execute(damage).rowcount > 0, what
        assert not compare_totals(f"sqlite:///{copy}", want, "on_close").equal, what
