"""From a table and a mode to the plan: which columns rows bring, and whether the two go together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of, rule
from waxwing.tables.dialect import Dialect
from waxwing.tables.merging import bad_merge, means
from waxwing.tables.modes import Append, Keyed, Merge, Mode, Upsert, keys_of
from waxwing.tables.plan import Plan

_VERSION_KINDS = {"integer", "decimal", "float", "text", "date", "datetime"}


def plan(table: sa.Table, mode: Mode, *, dialect: Dialect, columns: Sequence[str] | None = None) -> Plan:
    """Decide what is written: from the table and the mode alone.

    Columns are those named; by default all but the ones that the database keeps itself: with a server default, computed,
    identity, a self-numbering primary key that is no key of the mode, or set by the database on update.

    Raises:
        ConfigError: all that is wrong, in one message.
    """
    table = _without_domains(table)
    if keyed := [column.name for column in table.c if column.key != column.name]:
        raise ConfigError(
            f"Table {table.fullname} can't be written: Column(..., key=...) of {', '.join(keyed)} is not taken.",
            hint="Leave key= out: Waxwing calls columns by their names in the database.",
        )
    given: Any = keys_of(mode)
    if isinstance(given, str):
        raise ConfigError(f"keys={given!r} is one text, where a tuple of names is needed.", hint=f"Write keys=({given!r},).")
    keys: tuple[str, ...] = given
    newer_by = mode.newer_by if isinstance(mode, Upsert) else None
    made = tuple(mode.mean) if isinstance(mode, Merge) else ()
    wanted = list(columns) if columns is not None else [name for name in _brought(table, keys) if name not in made]
    problems = _bad_names(table, dialect)
    problems += [f"it has no column {name}" for name in (*wanted, *keys, *filter(None, [newer_by])) if name not in table.c]
    problems += [f"column {name} is named twice" for name in sorted({name for name in wanted if wanted.count(name) > 1})]
    written = tuple(table.c[name] for name in dict.fromkeys(wanted) if name in table.c)
    problems += [f"column {key} is a key, and rows do not bring it" for key in keys if key in table.c and key not in wanted]
    if not written:
        problems.append("rows bring no column")
    problems += _bad_types(written, dialect)
    problems += _unfilled(table, (*written, *means(table, mode)))
    problems += _set_by_python(table, (*wanted, *made), updates=isinstance(mode, Keyed))
    if isinstance(mode, Keyed):
        problems += _bad_keys(table, mode)
    if isinstance(mode, Upsert):
        problems += _bad_version(table, mode, wanted)
    if isinstance(mode, Merge):
        problems += bad_merge(table, mode, wanted)
        problems += _bad_types(means(table, mode), dialect)
    if problems:
        raise ConfigError(
            f"Table {table.fullname} can't be written: {'; '.join(problems)}.", hint="Correct the flow's Table or mode."
        )
    touched = () if isinstance(mode, Append) else tuple(c for c in table.c if _touched(c) and c.name not in (*wanted, *made))
    return Plan(table=table, columns=written, mode=mode, touched=touched)


def _without_domains(table: sa.Table) -> sa.Table:
    """A reflected table's domains as the types that they stand for; what else they say is asked of the database."""
    if not any(hasattr(column.type, "data_type") for column in table.c):
        return table
    plain = table.to_metadata(sa.MetaData())
    for column in plain.c:
        while (stands_for := getattr(column.type, "data_type", None)) is not None:
            column.type = stands_for
    return plain


def _brought(table: sa.Table, keys: tuple[str, ...]) -> list[str]:
    numbered = table.autoincrement_column
    return [
        column.name
        for column in table.c
        if column.name in keys or (column.server_default is None and column is not numbered and not _touched(column))
    ]


def _touched(column: sa.Column[Any]) -> bool:
    """Does the database set it on update (`onupdate=func.now()`)?"""
    return isinstance(column.onupdate, sa.ColumnDefault) and column.onupdate.is_clause_element


