"""Every type, on every database and every way of writing: a value comes back as it was, or is refused with a reason."""

# ruff: noqa: DTZ001, DTZ901 - timestamps without zone are what is tested

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.place import Place
from waxwing.errors import ConfigError
from waxwing.tables.columns import checks
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Append, Mode, Upsert
from waxwing.tables.planning import plan

# SQLAlchemy warns of decimals on SQLite, which it reads from floats: up to 15 digits they are exact, and more are refused.
pytestmark = pytest.mark.filterwarnings("ignore:Dialect sqlite.pysqlite does .not. support Decimal objects")


class Colour(enum.Enum):
    RED = "the red one"
    TABBED = "a\ttab"


class Case(NamedTuple):
    """A column type, values that it may be given, values that it must keep, and others that it must refuse."""

    type: Callable[[], Any]
    values: st.SearchStrategy[Any]
    kept: list[Any]
    refused: list[Any]


ANY_TEXT = st.text(st.characters(), max_size=20)  # with U+0000, every plane, and surrogates
WIDE = ["x" * 50, "𝒳𐍈", "\U0010ffff", "é"]
AWKWARD = ["", " ", "None", "\\N", "\\.", "null", "a\tb", "a\nb\r\nc\rd", "\\", "\\\\", "'", '"', "%s", *WIDE]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=10),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))])

CASES = {
    "smallint": Case(sa.SmallInteger, st.integers(-40_000, 40_000), [32_767, -32_768, 0], [32_768, -32_769, True, "1", 1.0]),
    "int": Case(sa.Integer, st.integers(-(2**33), 2**33), [2**31 - 1, -(2**31)], [2**31, True, False, "1", Decimal(1)]),
    "bigint": Case(sa.BigInteger, st.integers(-(2**65), 2**65), [2**63 - 1, -(2**63)], [2**63, -(2**63) - 1, "5"]),
    "decimal": Case(
        lambda: sa.Numeric(10, 2),
        st.decimals(allow_nan=True, allow_infinity=True) | st.decimals(-(10**9), 10**9, places=2) | st.integers(),
        [Decimal("99999999.99"), Decimal("-0.01"), Decimal("1E+3"), Decimal("1.500"), 7, Decimal("0.10")],
        [Decimal("0.001"), Decimal(10**8), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 25.5, "1", True, 10**8],
    ),
    "decimal of 15 digits": Case(
        lambda: sa.Numeric(15, 4),
        st.decimals(-(10**11), 10**11, places=4) | st.decimals(places=5),
        [Decimal("99999999999.9999"), Decimal("-12345678901.2345"), Decimal("0.0001")],
        [Decimal(10**11), Decimal("0.00001")],
    ),
    "double": Case(
        sa.Double,
        st.floats() | st.integers(),
        [2**300, 0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 2**53, 1e22, 123456789.123456789],
        [2**53 + 1, "1", Decimal(1), True, 10**400],
    ),
    "float": Case(sa.Float, st.floats(), [0.30000000000000004], ["x"]),
    "boolean": Case(sa.Boolean, st.booleans(), [True, False], [1, 0, "true", None]),
    "varchar": Case(lambda: sa.String(20), ANY_TEXT | st.text(max_size=25), AWKWARD[: -len(WIDE)], ["x" * 21, "\ud800", 5, b"x"]),
    "text": Case(sa.Text, ANY_TEXT | st.sampled_from(AWKWARD), [*AWKWARD, "x" * 100_000], ["\udfff", 1]),
    "char": Case(lambda: sa.CHAR(3), st.text(max_size=4), ["abc", "a  "], ["ab", "abcd"]),
    "enum of text": Case(lambda: sa.Enum("a", "None", name="letters"), st.sampled_from(["a", "None", "b"]), ["a", "None"], ["b"]),
    "enum class": Case(lambda: sa.Enum(Colour), st.sampled_from(Colour), list(Colour), ["the red one", 1]),
    "binary": Case(sa.LargeBinary, st.binary(max_size=30), [b"", b"\x00\xff\\x", bytes(range(256))], ["text", bytearray(b"x")]),
    "date": Case(sa.Date, st.dates(), [date.min, date.max, date(1582, 10, 10)], [datetime(2026, 1, 1), "2026-01-01"]),
    "datetime": Case(
        sa.DateTime,
        st.datetimes() | st.datetimes(timezones=ZONES),
        [datetime.min, datetime.max, datetime(2026, 3, 29, 2, 30, 0, 1)],
        [datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), "2026-01-01", 0],
    ),
    "time": Case(sa.Time, st.times(), [time.min, time.max, time(1, 2, 3, 4)], [time(1, tzinfo=UTC), "01:00"]),
    "json": Case(
        sa.JSON,
        JSON_VALUES,
        [
            {},
            [],
            "",
            "None",
            {"a": [1, None, "x\\n\t", 1.5, "\U0001f600"], "": {}},
            [2**63, "5"],
            "5",
            True,
            5,
            1.5,
            {"a": 2**70},
        ],
        [{"a": math.nan}, [(1, 2)], {1: "a"}, math.inf, ["\ud800"], [datetime(2026, 1, 1)], Decimal("NaN"), msgspec.Raw(b"1,2")],
    ),
    "uuid": Case(
        sa.Uuid,
        st.uuids(version=4),  # MariaDB takes no others but those of the standard
        [UUID(int=0), UUID(int=2**128 - 1), UUID("1" * 32)],
        ["1" * 32, 5],
    ),
    "uuid as text": Case(
        lambda: sa.Uuid(as_uuid=False), st.uuids(version=4).map(str), ["0123abcd-0000-4000-8000-000000000000"], ["x", "1" * 32]
    ),
}


