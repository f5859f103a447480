"""The types of PostgreSQL's catalog (pg_type), and how the columns of a table are read from it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from waxwing.tables.catalog import Found, Made, Raw, Refused, Taken, Types, found, table_of
from waxwing.tables.values.limits import Grains, Limit, Octets

NAME_BYTES = 63


def _grains(raw: Raw) -> Limit | None:
    digits = 6 if raw.digits is None else raw.digits
    return Grains(10 ** (6 - digits), raw.sql) if digits < 6 else None


def _timestamp(raw: Raw) -> Made:
    return postgresql.TIMESTAMP(timezone=raw.kind == "timestamptz", precision=raw.digits), _grains(raw)


def _time(raw: Raw) -> Made:
    return postgresql.TIME(timezone=raw.kind == "timetz", precision=raw.digits), _grains(raw)


_BOOKKEEPING = Refused(
    names="oid, xid, cid, tid, pg_lsn, reg*, int2vector and the like",
    why="is one of the server's own bookkeeping",
    instead="Alter it to bigint or text",
)
_GEOMETRY = Refused(
    names="point, line, lseg, box, path, polygon, circle",
    why="is a geometric one, read from a text of its own and written otherwise",
    instead="Alter it to text or double precision columns, or let a trigger or a generated column make it of them",
)
_RANGE = Refused(
    names="ranges and multiranges (int4range, tstzrange, ...)",
    why="is a range, which is written otherwise than it came (its bounds are normalised)",
    instead="Alter it to two columns of its bounds; a generated column may make the range of them",
)
_BITS = Refused(
    names="bit, varbit", why="is a string of bits, which Python has no type for", instead="Alter it to integer, boolean or bytea"
)

_SYSTEM_TYPES = (
    "oid xid xid8 cid tid pg_lsn pg_snapshot txid_snapshot refcursor int2vector oidvector aclitem jsonpath pg_node_tree "
    "pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary pg_brin_minmax_multi_summary"
)
_REG_TYPES = (
    "regclass regcollation regconfig regdatabase regdictionary regnamespace regoper regoperator regproc regprocedure regrole "
    "regtype"
)

TYPES: Types = table_of(
    ("bool", Taken(names="boolean", declare="Boolean", exact="", make=lambda _: sa.BOOLEAN())),
    ("int2", Taken(names="smallint", declare="SmallInteger", exact="-32,768 to 32,767", make=lambda _: sa.SMALLINT())),
    ("int4", Taken(names="integer", declare="Integer", exact="-2**31 to 2**31 - 1", make=lambda _: sa.INTEGER())),
    ("int8", Taken(names="bigint", declare="BigInteger", exact="-2**63 to 2**63 - 1", make=lambda _: sa.BIGINT())),
    (
        "numeric",
        Taken(
            names="numeric(p, s), numeric",
            declare="Numeric(p, s), Numeric",
            exact="p digits, s of them behind the point; without limits 1,000 on either side. Not NaN, not infinity",
            make=lambda raw: sa.NUMERIC(raw.precision, raw.scale),
        ),
    ),
    (
        "float8",
        Taken(
            names="double precision",
            declare="Double, Float",
            exact="all, NaN and infinity too; integers that a float holds",
            make=lambda _: sa.DOUBLE_PRECISION(53),
        ),
    ),
    (
        "float4",
        Refused(
            names="real",
            why="has single precision: nearly every number would be rounded",
            instead="Alter it to double precision",
        ),
    ),
    (
        "varchar",
        Taken(
            names="varchar(n), varchar",
            declare="String(n), String, Enum, JSON; Uuid where n is 36 or 32",
            exact="n characters, no U+0000",
            make=lambda raw: sa.VARCHAR(raw.length),
        ),
    ),
    ("text", Taken(names="text", declare="Text, String(n), Enum, JSON", exact="no U+0000", make=lambda _: sa.TEXT())),
    (
        "citext",
        Taken(names="citext", declare="String(n), Text", exact="no U+0000", make=lambda _: postgresql.CITEXT()),
    ),
    (
        "bpchar",
        Taken(
            names="char(n)",
            declare="CHAR(n), String(n), Enum; Uuid where n is 36 or 32",
            exact="n characters, no fewer: they would be padded with blanks",
            make=lambda raw: sa.TEXT() if raw.length is None else sa.CHAR(raw.length),
        ),
    ),
    (
        "name",
        Taken(
            names="name",
            declare="String(63)",
            exact=f"{NAME_BYTES} bytes of UTF-8: more would be cut",
            make=lambda raw: (sa.VARCHAR(NAME_BYTES), Octets(NAME_BYTES, raw.sql)),
        ),
    ),
    (
        "char",
        Refused(names='"char"', why="holds one byte, and cuts what is longer", instead="Alter it to char(1) or text"),
    ),
    ("bytea", Taken(names="bytea", declare="LargeBinary", exact="", make=lambda _: postgresql.BYTEA())),
    ("uuid", Taken(names="uuid", declare="Uuid", exact="", make=lambda _: sa.UUID())),
    ("date", Taken(names="date", declare="Date", exact="", make=lambda _: sa.DATE())),
    (
        "time timetz",
        Taken(
            names="time(d), time(d) with time zone",
            declare="Time, Time(timezone=True)",
            exact="d digits of a second (6 where it says nothing)",
            make=_time,
        ),
    ),
    (
        "timestamp timestamptz",
        Taken(
            names="timestamp(d), timestamp(d) with time zone",
            declare="DateTime, DateTime(timezone=True)",
            exact="d digits of a second (6 where it says nothing). With zone: the instant, from year 1 to 9999 in UTC",
            make=_timestamp,
        ),
    ),
    ("json", Taken(names="json", declare="JSON", exact="as it was written", make=lambda _: postgresql.JSON())),
    ("jsonb", Taken(names="jsonb", declare="JSON", exact="numbers by their value", make=lambda _: postgresql.JSONB())),
    (
        "(enum)",
        Taken(
            names="enumerations (CREATE TYPE ... AS ENUM)",
            declare="Enum, String(n)",
            exact="its labels",
            make=lambda raw: postgresql.ENUM(*raw.labels, name=raw.sql.strip('"'), create_type=False),
        ),
    ),
    (
        "interval",
        Refused(
            names="interval",
            why="is an interval, of months, days and seconds that Python's timedelta does not tell apart",
            instead="Alter it to bigint (milliseconds) or text",
        ),
    ),
    (
        "money",
        Refused(
            names="money",
            why="is read and rounded by the server's locale",
            instead="Alter it to numeric(19, 2)",
        ),
    ),
    ("bit varbit", _BITS),
    (
        "inet cidr macaddr macaddr8",
        Refused(
            names="inet, cidr, macaddr, macaddr8",
            why="is a network address, written otherwise than it came",
            instead="Alter it to text; a generated column may make the address of it",
        ),
    ),
    ("point line lseg box path polygon circle", _GEOMETRY),
    (
        "tsvector tsquery gtsvector",
        Refused(
            names="tsvector, tsquery",
            why="is what a text search makes of a text",
            instead="Write the text, and let a generated column make it: GENERATED ALWAYS AS (to_tsvector(...)) STORED",
        ),
    ),
    (
        "xml",
        Refused(
            names="xml",
            why="drops parts of what it is given (the XML declaration)",
            instead="Alter it to text; a generated column may make the XML of it",
        ),
    ),
    ("(range) (multirange)", _RANGE),
    (
        "(array)",
        Refused(
            names="arrays",
            why="is an array",
            instead="Alter it to jsonb, declare JSON and give it the list",
        ),
    ),
    (
        "(composite)",
        Refused(
            names="composite types (CREATE TYPE ... AS (...), rows of tables)",
            why="is made of several values",
            instead="Alter it to a column for each of them, or to jsonb",
        ),
    ),
    (f"{_SYSTEM_TYPES} {_REG_TYPES}", _BOOKKEEPING),
)

# Domains are followed to the type that they stand for, with what they say on the way.
_COLUMNS = sa.text("""
    WITH RECURSIVE based AS (
        SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS declared, a.atttypid AS type, a.atttypmod AS typmod,
               a.attnotnull AS required, a.atthasdef OR a.attidentity <> '' AS filled, a.attgenerated <> '' AS computed
        FROM pg_attribute a
        WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT b.attnum, b.attname, b.declared, t.typbasetype, t.typtypmod,
               b.required OR t.typnotnull, b.filled OR t.typdefault IS NOT NULL, b.computed
        FROM based b JOIN pg_type t ON t.oid = b.type
        WHERE t.typtype = 'd'
    )
    SELECT b.attname AS name, b.declared, format_type(t.oid, b.typmod) AS sql, b.typmod, b.required, b.filled, b.computed,
           CASE WHEN t.typtype = 'e' THEN '(enum)' WHEN t.typtype = 'c' THEN '(composite)' WHEN t.typtype = 'r' THEN '(range)'
                WHEN t.typtype = 'm' THEN '(multirange)' WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN '(array)'
                WHEN t.typnamespace = CAST('pg_catalog' AS regnamespace) OR t.typname = 'citext' THEN CAST(t.typname AS text)
                ELSE '(' || t.typname || ')' END AS kind,
           ARRAY(SELECT CAST(e.enumlabel AS text) FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
    FROM based b JOIN pg_type t ON t.oid = b.type
    WHERE t.typtype <> 'd'
    ORDER BY b.attnum""")

_HEADER = 4  # what a typmod has before the length


def columns(connection: sa.Connection, name: str) -> list[Found]:
    """The columns of a table, whose name is quoted as SQL wants it."""
    out = []
    for row in connection.execute(_COLUMNS, {"name": name}):
        raw = _raw(row)
        alias = f"{row.declared} ({row.sql})" if row.declared != row.sql else ""
        out.append(found(row.name, raw, TYPES, nullable=not row.required, filled=row.filled, computed=row.computed, alias=alias))
    return out


def _raw(row: Any) -> Raw:
    raw, typmod = Raw(row.kind, row.sql, labels=tuple(row.labels)), row.typmod
    if typmod < 0:
        return raw
    if row.kind in {"varchar", "bpchar"}:
        return raw._replace(length=typmod - _HEADER)
    if row.kind == "numeric":
        # 16 bits of precision, 11 of scale with a sign.
        scale = (typmod - _HEADER) & 0x7FF
        return raw._replace(precision=(typmod - _HEADER) >> 16, scale=(scale ^ 0x400) - 0x400)
    return raw._replace(digits=typmod) if row.kind in {"time", "timetz", "timestamp", "timestamptz"} else raw
