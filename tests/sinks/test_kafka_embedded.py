"""A topic of the cluster inside librdkafka, which the embedded demonstrations write into."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from confluent_kafka import Consumer, Producer, TopicPartition

from sinks import sink, window_sink
from sinks.kafka import KafkaTarget, KafkaWindows
from sources import read
from sources.memory import MemorySource
from waxwing.operators import parse
from waxwing.operators.windows import Sum, Tumbling, Windows
from waxwing.settings import KafkaWindowSettings


class Reading(msgspec.Struct):
    at: int
    value: int


TABLE = sa.Table("readings", sa.MetaData(), sa.Column("at", sa.Integer), sa.Column("value", sa.Integer))
PER_TEN = Windows(by=(), time="at", kind=Tumbling(length_s=10), aggregates={"value": Sum("value")}, lateness_s=0)
SUMS = sa.Table("sums", sa.MetaData(), sa.Column("window_start", sa.BigInteger), sa.Column("value", sa.Integer))


@pytest.fixture
def servers() -> Iterator[str]:
    producer = Producer({"bootstrap.servers": "here", "test.mock.num.brokers": 1, "log_level": 0})
    yield ",".join(f"{broker.host}:{broker.port}" for broker in producer.list_topics(timeout=30).brokers.values())
    del producer  # the cluster lives as long


def values(servers: str, topic: str) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.partition.eof": True, "log_level": 0})
    try:
        left = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        out = []
        while left:
            message = consumer.poll(30)
            assert message is not None
            if message.error() is not None:
                left.pop()
            else:
                out.append(message.value() or b"")
        return sorted(out)
    finally:
        consumer.close()


def test_rows_and_windows_go_into_topics_that_are_made_as_they_are_first_asked_for_and_a_second_run_goes_on(servers: str) -> None:
    settings = KafkaWindowSettings(kafka_bootstrap_servers=servers, kafka_transactions="no", lanes=1, window_buckets=2)
    readings: list[dict[str, int] | bytes] = [{"at": 1, "value": 1}, b"?", {"at": 2, "value": 2}, {"at": 11, "value": 4}]
    for count in (3, 4):
        flow = Dataflow("embedded")
        parsed = parse("parse", read("in", flow, MemorySource(readings[:count])), Reading)
        sink("rows", parsed, KafkaTarget(settings, "rows", TABLE, key="at"))
        window_sink("sums", parsed, KafkaWindows(settings, "sums", SUMS, PER_TEN))
        run_main(flow)
    assert values(servers, "rows") == [b'{"at":1,"value":1}', b'{"at":11,"value":4}', b'{"at":2,"value":2}']
    assert values(servers, "sums") == [b'{"window_start":0,"value":3}', b'{"window_start":10,"value":4}']
    assert values(servers, "rows.dead_letters") == values(servers, "sums.dead_letters") == [b"?"]
