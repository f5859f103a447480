"""What SQLite's schema says of a table that is to be written: what its keys are, and what else looks at its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from waxwing.databases.sqlite.errors import FOREIGN_KEY
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Nature, Plan

_quote = sqlite.dialect().identifier_preparer.quote


class _Unique(NamedTuple):
    name: str
    columns: set[str | None]  # lower case; None for an expression
    partial: bool
    own: bool  # by a constraint of the table, not an index of its own
    binary: bool  # texts are compared byte by byte


def key_problems(connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
    """Why ON CONFLICT can't go by these keys, by the name of what is there; None: nothing unique is on them. Empty: it can."""
    problems = []
    wanted = {key.lower() for key in keys}
    for index in _unique(connection, table):
        if index.columns == wanted and not index.partial:
            return []
        if index.columns == wanted:
            problems.append(f"the unique index {index.name} has a condition, and holds for some rows only")
        elif None in index.columns and any(key in _sql(connection, table, index.name).lower() for key in wanted):
            problems.append(f"the unique index {index.name} is one of expressions, not of columns")
    return problems or None


def constrained(connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
    """The columns that a CHECK or the foreign keys look at; None where others may say what stands there."""
    columns = connection.exec_driver_sql(f"PRAGMA {_schema(table)}table_xinfo({_quote(table.name)})").all()
    if _triggers(connection, table):
        return None
    if constraint == FOREIGN_KEY:
        # What refers to the table may be in the way of a delete.
        query = f"SELECT name FROM {_schema(table)}sqlite_master WHERE type = 'table'"  # noqa: S608 - quoted
        tables = connection.exec_driver_sql(query).scalars().all()
        referred = {row[2].lower() for name in tables for row in _references(connection, table, name)}
        return None if table.name.lower() in referred else {row[3] for row in _references(connection, table, table.name)}
    # It is told by its name, or by what it asks for.
    sql = _sql(connection, table, table.name)
    named = re.search(rf"""\bCONSTRAINT\s+["'`\[]?{re.escape(constraint)}["'`\]]?\s+CHECK\s*(?=\()""", sql, re.IGNORECASE)
    said = _enclosed(sql[named.end() :]) if named else constraint
    words = {word.lower() for word in re.findall(r"\w+", said)}
    found = {column[1].lower(): column[6] > 1 for column in columns if set(re.findall(r"\w+", column[1].lower())) <= words}
    return None if any(found.values()) else found.keys()


def _enclosed(sql: str) -> str:
    """What stands in the parentheses that it begins with. (Those in texts are counted as well: then it is too much, or all.)"""
    depth = 0
    for at, letter in enumerate(sql):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return sql[:at]
    return sql


def nature(connection: sa.Connection, plan: Plan) -> Nature:
    """What the table does with rows."""
    table = plan.table
    keys = {column.name.lower() for column in plan.keys}
    brought = {column.name.lower() for column in plan.columns}
    unique, sql = _unique(connection, table), _sql(connection, table, table.name).lower()
    plain = "collate" not in sql and all(index.binary for index in unique if index.columns == keys)
    exact = all(kind_of(key) == "integer" or (plain and kind_of(key) not in {"json", "float"}) for key in plan.keys)
    # (Of the columns: dflt_value, and 2 or 3 for hidden, which is generated.)
    columns = connection.exec_driver_sql(f"PRAGMA {_schema(table)}table_xinfo({_quote(table.name)})").all()
    filled = {name.lower() for name in plan.changed}
    filled |= {column[1].lower() for column in columns if column[4] is not None or column[6] > 1}
    alone = all(
        index.columns == keys or not (index.partial or None in index.columns or index.columns & filled) for index in unique
    )
    references = _references(connection, table, table.name)
    triggers = _triggers(connection, table)
    numbers = {column[1].lower() for column in columns if column[5]} - brought
    return Nature(
        keys_exact=exact,
        rows_alone=alone and not triggers and all(row[2].lower() != table.name.lower() for row in references),
        # Without the word a number is drawn from the rows that are there, and none is used up.
        rows_numbered=bool(numbers) and re.search(r"\bautoincrement\b", sql) is not None,
    )


def _references(connection: sa.Connection, table: sa.Table, name: str) -> Sequence[Any]:
    """The foreign keys of this name's table, in the schema of that one: which table (2), from which column (3)."""
    return connection.exec_driver_sql(f"PRAGMA {_schema(table)}foreign_key_list({_quote(name)})").all()


def _triggers(connection: sa.Connection, table: sa.Table) -> int:
    master = f"{_schema(table)}sqlite_master"
    query = sa.text(f"SELECT count(*) FROM {master} WHERE type = 'trigger' AND lower(tbl_name) = lower(:name)")  # noqa: S608 - quoted
    return int(connection.execute(query, {"name": table.name}).scalar_one())


def _unique(connection: sa.Connection, table: sa.Table) -> list[_Unique]:
    schema = _schema(table)
    columns = connection.exec_driver_sql(f"PRAGMA {schema}table_info({_quote(table.name)})").all()
    found = []
    for row in connection.exec_driver_sql(f"PRAGMA {schema}index_list({_quote(table.name)})").all():
        _, name, unique, origin, partial = row[:5]
        if unique:
            parts = [part for part in connection.exec_driver_sql(f"PRAGMA {schema}index_xinfo({_quote(name)})").all() if part[5]]
            names = {None if part[2] is None else str(part[2]).lower() for part in parts}
            binary = all(str(part[4]).upper() == "BINARY" for part in parts)
            found.append(_Unique(name, names, bool(partial), origin != "c", binary))
    key: set[str | None] = {column[1].lower() for column in columns if column[5]}
    if key and key not in [index.columns for index in found if index.own]:  # an INTEGER PRIMARY KEY has no index
        found.append(_Unique("", key, partial=False, own=True, binary=True))
    return found


def _sql(connection: sa.Connection, table: sa.Table, name: str) -> str:
    master = f"{_schema(table)}sqlite_master"
    query = sa.text(f"SELECT sql FROM {master} WHERE type IN ('table', 'index') AND lower(name) = lower(:name)")  # noqa: S608 - quoted
    found: Any = connection.scalar(query, {"name": name})
    return found or ""


def _schema(table: sa.Table) -> str:
    return f"{_quote(table.schema)}." if table.schema else ""
