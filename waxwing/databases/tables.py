"""The table that a flow writes: which columns it brings, and whether the database's table fits."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from waxwing import log
from waxwing.databases import address
from waxwing.databases.base import Append, Database, Dialect, Keyed, Merge, Mode, Plan, Upsert, keys_of
from waxwing.databases.catalog import Found
from waxwing.databases.columns import kind_of, rule
from waxwing.databases.fit import differences, shown, smaller, takes_less
from waxwing.databases.merging import bad_merge, means
from waxwing.errors import ConfigError

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


def ensure(connection: sa.Connection, wanted: Plan, database: Database, *, written_before: bool = False) -> Plan:
    """Make the table when it is missing, with its indexes; check it as it then stands. Several processes may do so at once.

    A table that was `written_before`, and is gone, is made with a warning.

    Returns:
        The plan as the table takes it: without nullable columns that it lacks, with its own smaller columns (one warning each
        names them).

    Raises:
        ConfigError: all differences, in one message.
    """
    table = wanted.table
    where = _where(connection, table)
    database.lock_schema(connection)
    if made := not sa.inspect(connection).has_table(table.name, schema=table.schema):
        try:
            table.create(connection)
        except (sa.exc.CompileError, sa.exc.IdentifierError) as error:
            raise ConfigError(f"Table {table.fullname} can't be made: {error}.", hint="Correct the flow's Table.") from error
        if written_before:
            again = "To have it written again, forget the positions (waxwing step drop)"
            what = "The step goes on at its stored positions: what it wrote before is missing."
            log.warning("table_made", f"Table {where} was not there any more and is made. {what} {again}.")
        else:
            log.info("table_made", f"Table {where} was not there and is made.")
    problems = [] if made else database.refusals(connection, table)
    if not problems:
        existing = _Existing(connection, table, database)
        written = (*wanted.columns, *means(table, wanted.mode))
        lacking = [column for column in (*written, *wanted.touched) if existing.column(column.name) is None]
        left_out = [column for column in lacking if column.nullable and column.name not in _needed(wanted.mode)]
        problems += [f"column {column.name} ({column.type}) is missing" for column in lacking if column not in left_out]
        there = [(column, have) for column in written if (have := existing.column(column.name)) is not None]
        for column, have in there:
            problems += differences(column, have, connection.dialect, database.dialect)
        if not made:  # what it was made with is known; of types the database may have its own idea
            problems += existing.unfilled(written)
        if not made and (keys := keys_of(wanted.mode)):
            kind = type(wanted.mode).__name__.lower()
            nothing = [f"no primary key, unique constraint or unique index on ({', '.join(keys)}), the keys of the {kind}"]
            problems += nothing if (unfit := database.key_problems(connection, table, keys)) is None else unfit
    if problems:
        raise ConfigError(
            f"The existing table {where} does not fit: {'; '.join(problems)}.",
            hint="Alter the table, take another one (DATABASE_TABLE, or the Table's name), or correct the flow's Table.",
        )
    if left_out:
        names = ", ".join(column.name for column in left_out)
        log.warning("columns_left_out", f"The existing table {where} lacks the columns {names}: they are not written.")
    narrow = _narrowed(connection, table, there, database.dialect)
    found_plan = replace(
        wanted,
        columns=tuple(narrow.get(column.name, column) for column in wanted.columns if column not in left_out),
        touched=tuple(column for column in wanted.touched if column not in left_out),
    )
    return replace(found_plan, nature=database.nature(connection, found_plan))


def _where(connection: sa.Connection, table: sa.Table) -> str:
    """The table as messages name it: a flow may have several databases, with tables of one name."""
    return f"{table.fullname} in {address.place(connection.engine.url)}"


def _narrowed(
    connection: sa.Connection, table: sa.Table, there: Sequence[tuple[sa.Column[Any], Found]], dialect: Dialect
) -> dict[str, sa.Column[Any]]:
    """Columns that take less than declared, by name, told in one warning; and those whose values stand there otherwise."""
    sql = connection.dialect
    narrow = {column.name: less for column, have in there if (less := smaller(column, have, sql, dialect)) is not None}
    for name, less in list(narrow.items()):
        if getattr(less.type, "hyphens", False) and _of_digits(connection, table, name):
            narrow[name] = sa.Column(name, table.c[name].type, nullable=less.nullable, info=less.info)
    told = [
        f"{column.name} ({shown(have, sql)}{'' if have.nullable else ' NOT NULL'})"
        for column, have in there
        if column.name in narrow and takes_less(column, narrow[column.name])
    ]
    if told:
        log.warning(
            "columns_smaller",
            f"The existing table {_where(connection, table)} takes less than the flow's Table in {', '.join(told)}: "
            "what does not fit there becomes a dead letter.",
        )
    return narrow


def _of_digits(connection: sa.Connection, table: sa.Table, name: str) -> bool:
    """Do the UUIDs of this column of text stand there as 32 digits, without hyphens? The first row says so for all."""
    column = sa.column(name, sa.String)
    first = connection.scalar(sa.select(column).select_from(table).where(column.is_not(None)).limit(1))
    return first is not None and "-" not in first


def _needed(mode: Mode) -> set[str | None]:
    if isinstance(mode, Merge):
        return {*mode.keys, *mode.merged, *mode.mean}
    return {*mode.keys, mode.newer_by} if isinstance(mode, Upsert) else set()


class _Existing:
    """An existing table, as the database describes it."""

    def __init__(self, connection: sa.Connection, table: sa.Table, database: Database) -> None:
        self._dialect, self._connection, self._table = database.dialect, connection, table
        self._columns = {self._same(column.name): column for column in database.columns(connection, table)}

    @cached_property
    def _key(self) -> Sequence[str]:
        inspector = sa.inspect(self._connection)
        with warnings.catch_warnings():  # of types that it does not know: those we read ourselves
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            return inspector.get_pk_constraint(self._table.name, schema=self._table.schema)["constrained_columns"]

    def _same(self, name: str) -> str:
        return name if self._dialect.case_sensitive else name.lower()

    def column(self, name: str) -> Found | None:
        return self._columns.get(self._same(name))

    def unfilled(self, written: Iterable[sa.Column[Any]]) -> list[str]:
        """Columns that nobody fills."""
        brought = {self._same(column.name) for column in written}
        numbered = self._dialect.integer_key_automatic and len(self._key) == 1
        return [
            f"column {column.name} is NOT NULL without a default, and rows do not bring it"
            for name, column in self._columns.items()
            if name not in brought
            and not (column.nullable or column.filled or column.computed)
            and not (numbered and column.name == self._key[0] and isinstance(column.type, sa.Integer))
        ]
