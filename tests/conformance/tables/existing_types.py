"""Columns of existing tables, each type of each database's catalog: what is declared for it, which values it keeps, which not."""

# ruff: noqa: DTZ001, DTZ901, E501 - timestamps without zone are what is tested; each case stands in one line

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from hypothesis import strategies as st

HALF_HOURS = timezone(timedelta(hours=5, minutes=30))


class Colour(enum.Enum):
    Red = "the red one"
    green = "green"


class Case(NamedTuple):
    """A column of this SQL type, for which this is declared: `kept` come back equal, `refused` become dead letters, and of `values` each does one or the other. `shown`: what is read
    for a value (by the type `read`), where that is not the value itself."""

    sql: str
    declared: Any
    values: st.SearchStrategy[Any]
    kept: list[Any]
    refused: list[Any] = []  # noqa: RUF012 - never changed
    read: Any = None
    shown: Callable[[Any], Any] | None = None
    good: Any = None  # what other rows have in the column, where it takes no null


def texts(longest: int, alphabet: str = "aAä 日\U0001f600\n\\\"',;0") -> st.SearchStrategy[str]:
    return st.text(alphabet, max_size=longest)


def fractions(digits: int) -> list[datetime]:
    return [datetime(2026, 1, 2, 3, 4, 5, 10 ** (6 - digits) % 1_000_000), datetime(9999, 12, 31, 23, 59, 59)]


U = UUID("0123abcd-0000-4000-8000-00000000000f")
LONG = "x" * 70_000
UUIDS, DATETIMES, INTEGERS, FLOATS = st.uuids(version=4), st.datetimes(), st.integers(), st.floats(allow_nan=False)
TIMES, DATES, BYTES = st.times(), st.dates(), st.binary(max_size=6)
COARSE = DATETIMES.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)) | DATETIMES
COARSE_TIMES = TIMES.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)) | TIMES
AWARE = st.datetimes(timezones=st.sampled_from([UTC, HALF_HOURS])) | DATETIMES
DECIMALS = st.decimals(-(10**9), 10**9, places=2) | st.decimals(allow_nan=True) | INTEGERS
JSON = st.recursive(st.booleans() | st.integers(0, 2**53) | texts(3), lambda x: st.lists(x, max_size=2), max_leaves=3).map(
    lambda value: {"v": value}
)
LETTERS = st.sampled_from(["Open", "open", "Öpen", "Open ", "it's, ok", "1", "", "closed"])
ENUM = (["Open", "it's, ok", "closed"], ["open", "Öpen", "Open ", "1", "", "OPEN"])

