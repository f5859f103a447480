"""The memory target, with a table and without, beside a real database: the same cases, the same rows and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import Any, NamedTuple

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from sinks import Append, MemoryTarget, Merge, SqlTarget, Upsert, sink
from sinks.memory.target import MEMORY_SETTINGS
from sources.memory import MemorySource, Message
from tests.conformance.place import Place
from waxwing import operators as ww
from waxwing.databases.ledger import schema
from waxwing.settings import SinkSettings, SqlSettings
from waxwing.tables.modes import Mode
from waxwing.target import Target

_numbers = count(1)


class Record(msgspec.Struct):
    """What every case sends, as a dict without what is left out."""

    id: int | None = None
    version: int | None = None
    name: str | None = None
    amount: Decimal | None = None


class Case(NamedTuple):
    """A mode, messages (a record by its fields; by its key and nothing else a tombstone), the rows and the bad messages."""

    name: str
    mode: Mode
    messages: Sequence[dict[str, Any] | int]
    rows: list[tuple[Any, ...]]
    bad: list[int]


NEWER = Upsert(keys=("id",), newer_by="version")
DELETING = Upsert(keys=("id",), delete_on_tombstone=True)
TOTALS = Merge(keys=("id",), add=("amount",), greatest=("version",))
CASES = [
    Case("append refuses a tombstone", Append(), [{"id": 1}, 1, {"id": 2}], [(1, None, None, None), (2, None, None, None)], [1]),
    Case("append refuses a key twice", Append(), [{"id": 1}, {"id": 1, "name": "x"}], [(1, None, None, None)], [1]),
    Case("a null key is bad", Upsert(keys=("id",)), [{"id": None}, {"id": 3}], [(3, None, None, None)], [0]),
    Case("a text too long is bad", Upsert(keys=("id",)), [{"id": 1, "name": "abcdefg"}], [], [0]),
    Case("a cent's part is bad", Upsert(keys=("id",)), [{"id": 1, "amount": "1.005"}], [], [0]),
    Case("an integer too large is bad", Upsert(keys=("id",)), [{"id": 2**40}], [], [0]),
    Case("the last one stands", Upsert(keys=("id",)), [{"id": 1, "name": "a"}, {"id": 1}], [(1, None, None, None)], []),
    Case("an upsert refuses a tombstone", Upsert(keys=("id",)), [{"id": 1}, 1], [(1, None, None, None)], [1]),
    Case("a tombstone deletes", DELETING, [{"id": 1}, {"id": 2}, 1], [(2, None, None, None)], []),
    Case(
        "deleted and made anew",
        DELETING,
        [{"id": 1, "name": "a"}, 1, {"id": 1, "version": 2}, {"id": 2}, 2],
        [(1, 2, None, None)],
        [],
    ),
    Case("a null is never newer", NEWER, [{"id": 1, "version": 1}, {"id": 1, "name": "x"}], [(1, 1, None, None)], []),
    Case(
        "a null gives way to any version",
        NEWER,
        [{"id": 1, "name": "x"}, {"id": 1, "version": 0}, {"id": 1, "version": 0, "name": "y"}],
        [(1, 0, None, None)],
        [],
    ),
    Case(
        "sums pass over nulls",
        TOTALS,
        [{"id": 1, "version": 2}, {"id": 1, "amount": "2.50", "version": 1}, {"id": 1, "amount": "0.25", "name": "a"}],
        [(1, 2, "a", Decimal("2.75"))],
        [],
    ),
    Case(
        "a sum too large is bad",
        TOTALS,
        [{"id": 1, "amount": "9999.99"}, {"id": 1, "amount": "1"}],
        [(1, None, None, Decimal("9999.99"))],
        [1],
    ),
    Case("a merge refuses a tombstone", TOTALS, [{"id": 1, "version": 1}, 1], [(1, 1, None, None)], [1]),
]
# What only a declared table can tell.
TYPED = {
    "append refuses a key twice",
    "a text too long is bad",
    "a cent's part is bad",
    "an integer too large is bad",
    "a sum too large is bad",
}


def table(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer),
        sa.Column("name", sa.String(5)),
        sa.Column("amount", sa.Numeric(6, 2)),
    )


def play(case: Case, target: Target, batch_records: int, flow_name: str) -> None:
    messages = [
        Message(None, key=b"%d" % one)
        if isinstance(one, int)
        else Message(msgspec.json.encode(one), key=b"%d" % (one["id"] or 0))
        for one in case.messages
    ]
    flow = Dataflow(flow_name)
    source = MemorySource(messages, feeds=[target], batch_records=batch_records)
    records = ww.parse("parse", op.input("in", flow, source), Record, on_tombstone="delete")
    sink("out", ww.map("row", records, msgspec.structs.asdict), target)
    run_main(flow)


@pytest.mark.parametrize("batch_records", [1, 10])
@pytest.mark.parametrize("typed", [True, False], ids=["table", "by name"])
def test_memory_without_a_database(typed: bool, batch_records: int) -> None:
    for case in CASES:
        if not typed and case.name in TYPED:
            continue
        target = MemoryTarget(case.mode, table=table("t") if typed else None)
        play(case, target, batch_records, "memory")
        rows = target.rows if typed else [tuple(row.values()) for row in target.rows]
        assert (sorted(rows), [letter.offset for letter in target.dead_letters]) == (case.rows, case.bad), case.name


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_a_database_says_the_same(place: Place) -> None:
    url = SecretStr(place.url.render_as_string(hide_password=False))
    settings = SqlSettings.model_validate({**MEMORY_SETTINGS.model_dump(), "database_url": url})
    for case in CASES:
        number = next(_numbers)
        declared = table(f"memory_{number}")
        target = SqlTarget(settings, declared, case.mode)
        target.place.database, target.place.engine = place.database, place.engine
        play(case, target, 10, f"memory{number}")
        t = schema.dead_letters
        with place.engine.connect() as connection:
            query = sa.select(t.c.source_offset).where(t.c.flow == f"memory{number}").order_by(t.c.source_offset)
            bad = list(connection.scalars(query))
        assert (place.read(declared), bad) == (case.rows, case.bad), case.name


def test_means_are_rounded_as_databases_do_and_only_named_columns_are_written() -> None:
    declared = sa.Table(
        "means",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        sa.Column("total", sa.Numeric(6, 2)),
        sa.Column("mean", sa.Numeric(6, 2)),
    )
    mode = Merge(keys=("id",), add=("n", "total"), mean={"mean": ("total", "n")})
    target = MemoryTarget(mode, SinkSettings(flush_interval_s=0.0), table=declared)
    flow = Dataflow("means")
    data: list[dict[str, Any]] = [{"id": 1, "version": 1, "amount": "0.01"}, {"id": 1, "version": 1, "amount": "0.00"}, {"id": 2}]
    records = ww.parse("parse", op.input("in", flow, MemorySource(data, feeds=[target])), Record)
    sink("out", ww.map("row", records, lambda record: (record.id, record.version, record.amount)), target)
    run_main(flow)
    assert target.rows == [(1, 2, Decimal("0.01"), Decimal("0.01")), (2, None, None, None)]
