"""INSERT .. ON CONFLICT, as PostgreSQL and SQLite both write it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from waxwing.databases.base import Plan, Upsert
from waxwing.databases.columns import kind_of

# What the statement calls the table, so that the stored row can be named whatever the table's own name is.
TARGET = "waxwing_target"


def on_conflict(plan: Plan, mode: Upsert, dialect: sa.Dialect, *, by_code_point: str) -> str:
    """The ON CONFLICT part. `by_code_point` names the collation that orders text as Python does."""
    quote = dialect.identifier_preparer.quote
    keys = ", ".join(quote(key) for key in mode.keys)
    sets = [f"{quote(column.name)} = excluded.{quote(column.name)}" for column in plan.columns if column.name not in mode.keys]
    if not sets:  # a table of key columns alone: an empty SET is no SQL
        return f"ON CONFLICT ({keys}) DO NOTHING"
    sets += [f"{quote(column.name)} = {_set_on_update(column, dialect)}" for column in plan.touched]
    update = f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(sets)}"
    if mode.newer_by is None:
        return update
    version = quote(mode.newer_by)
    collate = collation(plan.table.c[mode.newer_by], by_code_point)
    # A stored null is older than every version, a null that comes is newer than none.
    return (
        f"{update} WHERE {TARGET}.{version} < excluded.{version}{collate} "
        f"OR ({TARGET}.{version} IS NULL AND excluded.{version} IS NOT NULL)"
    )


def collation(column: sa.Column[Any], name: str) -> str:
    """A COLLATE clause for text; empty for what has no collation."""
    return f" COLLATE {name}" if kind_of(column) == "text" else ""


def _set_on_update(column: sa.Column[Any], dialect: sa.Dialect) -> str:
    assert isinstance(column.onupdate, sa.ColumnDefault)
    return str(column.onupdate.arg.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
