"""The record shapes that are measured: what is generated, decoded and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.flows import narrow, wide
from dataflows.orders import RawOrder, enrich, orders
from dataflows.orders_generator import PRODUCER_CONFIG, Order, Sender
from dataflows.orders_generator import orders as generated
from tests.servers import Kafka
from waxwing.operators import Origin

PARTITIONS = 4


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
    values: Callable[[int], Iterator[Sequence[Order]]]
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


def fill(kafka: Kafka, topic: str, shape: Shape, count: int) -> None:
    """Make a topic and fill it."""
    kafka.create_topic(topic, PARTITIONS)
    sender = Sender(Producer({**PRODUCER_CONFIG, "bootstrap.servers": kafka.bootstrap()}), topic)
    for chunk in shape.values(count):
        sender.send(chunk)
    if missing := sender.finish():
        raise SystemExit(f"{missing:,} records were not acknowledged: {sender.refused}")
