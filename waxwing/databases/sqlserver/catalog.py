"""What SQL Server's catalog says of a table that is to be written: what its keys are, and what else looks at its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from waxwing.databases.sqlserver.columns import EXACT
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Nature, Plan


def key_problems(connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
    """Why an upsert can't go by these keys, by the name of what is there; None: nothing unique is on them. Empty: it can."""
    problems = []
    for index, columns in _unique(connection, table):
        if columns != {key.lower() for key in keys}:
            continue
        if not index.has_filter and not index.is_disabled:
            return []
        why = "is disabled (ALTER INDEX ... REBUILD)" if index.is_disabled else "has a filter, and holds for some rows only"
        problems.append(f"the unique index {index.key} {why}")
    return problems or None


def constrained(connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
    """The columns that a CHECK or key looks at; None: others may say what stands there, or it is of another table."""
    place = {"name": connection.dialect.identifier_preparer.format_table(table), "constraint": constraint}
    if connection.execute(_AROUND, {"name": place["name"]}).one().triggers:
        return None
    computed = {name: bool(is_computed) for name, is_computed in connection.execute(_COMPUTED, place)}
    found = set(connection.scalars(_FOREIGN_KEY, place))
    for index, columns in _unique(connection, table):
        found |= columns if index.key == constraint else set()
    for definition in connection.scalars(_CHECK, place):
        words = set(re.findall(r"\w+", definition.lower()))
        found |= {name for name in computed if set(re.findall(r"\w+", name)) <= words}
    return None if not found or any(computed.get(name) for name in found) else found


def nature(connection: sa.Connection, plan: Plan) -> Nature:
    """What the table does with rows."""
    place = {"name": connection.dialect.identifier_preparer.format_table(plan.table)}
    keys = {column.name.lower() for column in plan.keys}
    brought = {column.name.lower() for column in plan.columns}
    around = connection.execute(_AROUND, place).one()
    # A null is there once, as any other value is; numbers of the table's own are all different.
    others = [columns for _, columns in _unique(connection, plan.table) if columns != keys]
    numbered = set(connection.scalars(_NUMBERED, place))
    alone = all(columns & numbered - brought for columns in others)
    return Nature(
        keys_exact=all(kind_of(key) in EXACT for key in plan.keys),
        rows_alone=alone and not around.triggers and not around.own_references,
        rows_numbered=bool(numbered - brought),
    )


def _unique(connection: sa.Connection, table: sa.Table) -> list[tuple[Any, set[str]]]:
    """Unique indexes, each with its columns."""
    parts = connection.execute(_KEYS, {"name": connection.dialect.identifier_preparer.format_table(table)}).all()
    groups = [list(group) for _, group in groupby(parts, attrgetter("key"))]
    return [(group[0], {part.name for part in group}) for group in groups]


# Each view by the table's number: joined by a name alone, a server of the protocol took two seconds, not fifty milliseconds.
_KEYS = sa.text("""
    SELECT i.name AS [key], LOWER(COL_NAME(x.object_id, x.column_id)) AS name, i.has_filter, i.is_disabled
    FROM sys.indexes AS i
    INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id AND x.is_included_column = 0
    WHERE i.object_id = OBJECT_ID(:name) AND x.object_id = OBJECT_ID(:name) AND i.is_unique = 1
    ORDER BY i.name, x.key_ordinal""")

# Not those whose default draws from a sequence: SQL Server promises no order there.
_NUMBERED = sa.text("SELECT LOWER(name) FROM sys.columns WHERE object_id = OBJECT_ID(:name) AND is_identity = 1")

_COMPUTED = sa.text("SELECT LOWER(name), is_computed FROM sys.columns WHERE object_id = OBJECT_ID(:name)")
_CHECK = sa.text("SELECT definition FROM sys.check_constraints WHERE parent_object_id = OBJECT_ID(:name) AND name = :constraint")
# What refers into the table itself may be in the way of a delete.
_FOREIGN_KEY = sa.text("""
    SELECT LOWER(COL_NAME(c.parent_object_id, c.parent_column_id))
    FROM sys.foreign_keys AS k INNER JOIN sys.foreign_key_columns AS c ON c.constraint_object_id = k.object_id
    WHERE k.parent_object_id = OBJECT_ID(:name) AND k.name = :constraint AND k.referenced_object_id <> k.parent_object_id""")

_AROUND = sa.text("""
    SELECT (SELECT COUNT(*) FROM sys.triggers WHERE parent_id = OBJECT_ID(:name) AND is_disabled = 0) AS triggers,
           (SELECT COUNT(*) FROM sys.foreign_keys
            WHERE parent_object_id = OBJECT_ID(:name) AND referenced_object_id = OBJECT_ID(:name)) AS own_references""")