def _bad_names(table: sa.Table, dialect: Dialect) -> list[str]:
    objects: list[tuple[str, Any]] = [("table", table.name), ("schema", table.schema)]
    objects += [("column", column.name) for column in table.c]
    objects += [("index", index.name) for index in table.indexes] + [("constraint", each.name) for each in table.constraints]
    most = dialect.identifier_bytes_max
    problems = []
    for what, name in objects:
        if not isinstance(name, str):  # no schema, or a constraint that the database names
            continue
        if not name or "\x00" in name:
            problems.append(f"the {what} name {name!r} is empty or holds U+0000")
        elif (size := len(name.encode())) > most:
            problems.append(f"the {what} name {name!r} has {size} bytes, {dialect.name} takes {most}")
        elif any(letter in name for letter in dialect.identifier_refused):
            problems.append(f"the {what} name {name!r} holds one of {dialect.identifier_refused}, not usable in {dialect.name}")
    if not dialect.case_sensitive and len({column.name.lower() for column in table.c}) < len(table.c):
        problems.append(f"two columns differ by capitals alone, which {dialect.name} takes for one")
    return problems


def _bad_types(columns: Iterable[sa.Column[Any]], dialect: Dialect) -> list[str]:
    problems = []
    for column in columns:
        try:
            rule(column, dialect)
        except ConfigError as error:
            problems.append(str(error).rstrip("."))
    return problems


def _unfilled(table: sa.Table, written: Sequence[sa.Column[Any]]) -> list[str]:
    filled = {*(column.name for column in written), *(c.name for c in table.c if c.nullable or c.server_default is not None)}
    if (numbered := table.autoincrement_column) is not None:
        filled.add(numbered.name)
    why = "is NOT NULL, has no server default, and rows do not bring it"
    return [f"column {column.name} {why}" for column in table.c if column.name not in filled]


def _set_by_python(table: sa.Table, brought: Collection[str], *, updates: bool) -> list[str]:
    """Columns that only SQLAlchemy's own statements would set, which bulk writes are not."""
    problems = []
    for column in table.c:
        inserted = column.default if column.server_default is None and column.nullable else None
        updated = column.onupdate if updates and not _touched(column) else None
        for word, set_by in (("default", inserted), ("onupdate", updated)):
            if isinstance(set_by, sa.ColumnDefault) and column.name not in brought:
                problems.append(
                    f"column {column.name} has {word}=..., which Python would set, and rows do not bring it"
                    " (let the database set it: server_default=...)"
                )
    return problems


def _bad_keys(table: sa.Table, mode: Keyed) -> list[str]:
    if not mode.keys:
        return [f"the mode {type(mode).__name__} names no key columns"]
    keys = set(mode.keys)
    found = [one for one in table.constraints if isinstance(one, sa.PrimaryKeyConstraint | sa.UniqueConstraint)]
    found = [one for one in found if {column.name for column in one.columns} == keys]
    if late := [one for one in found if one.deferrable or one.initially]:
        what = "primary key" if isinstance(late[0], sa.PrimaryKeyConstraint) else "unique constraint"
        return [f"the {what} {late[0].name or ''} ({', '.join(mode.keys)}) is deferrable, which no upsert can go by"]
    # An index with a condition holds for some rows only; one on expressions, or on the beginning of a column, for others.
    plain = [
        index for index in table.indexes if index.unique and {getattr(each, "name", None) for each in index.expressions} == keys
    ]
    plain = [
        one
        for one in plain
        if not any(name.endswith(("_where", "_length")) and has is not None for name, has in one.kwargs.items())
    ]
    if not found and not plain:
        return [f"the keys ({', '.join(mode.keys)}) are neither its primary key nor a unique constraint"]
    return []


def _bad_version(table: sa.Table, mode: Upsert, wanted: Sequence[str]) -> list[str]:
    problems = []
    if mode.newer_by in mode.keys:
        problems.append(f"newer_by can't be a key ({mode.newer_by})")
    elif mode.newer_by is not None and mode.newer_by in table.c:
        if mode.newer_by not in wanted:
            problems.append(f"newer_by is {mode.newer_by}, and rows do not bring it")
        elif kind_of(table.c[mode.newer_by]) not in _VERSION_KINDS:
            problems.append(f"newer_by is {mode.newer_by}, whose type has no order ({table.c[mode.newer_by].type!r})")
    return problems