def always(dialect: Dialect) -> bool:
    return True


def with_zones(dialect: Dialect) -> bool:
    return dialect.timezone_kept


# And which databases keep them; the others refuse the column.
SOME_CASES: dict[str, tuple[Case, Callable[[Dialect], bool]]] = {
    "timestamp with zone": (
        Case(
            lambda: sa.DateTime(timezone=True),
            st.datetimes(timezones=ZONES) | st.datetimes(),
            [datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))), datetime(1, 1, 1, tzinfo=UTC)],
            [datetime(2026, 1, 1), datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))],
        ),
        with_zones,
    ),
    "time with zone": (
        Case(
            lambda: sa.Time(timezone=True),
            st.times(timezones=ZONES) | st.times(),
            [time(23, 59, 59, 999_999, tzinfo=timezone(-timedelta(hours=11)))],
            [time(1)],
        ),
        lambda dialect: dialect.time_timezone_kept,
    ),
    "numeric without limits": (
        Case(
            sa.Numeric,
            st.decimals(allow_nan=True, allow_infinity=True),
            [Decimal("12345678901234567.89"), Decimal(10**400), Decimal("1E-300")],
            [Decimal("NaN"), Decimal("1E+5000"), Decimal("1E-5000")],
        ),
        lambda dialect: dialect.decimal_digits_max >= 1_000,
    ),
    "numeric of 38 digits": (
        Case(lambda: sa.Numeric(38, 10), st.decimals(places=10), [Decimal("9" * 28 + "." + "9" * 10)], [Decimal("9" * 29)]),
        lambda dialect: dialect.decimal_digits_max >= 38,
    ),
}
# Both bulk paths of each database; which statement stands around a value is no matter to it.
WAYS: dict[str, tuple[Mode, bool]] = {
    "append": (Append(), False),
    "upsert when newer": (Upsert(keys=("n",), newer_by="m"), True),
}


def round_trip(place: Place, case: Case, way: str) -> None:
    """Check lists of values: what is accepted comes back equal, of the same type; null stays null."""
    mode, staged = WAYS[way]
    value = sa.Column("v", case.type())
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    table = place.table(value, number, sa.Column("m", sa.Integer))
    planned = place.plan(table, mode)
    bulk = place.bulk(planned, staged=staged)
    with place.engine.connect() as connection:

        def check(values: list[Any]) -> None:
            rows = place.accepted(planned, [(None, 0, 1), *((value, n, 1) for n, value in enumerate(values, 1))])
            with connection.begin():
                connection.execute(table.delete())
            with connection.begin():
                bulk.write(connection, rows)
            with connection.begin():
                read = [tuple(row) for row in connection.execute(sa.select(table).order_by(table.c.n))]
            assert [(row[1], row[2]) for row in read] == [(row[1], row[2]) for row in rows]
            for (got, *_), (gave, *_) in zip(read, rows, strict=True):
                assert same(got, gave), (got, gave)

        @settings(max_examples=10, suppress_health_check=list(HealthCheck))
        @given(st.lists(case.values, max_size=12))
        def any_values(values: list[Any]) -> None:
            check(values)

        check([])
        check([value for value in case.kept if not isinstance(value, str) or "\x00" not in value])
        any_values()


