"""Records whose declared type shows that not one of them could be written are refused when the flow is built."""

from __future__ import annotations

import enum
from dataclasses import make_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, NotRequired
from uuid import UUID

import bytewax.operators as op
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from pydantic import SecretStr
from typing_extensions import TypedDict

from sinks import Append, MemoryTarget, SqlTarget, Upsert, sink
from sources.memory import MemorySource
from waxwing import operators as ww
from waxwing.errors import ConfigError
from waxwing.settings import SqlSettings
from waxwing.target import Target

TABLE = sa.Table(
    "payments",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime),
)
make_typed_dict: Any = TypedDict
make_model: Any = pydantic.create_model
CLASSES: dict[str, Any] = {
    "struct": lambda fields: msgspec.defstruct("Payment", list(fields.items())),
    "model": lambda fields: make_model("Payment", **{name: (hint, ...) for name, hint in fields.items()}),
    "typed dict": lambda fields: make_typed_dict("Payment", fields),
    "dataclass": lambda fields: make_dataclass("Payment", list(fields.items())),
}


def target(where: str) -> Target:
    if where == "memory":
        return MemoryTarget(Append(), table=TABLE)
    return SqlTarget(SqlSettings(database_url=SecretStr("sqlite:////tmp/nothing-is-made.sqlite")), TABLE, Append())


def build(kind: Any, to: Target, row: Any = None) -> None:
    flow = Dataflow("payments")
    records = ww.parse("parse", op.input("in", flow, MemorySource([])), kind)
    sink("table", records if row is None else ww.map("row", records, row), to)


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("make", CLASSES)
def test_a_field_whose_values_no_column_takes_is_told_at_the_start(make: str, where: str) -> None:
    good = {"id": int, "amount": Decimal, "at": datetime}
    build(CLASSES[make](good), target(where))
    build(CLASSES[make]({**good, "amount": int | None}), target(where))
    build(CLASSES[make]({**good, "amount": Any}), target(where))
    for wrong, why in (
        ({"id": str}, r"its id, str, where column id \(Integer\(\)\) takes int"),
        ({"id": bool}, "its id, bool"),
        ({"amount": float | None}, "its amount, float, where column amount"),
        ({"at": str, "id": UUID}, r"its id, UUID.*its at, str"),
    ):
        with pytest.raises(ConfigError, match=why):
            build(CLASSES[make]({**good, **wrong}), target(where))


@pytest.mark.parametrize(
    ("make", "hint"), [("struct", Annotated[datetime, msgspec.Meta(tz=True)]), ("model", pydantic.AwareDatetime)]
)
def test_a_time_with_zone_for_a_column_without_is_told_at_the_start(make: str, hint: Any) -> None:
    with pytest.raises(ConfigError, match=r"its at, a time with zone, where column at .* has none"):
        build(CLASSES[make]({"id": int, "amount": Decimal, "at": hint | None}), target("sqlite"))


@pytest.mark.parametrize("make", CLASSES)
def test_a_column_that_no_record_has_is_told_at_the_start(make: str) -> None:
    with pytest.raises(ConfigError, match="it has no id"):
        build(CLASSES[make]({"amount": Decimal, "at": datetime}), target("sqlite"))


def test_a_field_without_a_column_is_told_where_records_are_mappings() -> None:
    fields = {"id": int, "amount": Decimal, "at": datetime, "more": int}
    with pytest.raises(ConfigError, match="the table has no column more"):
        build(CLASSES["typed dict"](fields), target("sqlite"))
    build(CLASSES["struct"](fields), target("sqlite"))


class Row(NamedTuple):
    id: int
    amount: str
    at: datetime


def as_pair(record: Any) -> tuple[int, Decimal]:
    return record.id, record.amount


def as_tuple(record: Any) -> tuple[int, float, datetime]:
    return record.id, record.amount, record.at


def as_named(record: Any) -> Row:
    return Row(record.id, record.amount, record.at)


def as_it_was(record):  # type: ignore[no-untyped-def]  # whoever says nothing is not judged
    return record


def test_rows_that_a_function_says_to_return_are_checked_too() -> None:
    kind = CLASSES["struct"]({"id": int})
    for row, why in ((as_pair, "2 values for 3 columns"), (as_tuple, "its amount, float"), (as_named, "its amount, str")):
        with pytest.raises(ConfigError, match=why):
            build(kind, target("sqlite"), row)
    build(kind, target("sqlite"), as_it_was)


STOCK = sa.Table(
    "stock",
    sa.MetaData(),
    sa.Column("shop", sa.String(9), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer),
)


