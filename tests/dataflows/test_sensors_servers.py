"""The flow sensors on real servers, killed in the middle: topic and table against another computation of the whole topic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from dataflows.sensors_generator import readings
from tests.dataflows.recompute_sensors import COLUMNS, expected
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine, records
from tests.faults.storm.window_load import TimedSender
from tests.servers import Kafka
from tests.servers.process import until

READINGS, STEP_S, PARTITIONS = 40_000, 0.02, 4
FIRST_S = 1_767_225_600.0
CLOSED = 100  # rows that the first half closes for certain


def send(kafka: Kafka, topic: str, values: Iterator[tuple[int, tuple[bytes, bytes | None]]]) -> None:
    """Each with the time at which it was read, or a little later, as its message's."""
    sender = TimedSender(Producer(kafka.client()), topic)
    sender.send([(n % PARTITIONS, round((FIRST_S + n * STEP_S) * 1000), key, value) for n, (key, value) in values])
    assert sender.finish() == 0


def committed(kafka: Kafka, topic: str) -> Iterator[Message]:
    """All of a topic, as those see it who read what is committed alone."""
    config = {**kafka.client(), "group.id": "committed", "enable.partition.eof": True, "isolation.level": "read_committed"}
    consumer = Consumer(config)
    try:
        left = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        while left:
            message = consumer.poll(60)
            assert message is not None
            if message.error() is None:
                yield message
            else:
                left.discard(message.partition())
    finally:
        consumer.close()


def in_topic(kafka: Kafka, topic: str) -> list[tuple[Any, ...]]:
    """Rows as the table has them, each time with its Z."""
    out = []
    for message in committed(kafka, topic):
        row = json.loads(message.value() or b"")
        assert list(row) == ["sensor", "window_start", "ts", *COLUMNS]
        assert message.key() == row["sensor"].encode()
        assert row["window_start"].endswith("Z")
        assert row["ts"].endswith("Z")
        out.append(
            (row["sensor"], *(datetime.fromisoformat(row[name]) for name in ("window_start", "ts")), *list(row.values())[3:])
        )
    return out


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_in_the_middle_topic_and_table_are_what_the_readings_say(
    database: str, kafka: Kafka, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    is_file = database == "sqlite"
    url = f"sqlite:///{tmp_path}/sensors.sqlite" if is_file else request.getfixturevalue(database).new_database()
    topic = kafka.new_topic(PARTITIONS)
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(),
        "DATABASE_URL": url,
        "SOURCE_TOPIC": topic,
        "SENSOR_OUTPUTS": "topic,table",
        "SENSOR_STATS_TOPIC": f"{topic}-stats",
        "FLOW_NAME": f"sensors-{topic}",
        "OWNER_STALE_S": "1",
        "BATCH_RECORDS_MAX": "500",
        "KAFKA_TOPIC_PARTITIONS": "2",
    }
    ways = readings(READINGS, bad_ratio=0.01, late_ratio=0.01, seed=5, ts="mixed", first_s=FIRST_S, step_s=STEP_S)
    values = enumerate(chain.from_iterable(ways))
    send(kafka, topic, islice(values, READINGS // 2))
    engine = plain_engine(url)

    def rows() -> int:
        try:
            with engine.connect() as connection:
                return connection.scalar(sa.text("SELECT count(*) FROM sensor_data_stats")) or 0
        except sa.exc.DBAPIError:  # there is no table yet, or it is locked
            return 0

    with Cluster("dataflows.sensors", env, tmp_path, name="first") as first:
        until(lambda: not first.running() or rows() >= CLOSED, timeout_s=300, what="windows to be closed")
        first.kill()
    assert rows() >= CLOSED, first.output()
    send(kafka, topic, values)
    with Cluster("dataflows.sensors", {**env, "UNTIL": "end"}, tmp_path, name="second") as second:
        assert second.wait(300) == [0], second.output()
    assert "goes on at" in second.output()

    want = expected(
        (p, offset, message.value(), message.timestamp()[1]) for p, offset, message in records(kafka.bootstrap(), topic)
    )
    assert len(want.rows) > 400
    assert len(want.late) > 100
    wanted = sorted((*key, *row) for key, row in want.rows.items())
    assert sorted(in_topic(kafka, f"{topic}-stats")) == wanted
    with engine.connect() as connection:
        columns = ", ".join(COLUMNS)
        found = connection.execute(sa.text(f"SELECT sensor, window_start, ts, {columns} FROM sensor_data_stats")).all()
        letters = connection.execute(sa.text("SELECT source_partition, source_offset FROM waxwing_dead_letters")).all()
    assert sorted((row[0], _utc(row[1]), _utc(row[2]), *row[3:]) for row in found) == wanted
    places = sorted([*want.bad, *want.late])
    assert sorted((one[0], one[1]) for one in letters) == places
    headers: list[dict[str, Any]] = [dict(message.headers() or ()) for message in committed(kafka, f"{topic}-stats.dead_letters")]
    assert sorted((int(one["waxwing.partition"]), int(one["waxwing.offset"])) for one in headers) == places


def _utc(value: Any) -> datetime:
    """A time of the table; SQLite has it as a text."""
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).replace(tzinfo=UTC)