def same(got: Any, gave: Any) -> bool:
    if isinstance(gave, float) and math.isnan(gave):
        return isinstance(got, float) and math.isnan(got)
    # An int given to a decimal or float column comes back as its equal.
    return bool(got == gave) and (type(got) is type(gave) or type(gave) is int)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_a_value_comes_back_as_it_was_or_is_refused(place: Place, name: str, way: str) -> None:
    round_trip(place, CASES[name], way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SOME_CASES)
def test_some_databases_keep_more(place: Place, name: str, way: str) -> None:
    case, keeps = SOME_CASES[name]
    if not keeps(place.database.dialect):
        with pytest.raises(ConfigError, match="Column v"):
            round_trip(place, case, way)
        return
    round_trip(place, case, way)


@pytest.mark.parametrize("name", [*CASES, *SOME_CASES])
def test_the_same_values_are_kept_and_refused_everywhere(place: Place, name: str) -> None:
    dialect = place.database.dialect
    case, keeps = SOME_CASES.get(name, (CASES.get(name), always))
    assert case is not None
    if not keeps(dialect):
        return  # refused at the start: the test above
    [check] = checks(plan(place.table(sa.Column("v", case.type(), nullable=False)), Append(), dialect=dialect), dialect)
    kept = [value for value in case.kept if not beyond(dialect, name, value)]
    assert check(kept) == {}
    for value in [*case.refused, None, *(value for value in case.kept if value not in kept)]:
        assert list(check([*kept, value])) == [len(kept)], value


def beyond(dialect: Dialect, name: str, value: Any) -> bool:
    """What a database can't hold at all, of the values that the others keep."""
    if name == "char":
        return not dialect.char_blanks_kept and str(value).endswith(" ")
    return not dialect.float_infinity and isinstance(value, float) and math.isinf(value)


def test_nul_in_text_is_kept_or_refused_as_the_database_says(place: Place) -> None:
    for kind, value in ((sa.Text(), "a\x00b"), (sa.JSON(), {"a\x00": ["\x00"]})):
        table = place.table(sa.Column("n", sa.Integer), sa.Column("v", kind))
        planned = place.plan(table, Append())
        rows = place.accepted(planned, [(1, value)])
        assert len(rows) == place.database.dialect.text_nul
        place.write(planned, rows)
        assert place.read(table) == rows


def test_a_backslash_before_u0000_is_no_nul(place: Place) -> None:
    table = place.table(sa.Column("n", sa.Integer), sa.Column("v", sa.JSON()))
    planned = place.plan(table, Append())
    rows = [(1, {"a": "\\u0000"}), (2, ["\\\\u0000"])]
    assert place.accepted(planned, rows) == rows
    place.write(planned, rows)
    assert place.read(table) == rows


def test_nan_is_kept_or_refused_as_the_database_says(place: Place) -> None:
    table = place.table(sa.Column("v", sa.Double))
    assert len(place.accepted(place.plan(table, Append()), [(math.nan,)])) == place.database.dialect.float_nan


@pytest.mark.parametrize(
    "kind", [sa.Interval(), sa.REAL(), sa.Float(24), sa.ARRAY(sa.Integer), sa.PickleType()], ids=lambda kind: type(kind).__name__
)
def test_a_type_that_is_not_kept_exactly_is_refused_at_the_start(place: Place, kind: Any) -> None:
    with pytest.raises(ConfigError, match="Column v"):
        plan(place.table(sa.Column("v", kind)), Append(), dialect=place.database.dialect)
