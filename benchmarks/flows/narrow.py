"""The narrowest useful record: three fields, some 60 bytes, straight from the decoder into the table."""

from __future__ import annotations

from collections.abc import Iterator

import bytewax.operators as op
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow

from dataflows.orders import OrdersSettings
from dataflows.orders_generator import CHUNK_ORDERS
from dataflows.sending import Keyed
from sinks import SqlTarget, Upsert, sink
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.operators import parse


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A measured value."""

    id: int
    device: str
    value: float


table = sa.Table(
    "narrow",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("device", sa.String(40), nullable=False),
    sa.Column("value", sa.Double, nullable=False),
)


def values(count: int) -> Iterator[list[Keyed]]:
    """Keys and values of messages, in chunks."""
    for first in range(0, count, CHUNK_ORDERS):
        numbers = range(first, min(first + CHUNK_ORDERS, count))
        yield [
            (b"%d" % (n % 997), b'{"id":%d,"device":"device-%04d","value":%d.%02d}' % (n, n % 997, n % 89, n % 100))
            for n in numbers
        ]


def flow() -> Dataflow:
    """The flow with settings from the environment."""
    with runtime.starting():
        settings = load(OrdersSettings)
        target = SqlTarget(settings, table, Upsert(keys=("id",)))
        flow = Dataflow("narrow")
        messages = op.input("kafka", flow, KafkaSource(settings))
        sink("table", parse("parse", messages, Reading), target)
        return flow
