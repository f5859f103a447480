"""What the catalog of MySQL and MariaDB says of a table that is to be written: its keys, and what else looks at its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import pymysql
import sqlalchemy as sa

from waxwing.databases.mysql.literals import SA_DIALECT
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Nature, Plan

# Kinds whose keys are equal where Python says so; texts by their collation.
_EXACT = {"integer", "decimal", "boolean", "date", "datetime", "time", "binary"}
_TEXTS = {"text", "uuid", "enum"}


def key_problems(connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
    """Why an upsert can't go by these keys, by the name of what is there; None: nothing unique is on them. Empty: it can."""
    if _WITHOUT_OVERLAPS.search(_definition(connection, table)):
        return [f"{table.name} has a key WITHOUT OVERLAPS, and beside one MariaDB takes no upsert (ON DUPLICATE KEY UPDATE)"]
    problems = []
    for name, columns, cut in _unique(connection, table):
        if columns != {key.lower() for key in keys}:
            continue
        if not cut:
            return []
        what = ", ".join(f"{column.name}({column.length})" for column in cut)
        problems.append(f"the unique index {name} is of the first characters only ({what}), and takes different keys for one")
    return problems or None


def _definition(connection: sa.Connection, table: sa.Table) -> str:
    """As the server writes it. (As much again from information_schema takes three times as long.)"""
    [(_, definition, *_)] = asked(connection, f"SHOW CREATE TABLE {SA_DIALECT.identifier_preparer.format_table(table)}")
    return str(definition)


