"""Tombstones, from the message's key to the row that goes: every kind of key, on every database, by the flow's own steps."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import bytewax.operators as op
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import BaseModel
from typing_extensions import TypedDict

from sinks import SqlTarget, Upsert, sink
from sources.memory import MemorySource, Message
from tests.conformance.place import ON_THREE, Place
from waxwing import operators as ww
from waxwing.databases.ledger import schema
from waxwing.settings import SqlSettings


class Record(msgspec.Struct):
    id: Any
    region: str = "eu"
    n: int = 0


class StructKey(msgspec.Struct):
    region: str
    id: str


class ModelKey(BaseModel):
    region: str
    id: str


@dataclasses.dataclass
class DataKey:
    region: str
    id: str


class TypedKey(TypedDict):
    region: str
    id: str


def run(
    place: Place, table: sa.Table, keys: tuple[str, ...], kind: Any, messages: list[Message], *, record: Any = Record
) -> list[Any]:
    """The dead letters of a flow that deletes."""
    place.run(*(f"DROP TABLE IF EXISTS {name}" for name in schema.metadata.tables))
    settings = SqlSettings.model_validate({"database_url": place.url.render_as_string(hide_password=False)})
    target = SqlTarget(settings, table, Upsert(keys=keys, delete_on_tombstone=True))
    if place.database.dialect.name == "sqlserver":  # where a new connection costs seconds
        target.place.database, target.place.engine = place.database, place.engine
    flow = Dataflow("flow")
    source = MemorySource(messages, flow="flow", batch_records=100, feeds=[target])
    parsed = ww.parse("parse", op.input("in", flow, source), record, on_tombstone="delete", key=kind)
    # What stands between keeps deletes.
    kept = ww.filter("filter", parsed, lambda one: one.n >= 0)
    rows = ww.map("row", kept, lambda one: {name: getattr(one, name) for name in table.c.keys()})  # noqa: SIM118 - of a table
    sink("out", rows, target)
    run_main(flow)
    letters = schema.dead_letters
    with place.engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(
                sa.select(letters.c.source_offset, letters.c.stage, letters.c.reason).order_by(letters.c.source_offset)
            )
        ]


def test_a_key_of_several_columns_deletes_its_row(place: Place) -> None:
    # What reads keys is the same on all of them.
    for kind in (StructKey, ModelKey, DataKey, TypedKey) if place.database.dialect.name == "sqlite" else (StructKey,):
        deletes_by_several_columns(place, kind)


def deletes_by_several_columns(place: Place, kind: Any) -> None:
    table = place.table(
        sa.Column("id", sa.String(9), primary_key=True),
        sa.Column("region", sa.String(9), primary_key=True),
        sa.Column("n", sa.Integer),
    )
    values = [("7", "eu"), ("7", "us"), ("8", "eu"), ("9", "eu")]
    messages = [Message(msgspec.json.encode({"id": id_, "region": region})) for id_, region in values]
    messages += [
        Message(None, key)
        for key in (
            b'{"id":"7","region":"us"}',
            b'{"region":"eu", "id":"8"}',
            b'{"id":"none","region":"eu"}',
            b'{"id":"9"}',
            b"7|eu",
            None,
            b'{"id":"far too long","region":"eu"}',
        )
    ]
    messages.append(Message(b'{"id":"8","region":"eu","n":2}'))
    letters = run(place, table, ("id", "region"), kind, messages)
    assert place.read(table, "id", "region") == [("7", "eu", 0), ("8", "eu", 2), ("9", "eu", 0)]
    assert [(offset, stage) for offset, stage, _ in letters] == [(7, "parse"), (8, "parse"), (9, "parse"), (10, "sink")]
    assert "region" in letters[0][2]
    assert "key can't be read" in letters[1][2]
    assert "no key says" in letters[2][2]
    assert letters[3][2] == "the tombstone's key: column id: 12 characters, at most 9"


class OfTime(msgspec.Struct):
    id: datetime
    n: int = 0


@ON_THREE
def test_a_key_of_one_column_of_each_kind(place: Place) -> None:
    zoned = place.database.dialect.timezone_kept
    moment = b'"2026-11-26T23:59:59.9999999%s"' % (b"Z" if zoned else b"")
    uuid = b'"0123abcd-0000-4000-8000-000000000000"'
    cases: list[tuple[Any, Any, bytes, bytes, Any]] = [
        (sa.String(9), str, b'"7"', b'"7"', Record),
        (sa.Integer(), int, b"7", b"7", Record),
        (sa.Integer(), None, b"7", b"7", Record),
        (sa.String(9), None, b'"7"', b"7", Record),
        (sa.Numeric(10, 2), Decimal, b"7.5", b"7.50", Record),
        (sa.DateTime(timezone=zoned), datetime, moment, moment, OfTime),
        (sa.Uuid(), UUID, uuid, uuid, msgspec.defstruct("OfUuid", [("id", UUID), ("n", int, 0)])),
    ]
    if place.database.dialect.name == "sqlserver":  # each flow takes it seconds
        cases = [cases[0], cases[5]]
    for kind, key, value, tombstone, record in cases:
        table = place.table(sa.Column("id", kind, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
        other = {"id": 8} if isinstance(kind, sa.Integer | sa.Numeric) else None
        messages = [Message(b'{"id":%s,"n":1}' % value)]
        messages += [Message(msgspec.json.encode(other))] if other else []
        letters = run(place, table, ("id",), key, [*messages, Message(None, tombstone)], record=record)
        assert letters == []
        assert len(place.read(table)) == len(messages) - 1, (kind, key)
