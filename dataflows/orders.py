"""Orders from Kafka into SQL, exactly once: check each order, complete it, upsert it into the table `orders`.

Beside it totals per minute (by the timestamps of the messages), of each customer and of all, in the table `order_totals`.

What a shop would want decides what is an order (each refusal is a dead letter with its reason):

- quantity is 1 to 2,147,483,647. None, or less, is no order: returns are bookings of their own.
- unit_price is 0 (a gift) to 99,999,999.99, in whole cents: 25.5 and 25.500 are 25.50, 25.505 is refused and never rounded.
  A number or a text of a number; a negative price is a refund, and no order.
- total_value is quantity x unit_price, exactly, up to 9,999,999,999.99. Where the order brings one, it has to be that.
- order_id has 1 to 255 characters, not only blanks; customer, where there is one, at most 255.
- id has 1 to 36 characters. Where it is missing it is made of the record's place (topic id, partition, offset), so that it
  is the same whenever the record is read again. (A broker without topic ids has the topic's name in its place.)
- processed_at is in whole seconds since 1970. Where it is missing it is the time at which the batch was read: the one
  column, beside created_at and updated_at, that is not a function of the record.
- `ts` and other fields are left alone: nothing here needs them, and an order is not lost over them.
- The same id again is the same order: the later one wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Context, Decimal, Inexact, InvalidOperation
from hashlib import blake2b
from typing import Literal

import bytewax.operators as op
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from pydantic import Field

from sinks import SqlLiveWindows, SqlTarget, SqlWindows, Upsert, sink, window_sink
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.batch import Batch
from waxwing.configuration import load
from waxwing.operators import Origin, map_batch, parse, without_rejects
from waxwing.operators.windows import MESSAGE_TIME, Count, Max, Mean, Sum, Tumbling, Windows
from waxwing.settings import KafkaSettings, SqlWindowSettings
from waxwing.target import Target


class OrdersSettings(KafkaSettings, SqlWindowSettings):
    """What this flow is told from outside."""

    source_topic: str = Field(default="raw_orders", min_length=1, max_length=249, description="Topic to read.")
    order_totals: Literal["on_close", "live", "off"] = Field(
        default="on_close",
        description="Totals per minute in the table order_totals: once a minute is closed, with every transaction, or none.",
    )


class RawOrder(msgspec.Struct, frozen=True, gc=False):
    """An order as it arrives. (A Struct of msgspec: exact decimals, and the fastest to decode.)"""

    order_id: str
    quantity: int
    unit_price: Decimal
    id: str | None = None
    customer: str | None = None
    total_value: Decimal | None = None
    processed_at: int | None = None


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

# The columns of `orders` that the flow fills, in order. Plain tuples: the fastest for the sink.
Row = tuple[str, str, str | None, int, Decimal, Decimal, int]
Totals = SqlWindows | SqlLiveWindows


def build(source: Source[Batch[bytes | None]], target: Target, totals: Mapping[str, Totals] | None = None) -> Dataflow:
    """The flow, over any source and any target; `totals` are targets of windows, by the step's name."""
    flow = Dataflow("orders")
    messages = op.input("kafka", flow, source)
    raw_orders = parse("parse", messages, RawOrder)
    enriched = map_batch("enrich", raw_orders, enrich)
    sink("orders", enriched, target)
    if totals:
        accepted = without_rejects("accepted", enriched)
        for step, totals_target in totals.items():
            window_sink(step, accepted, totals_target)
    return flow


def flow() -> Dataflow:
    """The flow with settings from the environment; with none at all, the embedded demonstration."""
    with runtime.starting():
        settings = load(OrdersSettings)
        if not settings.kafka_bootstrap_servers:
            from dataflows import embedded  # noqa: PLC0415 - a flow on real servers starts a tenth of a second sooner without

            settings = embedded.start(settings, orders, *([order_totals] if settings.order_totals != "off" else []))
        target = SqlTarget(settings, orders, Upsert(keys=("id",)))
        totals = totals_of(settings)
        return build(KafkaSource(settings, feeds=[target, *totals.values()], flow="orders"), target, totals)


