"""The types of MariaDB's and MySQL's catalog (information_schema.columns), and how the columns of a table are read from it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from waxwing.tables.catalog import Found, Made, Raw, Refused, Taken, Types, found, table_of
from waxwing.tables.values.json_values import Doubles
from waxwing.tables.values.limits import Between, Grains, Limit, Moments, Octets, Selection

# MariaDB 11.5 goes on to 2106.
_TIMESTAMP_FIRST, _TIMESTAMP_LAST = datetime(1970, 1, 1, 0, 0, 1), datetime(2038, 1, 19, 3, 14, 7, 999_999)  # noqa: DTZ001 - it has no zone
_YEARS = (1901, 2155)


def _integer(raw: Raw) -> Made:
    kinds: dict[str, Any] = {
        "tinyint": mysql.TINYINT,
        "smallint": mysql.SMALLINT,
        "mediumint": mysql.MEDIUMINT,
        "int": mysql.INTEGER,
        "bigint": mysql.BIGINT,
    }
    made: Made = kinds[raw.kind](unsigned=raw.unsigned)
    return made


def _grain(raw: Raw) -> int:
    return int(10 ** (6 - (raw.digits or 0)))


def _grains(raw: Raw) -> Limit | None:
    return Grains(_grain(raw), raw.sql) if _grain(raw) > 1 else None


def _timestamp(raw: Raw) -> Made:
    return mysql.TIMESTAMP(fsp=raw.digits), Moments(_grain(raw), _TIMESTAMP_FIRST, _TIMESTAMP_LAST, raw.sql)


def _text(raw: Raw) -> Made:
    kinds: dict[str, Any] = {"tinytext": mysql.TINYTEXT, "text": mysql.TEXT, "mediumtext": mysql.MEDIUMTEXT}
    most = raw.length or 0
    return (kinds[raw.kind](), Octets(most, raw.sql)) if raw.kind in kinds else mysql.LONGTEXT()


_ROUNDED = Refused(
    names="float; float(m, d), double(m, d)",
    why="rounds nearly every number",
    instead="Alter it to double without digits, or to decimal",
)

TYPES: Types = table_of(
    (
        "tinyint smallint mediumint int bigint",
        Taken(
            names="tinyint, smallint, mediumint, int, bigint, all of them unsigned or zerofill too",
            declare="SmallInteger, Integer, BigInteger; Boolean for tinyint(1)",
            exact="the type's own range",
            make=_integer,
        ),
    ),
    (
        "decimal",
        Taken(
            names="decimal(p, s)",
            declare="Numeric(p, s)",
            exact="p digits, s of them behind the point; unsigned: none below 0",
            make=lambda raw: mysql.DECIMAL(raw.precision, raw.scale),
        ),
    ),
    (
        "double",
        Taken(
            names="double",
            declare="Double, Float",
            exact="all but NaN and infinity",
            make=lambda _: mysql.DOUBLE(),
        ),
    ),
    ("float float() double()", _ROUNDED),
    (
        "varchar",
        Taken(
            names="varchar(n)",
            declare="String(n), Enum, Uuid",
            exact="n characters. Its character set must be utf8mb4 or ascii",
            make=lambda raw: mysql.VARCHAR(raw.length),
        ),
    ),
    (
        "char",
        Taken(
            names="char(n)",
            declare="CHAR(n), String(n), Enum, Uuid",
            exact="n characters, no fewer, and no blank at the end, which would be dropped. A Uuid also as 32 digits",
            make=lambda raw: mysql.CHAR(raw.length),
        ),
    ),
    (
        "tinytext text mediumtext longtext",
        Taken(
            names="tinytext, text, mediumtext, longtext",
            declare="Text, String(n), JSON",
            exact="255, 65,535, 16,777,215 bytes of UTF-8, no limit. (Blanks beyond would be cut)",
            make=_text,
        ),
    ),
    (
        "enum",
        Taken(
            names="enum",
            declare="Enum, String(n)",
            exact="its values to the letter, whatever the collation takes for one",
            make=lambda raw: mysql.ENUM(*raw.labels),
        ),
    ),
    (
        "set",
        Taken(
            names="set",
            declare="String(n)",
            exact="its members in its own order, each once, with commas between them",
            make=lambda raw: (mysql.VARCHAR(), Selection(raw.labels)),
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
        "varbinary",
        Taken(names="varbinary(n)", declare="LargeBinary(n)", exact="n bytes", make=lambda raw: sa.LargeBinary(raw.length)),
    ),
    (
        "tinyblob blob mediumblob longblob",
        Taken(
            names="tinyblob, blob, mediumblob, longblob",
            declare="LargeBinary",
            exact="255, 65,535, 16,777,215 bytes, no limit",
            make=lambda raw: sa.LargeBinary(None if raw.kind == "longblob" else raw.length),
        ),
    ),
    ("date", Taken(names="date", declare="Date", exact="", make=lambda _: sa.DATE())),
    (
        "datetime",
        Taken(
            names="datetime(d)",
            declare="DateTime",
            exact="d digits of a second (0 where it says nothing)",
            make=lambda raw: (mysql.DATETIME(fsp=raw.digits), _grains(raw)),
        ),
    ),
    (
        "timestamp",
        Taken(
            names="timestamp(d)",
            declare="DateTime",
            exact="the same, in UTC, from 1970-01-01 00:00:01 to 2038-01-19 03:14:07",
            make=_timestamp,
        ),
    ),
    (
        "time",
        Taken(
            names="time(d)",
            declare="Time",
            exact="d digits of a second (0 where it says nothing)",
            make=lambda raw: (mysql.TIME(fsp=raw.digits), _grains(raw)),
        ),
    ),
    (
        "year",
        Taken(
            names="year",
            declare="Integer, SmallInteger",
            exact=f"{_YEARS[0]} to {_YEARS[1]}: two digits would become a year of 1970 to 2069",
            make=lambda raw: (mysql.SMALLINT(unsigned=True), Between(*_YEARS, raw.sql)),
        ),
    ),
    (
        "json",
        Taken(
            names="json (MySQL's)",
            declare="JSON",
            exact="integers of 64 bits, and doubles",
            make=lambda _: (mysql.JSON(), Doubles()),
        ),
    ),
    (
        "uuid",
        Taken(names="uuid (MariaDB's)", declare="Uuid", exact="those that the standard has", make=lambda _: sa.UUID()),
    ),
    ("bit", Refused(names="bit(n)", why="gives bytes for numbers", instead="Alter it to tinyint(1) or bigint unsigned")),
    (
        "inet4 inet6",
        Refused(
            names="inet4, inet6",
            why="is a network address, written otherwise than it came",
            instead="Alter it to varchar(45); a generated column may make the address of it",
        ),
    ),
    (
        "geometry point linestring polygon multipoint multilinestring multipolygon geometrycollection geomcollection",
        Refused(
            names="geometry, point, linestring, polygon and the like",
            why="is a geometric one",
            instead="Alter it to text or double columns, or let a trigger or a generated column make it of them",
        ),
    ),
    (
        "vector",
        Refused(names="vector", why="rounds its numbers to single precision", instead="Alter it to json"),
    ),
    (
        "xmltype",
        Refused(names="xmltype", why="may write XML otherwise than it came", instead="Alter it to longtext"),
    ),
)

_COLUMNS = sa.text("""
    SELECT column_name AS name, lower(data_type) AS kind, column_type AS sql_type, character_octet_length AS octets,
           character_maximum_length AS length, numeric_precision AS digits, numeric_scale AS scale,
           datetime_precision AS fraction, is_nullable = 'YES' AS nullable, column_default AS given, extra AS extra,
           coalesce(generation_expression, '') <> '' AS computed
    FROM information_schema.columns
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
    ORDER BY ordinal_position""")

_LABEL = re.compile(r"'((?:[^']|'')*)'")


def columns(connection: sa.Connection, table: sa.Table) -> list[Found]:
    """The columns of a table."""
    out = []
    for row in connection.execute(_COLUMNS, {"schema": table.schema, "name": table.name}):
        sql = str(row.sql_type)
        kind = f"{row.kind}()" if row.kind in {"float", "double"} and row.scale is not None else str(row.kind)
        raw = Raw(
            kind,
            sql,
            length=row.octets if row.kind.endswith(("text", "blob")) else row.length,
            precision=row.digits,
            scale=row.scale,
            digits=row.fraction,
            unsigned="unsigned" in sql.lower().split(),
            labels=tuple(map(_label, _LABEL.findall(sql))) if kind in {"enum", "set"} else (),
        )
        filled = row.given is not None or any(word in row.extra.lower() for word in ("auto_increment", "default_generated"))
        out.append(found(row.name, raw, TYPES, nullable=bool(row.nullable), filled=filled, computed=bool(row.computed)))
    return out


# How the catalog writes what a label may hold besides plain letters.
_ESCAPED = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\0": "\0", "''": "'"}


def _label(text: str) -> str:
    return re.sub(r"\\[\\nr0]|''", lambda found: _ESCAPED[found.group()], text)
