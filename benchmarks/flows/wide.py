"""A wide record: 60 fields of every usual type, one of them nested JSON, about 2 kB; straight from the decoder into the table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import bytewax.operators as op
import msgspec
import orjson
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

# 60 fields with the key: names, types, column types.
_TEXTS = [(f"text_{n:02}", str, sa.String(100)) for n in range(24)]
_NUMBERS = [(f"number_{n:02}", int, sa.BigInteger()) for n in range(12)]
_AMOUNTS = [(f"amount_{n:02}", Decimal, sa.Numeric(12, 2)) for n in range(8)]
_RATIOS: list[tuple[str, Any, Any]] = [(f"ratio_{n:02}", float, sa.Double()) for n in range(6)]
_FLAGS = [(f"flag_{n:02}", bool, sa.Boolean()) for n in range(4)]
_TIMES = [(f"time_{n:02}", datetime, sa.DateTime()) for n in range(4)]
_FIELDS: list[tuple[str, Any, Any]] = [
    ("id", int, sa.BigInteger()),
    *_TEXTS,
    *_NUMBERS,
    *_AMOUNTS,
    *_RATIOS,
    *_FLAGS,
    *_TIMES,
    ("details", dict[str, Any], sa.JSON()),
]
TEMPLATES = 64  # records differ in their ids and in which of so many bodies they have

Wide = msgspec.defstruct("Wide", [(name, kind) for name, kind, _ in _FIELDS], frozen=True)

table = sa.Table(
    "wide",
    sa.MetaData(),
    *(
        sa.Column(name, column, primary_key=name == "id", autoincrement=False, nullable=name.startswith("text_1"))
        for name, _, column in _FIELDS
    ),
)


def _body(chance: random.Random) -> bytes:
    """A record but for its id."""
    words = ["straße", "river", "northern line", "blue", "x" * 30, "a longer remark of somebody, with a comma"]
    began = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    record: dict[str, Any] = {name: f"{chance.choice(words)} {chance.randrange(1000)}" for name, _, _ in _TEXTS}
    record |= {name: chance.randrange(10**9) for name, _, _ in _NUMBERS}
    record |= {name: chance.randrange(10**8) / 100 for name, _, _ in _AMOUNTS}
    record |= {name: chance.random() for name, _, _ in _RATIOS}
    record |= {name: chance.random() < 0.5 for name, _, _ in _FLAGS}
    record |= {name: (began + timedelta(seconds=chance.randrange(10**7))).isoformat() for name, _, _ in _TIMES}
    lines = [{"sku": f"sku-{chance.randrange(10**6)}", "count": chance.randrange(9), "price": chance.randrange(9_999) / 100}] * 5
    record["details"] = {"lines": lines, "address": {"city": chance.choice(words), "zip": str(chance.randrange(99_999))}}
    return orjson.dumps(record)[1:]


def values(count: int, ids: int | None = None) -> Iterator[list[Keyed]]:
    """Keys and values of messages, in chunks; `ids`: only so many different ids, again and again."""
    chance = random.Random(1)
    bodies = [_body(chance) for _ in range(TEMPLATES)]
    for first in range(0, count, CHUNK_ORDERS):
        numbers = range(first, min(first + CHUNK_ORDERS, count))
        yield [(b"%d" % (n % 997), b'{"id":%d,%b' % (n % (ids or count), bodies[n % TEMPLATES])) for n in numbers]


def flow() -> Dataflow:
    """The flow with settings from the environment."""
    with runtime.starting():
        settings = load(OrdersSettings)
        target = SqlTarget(settings, table, Upsert(keys=("id",)))
        flow = Dataflow("wide")
        messages = op.input("kafka", flow, KafkaSource(settings))
        sink("table", parse("parse", messages, Wide), target)
        return flow
