"""INSERT .. ON CONFLICT, as PostgreSQL and SQLite both write it, and the UPDATE that does the same to a row that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.databases.merging import MeanColumn, becomes, quotients
from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Keyed, Merge, Upsert
from waxwing.tables.plan import Plan

# What the statement calls the table, so that the stored row can be named whatever the table's own name is.
TARGET = "waxwing_target"


# SQL of a sum as its column keeps it; SQL of a mean, out of its sum and its count.
Total = Callable[[sa.Column[Any], str], str]
Quotient = Callable[[MeanColumn, str, str], str]


class Replacement(NamedTuple):
    """What becomes of a stored row when one of its key comes: SQL that calls the stored one TARGET, the other `excluded`."""

    sets: str  # of UPDATE; empty where there is nothing to set
    where: str  # a condition, or empty


def change(
    plan: Plan, mode: Keyed, dialect: sa.Dialect, *, by_code_point: str, merged: Mapping[str, str] | None = None
) -> Replacement:
    """What becomes of a stored row.

    Args:
        plan: what is written.
        mode: how.
        dialect: writes names.
        by_code_point: the collation that orders text as Python does.
        merged: SQL of what each column becomes, where it is not just the value that comes.
    """
    quote = dialect.identifier_preparer.quote
    if merged is None:
        merged = {column.name: f"excluded.{quote(column.name)}" for column in plan.columns if column.name not in mode.keys}
    sets = [f"{quote(name)} = {value}" for name, value in merged.items()]
    if not sets:  # a table of key columns alone
        return Replacement("", "")
    sets += [f"{quote(column.name)} = {_set_on_update(column, dialect)}" for column in plan.touched]
    where = ""
    if isinstance(mode, Upsert) and mode.newer_by is not None:
        version = quote(mode.newer_by)
        collate = collation(plan.table.c[mode.newer_by], by_code_point)
        # A stored null is older than every version, a null that comes is newer than none.
        where = (
            f"({TARGET}.{version} < excluded.{version}{collate} "
            f"OR ({TARGET}.{version} IS NULL AND excluded.{version} IS NOT NULL))"
        )
    return Replacement(", ".join(sets), where)


def on_conflict(mode: Keyed, dialect: sa.Dialect, change: Replacement) -> str:
    """The ON CONFLICT part."""
    keys = ", ".join(map(dialect.identifier_preparer.quote, mode.keys))
    if not change.sets:  # an empty SET is no SQL
        return f"ON CONFLICT ({keys}) DO NOTHING"
    where = f" WHERE {change.where}" if change.where else ""
    return f"ON CONFLICT ({keys}) DO UPDATE SET {change.sets}{where}"


def merged_values(plan: Plan, mode: Merge, dialect: sa.Dialect, total: Total, mean: Quotient) -> dict[str, str]:
    """SQL of what each column becomes, means included."""
    quote = dialect.identifier_preparer.quote
    names = [column.name for column in plan.columns]
    out = becomes(mode, names, lambda name: f"{TARGET}.{quote(name)}", lambda name: f"excluded.{quote(name)}")
    out |= {name: total(plan.table.c[name], out[name]) for name in mode.add}
    return out | {each.column.name: mean(each, out[each.total.name], out[each.number.name]) for each in quotients(plan)}


def collation(column: sa.Column[Any], name: str) -> str:
    """A COLLATE clause for text; empty for what has no collation."""
    return f" COLLATE {name}" if kind_of(column) == "text" else ""


def _set_on_update(column: sa.Column[Any], dialect: sa.Dialect) -> str:
    assert isinstance(column.onupdate, sa.ColumnDefault)
    return str(column.onupdate.arg.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