def totals_of(settings: OrdersSettings) -> dict[str, Totals]:
    """The targets of the totals, by their steps."""
    if settings.order_totals == "off":
        return {}
    kind = SqlLiveWindows if settings.order_totals == "live" else SqlWindows
    customers = kind(settings, order_totals, per_customer, fixed={"scope": "customer"})
    return {"customer_totals": customers, "totals": kind(settings, order_totals, of_all, fixed={"scope": "all", "customer": ""})}


QUANTITY_MAX = 2**31 - 1
PRICE_MAX = Decimal("99999999.99")
TOTAL_MAX = Decimal("9999999999.99")
PROCESSED_AT_MAX_S = 99_999_999_999  # in the year 5138; what lies above was meant in milliseconds
CENT = Decimal("0.01")
# Whatever would be rounded, or has more digits than decimal(10, 2), raises.
PRICE = Context(prec=10, traps=[Inexact, InvalidOperation])


def enrich(origin: Origin) -> Callable[[RawOrder, int], Row]:
    """For the orders of one batch: from an order (and its message's number) to its row, or a ValueError that says why not."""
    now_s = int(time.time())
    offsets = origin.batch.messages.offsets
    stream = origin.stream
    # 20 characters for the partition and 16 for the offset: no hash per record, and new keys stand side by side in the index.
    place = blake2b(f"{stream.source_id}/{stream.partition}".encode(), digest_size=10).hexdigest()

    def row(order: RawOrder, at: int) -> Row:
        quantity, processed_at = order.quantity, order.processed_at
        if not 0 < quantity <= QUANTITY_MAX:
            raise ValueError(f"quantity is {quantity}: an order has 1 to {QUANTITY_MAX:,}")
        price, total = money(order, quantity)
        if not 0 < len(order.order_id) <= 255 or order.order_id.isspace():
            raise ValueError(f"order_id has {len(order.order_id):,} characters: it needs 1 to 255, and not only blanks")
        if order.customer is not None and len(order.customer) > 255:
            raise ValueError(f"customer has {len(order.customer):,} characters: at most 255 can be kept")
        if order.id is None:
            row_id = f"{place}{offsets[at]:016x}"
        else:
            row_id = order.id
            if not 0 < len(row_id) <= 36:
                raise ValueError(f"id has {len(row_id):,} characters: it needs 1 to 36, or leave it out")
        if processed_at is None:
            processed_at = now_s
        elif not 0 <= processed_at <= PROCESSED_AT_MAX_S:
            raise ValueError(f"processed_at is {processed_at}: it must be whole seconds since 1970, not milliseconds")
        return row_id, order.order_id, order.customer, quantity, price, total, processed_at

    return row


def money(order: RawOrder, quantity: int) -> tuple[Decimal, Decimal]:
    """Price and total of an order, exact. Raises ValueError with the reason."""
    try:
        price = order.unit_price.quantize(CENT, None, PRICE)
        if price.is_signed():
            raise ValueError(f"unit_price is {order.unit_price}: negative prices are refunds, not orders")
        total = price * quantity
        if total > TOTAL_MAX:  # NaN raises here
            raise ValueError(f"quantity x unit_price is {total:,}: at most {TOTAL_MAX:,} can be kept")
        if order.total_value is not None and (not order.total_value.is_finite() or order.total_value != total):
            raise ValueError(f"total_value is {order.total_value}: quantity x unit_price is {total}")
    except Inexact:
        raise ValueError(f"unit_price is {order.unit_price}: prices are in whole cents, and are not rounded") from None
    except InvalidOperation:
        raise ValueError(f"unit_price is {order.unit_price}: it must be 0 to {PRICE_MAX:,}") from None
    return price, total