def test_keys_of_tombstones_that_fit_no_key_of_the_table_are_told_at_the_start() -> None:
    def build_keyed(key: Any, table: sa.Table, *keys: str, deletes: bool = True) -> None:
        mode, flow = Upsert(keys=keys, delete_on_tombstone=deletes), Dataflow("stock")
        up = ww.parse("parse", op.input("in", flow, MemorySource([])), dict_of(table), on_tombstone="delete", key=key)
        sink("memory", ww.filter("some", up, bool), MemoryTarget(mode, table=table))
        url = SecretStr("sqlite:////tmp/nothing-is-made.sqlite")
        sink("sql", ww.map("row", up, dict), SqlTarget(SqlSettings(database_url=url), table, mode))

    def dict_of(table: sa.Table) -> Any:
        return make_typed_dict("Row", {column.name: column.type.python_type for column in table.c})

    good = {"shop": str, "id": int}
    for make in CLASSES.values():
        build_keyed(make(good), STOCK, "shop", "id")
        build_keyed(make(dict(reversed(good.items()))), STOCK, "id", "shop")
        for fields, told in (
            ({"shop": str}, "it has no id"),
            ({**good, "n": int}, "its n is no key column"),
            ({**good, "id": str}, r"its id, str, where column id \(Integer\(\)\) takes"),
        ):
            with pytest.raises(ConfigError, match=rf"Keys of tombstones, read as Payment, do not fit the table stock: {told}"):
                build_keyed(make(fields), STOCK, "shop", "id")
            build_keyed(make(fields), STOCK, "shop", "id", deletes=False)
    for kind, told in ((str, "its id, str, where column id"), (UUID, "its id, UUID, where column id")):
        with pytest.raises(ConfigError, match=told):
            build_keyed(kind, TABLE, "id")
    build_keyed(int, TABLE, "id")
    build_keyed(None, TABLE, "id")
    with pytest.raises(ConfigError, match="it is one value, for 2 columns"):
        build_keyed(int, STOCK, "shop", "id")


class Colour(enum.Enum):
    RED = 1


class Part(msgspec.Struct):
    a: int


class Item(pydantic.BaseModel):
    a: int


class Mapped(TypedDict):
    a: int


def valued(colour: Colour) -> int:
    return int(colour.value)


class Changed(msgspec.Struct):
    id: int
    v: Any

    def __post_init__(self) -> None: ...


@pytest.mark.parametrize("where", ["sqlite", "memory"])
@pytest.mark.parametrize("make", CLASSES)
def test_an_enum_or_a_record_within_a_record_that_no_column_takes_is_told_at_the_start(make: str, where: str) -> None:
    def told(hint: Any, column: Any, kind: Any = None) -> str:
        table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", column))
        url, mode, flow = SecretStr("sqlite:////tmp/nothing-is-made.sqlite"), Upsert(keys=("id",)), Dataflow("test")
        to = MemoryTarget(mode, table=table) if where == "memory" else SqlTarget(SqlSettings(database_url=url), table, mode)
        record = kind or CLASSES[make]({"id": int, "v": hint})
        try:
            sink("out", ww.parse("parse", op.input("in", flow, MemorySource([], feeds=[to])), record), to)
        except ConfigError as error:
            return str(error)
        return ""

    inner = Item if make == "model" else Part
    assert "its v, Colour, where column v (Integer()) takes int" in told(Colour, sa.Integer)
    assert "its v, Colour, where column v (String(" in told(Colour | None, sa.String(9))
    assert f"its v, {inner.__name__}, where column v (JSON()) takes" in told(inner, sa.JSON)
    assert f"its v, {inner.__name__}, where column v (Text()) takes str" in told(inner, sa.Text)
    assert "its v, dict, where column v (Text()) takes str" in told(Mapped, sa.Text)
    assert told(Mapped, sa.JSON) == ""
    # What the type itself may change is not judged.
    if make == "model":
        assert told(Annotated[Colour, pydantic.AfterValidator(valued)], sa.Integer) == ""
        values = pydantic.ConfigDict(use_enum_values=True)
        assert told(None, sa.Integer, pydantic.create_model("Valued", __config__=values, id=(int, ...), v=(Colour, ...))) == ""
    if make == "struct":
        assert told(None, sa.Integer, msgspec.defstruct("Made", [("id", int), ("v", Colour)], bases=(Changed,))) == ""
        assert "its v, str" in told(str | msgspec.UnsetType, sa.Integer)
    if make == "typed dict":
        assert "its v, str" in told(NotRequired[str], sa.Integer)