def asked(connection: sa.Connection, query: str, *values: str | None) -> Sequence[tuple[Any, ...]]:
    """The rows that a query gives, by the driver alone: what is asked in every transaction takes twice as long by SQLAlchemy."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.execute(query, values or None)
        rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
    return rows


def shape(connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
    """What tells that the table was altered; empty: it is gone."""
    try:
        definition = _definition(connection, table)
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != _NO_SUCH_TABLE:
            raise
        return ()
    return (_NEXT_NUMBER.sub("", definition), *asked(connection, _TRIGGERS, table.schema, table.name))


def constrained(connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
    """The columns that a CHECK or key looks at; None: others may say what stands there, or it is of another table."""
    place = {"schema": table.schema, "name": table.name}
    own = {column.name: column for column in connection.execute(_COLUMNS, place)}
    definition = _definition(connection, table)
    # A column's own CHECK has the names of both.
    column = constraint.lower().removeprefix(f"{table.name.lower()}.")
    starts = (f"CONSTRAINT `{constraint}` ", f"`{column}` " if column in own else "")
    lines = [line.strip() for line in definition.splitlines()]
    said = next((line for start in starts if start for line in lines if line.lower().startswith(start.lower())), "")
    if connection.execute(_AROUND, place).one().triggers:
        return None
    for key, columns, _ in _unique(connection, table):
        if key == constraint:
            made = None in columns or any("generated" in own[name].extra for name in columns if name is not None)
            return None if made else {name for name in columns if name is not None}
    if not said:
        return None
    of_table = said.lower().startswith("constraint")
    said = said.partition(" CHECK ")[2] if " CHECK " in said else said.partition("FOREIGN KEY ")[2]
    names, _, referred = said.partition(" REFERENCES ")
    if referred.startswith(f"`{table.name}` "):  # what refers into the table itself may be in the way of a delete
        return None
    found = {name.lower() for name in re.findall("`([^`]+)`", names)} & own.keys() | (set() if of_table else {column})
    return None if any("generated" in own[name].extra for name in found) else found


def nature(connection: sa.Connection, plan: Plan) -> Nature:
    """What the table does with rows."""
    place = {"schema": plan.table.schema, "name": plan.table.name}
    keys = {column.name.lower(): kind_of(column) for column in plan.keys}
    found = {column.name: column for column in connection.execute(_COLUMNS, place)}
    exact = all(
        kind in _EXACT or (kind in _TEXTS and (found[name].collation or "").endswith(("_nopad_bin", "_0900_bin")))
        for name, kind in keys.items()
    )
    filled = {name.lower() for name in plan.changed} | {column.name for column in found.values() if _fills(column)}
    alone = all(
        (columns == keys.keys() and not cut) or not (None in columns or columns & filled)
        for _, columns, cut in _unique(connection, plan.table)
    )
    around = connection.execute(_AROUND, place).one()
    return Nature(
        # A trigger before an insert may write another key; but rows are taken one after the other, and it sees each.
        keys_exact=exact and not around.triggers_before_insert,
        rows_alone=alone and not around.triggers and not around.own_references,
        rows_numbered=bool(numbered(connection, plan)),
    )


def _fills(column: Any) -> bool:
    """Does the table give rows a value that they do not bring, other than a number of its own?"""
    default = (column.default or "null").lower()
    return (
        "generated" in column.extra or "on update" in column.extra or (default != "null" and not default.startswith("nextval("))
    )


def numbered(connection: sa.Connection, plan: Plan) -> list[str]:
    """Columns that get a number which rows do not bring, by themselves or by a trigger before an insert."""
    brought = {column.name.lower() for column in plan.columns}
    place = {"schema": plan.table.schema, "name": plan.table.name}
    drawn = {name.lower() for body in connection.scalars(_DRAWING, place) for name in _NEW.findall(body)}
    found = connection.execute(_COLUMNS, place).all()
    return [
        column.own
        for column in found
        if column.name not in brought
        and ("auto_increment" in column.extra or "nextval" in (column.default or "").lower() or column.name in drawn)
    ]


def _unique(connection: sa.Connection, table: sa.Table) -> list[tuple[str, set[str | None], list[Any]]]:
    """Unique keys: name, columns (None for an expression), and those of which the index holds the beginning only."""
    parts = connection.execute(_KEYS, {"schema": table.schema, "name": table.name}).all()
    groups = [(key, list(group)) for key, group in groupby(parts, attrgetter("key"))]
    return [(key, {part.name for part in group}, [part for part in group if part.length is not None]) for key, group in groups]


_NO_SUCH_TABLE = 1146
_WITHOUT_OVERLAPS = re.compile(r"` WITHOUT OVERLAPS\)")
_NEXT_NUMBER = re.compile(r" AUTO_INCREMENT=\d+")
_TRIGGERS = """
    SELECT trigger_name, created FROM information_schema.triggers
    WHERE event_object_schema = coalesce(%s, database()) AND event_object_table = %s ORDER BY trigger_name"""

# Without the end of a row's time, which MariaDB adds to the keys of a table that is system-versioned.
_KEYS = sa.text("""
    SELECT s.index_name AS `key`, lower(s.column_name) AS name, s.sub_part AS length
    FROM information_schema.statistics s LEFT JOIN information_schema.columns c
    ON c.table_schema = s.table_schema AND c.table_name = s.table_name AND c.column_name = s.column_name
    WHERE s.table_schema = coalesce(:schema, database()) AND s.table_name = :name AND s.non_unique = 0
      AND (s.column_name IS NULL
           OR c.table_name IS NOT NULL AND coalesce(c.generation_expression, '') NOT IN ('ROW START', 'ROW END'))
    ORDER BY s.index_name, s.seq_in_index""")

_COLUMNS = sa.text("""
    SELECT column_name AS own, lower(column_name) AS name, collation_name AS collation,
           lower(extra) AS extra, column_default AS `default`
    FROM information_schema.columns WHERE table_schema = coalesce(:schema, database()) AND table_name = :name""")

# Triggers that draw from a sequence, themselves or by a function that they name, and the columns that they look at.
_DRAWING = sa.text(
    """
    SELECT t.action_statement FROM information_schema.triggers t
    WHERE t.event_object_schema = coalesce(:schema, database()) AND t.event_object_table = :name
      AND t.action_timing = 'BEFORE' AND t.event_manipulation = 'INSERT'
      AND (lower(t.action_statement) REGEXP 'nextval|next[[:space:]]+value'
           OR EXISTS (SELECT 1 FROM information_schema.routines r
                      WHERE r.routine_schema = t.event_object_schema
                        AND lower(r.routine_definition) REGEXP 'nextval|next[[:space:]]+value'
                        AND locate(lower(r.routine_name), lower(t.action_statement)) > 0))""".replace("[:", "[\\:")
)
_NEW = re.compile(r"\bnew\.`?(\w+)", re.IGNORECASE)

_AROUND = sa.text("""
    SELECT (SELECT count(*) FROM information_schema.triggers
            WHERE event_object_schema = coalesce(:schema, database()) AND event_object_table = :name) AS triggers,
           (SELECT count(*) FROM information_schema.triggers
            WHERE event_object_schema = coalesce(:schema, database()) AND event_object_table = :name
              AND action_timing = 'BEFORE' AND event_manipulation = 'INSERT') AS triggers_before_insert,
           (SELECT count(*) FROM information_schema.key_column_usage
            WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
              AND referenced_table_schema = table_schema AND referenced_table_name = table_name) AS own_references""")
