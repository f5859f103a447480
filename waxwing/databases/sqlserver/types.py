"""The types of SQL Server's catalog (sys.types), and how the columns of a table are read from it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql as _mssql

from waxwing.tables.catalog import Found, Made, Raw, Refused, Taken, Types, found, table_of
from waxwing.tables.values.limits import Amount, FourBytes, Grains, Limit, Moments, Ticks, WrittenXml

mssql: Any = _mssql  # SQLAlchemy's dialects are not annotated
_MINUTE = 60_000_000  # microseconds
_SMALL_FIRST, _SMALL_LAST = datetime(1900, 1, 1), datetime(2079, 6, 6, 23, 59)  # noqa: DTZ001 - it has no zone
_MONEY_MOST, _SMALLMONEY_MOST = Decimal("922337203685477.5807"), Decimal("214748.3647")
_MICROSECOND_DIGITS = 6


def _grains(raw: Raw) -> Limit | None:
    digits = _MICROSECOND_DIGITS if raw.digits is None else raw.digits
    return Grains(10 ** (_MICROSECOND_DIGITS - digits), raw.sql) if digits < _MICROSECOND_DIGITS else None


def _datetimeoffset(raw: Raw) -> Made:
    kind = mssql.DATETIMEOFFSET(raw.digits)
    kind.timezone = True
    return kind, _grains(raw)


_ELSEWHERE = "Alter it to a type of its values, or let a trigger or a computed column make it of them"

TYPES: Types = table_of(
    ("bit", Taken(names="bit", declare="Boolean", exact="", make=lambda _: mssql.BIT())),
    (
        "tinyint smallint int bigint",
        Taken(
            names="tinyint, smallint, int, bigint",
            declare="mssql.TINYINT, SmallInteger, Integer, BigInteger",
            exact="the type's own range; tinyint: 0 to 255",
            make=lambda raw: {"tinyint": mssql.TINYINT, "smallint": sa.SMALLINT, "int": sa.INTEGER, "bigint": sa.BIGINT}[
                raw.kind
            ](),
        ),
    ),
    (
        "decimal numeric",
        Taken(
            names="decimal(p, s), numeric(p, s)",
            declare="Numeric(p, s)",
            exact="p digits (38 at most), s of them behind the point",
            make=lambda raw: sa.NUMERIC(raw.precision, raw.scale),
        ),
    ),
    (
        "money",
        Taken(
            names="money",
            declare="Numeric(19, 4)",
            exact=f"up to {_MONEY_MOST:,}",
            make=lambda _: (sa.NUMERIC(19, 4), Amount(_MONEY_MOST)),
        ),
    ),
    (
        "smallmoney",
        Taken(
            names="smallmoney",
            declare="Numeric(10, 4)",
            exact=f"up to {_SMALLMONEY_MOST:,}",
            make=lambda _: (sa.NUMERIC(10, 4), Amount(_SMALLMONEY_MOST)),
        ),
    ),
    (
        "float",
        Taken(
            names="float, float(25) to float(53)",
            declare="Double, Float",
            exact="all but NaN and infinity",
            make=lambda _: sa.FLOAT(53),
        ),
    ),
    (
        "real",
        Taken(
            names="real, float(1) to float(24)",
            declare="Double, Float",
            exact="numbers that four bytes hold as they are: 0.5, whole ones to 16,777,216; not 0.1",
            make=lambda _: (sa.REAL(), FourBytes("REAL")),
        ),
    ),
    (
        "varchar",
        Taken(
            names="varchar(n), varchar(max)",
            declare="String(n), Text, Enum, JSON; Uuid where n is 36 or 32",
            exact="n bytes of the collation's code page; text that it lacks is a dead letter, never a question mark",
            make=lambda raw: sa.VARCHAR(raw.length),
        ),
    ),
    (
        "nvarchar sysname",
        Taken(
            names="nvarchar(n), nvarchar(max), sysname",
            declare="String(n), Text, Enum, JSON; Uuid where n is 36 or 32",
            exact="n units of UTF-16, no U+0000",
            make=lambda raw: sa.NVARCHAR(raw.length),
        ),
    ),
    (
        "char nchar",
        Taken(
            names="char(n), nchar(n)",
            declare="CHAR(n), String(n), Enum; Uuid where n is 36 or 32",
            exact="n characters, no fewer: they would be padded with blanks",
            make=lambda raw: sa.CHAR(raw.length) if raw.kind == "char" else sa.NCHAR(raw.length),
        ),
    ),
    (
        "text ntext",
        Taken(
            names="text, ntext",
            declare="Text, String(n)",
            exact="as varchar(max), nvarchar(max)",
            make=lambda raw: mssql.TEXT() if raw.kind == "text" else mssql.NTEXT(),
        ),
    ),
    (
        "xml",
        Taken(
            names="xml",
            declare="Text",
            exact="plain elements and text, written as SQL Server writes them: no declaration, no comments, no "
            "blanks between elements, no second attribute",
            make=lambda raw: (mssql.XML(), WrittenXml(raw.sql)),
        ),
    ),
    (
        "binary",
        Taken(
            names="binary(n)",
            declare="BINARY(n), LargeBinary(n)",
            exact="n bytes, no fewer: they would be padded with zeros",
            make=lambda raw: sa.BINARY(raw.length),
        ),
    ),
    (
        "varbinary image",
        Taken(
            names="varbinary(n), varbinary(max), image",
            declare="LargeBinary(n), LargeBinary",
            exact="n bytes",
            make=lambda raw: mssql.IMAGE() if raw.kind == "image" else sa.VARBINARY(raw.length),
        ),
    ),
    ("uniqueidentifier", Taken(names="uniqueidentifier", declare="Uuid", exact="", make=lambda _: mssql.UNIQUEIDENTIFIER())),
    ("date", Taken(names="date", declare="Date", exact="", make=lambda _: sa.DATE())),
    (
        "time",
        Taken(
            names="time(d)",
            declare="Time",
            exact="d digits of a second, 6 at most",
            make=lambda raw: (mssql.TIME(raw.digits), _grains(raw)),
        ),
    ),
    (
        "datetime2",
        Taken(
            names="datetime2(d)",
            declare="DateTime",
            exact="d digits of a second, 6 at most",
            make=lambda raw: (mssql.DATETIME2(raw.digits), _grains(raw)),
        ),
    ),
    (
        "datetimeoffset",
        Taken(
            names="datetimeoffset(d)",
            declare="DateTime(timezone=True)",
            exact="the instant, in UTC, with d digits of a second, 6 at most",
            make=_datetimeoffset,
        ),
    ),
    (
        "datetime",
        Taken(
            names="datetime",
            declare="DateTime",
            exact="from 1753 on, fractions that end in .000, .003 or .007 of a second",
            make=lambda _: (sa.DATETIME(), Ticks("DATETIME")),
        ),
    ),
    (
        "smalldatetime",
        Taken(
            names="smalldatetime",
            declare="DateTime",
            exact=f"whole minutes from {_SMALL_FIRST} to {_SMALL_LAST}",
            make=lambda _: (mssql.SMALLDATETIME(), Moments(_MINUTE, _SMALL_FIRST, _SMALL_LAST, "SMALLDATETIME")),
        ),
    ),
    (
        "sql_variant",
        Refused(names="sql_variant", why="has no type of its own", instead="Alter it to the type of its values"),
    ),
    (
        "timestamp rowversion",
        Refused(names="rowversion (timestamp)", why="is numbered by the server"),
    ),
    (
        "hierarchyid geometry geography",
        Refused(names="hierarchyid, geometry, geography", why="is one of the server's own", instead=_ELSEWHERE),
    ),
    ("json", Refused(names="json (2025)", why="has not been tried with Waxwing", instead="Alter it to nvarchar(max)")),
    ("vector", Refused(names="vector (2025)", why="rounds its numbers to single precision", instead="Alter it to nvarchar(max)")),
)

_COLUMNS = """
    SELECT c.name, TYPE_NAME(c.system_type_id), TYPE_NAME(c.user_type_id), c.max_length, c.precision, c.scale, c.is_nullable,
           c.is_identity, c.default_object_id, CASE WHEN c.is_computed = 1 OR c.generated_always_type > 0 THEN 1 ELSE 0 END
    FROM sys.columns AS c WHERE c.object_id = OBJECT_ID(?)
    ORDER BY c.column_id"""

# A row of these two is numbered, or written, by the server.
_OWN = {"timestamp", "rowversion"}
_WIDE = {"nvarchar", "nchar", "sysname"}  # their lengths are told in bytes
_SIZED = {"varchar", "char", "varbinary", "binary", *_WIDE}
_FRACTION = {"time", "datetime2", "datetimeoffset"}


def columns(connection: sa.Connection, table: sa.Table) -> list[Found]:
    """The columns of a table."""
    out = []
    for name, system, own, size, precision, scale, nullable, identity, default, computed in connection.exec_driver_sql(
        _COLUMNS, (connection.dialect.identifier_preparer.format_table(table),)
    ):
        kind = str(system or own)
        length = (size // 2 if kind in _WIDE else size) if kind in _SIZED and size > 0 else None
        raw = Raw(
            kind,
            _sql(kind, length, precision, scale),
            length=length,
            precision=precision,
            scale=scale,
            digits=scale if kind in _FRACTION else None,
        )
        filled = bool(identity) or bool(default) or kind in _OWN
        alias = f"{own} ({raw.sql})" if own and own != system else ""
        out.append(found(name, raw, TYPES, nullable=bool(nullable), filled=filled, computed=bool(computed), alias=alias))
    return out


def _sql(kind: str, length: int | None, precision: int, scale: int) -> str:
    if kind in _SIZED:
        return f"{kind}({'max' if length is None else length})"
    if kind in {"decimal", "numeric"}:
        return f"{kind}({precision}, {scale})"
    return f"{kind}({scale})" if kind in _FRACTION else kind
