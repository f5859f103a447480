"""The table that a flow writes: made where it is missing, else looked at whether it fits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from waxwing import log
from waxwing.databases import address
from waxwing.databases.base import Database
from waxwing.errors import ConfigError
from waxwing.tables.catalog import Found
from waxwing.tables.dialect import Dialect
from waxwing.tables.fit import differences, shown, smaller, takes_less
from waxwing.tables.merging import means
from waxwing.tables.modes import Merge, Mode, Upsert, keys_of
from waxwing.tables.plan import Plan


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