POSTGRESQL_SETUP = (
    "CREATE EXTENSION IF NOT EXISTS citext",
    "CREATE TYPE state AS ENUM ('Open', 'it''s, ok', 'closed')",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE DOMAIN amount AS numeric(10, 2) CHECK (VALUE <> 13)",
    "CREATE DOMAIN known AS varchar(5) DEFAULT 'none' NOT NULL",
    "CREATE DOMAIN short AS known CHECK (VALUE <> 'bad')",
    "CREATE DOMAIN states AS state",
    "CREATE DOMAIN place AS point",
    "CREATE DOMAIN numbers AS int[]",
)
POSTGRESQL = {
    "bool": Case("boolean", sa.Boolean(), st.booleans(), [True, False], [1]),
    "int2": Case("smallint", sa.Integer(), INTEGERS, [-32_768, 32_767], [32_768]),
    "int4": Case("integer", sa.BigInteger(), INTEGERS, [2**31 - 1], [2**31, True]),
    "int8": Case("bigint", sa.BigInteger(), INTEGERS, [-(2**63)], [2**63]),
    "numeric": Case("numeric(10, 2)", sa.Numeric(12, 2), DECIMALS, [Decimal("99999999.99")], [Decimal("1.005"), Decimal(10**8)]),
    "numeric without limits": Case("numeric", sa.Numeric(), DECIMALS, [Decimal(10**400), Decimal("1E-300")], [Decimal("NaN")]),
    "float8": Case("float8", sa.Double(), FLOATS, [0.1, 5e-324, float("inf")], [2**53 + 1]),
    "varchar": Case("varchar(5)", sa.String(50), texts(7), ["", "日本語 \n"], ["123456", "a\x00"]),
    "varchar without limit": Case("varchar", sa.String(100_000), texts(7), [LONG]),
    "text": Case("text", sa.Text(), texts(9), ["", LONG], ["\ud800"]),
    "citext": Case("citext", sa.Text(), texts(9), ["aA"]),
    "bpchar": Case("char(3)", sa.String(36), texts(4), ["abc", "ab "], ["ab", "abcd", ""]),
    "bpchar without length": Case("bpchar", sa.Text(), texts(4), ["ab", "ab  "]),
    "name": Case("name", sa.Text(), texts(80), ["x" * 63, "日" * 21], ["x" * 64, "日" * 22, "x" * 63 + " "]),
    "bytea": Case("bytea", sa.LargeBinary(), BYTES, [b"", b"\x00\xff"], ["x"]),
    "uuid": Case("uuid", sa.Uuid(), UUIDS, [U], ["x"]),
    "uuid in char(36)": Case("char(36)", sa.Uuid(), UUIDS, [U], read=sa.Text(), shown=str),
    "text of uuids in char(36)": Case("char(36)", sa.String(36), UUIDS.map(str), [str(U)], ["x"]),
    "text uuid in varchar(36)": Case(
        "varchar(36)", sa.Uuid(as_uuid=False), UUIDS.map(str), [str(U)], [U.hex], read=sa.Text(), shown=str
    ),
    "date": Case("date", sa.Date(), DATES, [date.min, date.max]),
    "time": Case("time", sa.Time(), TIMES, [time.max], [time(1, tzinfo=UTC)]),
    "time(0)": Case("time(0)", sa.Time(), COARSE_TIMES, [time(1, 2, 3)], [time(1, 2, 3, 1)]),
    "timetz": Case("time(3) with time zone", sa.Time(timezone=True), TIMES, [time(1, 2, 3, 1000, UTC)], [time(1, 2, 3, 1, UTC)]),
    "timestamp": Case("timestamp", sa.DateTime(), DATETIMES, [datetime.min, datetime.max], [datetime(2026, 1, 1, tzinfo=UTC)]),
    "timestamp(3)": Case("timestamp(3)", sa.DateTime(), COARSE, fractions(3), [datetime(2026, 1, 1, 0, 0, 0, 999_999)]),
    "timestamptz": Case(
        "timestamptz",
        sa.DateTime(timezone=True),
        AWARE,
        [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(2026, 1, 1, tzinfo=HALF_HOURS)],
        [datetime(1, 1, 1, tzinfo=HALF_HOURS), datetime(2026, 1, 1)],
    ),
    "timestamptz(0)": Case(
        "timestamptz(0)", sa.DateTime(timezone=True), AWARE, [datetime(1, 1, 1, tzinfo=UTC)], [datetime(2026, 1, 1, 0, 0, 0, 1, UTC)]
    ),
    "json": Case("json", sa.JSON(), JSON, [{"a": ["b"]}], [{"a": datetime(1, 1, 1)}]),
    "jsonb": Case("jsonb", sa.JSON(), JSON, [{"a": ["b"]}]),
    "(enum)": Case("state", sa.Enum(*ENUM[0], "open", "more", name="other"), LETTERS, *ENUM),
    "(enum) for texts": Case("state", sa.String(20), LETTERS, *ENUM),
    "text for an enum": Case("varchar(5)", sa.Enum(Colour), st.sampled_from(Colour), list(Colour), read=sa.Text(), shown=lambda c: c.name),
    "domain": Case("amount", sa.Numeric(12, 2), DECIMALS, [Decimal("1.25")], [Decimal("1.255"), 13, Decimal(10**8)]),
    "domain of a domain": Case("short", sa.String(20), texts(7), ["good"], ["bad", "longer", None], good="good"),
    "domain of an enum": Case("states", sa.String(20), LETTERS, *ENUM),
}  # fmt: skip
POSTGRESQL_REFUSED = (
    'real, "char", interval, money, bit(3), bit varying, inet, cidr, macaddr, macaddr8, point, line, lseg, box, path, polygon, circle, '
    "tsvector, tsquery, xml, int4range, tstzrange, int8multirange, integer[], text[], pair, place, numbers, oid, xid, tid, pg_lsn, "
    "regclass, int2vector, jsonpath, refcursor, aclitem, state[], daterange, gtsvector, pg_snapshot"
)

