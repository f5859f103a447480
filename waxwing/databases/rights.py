"""Which rights a flow needs on tables that are there: asked for at the start, so that none is missing at the first record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import sqlalchemy as sa

from waxwing.databases.base import Database, Need
from waxwing.databases.ledger import schema
from waxwing.tables.modes import Keyed, Merge, Upsert
from waxwing.tables.plan import Plan

Right = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]

# What every run does with Waxwing's own tables, and what windows do beside that.
OWN: Mapping[sa.Table, Sequence[Right]] = {
    schema.schema_version: ("SELECT",),
    schema.progress: ("SELECT", "INSERT", "UPDATE"),
    schema.tables: ("SELECT", "INSERT", "DELETE"),
    schema.owners: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    schema.dead_letters: ("INSERT",),
    schema.windows: ("SELECT",),
}
OWN_OF_WINDOWS: Mapping[sa.Table, Sequence[Right]] = {
    schema.windows: ("SELECT", "INSERT", "UPDATE"),
    schema.state: ("SELECT", "INSERT", "DELETE"),
}


def of_own(tables: Mapping[sa.Table, Sequence[Right]]) -> Iterator[Need]:
    """The rights on Waxwing's own tables."""
    for table, rights in tables.items():
        yield from (Need(right, table, () if right == "DELETE" else tuple(table.c)) for right in rights)


def of_plan(plan: Plan, database: Database) -> Iterator[Need]:
    """The rights that writing a plan's rows needs, column by column."""
    table, mode = plan.table, plan.mode
    yield Need("INSERT", table, plan.columns)
    if not isinstance(mode, Keyed):
        return
    keys = tuple(table.c[key] for key in mode.keys)
    made = tuple(table.c[name] for name in mode.mean) if isinstance(mode, Merge) else ()
    changed = (*(column for column in plan.columns if column not in keys), *made, *plan.touched)
    read: tuple[sa.Column[object], ...] = keys
    if isinstance(mode, Merge):
        read = (*keys, *(table.c[name] for name in mode.merged))
    elif mode.newer_by is not None:
        read = (*keys, table.c[mode.newer_by])
    if database.dialect.upsert_sets_all:
        changed = (*keys, *changed)
        read = changed if len(read) > len(keys) else keys
    yield Need("SELECT", table, read)
    if changed:
        yield Need("UPDATE", table, changed)
    if isinstance(mode, Upsert) and mode.delete_on_tombstone:
        yield Need("DELETE", table, ())


def missing(connection: sa.Connection, database: Database, needs: Iterable[Need]) -> list[str]:
    """What stands in the way of these needs, in words; each right that is missing by its name."""
    found = []
    for need in needs:
        lacking = database.lacking(connection, need)
        if lacking is not None:
            some = [name for name in lacking if len(lacking) < len(need.columns)]
            where = f" (columns {', '.join(some)})" if some else ""
            found.append(f"the right {need.right} on {need.table.fullname}{where} is missing")
        found += database.obstacles(connection, need)
    return list(dict.fromkeys(found))
