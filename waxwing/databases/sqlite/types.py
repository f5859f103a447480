"""The types of SQLite, and how the columns of a table are read: any word may be a type, and what a column does to its values (its
affinity) follows from parts of the word. https://www.sqlite.org/datatype3.html"""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from waxwing.tables.catalog import Found, Raw, Refused, Taken, Types, found, table_of

_LENGTH = re.compile(r"^([^(]*)(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?")

TYPES: Types = table_of(
    (
        "int integer tinyint smallint mediumint bigint (integer)",
        Taken(
            names="integer, int, bigint and all whose name holds int",
            declare="SmallInteger, Integer, BigInteger; Boolean",
            exact="the declared type's own range, 64 bits at most",
            make=lambda raw: sa.BIGINT() if raw.kind == "bigint" else sa.INTEGER(),
        ),
    ),
    (
        "text varchar nvarchar char nchar clob (text)",
        Taken(
            names="text, varchar(n), char(n) and all whose name holds char, clob or text",
            declare="String(n), Text, CHAR(n), Enum, Uuid (as 32 digits), Date, Time, DateTime, JSON",
            exact="as declared in the flow's Table: SQLite itself has no lengths",
            make=lambda raw: sa.CHAR(raw.length) if raw.kind == "char" else sa.VARCHAR(raw.length),
        ),
    ),
    ("blob", Taken(names="blob", declare="LargeBinary", exact="", make=lambda _: sa.BLOB())),
    (
        "(none) any",
        Taken(
            names="columns without a type; any, in a strict table",
            declare="all that SQLite takes",
            exact="as it was given",
            make=lambda _: sa.types.NullType(),
        ),
    ),
    (
        "real double float (real)",
        Taken(
            names="real, double, float and all whose name holds real, floa or doub",
            declare="Double, Float",
            exact="all but NaN; integers that a float holds",
            make=lambda _: sa.DOUBLE(),
        ),
    ),
    (
        "numeric decimal",
        Taken(
            names="numeric(p, s), decimal(p, s)",
            declare="Numeric(p, s)",
            exact="15 digits: they are kept as floats",
            make=lambda raw: sa.NUMERIC(raw.precision, raw.scale),
        ),
    ),
    ("boolean bool", Taken(names="boolean, bool", declare="Boolean", exact="", make=lambda _: sa.BOOLEAN())),
    ("date", Taken(names="date", declare="Date", exact="as text", make=lambda _: sa.DATE())),
    ("time", Taken(names="time", declare="Time", exact="as text, with microseconds", make=lambda _: sa.TIME())),
    (
        "datetime timestamp",
        Taken(
            names="datetime, timestamp",
            declare="DateTime",
            exact="as text, with microseconds and without zone",
            make=lambda _: sa.DATETIME(),
        ),
    ),
    (
        "json",
        Taken(
            names="json",
            declare="JSON",
            exact="all but a bare number that it would change",
            make=lambda _: sqlite.JSON(),
        ),
    ),
    (
        "(numeric)",
        Refused(
            names="any other word (string, uuid, money, ...)",
            why="is numeric to SQLite, which would make the number 7 of the text 007",
            instead="Alter it to text, integer, real or blob",
        ),
    ),
)


def columns(connection: sa.Connection, table: sa.Table) -> list[Found]:
    """The columns of a table."""
    quote = connection.dialect.identifier_preparer.quote
    schema = f"{quote(table.schema)}." if table.schema else ""
    rows = connection.exec_driver_sql(f"PRAGMA {schema}table_xinfo({quote(table.name)})").all()
    strict = any(row.name.lower() == table.name.lower() and row.strict for row in _tables(connection))
    return [
        found(
            row.name,
            _raw(row.type, strict=strict),
            TYPES,
            nullable=not row.notnull,
            filled=row.dflt_value is not None,
            computed=row.hidden in {2, 3},
        )
        for row in rows
        if row.hidden != 1  # a virtual table's own
    ]


def _tables(connection: sa.Connection) -> list[Any]:
    """What is known of strict tables, which there are since 3.37."""
    if sqlite3.sqlite_version_info < (3, 37):
        return []
    return list(connection.exec_driver_sql("PRAGMA table_list").all())


def _raw(sql: str, *, strict: bool) -> Raw:
    word, first, second = _LENGTH.match(sql.strip()).groups()  # type: ignore[union-attr]  # it matches the empty text too
    kind = " ".join(word.lower().split())
    length, scale = (None if number is None else int(number) for number in (first, second))
    raw = Raw(kind, sql, length=length, precision=length, scale=scale)
    if kind == "any" and not strict:
        return raw._replace(kind="(numeric)")
    if kind in TYPES:
        return raw
    return raw._replace(kind=_affinity(kind))


def _affinity(kind: str) -> str:
    """As SQLite finds it, in this order."""
    if "int" in kind:
        return "(integer)"
    if any(part in kind for part in ("char", "clob", "text")):
        return "(text)"
    if not kind or "blob" in kind:
        return "blob" if kind else "(none)"
    if any(part in kind for part in ("real", "floa", "doub")):
        return "(real)"
    return "(numeric)"
