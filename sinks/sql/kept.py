"""Which tables a step writes, as its database remembers: for steps and flows that change their names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa

from waxwing import log
from waxwing.batch import Stream
from waxwing.databases.ledger.migration import table_key
from waxwing.databases.ledger.schema import of_step, progress, tables, windows
from waxwing.errors import ConfigError
from waxwing.ledger.store import Race, Step
from waxwing.ledger.windows import load_streams
from waxwing.tables.dialect import Dialect


def table_name(connection: sa.Connection, table: sa.Table, dialect: Dialect) -> str:
    """The table's name with its schema, so that the same table has the same name. The schema that Waxwing's own tables
    are in has none: a database that was restored under another name (which is MySQL's schema) holds the same tables."""
    default = _kept_name(sa.inspect(connection).default_schema_name or "", table.name, dialect)
    named = _kept_name(table.schema or "", table.name, dialect)
    return _kept_name("", table.name, dialect) if named == default else named


def _kept_name(schema: str, table: str, dialect: Dialect) -> str:
    name = f"{schema}.{table}"
    return (name if dialect.case_sensitive else name.lower()).encode("ascii", "backslashreplace").decode()[:2_000]


def _is_there(connection: sa.Connection, name: str, dialect: Dialect) -> bool:
    """Is there a table (or view) still of this name, as it was kept?"""
    inspector = sa.inspect(connection)
    default = inspector.default_schema_name
    for schema in inspector.get_schema_names():
        prefix = "" if schema == default else schema
        if name.startswith(_kept_name(prefix, "", dialect)):
            there = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            if any(_kept_name(prefix, table, dialect) == name for table in there):
                return True
    return False


def _written(connection: sa.Connection, step: Step) -> set[str]:
    return set(connection.scalars(sa.select(tables.c.table_name).where(of_step(tables, step))))


def remember(connection: sa.Connection, step: Step, names: Iterable[str]) -> None:
    """Keep that the step writes these tables, too.

    Raises:
        Race: another process has just kept it.
    """
    for name in sorted(set(names) - _written(connection, step)):
        values = {"flow": step.flow, "step": step.name, "table_key": table_key(name), "table_name": name}
        try:
            connection.execute(tables.insert().values(**values))
        except sa.exc.IntegrityError as error:
            raise Race(str(error.orig)) from error


def remember_only(connection: sa.Connection, step: Step, name: str, others: Mapping[str, str]) -> None:
    """Keep which table the step writes. One that wrote another so far goes on in this one, which is said.

    `others` are the tables that the flow's other steps write now.

    Raises:
        ConfigError: another step filled this one, and now writes another: they have changed places.
    """
    gone = _written(connection, step) - {name}
    if gone and name not in _written(connection, step):
        known = ", ".join(sorted(one.lstrip(".") for one in gone))
        for other, now in others.items():
            if name in _written(connection, Step(step.flow, other)) and name != now:
                raise ConfigError(
                    f"Flow {step.flow}: step {step.name} wrote {known} so far, and is to write {name.lstrip('.')}, "
                    f"which step {other} filled, and that one another: each would go on at the other's position.",
                    hint="Were the steps renamed? Give the positions their new names (waxwing step rename, through a third "
                    "name), or give the steps their former tables.",
                )
        log.warning(
            "table_changed",
            f"Flow {step.flow}, step {step.name}: it goes on in table {name.lstrip('.')}; what it wrote so far stands in "
            f"{known}.",
            step=step.name,
        )
    for one in gone:
        connection.execute(tables.delete().where(of_step(tables, step), tables.c.table_key == table_key(one)))
    remember(connection, step, [name])


def taken_elsewhere(
    connection: sa.Connection, step: Step, written: Sequence[sa.Table], dialect: Dialect, streams: Collection[Stream]
) -> Sequence[Step]:
    """Steps of other flows that took these sources into one of these tables.

    A table that is not empty may be theirs under another name: where theirs is gone. (It was renamed with the flow.) And where
    a step ran under an earlier Waxwing only, its table is not known: then one of the same name counts.
    """
    names = {table_name(connection, table, dialect) for table in written}
    ids = {stream.source_id for stream in streams}
    others = sa.select(progress.c.flow, progress.c.step).where(progress.c.flow != step.flow, progress.c.source_id.in_(ids))
    taken = {Step(*row) for row in connection.execute(others.distinct())}
    for row in connection.execute(sa.select(windows).where(windows.c.flow != step.flow, windows.c.buckets > 0)):
        if ids & {stream.source_id for stream in load_streams(row.flow, row.streams)}:
            taken.add(Step(row.flow, row.step))
    if not taken:
        return []
    known: dict[Step, set[str]] = {}
    for row in connection.execute(sa.select(tables)):
        known.setdefault(Step(row.flow, row.step), set()).add(row.table_name)
    found = [one for one in taken if known.get(one, set()) & names]
    unknown = [
        one
        for one in taken.difference(found)
        if (not all(_is_there(connection, name, dialect) for name in known[one]) if one in known else one.name == step.name)
    ]
    if unknown and any(connection.execute(sa.select(sa.literal(1)).select_from(t).limit(1)).first() for t in written):
        found += unknown
    return sorted(found)
