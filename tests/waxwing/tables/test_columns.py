"""Reasons against values, and that looking at many at once finds what looking at one finds."""

# ruff: noqa: DTZ001 - timestamps without zone are what is tested

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from waxwing.databases.postgresql.database import DIALECT as POSTGRESQL
from waxwing.databases.sqlite.database import DIALECT as SQLITE
from waxwing.databases.sqlserver.database import DIALECT as SQLSERVER
from waxwing.errors import ConfigError
from waxwing.tables.columns import Check, checks
from waxwing.tables.modes import Append, Upsert
from waxwing.tables.plan import Plan


def check_of(kind: Any, *, nullable: bool = True, mode: Append | Upsert | None = None) -> Check:
    column = sa.Column("v", kind, nullable=nullable)
    planned = Plan(table=sa.Table("t", sa.MetaData(), column), columns=(column,), mode=mode or Append(), touched=())
    return checks(planned, POSTGRESQL)[0]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (sa.Integer(), 2**31, "outside the integers -2147483648 to 2147483647 that the column takes"),
        (sa.Integer(), True, "a value of type bool, not int"),
        (sa.Integer(), "5", "a value of type str, not int"),
        (sa.Numeric(10, 2), Decimal("1.005"), "more than 2 decimals"),
        (sa.Numeric(10, 2), Decimal(10**8), "more than 8 digits before the decimal point"),
        (sa.Numeric(10, 2), Decimal("NaN"), "NaN is no number"),
        (sa.Numeric(10, 2), 0.5, "a value of type float, not Decimal or int"),
        (sa.Double(), 2**53 + 1, "an integer that no float holds exactly"),
        (sa.String(3), "four", "4 characters, at most 3"),
        (sa.Text(), "a\x00", "holds U+0000, which text in postgresql can't"),
        (sa.Text(), "\ud800", "holds a lone surrogate, which is no Unicode text"),
        (sa.CHAR(3), "ab", "2 characters, and CHAR(3) would pad them with blanks"),
        (sa.CHAR(0), " ", "1 characters, at most 0"),
        (sa.String(0), " ", "1 characters, at most 0"),
        (sa.BINARY(0), b"\x00", "1 bytes, at most 0"),
        (sa.LargeBinary(2), b"abc", "3 bytes, at most 2"),
        (sa.DateTime(), datetime(2026, 1, 1, tzinfo=UTC), "with a time zone, and the column has none"),
        (sa.DateTime(timezone=True), datetime(2026, 1, 1), "without time zone, and the column has one"),
        (sa.Date(), datetime(2026, 1, 1), "a value of type datetime, not date"),
        (sa.Enum("a", "b", name="e"), "c", "'c' is not one of a, b"),
        (sa.JSON(), {"a": [Decimal("NaN")]}, "no JSON: it has no number NaN"),
        (sa.JSON(), {"a": float("nan")}, "does not come back equal from JSON (NaN, infinity, or a type JSON lacks)"),
        (sa.Uuid(as_uuid=False), "x", "no UUID"),
    ],
    ids=str,
)
def test_a_refused_value_has_its_reason(kind: Any, value: object, reason: str) -> None:
    assert check_of(kind)([None, value]) == {1: reason}


@pytest.mark.parametrize("kind", [sa.JSON(), JSONB()], ids=["json", "jsonb"])
def test_numbers_in_json_that_are_too_long_are_found_at_once(kind: Any) -> None:
    longest = int("9" * 4_299)
    found = check_of(kind)([[longest, -longest], [10**5_000], {"a": [Decimal(f"1.{'0' * 16_400}1")]}, [Decimal("1.50")]])
    assert found.pop(1).startswith("no JSON: Exceeds the limit (4300 digits)")
    assert [number for number, reason in found.items() if "beyond the range of numbers in JSONB" in reason] == (
        [2] if isinstance(kind, JSONB) else []
    )
    assert len(found) == isinstance(kind, JSONB)


def test_lengths_are_counted_as_the_database_counts_them() -> None:
    column = sa.Column("v", sa.String(3))
    planned = Plan(table=sa.Table("t", sa.MetaData(), column), columns=(column,), mode=Append(), touched=())
    [check] = checks(planned, SQLSERVER)
    assert check(["abc", "日本語", "a\U0001f600", "\U0001f600\U0001f600"]) == {3: "4 characters, at most 3"}


def test_null_is_refused_where_the_column_or_the_key_says_so() -> None:
    assert check_of(sa.Integer())([1, None]) == {}
    assert check_of(sa.Integer(), nullable=False)([1, None]) == {1: "null, which the column does not take"}
    assert check_of(sa.Integer(), mode=Upsert(keys=("v",)))([1, None]) == {1: "null, which the column does not take"}


def test_a_version_is_never_nan() -> None:
    nan = float("nan")
    assert check_of(sa.Double())([nan]) == {}
    assert check_of(sa.Double(), mode=Upsert(keys=("k",), newer_by="v"))([nan]) == {0: "NaN, which the column does not take"}


def test_no_values_are_no_bad_values() -> None:
    for kind in KINDS:
        assert check_of(kind)([]) == {}
        assert check_of(kind)([None, None]) == {}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**66), 2**66),
    st.floats(),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.decimals(-1000, 1000, places=2),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=5),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.uuids(),
)
KINDS = [
    sa.SmallInteger(),
    sa.BigInteger(),
    sa.Numeric(5, 2),
    sa.Numeric(),
    sa.Double(),
    sa.Boolean(),
    sa.String(3),
    sa.CHAR(3),
    sa.LargeBinary(3),
    sa.DateTime(),
    sa.DateTime(timezone=True),
    sa.Date(),
    sa.JSON(),
    sa.Uuid(),
    sa.Uuid(as_uuid=False),
]


@given(st.sampled_from(KINDS), st.lists(VALUES, max_size=8))
def test_a_value_is_judged_alike_alone_and_among_others(kind: Any, values: list[Any]) -> None:
    check = check_of(kind)
    alone = {number: check([value])[0] for number, value in enumerate(values) if check([value])}
    assert check(values) == alone
    assert check(tuple(values)) == alone


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (sa.Numeric(16, 2), "sqlite keeps 15 digits of a decimal exactly, not 16"),
        (sa.Numeric(), "sqlite keeps 15 digits of a decimal exactly, not any number of"),
        (sa.DateTime(timezone=True), "sqlite does not keep time zones"),
        (sa.Time(timezone=True), "sqlite does not keep time zones"),
        (sa.REAL(), "single precision"),
        (sa.Interval(), "is not supported"),
    ],
    ids=str,
)
def test_what_sqlite_can_not_keep_is_refused_at_the_start(kind: Any, reason: str) -> None:
    column = sa.Column("v", kind)
    planned = Plan(table=sa.Table("t", sa.MetaData(), column), columns=(column,), mode=Append(), touched=())
    with pytest.raises(ConfigError, match=reason):
        checks(planned, SQLITE)
