"""A short storm on every database, with one of each kind of event; then equality, row by row."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.storm import storm
from tests.faults.storm_databases import DATABASES
from tests.faults.storm_schedule import ENDING, KILLS, Counts, Event, Kind, Shape, schedule
from tests.faults.storm_told import Places
from tests.servers import Kafka

COUNTS = Counts(kills=3, freezes=1, stalls=1, stall_s=2.0, database_restarts=1, broker_restarts=1, partitions_added=1)


@pytest.mark.slow
@pytest.mark.parametrize("database", DATABASES)
def test_nothing_is_lost_or_doubled_in_a_short_storm(
    database: str, kafka: Kafka, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(database) if DATABASES[database].server else None
    url = server.new_database() if server else f"sqlite:///{tmp_path}/orders.sqlite"
    places = Places(database=database, url=url, server=server, kafka=kafka, topic=kafka.new_topic(4), folder=tmp_path)
    told = storm(places, orders=200_000, counts=COUNTS, seed=7, lock_s=3.0)
    assert told.difference is not None
    assert told.difference.equal, told
    assert told.difference.dead_letters > 150
    assert told.fenced >= 1, told
    assert told.kills_at_work >= 3, told


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
