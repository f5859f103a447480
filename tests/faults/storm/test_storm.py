"""What a storm is made of, and what says that its rows are equal. Short ones run in test_window_storm.py."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.recompute import compare, expected
from tests.faults.storm.schedule import ENDING, KILLS, Counts, Event, Kind, Shape, schedule
from tests.faults.watch import produce
from tests.servers import Kafka

COUNTS = Counts(kills=2, freezes=1, stalls=1, stall_s=2.0, database_restarts=1, broker_restarts=1, partitions_added=1)


def test_a_schedule_is_made_of_its_seed_and_counts_alone() -> None:
    assert schedule(3, COUNTS) == schedule(3, COUNTS)
    assert schedule(3, COUNTS) != schedule(4, COUNTS)


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_every_event_asked_for_and_every_shape_of_the_flow(seed: int) -> None:
    counts = Counts(kills=52, freezes=3, stalls=2, stall_s=9.0, database_restarts=5, broker_restarts=4, partitions_added=2)
    events = schedule(seed, counts)
    of_kinds = {kinds: [event for event in events if event.kind in kinds] for kinds in (KILLS, (Kind.FREEZE,), (Kind.STALL,))}
    assert [len(found) for found in of_kinds.values()] == [52, 3, 2]
    assert len(events) == 52 + 3 + 2 + 5 + 4 + 2 + 1
    assert events[-1].kind is Kind.END
    assert {event.shape for event in events} == set(Shape)
    assert all(event.shape.processes > 1 for event in events if event.kind is Kind.KILL_ONE)
    assert all(before.shape == after.shape for before, after in _within_runs(events))


def _within_runs(events: tuple[Event, ...]) -> list[tuple[Event, Event]]:
    return [(before, after) for before, after in pairwise(events) if before.kind not in ENDING]


DAMAGES = {
    "a row is gone": "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)",
    "a row too many": "INSERT INTO orders (id, order_id, quantity, unit_price, total_value) VALUES ('x', 'x', 1, 1, 1)",
    "a cent more": "UPDATE orders SET total_value = total_value + 0.01 WHERE id = (SELECT min(id) FROM orders)",
    "a dead letter is gone": "DELETE FROM waxwing_dead_letters WHERE rowid = (SELECT min(rowid) FROM waxwing_dead_letters)",
    "a dead letter of a good record": "UPDATE waxwing_dead_letters SET source_offset = source_offset + 100000",
    "a dead letter twice": (
        "INSERT INTO waxwing_dead_letters SELECT flow, step, source, source_id, source_partition, source_offset, row_index + 1, "
        "stage, reason, message_key, message_value, message_headers, message_timestamp_ms, created_at, replayed_at "
        "FROM waxwing_dead_letters LIMIT 1"
    ),
    "a dead letter with another value": "UPDATE waxwing_dead_letters SET message_value = x'00'",
}


def test_the_comparison_sees_every_kind_of_damage(kafka: Kafka, tmp_path: Path) -> None:
    file, topic = tmp_path / "orders.sqlite", kafka.new_topic(2)
    url = f"sqlite:///{file}"
    produce(kafka.bootstrap(), topic, 2_000, bad=0.02, seed=1, partitions=2)
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(),
        "DATABASE_URL": url,
        "SOURCE_TOPIC": topic,
        "UNTIL": "end",
    }
    with Cluster("dataflows.orders", env, tmp_path) as run:
        assert run.wait(180) == [0], run.output()
    want = expected(kafka.bootstrap(), topic)
    assert compare(url, want).equal
    for what, damage in DAMAGES.items():
        copy = tmp_path / "damaged.sqlite"
        shutil.copy(file, copy)
        with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
            assert connection.execute(damage).rowcount > 0
        assert not compare(f"sqlite:///{copy}", want).equal, what
