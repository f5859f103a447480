"""The record shapes that are measured: what is generated, decoded and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.flows import narrow, wide
from dataflows.orders import RawOrder, enrich, orders
from dataflows.orders_generator import orders as generated
from dataflows.sending import PRODUCER_CONFIG, Keyed, Sender
from tests.servers import Kafka
from waxwing.operators import Origin

PARTITIONS = 4
START_RECORDS = 1_000
# A producer's queue: by bytes, since wide records by their number would take a gigabyte.
QUEUE_KIB_MAX = 131_072


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One kind of record.

    Attributes:
        flow: the module that `bytewax.run` is given.
        record: what `parse` makes.
        enrich: what `map_batch` is given; None: records go as they are.
        share: how many of them are measured for each order.
    """

    name: str
    flow: str
    table: sa.Table
    record: type
    enrich: Callable[[Origin], Callable[[Any, int], Any]] | None
    values: Callable[[int], Iterator[Sequence[Keyed]]]
    share: float


SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="orders",
            flow="dataflows.orders",
            table=orders,
            record=RawOrder,
            enrich=enrich,
            values=lambda count: generated(count, bad_ratio=0.001, seed=1),
            share=1,
        ),
        Shape(
            name="narrow",
            flow="benchmarks.flows.narrow",
            table=narrow.table,
            record=narrow.Reading,
            enrich=None,
            values=narrow.values,
            share=2,
        ),
        Shape(
            name="wide",
            flow="benchmarks.flows.wide",
            table=wide.table,
            record=wide.Wide,
            enrich=None,
            values=wide.values,
            share=0.06,
        ),
    )
}

GOOD_ORDERS = replace(SHAPES["orders"], values=lambda count: generated(count, bad_ratio=0, seed=1))


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A filled topic, and beside it one of START_RECORDS records, whose run is the start."""

    shape: Shape
    bootstrap: str
    name: str
    start_name: str
    records: int

    def env(self, url: str = "", *, start: bool = False) -> dict[str, str]:
        """The flow's settings."""
        env = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "SOURCE_TOPIC": self.start_name if start else self.name}
        env["ORDER_TOTALS"] = "off"  # rows beside the raw limit of rows; windows are a part of their own
        return {**env, "DATABASE_URL": url} if url else env


def filled(kafka: Kafka, shape: Shape, records: int, name: str = "") -> Topic:
    """A topic of that shape, and the small one beside it."""
    name = name or shape.name
    for topic, count in ((name, records), (f"{name}-start", START_RECORDS)):
        fill(kafka, topic, shape, count)
    return Topic(shape=shape, bootstrap=kafka.bootstrap(), name=name, start_name=f"{name}-start", records=records)


def fill(kafka: Kafka, topic: str, shape: Shape, count: int, compression: str = "none") -> None:
    """Make a topic and fill it."""
    kafka.create_topic(topic, PARTITIONS)
    config = {"queue.buffering.max.kbytes": QUEUE_KIB_MAX, "compression.type": compression, "log_level": 0}
    sender = Sender(Producer({**PRODUCER_CONFIG, **config, "bootstrap.servers": kafka.bootstrap()}), topic)
    for chunk in shape.values(count):
        sender.send(chunk)
    if missing := sender.finish():
        raise SystemExit(f"{missing:,} records were not acknowledged: {sender.refused}")
