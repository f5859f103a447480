"""What a record's type shows to be wrong with windows is said while the flow is built, for every kind of record."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import bytewax.operators as op
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from pydantic import SecretStr
from typing_extensions import TypedDict

from sinks import MemoryWindows, SqlLiveWindows, SqlWindows, window_sink
from sources.memory import MemorySource
from waxwing import operators as wop
from waxwing.errors import ConfigError
from waxwing.operators.windows import MESSAGE_TIME, Aggregate, Count, First, Max, Mean, Min, Sum, Tumbling, Windows
from waxwing.settings import SqlSettings, SqlWindowSettings

KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "struct": lambda fields: msgspec.defstruct("Reading", list(fields.items())),
    "model": lambda fields: pydantic.create_model("Reading", **{name: (hint, ...) for name, hint in fields.items()}),  # type: ignore[call-overload]  # made here
    "typed dict": lambda fields: TypedDict("Reading", fields),  # type: ignore[operator]  # made here
    "dataclass": lambda fields: dataclasses.make_dataclass("Reading", list(fields.items())),
}
FIELDS: dict[str, Any] = {
    "sensor": str,
    "rate": float,
    "place": float | None,
    "level": Literal["a", "b"],
    "at": int,
    "seen": str,
    "note": str | None,
    "value": Decimal | None,
    "tags": list[str],
    "day": date,
    "extra": Any,
}


def windows(by: tuple[str, ...] = ("sensor",), time: Any = "at", **aggregates: Aggregate) -> Windows:
    return Windows(by=by, time=time, kind=Tumbling(60), aggregates={"n": Count(), **aggregates}, lateness_s=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_no_window_can_be_of_is_told_at_the_start(kind: str) -> None:
    record = KINDS[kind](FIELDS)

    def build(definition: Windows, target: Any = None) -> None:
        target = target or MemoryWindows(definition)
        flow = Dataflow("test")
        parsed = wop.parse("parse", op.input("in", flow, MemorySource([], feeds=[target])), record)
        kept = wop.without_rejects("bare", wop.filter("some", parsed, bool))
        window_sink("totals", kept, target)

    for definition, says in (
        (windows(by=("rate",)), "its rate, float, can't be a key"),
        (windows(by=("sensor", "place")), "its place, float, can't be a key"),
        (windows(by=("tags",)), "its tags, list, can't be a key"),
        (windows(by=("colour",)), "it has no colour"),
        (windows(time="seen"), "its seen, str, is no time"),
        (windows(total=Sum("note")), "its note, str, is no number, which Sum (total) takes"),
        (windows(most=Max("tags")), "its tags, list, can't be compared and kept"),
        (windows(some=Count("missing")), "it has no missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            build(definition)
        assert says in str(caught.value)
    for good in (
        windows(by=("level", "day", "extra")),
        windows(time=MESSAGE_TIME),
        windows(least=Min("note"), total=Sum("value")),
    ):
        build(good)

    columns = {"value": sa.Numeric(9, 2), "note": sa.Numeric(9, 2), "extra": sa.Numeric(9, 2), "day": sa.Date, "at": sa.DateTime}
    for field, says in (
        ("note", "its note, str, can't be merged by the database"),
        ("at", "its at, int, can't"),
        ("value", ""),
        ("extra", ""),
        ("day", ""),
    ):
        definition = windows(most=Max(field))
        target = SqlLiveWindows(
            SqlSettings(database_url=SecretStr("sqlite:////tmp/never-opened.sqlite")), table_of(columns[field]), definition
        )
        if not says:
            build(definition, target)
            continue
        with pytest.raises(ConfigError) as caught:
            build(definition, target)
        assert says in str(caught.value)


def table_of(most: Any) -> sa.Table:
    kinds = {"window_start": sa.DateTime, "sensor": sa.String(9), "n": sa.BigInteger, "most": most}
    columns = (sa.Column(name, kind, primary_key=name in ("window_start", "sensor")) for name, kind in kinds.items())
    return sa.Table("live", sa.MetaData(), *columns)


def test_what_a_map_returns_is_known_where_its_annotation_says_so() -> None:
    class Made(msgspec.Struct):
        sensor: float

    def made(record: dict[str, Any]) -> Made:
        return Made(record["sensor"])

    Made.__module__ = __name__
    globals()["Made"] = Made
    definition = windows(time=MESSAGE_TIME)
    for step, refused in ((made, True), (lambda record: record, False)):
        target, flow = MemoryWindows(definition), Dataflow("test")
        messages = op.input("in", flow, MemorySource([], feeds=[target]))
        rows: Any = wop.map("made", messages, step)  # type: ignore[arg-type]  # nothing runs
        if not refused:
            window_sink("totals", rows, target)
            continue
        with pytest.raises(ConfigError, match="records of type Made: its sensor, float, can't be a key"):
            window_sink("totals", rows, target)


def test_times_of_messages_and_datetimes_are_times() -> None:
    class Read(msgspec.Struct):
        sensor: str
        at: datetime

    target, flow = MemoryWindows(windows()), Dataflow("test")
    window_sink("totals", wop.parse("parse", op.input("in", flow, MemorySource([], feeds=[target])), Read), target)


class Side(enum.Enum):
    LEFT = "left"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [SqlWindows, SqlLiveWindows])
def test_a_table_that_takes_no_row_of_the_windows_is_told_at_the_start(make: Any, kind: str) -> None:
    settings = SqlWindowSettings(database_url=SecretStr("sqlite:////tmp/never-opened.sqlite"))

    def told(fields: dict[str, Any], key: Any, value: Any, aggregate: Aggregate, **options: Any) -> str:
        columns = [sa.Column(name, key, primary_key=True, autoincrement=False) for name in ("sensor", *options.get("fixed", ()))]
        columns += [sa.Column("n", sa.BigInteger), sa.Column("v", value)]
        table = sa.Table("totals", sa.MetaData(), sa.Column("window_start", sa.DateTime, primary_key=True), *columns)
        null_keys = options.pop("null_keys", "reject")
        definition = Windows(
            by=("sensor",),
            time="at",
            kind=Tumbling(60),
            aggregates={"n": Count(), "v": aggregate},
            lateness_s=0,
            null_keys=null_keys,
        )
        target, flow = make(settings, table, definition, **options), Dataflow("test")
        record = KINDS[kind]({"sensor": str, "at": int, "x": Decimal} | fields)
        try:
            window_sink("totals", wop.parse("parse", op.input("in", flow, MemorySource([], feeds=[target])), record), target)
        except ConfigError as error:
            return str(error)
        return ""

    text, number, amount = sa.String(9), sa.Integer, sa.Numeric(9, 2)
    aware = Annotated[datetime, msgspec.Meta(tz=True)]
    assert told({}, text, amount, Sum("x")) == ""
    assert told({"x": int}, text, amount, Sum("x")) == ""
    assert told({"x": Any, "sensor": Any}, number, amount, Sum("x")) == ""
    assert told({"x": datetime}, text, sa.DateTime, Max("x")) == ""
    assert told({"sensor": str | None}, number, amount, Sum("x"), null_keys={"sensor": 0}) == ""  # the rows of nulls are taken
    for fields, key, value, aggregate, options, says in (
        ({}, number, amount, Sum("x"), {}, "its sensor, str, where column sensor (Integer()) takes int"),
        ({"sensor": int}, text, amount, Sum("x"), {}, "its sensor, int, where column sensor"),
        ({"sensor": Side}, text, amount, Sum("x"), {}, "its sensor, Side, can't be a key"),
        ({}, text, number, Sum("x"), {}, "Sum (v), Decimal, where column v (Integer()) takes int"),
        ({"x": float}, text, amount, Sum("x"), {}, "Sum (v), float"),
        ({}, text, number, Max("x"), {}, "Max (v), Decimal"),
        ({"x": aware}, text, sa.DateTime, Max("x"), {}, "Max (v), a time with zone, where column v (DateTime()) has none"),
        ({}, text, amount, Sum("x"), {"fixed": {"scope": 7}}, "fixed={'scope': 7}, int, where column scope"),
    ):
        assert says in told(fields, key, value, aggregate, **options), says
    if make is SqlWindows:
        assert "Mean (v), Decimal, where column v" in told({}, text, number, Mean("x", places=2))
        assert "Mean (v), float" in told({"x": float}, text, amount, Mean("x", places=2))
        assert "Mean (v), float" in told({"x": int}, text, amount, Mean("x"))
        assert "First (v), Decimal" in told({}, text, text, First("x"))
