"""JSON orders into totals per customer: parse, then windows over the messages' timestamps, into an SQL table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

import bytewax.operators as op
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from pydantic import Field

from dataflows.orders_generator import CHUNK_ORDERS, FIRST_TS_MS
from sinks import SqlLiveWindows, SqlWindows, window_sink
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.operators import parse
from waxwing.operators.windows import MESSAGE_TIME, Count, Max, Sum, Tumbling, Windows
from waxwing.settings import KafkaSettings, SqlWindowSettings


class Settings(KafkaSettings, SqlWindowSettings):
    """What this flow is told from outside."""

    totals: Literal["on_close", "live"] = Field(default="on_close", description="When rows are written.")
    totals_length_s: float = Field(default=10, description="The length of the windows.")


class Order(msgspec.Struct, frozen=True, gc=False):
    """What is read of an order."""

    customer: str
    quantity: int
    total_value: Decimal


table = sa.Table(
    "window_totals",
    sa.MetaData(),
    sa.Column("window_start", sa.DateTime, primary_key=True),
    sa.Column("customer", sa.String(255), primary_key=True),
    sa.Column("orders", sa.BigInteger, nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Numeric(15, 2), nullable=False),
    sa.Column("largest", sa.Numeric(12, 2), nullable=False),
)


def windows(length_s: float) -> Windows:
    """Totals per customer."""
    return Windows(
        by=("customer",),
        time=MESSAGE_TIME,
        kind=Tumbling(length_s=length_s),
        aggregates={"orders": Count(), "quantity": Sum("quantity"), "value": Sum("total_value"), "largest": Max("total_value")},
        lateness_s=5,
    )


def orders(count: int, customers: int) -> Iterator[list[tuple[str, int, int, bytes, int]]]:
    """Customer, quantity, total in cents, JSON and timestamp of orders, one a millisecond, in chunks."""
    chance = random.Random(1)
    for first in range(0, count, CHUNK_ORDERS):
        chunk = []
        for n in range(first, min(first + CHUNK_ORDERS, count)):
            customer = f"customer-{chance.randrange(customers):05}"
            quantity, cents = chance.randint(1, 20), chance.randint(50, 20_000)
            total, price = cents * quantity, f"{cents // 100}.{cents % 100:02}"
            value = (
                f'{{"order_id":"ORD-{n:09}","customer":"{customer}","quantity":{quantity},'
                f'"unit_price":{price},"total_value":{total // 100}.{total % 100:02},"ts":{FIRST_TS_MS + n}}}'
            )
            chunk.append((customer, quantity, total, value.encode(), FIRST_TS_MS + n))
        yield chunk


def flow() -> Dataflow:
    """The flow with settings from the environment."""
    with runtime.starting():
        settings = load(Settings)
        kind = SqlLiveWindows if settings.totals == "live" else SqlWindows
        target = kind(settings, table, windows(settings.totals_length_s))
        flow = Dataflow("window_totals")
        messages = op.input("kafka", flow, KafkaSource(settings))
        window_sink("totals", parse("parse", messages, Order), target)
        return flow
