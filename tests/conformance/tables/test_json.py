"""JSON in columns: numbers digit for digit, whatever record type they come by, or a dead letter that names the number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import JSONB
from typing_extensions import TypedDict

from tests.conformance.place import Place
from tests.waxwing.operators.test_parse import field, parsed
from waxwing.tables.columns import checks
from waxwing.tables.modes import Append, Upsert
from waxwing.tables.values.json_values import Doubles

LONG = "123456789012345678901234567890.12345678901234567890"
# Each stands alone, in an array and in an object.
NUMBERS = ["5", "-7", "1.5", "1.10", "0", "12345678901234567890.123", LONG, "1" * 40, "18446744073709551616", "1e400", "1E-400"]
NUMBERS += ["1E+2", "0.1", "100", "-0.0", "-0", "0.30000000000000004", "1E-7", "5.0"]
OTHERS = [
    '{"a":[-0,"-0, -0",{"-0":-0}]}',
    '"5"',
    '"1.10"',
    "true",
    "false",
    "[]",
    "{}",
    '""',
    '["a",null]',
    '{"a":{"b":[1.10,{"c":-1E+2}]}}',
    '"\\"q\\\\n"',
]


class OfAny(msgspec.Struct):
    v: Any


class OfRaw(msgspec.Struct):
    v: msgspec.Raw


class Model(BaseModel):
    v: Any


class Typed(TypedDict):
    v: Any


@dataclasses.dataclass
class Data:
    v: Any


@dataclasses.dataclass
class DataRaw:
    v: msgspec.Raw


KINDS = [OfAny, OfRaw, Model, Typed, Data, DataRaw]


def values_of(kind: Any, texts: Sequence[str]) -> list[Any]:
    """The values as parse reads them."""
    batch = parsed(kind, [b'{"v":%s}' % text.encode() for text in texts])
    assert not batch.rejects
    return [field(record, "v") for record in batch.records]


def stored(place: Place, table: sa.Table) -> list[str]:
    """The column as text."""
    value: Any = table.c.v
    casts: dict[str, Any] = {"postgresql": sa.Text(), "sqlite": sa.Text(), "mysql": sa.CHAR()}
    kind = casts.get(place.database.dialect.name)
    value = sa.type_coerce(value, sa.Text()) if kind is None else sa.cast(value, kind)
    with place.engine.connect() as connection:
        return [str(row[0]) for row in connection.execute(sa.select(value).order_by(table.c.n))]


def written(
    place: Place, kind: Any, values: list[Any], *, staged: bool = False, upsert: bool = True
) -> tuple[list[str], dict[int, str]]:
    """What is stored of the values, and why the others are not."""
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    planned = place.plan(place.table(number, sa.Column("v", kind)), Upsert(keys=("n",)) if upsert else Append())
    bad = checks(planned, place.database.dialect)[1](values)
    rows = [(n, value) for n, value in enumerate(values) if n not in bad]
    place.write(planned, rows, *([rows] if upsert else []), staged=staged)
    return stored(place, planned.table), bad


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
def test_json_is_kept_as_it_came(place: Place, staged: bool) -> None:
    texts = [*OTHERS, *(f"[{number}]" for number in NUMBERS), *(f'{{"n":{number},"b":"x"}}' for number in NUMBERS)]
    for upsert in (True, False):
        for kind in KINDS if upsert else KINDS[:2]:
            values = values_of(kind, texts)
            got, bad = written(place, sa.JSON(), values, staged=staged, upsert=upsert)
            assert bad == {}
            expected = [text.replace("1e400", "1E+400") if kind not in (OfRaw, DataRaw) else text for text in texts]
            assert got == expected, kind


def test_a_number_alone_is_json_too(place: Place) -> None:
    numeric = place.database.dialect.json_number_kept is not None  # SQLite's type JSON
    for kind in (OfAny, OfRaw, Typed):
        got, bad = written(place, sa.JSON(), values_of(kind, NUMBERS))
        kept = [text for n, text in enumerate(NUMBERS) if n not in bad]
        assert [Decimal(text) for text in got] == [Decimal(text) for text in kept]
        assert [str(Decimal(text)) for text in got] == [str(Decimal(text)) for text in kept]
        if not numeric:
            assert bad == {}
            continue
        assert kept == ["5", "-7", "1.5", "0", "0.1", "100"]
        assert all(reason.startswith("the number ") for reason in bad.values())
        assert LONG in bad[NUMBERS.index(LONG)]


def test_a_column_of_text_keeps_numbers_that_stand_alone(place: Place) -> None:
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    table = place.table(number, sa.Column("v", sa.Text()))
    with place.engine.begin() as connection:
        table.create(connection)
    declared = place.table(
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.JSON), name=table.name
    )
    planned = place.plan(declared, Upsert(keys=("n",)))
    values = values_of(OfRaw, NUMBERS)
    assert checks(planned, place.database.dialect)[1](values) == {}
    place.write(planned, list(enumerate(values)))
    assert stored(place, table) == NUMBERS


def test_a_null_is_sqls_and_a_raw_one_is_jsons(place: Place) -> None:
    got, bad = written(place, sa.JSON(), [None, msgspec.Raw(b"null")])
    assert (got, bad) == (["None", "null"], {})


def test_what_is_no_json_is_refused_with_its_reason(place: Place) -> None:
    values = [Decimal("Infinity"), {"a": Decimal("NaN")}, msgspec.Raw(b"{,}"), [msgspec.Raw(b"1,2")], msgspec.Raw(b'"\\ud800"')]
    values += [{1: 2**70}, [(2**70,)], {"a": {"b": object()}}, [float("nan"), 2**70], 10**5000]
    deep: Any = 2**70
    for _ in range(5_000):
        deep = [deep]
    long = msgspec.Raw(b'{"a":[-%s]}' % (b"7" * 5_000))
    assert written(place, sa.JSON(), [long])[1] == {0: f"the number -{'7' * 59}... (5,001 characters), which has too many digits"}
    got, bad = written(place, sa.JSON(), [*values, deep, {"a": Decimal("1.0")}])
    assert got == ['{"a":1.0}']
    assert list(bad) == list(range(len(values) + 1))
    assert all(reason.startswith(("no JSON: ", "does not come back equal")) for reason in bad.values()), bad


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
def test_jsonb_keeps_the_number(postgresql_place: Place, staged: bool) -> None:
    for kind in (OfAny, OfRaw, Model):
        texts = [*NUMBERS, *(f"[{number}]" for number in NUMBERS), *OTHERS]
        got, bad = written(postgresql_place, JSONB(), values_of(kind, texts), staged=staged)
        assert bad == {}
        exact = msgspec.json.Decoder(float_hook=Decimal).decode
        assert list(map(exact, got)) == list(map(exact, texts))
        assert got[3] == "1.10"
        beyond = ["1e131072", '{"a":[1E-16384]}', "1e999999999", "[1.5e-16383]", "7"]
        got, bad = written(postgresql_place, JSONB(), values_of(kind, beyond), staged=staged)
        assert got == ["7"]
        assert bad[0] == "the number 1E+131072, which is beyond the range of numbers in JSONB"
        assert "1E-16384" in bad[1]
        assert list(bad) == [0, 1, 2, 3]
    assert written(postgresql_place, sa.JSON(), values_of(OfAny, beyond), staged=staged)[1] == {}
    # A table that is there may have the type, too.
    name = f"declared_json_{int(staged)}"
    postgresql_place.run(f"CREATE TABLE {name} (n integer PRIMARY KEY, v jsonb)")
    declared = postgresql_place.table(sa.Column("n", sa.Integer, primary_key=True), sa.Column("v", sa.JSON), name=name)
    planned = postgresql_place.plan(declared, Upsert(keys=("n",)))
    assert list(checks(planned, postgresql_place.database.dialect)[1](values_of(OfRaw, beyond))) == [0, 1, 2, 3]


def test_what_a_double_does_not_hold_is_refused_where_numbers_of_json_are_doubles() -> None:
    limit = Doubles()
    assert limit.all_fit([{"a": [1.5, Decimal("1.10"), 2**64 - 1, -(2**63), Decimal("1E+2")]}, "x", [], Decimal("0.1")])
    for value in (
        Decimal("12345678901234567890.123"),
        {"a": [Decimal("1E+400")]},
        [2**64],
        msgspec.Raw(b"0.1000000000000000055"),
    ):
        assert not limit.all_fit([1, value])
        assert str(limit.reason(value)).startswith("the number ")