MYSQL = {
    "tinyint": Case("tinyint", sa.Integer(), INTEGERS, [-128, 127], [128]),
    "tinyint(1)": Case("tinyint(1)", sa.Boolean(), st.booleans(), [True, False], [1]),
    "smallint": Case("smallint unsigned", sa.Integer(), INTEGERS, [0, 65_535], [-1, 65_536]),
    "mediumint": Case("mediumint", sa.BigInteger(), INTEGERS, [2**23 - 1], [2**23]),
    "int": Case("int unsigned zerofill", sa.BigInteger(), INTEGERS, [2**32 - 1], [2**32, -1]),
    "bigint": Case("bigint", sa.BigInteger(), INTEGERS, [2**63 - 1], [2**63]),
    "decimal": Case("decimal(10, 2)", sa.Numeric(12, 2), DECIMALS, [Decimal("99999999.99")], [Decimal("1.005"), Decimal(10**8)]),
    "decimal unsigned": Case("decimal(10, 2) unsigned", sa.Numeric(10, 2), DECIMALS, [Decimal("1.25")], [Decimal("-0.01")]),
    "double": Case("double", sa.Double(), FLOATS, [0.1, 5e-324, 1e308], [float("inf"), 2**53 + 1]),
    "double unsigned": Case("double unsigned", sa.Double(), FLOATS, [0.1], [-0.1]),
    "varchar": Case("varchar(5)", sa.String(50), texts(7), ["", "日本語 \n", "a    "], ["123456", "a     "]),
    "varchar in ascii": Case("varchar(5) character set ascii", sa.String(5), texts(7), ["abc"], ["ä"]),
    "char": Case("char(3)", sa.String(36), texts(4), ["abc"], ["ab", "abcd", "ab "]),
    "uuid in char(36)": Case("char(36)", sa.Uuid(), UUIDS, [U], read=sa.Text(), shown=str),
    "text of uuids in char(36)": Case("char(36)", sa.String(36), UUIDS.map(str), [str(U)], ["x"]),
    "uuid in varchar(36)": Case("varchar(36)", sa.Uuid(), UUIDS, [U], read=sa.Text(), shown=str),
    "uuid in char(32)": Case("char(32)", sa.Uuid(), UUIDS, [U], read=sa.Text(), shown=lambda u: u.hex),
    "tinytext": Case("tinytext", sa.Text(), texts(9), ["x" * 255, "日" * 85, ""], ["x" * 255 + " ", "日" * 85 + " ", "x" * 256]),
    "text": Case("text", sa.Text(), texts(9), ["x" * 65_535], ["x" * 65_535 + "  ", "x" * 65_536]),
    "mediumtext": Case("mediumtext", sa.Text(), texts(9), [LONG + " "]),
    "longtext": Case("longtext", sa.Text(), texts(9), [LONG + " ", "a\x00b"]),
    "longtext of JSON": Case("longtext", sa.JSON(), JSON, [{"a": ["b "]}]),
    "enum": Case("enum('Open', 'it''s, ok', 'closed')", sa.Enum(*ENUM[0], "open", "1", name="other"), LETTERS, *ENUM),
    "enum for texts": Case("enum('Open', 'it''s, ok', 'closed') collate utf8mb4_general_ci", sa.String(20), LETTERS, *ENUM),
    "enum of a class": Case("enum('red', 'green')", sa.Enum(Colour), st.sampled_from(Colour), [Colour.green, "green"], [Colour.Red, "Red"], read=sa.Text(), shown=lambda c: getattr(c, "name", c)),
    "set": Case("set('b', 'a', 'C c')", sa.String(20), st.sampled_from(["a,b", "b,a", "a", "", "c c"]), ["b,a", "a", "", "b,C c"], ["a,b", "a,a", "c c", "B", "b,", "1"], read=sa.Text()),
    "binary": Case("binary(3)", sa.BINARY(3), BYTES, [b"\x00\xff\x00"], [b"ab", b"abcd"]),
    "varbinary": Case("varbinary(3)", sa.LargeBinary(), BYTES, [b"", b"ab\x00"], [b"abcd"]),
    "tinyblob": Case("tinyblob", sa.LargeBinary(), BYTES, [b"\x00" * 255], [b"x" * 256]),
    "blob": Case("blob", sa.LargeBinary(), BYTES, [b" " * 65_535], [b"x" * 65_536]),
    "longblob": Case("longblob", sa.LargeBinary(), BYTES, [b"x" * 70_000]),
    "date": Case("date", sa.Date(), DATES, [date.min, date.max]),
    "datetime": Case("datetime", sa.DateTime(), COARSE, [datetime(2026, 1, 2, 3, 4, 5), datetime.min], [datetime(2026, 1, 1, 0, 0, 0, 500_000)]),
    "datetime(3)": Case("datetime(3)", sa.DateTime(), COARSE, fractions(3), [datetime(2026, 1, 1, 0, 0, 0, 999_999)]),
    "datetime(6)": Case("datetime(6)", sa.DateTime(), DATETIMES, [datetime.max]),
    "timestamp": Case("timestamp(3) null", sa.DateTime(), COARSE, [datetime(1970, 1, 1, 0, 0, 1), datetime(2038, 1, 19, 3, 14, 7, 999_000), datetime(2026, 3, 29, 2, 30)], [datetime(1970, 1, 1), datetime(2038, 1, 19, 3, 14, 8), datetime(2026, 1, 1, 0, 0, 0, 1)]),
    "time": Case("time(0)", sa.Time(), COARSE_TIMES, [time(1, 2, 3)], [time(1, 2, 3, 1)]),
    "year": Case("year", sa.Integer(), st.integers(-5, 3_000), [1901, 2155], [70, 5, 0, 1900, 2156]),
    "uuid": Case("uuid", sa.Uuid(), UUIDS, [U]),
}  # fmt: skip
MYSQL_REFUSED = (
    "float, float(7,4), double(10,2), bit(1), bit(8), inet4, inet6, point, geometry, linestring, polygon, multipoint, "
    "multilinestring, multipolygon, geometrycollection"
)

