"""A short storm on every database: kills, a freeze, a stall, one to three processes; then equality, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm import produce, storm
from tests.servers import Kafka


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_or_doubled_in_a_short_storm(
    database: str, kafka: Kafka, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/orders.sqlite" if database == "sqlite" else request.getfixturevalue(database).new_database()
    topic = kafka.new_topic(4)
    produce(kafka.bootstrap(), topic, 300_000, bad=0.001, seed=7)
    told = storm(kafka.bootstrap(), url, topic, tmp_path, kills=6, freezes=1, stall_s=3.0, seed=7)
    assert told.difference.equal, told
    assert told.difference.dead_letters > 200
    assert told.fenced >= 1, told
