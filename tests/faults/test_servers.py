"""The test servers themselves: what every fault test rests on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.servers import Kafka, PostgreSQL
from tests.servers.kafka import MECHANISMS
from tests.servers.process import free_ports, listening, until

WAYS = [
    ("PLAINTEXT", ""),
    ("SSL", ""),
    *[(listener, mechanism) for listener in ("SASL_PLAINTEXT", "SASL_SSL") for mechanism in MECHANISMS],
]


def produce(kafka: Kafka, topic: str, value: bytes, listener: str = "PLAINTEXT", mechanism: str = "") -> None:
    errors: list[object] = []
    producer = Producer({**kafka.client(listener, mechanism), "message.timeout.ms": 10_000})
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(15) == 0
    assert errors == [None]


def consume(kafka: Kafka, topic: str, expected: int) -> list[bytes]:
    consumer = Consumer({**kafka.client(), "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() or b"" for message in consumer.consume(expected, 10)]
    finally:
        consumer.close()


@pytest.mark.parametrize(("listener", "mechanism"), WAYS)
def test_a_record_passes_through_every_kind_of_listener(kafka: Kafka, listener: str, mechanism: str) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"hello", listener, mechanism)
    assert consume(kafka, topic, 1) == [b"hello"]


def test_the_ssl_listener_refuses_a_client_without_a_certificate(kafka: Kafka) -> None:
    config = {
        key: value for key, value in kafka.client("SSL").items() if key not in {"ssl.key.location", "ssl.certificate.location"}
    }
    with pytest.raises(KafkaException):
        Producer({**config, "log_level": 0}).list_topics(timeout=3)


def test_a_restarted_or_killed_broker_keeps_its_records(kafka: Kafka) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"one")
    kafka.restart()
    produce(kafka, topic, b"two")
    kafka.kill()
    assert not listening(kafka.ports["PLAINTEXT"])
    kafka.start()
    assert consume(kafka, topic, 2) == [b"one", b"two"]


def test_a_frozen_broker_answers_again_when_thawed(kafka: Kafka) -> None:
    kafka.freeze()
    with pytest.raises(KafkaException):
        kafka.admin.list_topics(timeout=0.5)
    kafka.thaw()
    until(kafka.ready, timeout_s=180, what="the broker answers")


def test_topics_grow_shrink_at_their_start_and_go_away(kafka: Kafka) -> None:
    topic = kafka.new_topic(partitions=1, cleanup_policy="delete")
    for value in (b"a", b"b", b"c"):
        produce(kafka, topic, value)
    kafka.create_partitions(topic, 3)
    kafka.delete_records(topic, {0: 2})
    assert kafka.end_offsets(topic) == {0: 3, 1: 0, 2: 0}
    reader = Consumer({**kafka.client(), "group.id": "reader"})
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (2, 3)
    reader.close()
    kafka.delete_topic(topic)
    assert topic not in kafka.admin.list_topics(timeout=10).topics


def test_a_restarted_or_killed_database_keeps_its_rows(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    postgresql.restart()
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    postgresql.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)
    postgresql.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (2,)]


def test_a_frozen_database_answers_again_when_thawed(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.url()) as connection:
        postgresql.freeze()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgresql.url(), connect_timeout=2)  # libpq's least
        postgresql.thaw()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_databases_are_apart_and_a_wrong_password_is_refused(postgresql: PostgreSQL) -> None:
    first, second = postgresql.new_database(), postgresql.new_database()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE only_here (n int)")
    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(first.replace(postgresql.sql_password, "wrong"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_started_it(number: signal.Signals) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.servers", "postgresql", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as starter:
        assert starter.stdout is not None
        folder = re.search(r"data and log in (\S+)\);", starter.stdout.readline())
        assert folder
        assert "DATABASE_URL=" in starter.stdout.readline()
        (server,) = psutil.Process(starter.pid).children()
        assert listening(port)
        os.kill(starter.pid, number)
        until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, timeout_s=180, what="the server ends")
    assert not listening(port)
    shutil.rmtree(folder[1], ignore_errors=True)  # a killed starter could not