SQLITE = {
    "integer": Case("integer", sa.Integer(), INTEGERS, [2**31 - 1], [2**31]),
    "tinyint": Case("unsigned big int", sa.BigInteger(), INTEGERS, [2**63 - 1], [2**63]),
    "boolean": Case("bool", sa.Boolean(), st.booleans(), [True, False], [1]),
    "text": Case("text", sa.Text(), texts(9), ["007", "1e5", "a\x00"], ["\ud800"]),
    "varchar": Case("character varying(3)", sa.String(5), texts(7), ["12345"], ["123456"]),
    "blob": Case("blob", sa.LargeBinary(), BYTES, [b"", b"7"]),
    "real": Case("double precision", sa.Double(), FLOATS, [0.1, 7, float("-inf")], [float("nan"), 2**53 + 1]),
    "numeric": Case("decimal(10, 2)", sa.Numeric(10, 2), DECIMALS, [Decimal("1.25")], [Decimal("1.255")]),
    "date": Case("date", sa.Date(), DATES, [date.min]),
    "datetime": Case("timestamp", sa.DateTime(), DATETIMES, [datetime.max]),
    "time": Case("time", sa.Time(), TIMES, [time.max]),
    "json": Case("json", sa.JSON(), JSON, [{"a": ["b"]}]),
    "date in text": Case("text", sa.Date(), DATES, [date.min]),
    "datetime in text": Case("varchar(30)", sa.DateTime(), DATETIMES, [datetime.max]),
    "time in text": Case("text", sa.Time(), TIMES, [time.max]),
    "uuid in text": Case("char(36)", sa.Uuid(), UUIDS, [U]),
    "enum in text": Case("text", sa.Enum(Colour), st.sampled_from(Colour), list(Colour)),
    "untyped texts": Case("", sa.Text(), texts(9), ["007", "1e5"], [7]),
    "untyped integers": Case("", sa.BigInteger(), INTEGERS, [7], ["7", 2**63]),
    "untyped decimals": Case("", sa.Numeric(10, 2), DECIMALS, [Decimal("1.25")], [1.25]),
    "untyped floats": Case("", sa.Double(), FLOATS, [0.5]),
    "untyped dates": Case("", sa.Date(), DATES, [date.max]),
    "untyped bytes": Case("", sa.LargeBinary(), BYTES, [b"7"]),
    "untyped and undeclared": Case("", sa.types.NullType(), texts(9) | BYTES | st.integers(-5, 5), ["007", 7, 0.5, b"7"], [True, float("nan"), 2**63]),
}  # fmt: skip
SQLITE_REFUSED = "string, uuid, money, whatever, any"

