"""A flow of sessions and of overlapping windows, and one into plain Bytewax sinks, whose state is in Bytewax's recovery store.

They run on earlier releases too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bytewax.operators as op
import sqlalchemy as sa
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow

from dataflows.orders import RawOrder, enrich, per_customer
from sinks import SqlWindows, window_sink
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.operators import map_batch, parse, without_rejects
from waxwing.operators.windows import MESSAGE_TIME, Count, First, Fold, Hopping, Last, Max, Mean, Min, Session, Sum, Windows
from waxwing.operators.windows.plain import windows
from waxwing.settings import KafkaSettings, SqlWindowSettings

PARTITIONS, BUCKETS = 3, 2  # of the flow `plain`


class Settings(KafkaSettings, SqlWindowSettings):
    """What this flow is told from outside."""


def _either(one: int, other: int) -> int:
    return one | other


SESSIONS = Windows(
    by=("customer",),
    time=MESSAGE_TIME,
    kind=Session(gap_s=20),
    aggregates={
        "orders": Count(),
        "quantity": Sum("quantity"),
        "first_order": First("order_id"),
        "last_order": Last("order_id"),
        "bits": Fold("quantity", int, _either, _either),
    },
    lateness_s=45,
    fields=per_customer.fields,
    null_keys={"customer": ""},
)
HOPS = Windows(
    by=("quantity",),
    time=MESSAGE_TIME,
    kind=Hopping(length_s=180, every_s=60),
    aggregates={
        "orders": Count(),
        "least": Min("unit_price"),
        "most": Max("unit_price"),
        "mean_price": Mean("unit_price", places=4),
    },
    lateness_s=20,
    fields=per_customer.fields,
    grace_s=120,
    corrections="eager",
)

visits = sa.Table(
    "visits",
    sa.MetaData(),
    sa.Column("customer", sa.String(300), primary_key=True),
    sa.Column("window_start", sa.DateTime, primary_key=True),
    sa.Column("window_end", sa.DateTime, nullable=False),
    sa.Column("orders", sa.BigInteger, nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("first_order", sa.String(300), nullable=False),
    sa.Column("last_order", sa.String(300), nullable=False),
    sa.Column("bits", sa.BigInteger, nullable=False),
)
prices = sa.Table(
    "prices",
    sa.MetaData(),
    sa.Column("quantity", sa.BigInteger, primary_key=True),
    sa.Column("window_start", sa.DateTime, primary_key=True),
    sa.Column("orders", sa.BigInteger, nullable=False),
    sa.Column("least", sa.Numeric(12, 2), nullable=False),
    sa.Column("most", sa.Numeric(12, 2), nullable=False),
    sa.Column("mean_price", sa.Numeric(14, 4), nullable=False),
)


def build(settings: SqlWindowSettings, source: Callable[[Sequence[SqlWindows]], Any]) -> Dataflow:
    """The flow; `source` makes what feeds these targets."""
    sessions, hops = SqlWindows(settings, visits, SESSIONS), SqlWindows(settings, prices, HOPS)
    flow = Dataflow("visits")
    orders = map_batch("enrich", parse("parse", op.input("kafka", flow, source([sessions, hops])), RawOrder), enrich)
    window_sink("sessions", orders, sessions)
    window_sink("hops", without_rejects("accepted", orders), hops)
    return flow


def flow() -> Dataflow:
    """The flow on a real topic."""
    with runtime.starting():
        settings = load(Settings)
        return build(settings, lambda targets: KafkaSource(settings, feeds=targets))


def plain() -> Dataflow:
    """The other flow on a real topic."""
    with runtime.starting():
        source = KafkaSource(load(KafkaSettings), flow="plain")
        flow = Dataflow("plain")
        rows = map_batch("enrich", parse("parse", op.input("kafka", flow, source), RawOrder), enrich)
        out = windows("totals", rows, per_customer, partitions=PARTITIONS, buckets=BUCKETS)
        op.output("rows", out.rows, StdOutSink())
        return flow
