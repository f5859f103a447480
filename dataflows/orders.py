"""Orders from Kafka into SQL, exactly once: check each order, complete it (orders_rules.py), upsert it into the table `orders`.

Beside it totals per minute (by the timestamps of the messages), of each customer and of all, in the table `order_totals`; and
where ENRICHED_TOPIC is given, each completed order in that topic. ORDERS_PART divides the flow there: one half fills the topic,
the other the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import sqlalchemy as sa
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from pydantic import Field

import waxwing
from dataflows.orders_rules import Order, RawOrder, Row, enrich
from sinks import SqlLiveWindows, SqlTarget, SqlWindows, Upsert, sink, window_sink
from sinks.kafka import KafkaTarget
from sources import read
from sources.kafka import KafkaSource
from waxwing.batch import Batch
from waxwing.errors import ConfigError
from waxwing.operators import map_batch, parse, without_rejects
from waxwing.operators.windows import MESSAGE_TIME, Count, Max, Mean, Sum, Tumbling, Windows
from waxwing.settings import KafkaSettings, KafkaTargetSettings, Needed, SqlWindowSettings
from waxwing.target import Target

__all__ = ["OrdersSettings", "RawOrder", "Row", "build", "build_store", "enrich", "flow", "order_totals", "orders", "totals_of"]


class OrdersSettings(KafkaSettings, KafkaTargetSettings, SqlWindowSettings):
    """What this flow is told from outside."""

    needed: ClassVar[Mapping[str, Needed]] = {"database_url": Needed("orders_part", lambda part: part != "enrich")}
    source_topic: str = Field(default="raw_orders", min_length=1, max_length=249, description="Topic to read.")
    enriched_topic: str = Field(
        default="", max_length=249, description="Topic that completed orders go to, each once, beside the table. Empty: none."
    )
    orders_part: Literal["all", "enrich", "store"] = Field(
        default="all",
        description="`enrich`: only fill ENRICHED_TOPIC. `store`: only fill the tables, from it: two flows, each with a name.",
    )
    order_totals: Literal["on_close", "live", "off"] = Field(
        default="on_close",
        description="Totals per minute in the table order_totals: once a minute is closed, with every transaction, or none.",
    )


orders = sa.Table(
    "orders",
    sa.MetaData(),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("order_id", sa.String(255), nullable=False, index=True),
    sa.Column("customer", sa.String(255)),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("unit_price", sa.Numeric(10, 2)),
    sa.Column("total_value", sa.Numeric(12, 2)),
    sa.Column("processed_at", sa.BigInteger, index=True),
    # Kept by the database:
    sa.Column("created_at", sa.DateTime, server_default=sa.func.now()),
    sa.Column("updated_at", sa.DateTime, server_default=sa.func.now(), onupdate=sa.func.now()),
)

order_totals = sa.Table(
    "order_totals",
    sa.MetaData(),
    sa.Column("window_start", sa.DateTime, primary_key=True),
    sa.Column("scope", sa.String(8), primary_key=True),  # "customer", or "all"
    sa.Column("customer", sa.String(255), primary_key=True),  # empty: of all, or of orders without one
    sa.Column("orders", sa.BigInteger, nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Numeric(15, 2), nullable=False),
    sa.Column("mean_value", sa.Numeric(12, 2), nullable=False),
    sa.Column("largest", sa.Numeric(12, 2), nullable=False),
)

per_customer = Windows(
    by=("customer",),
    time=MESSAGE_TIME,
    kind=Tumbling(length_s=60),
    aggregates={
        "orders": Count("total_value"),
        "quantity": Sum("quantity"),
        "value": Sum("total_value"),
        "mean_value": Mean("total_value", places=2),
        "largest": Max("total_value"),
    },
    lateness_s=60,
    idle_after_s=60,
    null_keys={"customer": ""},
    fields=("id", "order_id", "customer", "quantity", "unit_price", "total_value", "processed_at"),
)
of_all = replace(per_customer, by=(), null_keys="reject")

Totals = SqlWindows | SqlLiveWindows
ORDERS_SHOWN = 50_000
# The columns of `orders` that rows bring.
FILLED = [column.name for column in orders.columns if column.server_default is None]


def build(
    source: Source[Batch[bytes | None]],
    target: Target | None,
    totals: Mapping[str, Totals] | None = None,
    topic: Target | None = None,
) -> Dataflow:
    """The flow, over any source and any targets: of orders, of their totals by the step's name, of completed orders as messages.

    Without a target of the orders it is the half of the flow that fills the topic alone.
    """
    flow = Dataflow("orders" if target is not None else "orders-enrich")
    enriched = map_batch("enrich", parse("parse", read("kafka", flow, source), RawOrder), enrich)
    if topic is not None:
        sink("enriched", enriched, topic)
    if target is not None:
        store(enriched, target, totals or {})
    return flow


def build_store(source: Source[Batch[bytes | None]], target: Target, totals: Mapping[str, Totals] | None = None) -> Dataflow:
    """The other half: from completed orders into the tables."""
    flow = Dataflow("orders-store")
    store(parse("parse", read("kafka", flow, source), Order), target, totals or {})
    return flow


def store(enriched: Stream[Batch[Any]], target: Target, totals: Mapping[str, Totals]) -> None:
    """Completed orders into the table, and their totals."""
    sink("orders", enriched, target)
    accepted = without_rejects("accepted", enriched) if totals else enriched
    for step, totals_target in totals.items():
        window_sink(step, accepted, totals_target)


@waxwing.flow(OrdersSettings)
def flow(settings: OrdersSettings) -> Dataflow:
    """The flow on real servers; where none are given, the embedded demonstration."""
    if not settings.kafka_bootstrap_servers:
        if settings.orders_part != "all":
            raise ConfigError(
                f"ORDERS_PART is {settings.orders_part}, and the embedded demonstration is the whole flow.",
                hint="Give KAFKA_BOOTSTRAP_SERVERS (and, for `store`, DATABASE_URL); or leave ORDERS_PART out.",
            )
        settings = demonstration(settings)
    if settings.orders_part != "all" and not settings.enriched_topic:
        raise ConfigError(f"ORDERS_PART is {settings.orders_part}, and ENRICHED_TOPIC is empty.", hint="Name the topic between.")
    table = SqlTarget(settings, orders, Upsert(keys=("id",))) if settings.orders_part != "enrich" else None
    if table is not None and settings.orders_part == "store":
        between = settings.model_copy(update={"source_topic": settings.enriched_topic, "source_topic_pattern": ""})
        return build_store(KafkaSource(between), table, totals_of(settings))
    topic = KafkaTarget(settings, settings.enriched_topic, orders, key="id", columns=FILLED) if settings.enriched_topic else None
    return build(KafkaSource(settings), table, totals_of(settings) if table is not None else {}, topic)


def demonstration(settings: OrdersSettings) -> OrdersSettings:
    """The settings with the addresses of the embedded demonstration, which is begun."""
    # A flow on real servers starts a tenth of a second sooner without.
    from dataflows import embedded  # noqa: PLC0415
    from dataflows.orders_generator import orders as generated  # noqa: PLC0415

    chunks = generated(ORDERS_SHOWN, bad_ratio=0.001, seed=1)
    tables = [orders, *([order_totals] if settings.order_totals != "off" else [])]
    topics = [settings.enriched_topic] if settings.enriched_topic else []
    made = embedded.Demonstration(records="orders", chunks=chunks, file="demonstration.sqlite", tables=tables, topics=topics)
    return embedded.start(settings, made)


def totals_of(settings: OrdersSettings) -> dict[str, Totals]:
    """The targets of the totals, by their steps."""
    if settings.order_totals == "off":
        return {}
    kind = SqlLiveWindows if settings.order_totals == "live" else SqlWindows
    customers = kind(settings, order_totals, per_customer, fixed={"scope": "customer"})
    return {"customer_totals": customers, "totals": kind(settings, order_totals, of_all, fixed={"scope": "all", "customer": ""})}