SQLSERVER_SETUP = ("CREATE TYPE dbo.email FROM nvarchar(5)",)
SQLSERVER = {
    "bit": Case("bit", sa.Boolean(), st.booleans(), [True, False], [1]),
    "tinyint": Case("tinyint", sa.Integer(), INTEGERS, [0, 255], [-1, 256]),
    "smallint": Case("smallint", sa.Integer(), INTEGERS, [-32_768], [32_768]),
    "int": Case("int", sa.BigInteger(), INTEGERS, [2**31 - 1], [2**31]),
    "bigint": Case("bigint", sa.BigInteger(), INTEGERS, [-(2**63)], [2**63]),
    "decimal": Case("decimal(10, 2)", sa.Numeric(12, 2), DECIMALS, [Decimal("99999999.99")], [Decimal("1.005"), Decimal(10**8)]),
    "numeric": Case("numeric(38, 0)", sa.Numeric(38, 0), INTEGERS, [10**37], [10**38]),
    "money": Case("money", sa.Numeric(19, 4), DECIMALS, [Decimal("922337203685477.5807")], [Decimal("922337203685477.5808")]),
    "smallmoney": Case("smallmoney", sa.Numeric(10, 4), DECIMALS, [Decimal("214748.3647")], [Decimal("214748.3648")]),
    "float": Case("float", sa.Double(), FLOATS, [0.1, 1e308], [float("inf")]),
    "real": Case("real", sa.Double(), FLOATS, [0.5, 16_777_216], [0.1, 16_777_217]),
    "varchar": Case("varchar(5)", sa.String(50), texts(7, "aAä 0"), ["abc", "café"], ["123456"]),
    "nvarchar": Case("nvarchar(5)", sa.String(50), texts(7), ["日本語", "😀😀"], ["😀😀😀", "a\x00"]),
    "sysname": Case("sysname null", sa.String(200), texts(9), ["x" * 128], ["x" * 129]),
    "alias": Case("dbo.email", sa.String(50), texts(7), ["a@b.c"], ["123456"]),
    "char": Case("char(3)", sa.String(36), texts(4, "aA 0"), ["abc"], ["ab", "abcd"]),
    "nchar": Case("nchar(36)", sa.Uuid(), UUIDS, [U], read=sa.Text(), shown=str),
    "text": Case("text", sa.Text(), texts(9, "aA 0"), ["x" * 9_000]),
    "ntext": Case("ntext", sa.Text(), texts(9), ["日" * 5_000]),
    "xml": Case("xml", sa.Text(), st.just("<a/>"), ['<a b="c">d</a>', "<a>1 &lt; 2</a>"], ["<a> </a>", "<a></a>", "<?xml version='1.0'?><a/>", "<a b='c'/>", "<a>", "<a><b></a></b>"]),
    "binary": Case("binary(3)", sa.LargeBinary(), BYTES, [b"\x00\xff\x00"], [b"ab", b"abcd"]),
    "varbinary": Case("varbinary(3)", sa.LargeBinary(), BYTES, [b"", b"ab\x00"], [b"abcd"]),
    "image": Case("image", sa.LargeBinary(), BYTES, [b"x" * 9_000]),
    "uniqueidentifier": Case("uniqueidentifier", sa.Uuid(), UUIDS, [U]),
    "date": Case("date", sa.Date(), DATES, [date.min, date.max]),
    "time": Case("time(0)", sa.Time(), COARSE_TIMES, [time(1, 2, 3)], [time(1, 2, 3, 1)]),
    "datetime2": Case("datetime2(3)", sa.DateTime(), COARSE, fractions(3), [datetime(2026, 1, 1, 0, 0, 0, 999_999)]),
    "datetimeoffset": Case("datetimeoffset(0)", sa.DateTime(timezone=True), AWARE, [datetime(1, 1, 1, tzinfo=UTC)], [datetime(2026, 1, 1, 0, 0, 0, 1, UTC)]),
    "datetime": Case("datetime", sa.DateTime(), COARSE, [datetime(1753, 1, 1), datetime(2026, 1, 1, 0, 0, 0, 997_000)], [datetime(2026, 1, 1, 0, 0, 0, 1_000)]),
    "smalldatetime": Case("smalldatetime", sa.DateTime(), COARSE, [datetime(2079, 6, 6, 23, 59)], [datetime(2026, 1, 1, 0, 0, 1)]),
}  # fmt: skip
SQLSERVER_REFUSED = "sql_variant, timestamp"  # (rowversion's name in the catalog)
