"""The bulk path of SQLite: INSERT with many rows of parameters, which takes the rows one after the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from typing_extensions import override

from waxwing.databases.base import Bulk
from waxwing.databases.merging import MeanColumn, quotients
from waxwing.databases.on_conflict import TARGET, Replacement, change, merged_values, on_conflict
from waxwing.databases.refusals import encodes
from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Keyed, Merge
from waxwing.tables.plan import Plan, columns_of
from waxwing.tables.values.json_values import kept_text
from waxwing.tables.values.rules import integer_range

SA_DIALECT: sa.Dialect = sqlite.dialect()

_LAST_NUMBER = (1 << 63) - 1
PARAMETERS_MAX = 32_766  # SQLITE_MAX_VARIABLE_NUMBER since 3.32
DECIMAL_DIGITS_MAX = 15  # they are kept as 64-bit floats
# Rows of one INSERT at most. Measured on an orders row: 1,000 are 1.5 times faster than executemany on existing
# keys and as fast on new ones; json_each with one parameter is slower than either.
INSERT_ROWS_MAX = 1_000


class ValuesBulk(Bulk):
    """INSERT with many rows of parameters, for one table over one connection."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._update = self._missing = ""
        names = SA_DIALECT.identifier_preparer
        # SQLAlchemy's own conversions to what SQLite stores; None where there is nothing to do.
        self._processors = [_processor(column) for column in plan.columns]
        table, width = names.format_table(plan.table), len(plan.columns)
        columns = ", ".join(names.quote(column.name) for column in plan.columns)
        values = f"({', '.join('?' * width)})"
        insert = f"INSERT INTO {table} AS {TARGET} ({columns}) VALUES "  # noqa: S608 - quoted
        conflict = ""
        if isinstance(plan.mode, Keyed):
            merged = merged_values(plan, plan.mode, SA_DIALECT, _total, _mean) if isinstance(plan.mode, Merge) else None
            becomes = change(plan, plan.mode, SA_DIALECT, by_code_point="BINARY", merged=merged)
            conflict = f" {on_conflict(plan.mode, SA_DIALECT, becomes)}"
            if plan.nature.rows_numbered:
                self._update, self._missing = _update_first(plan, becomes)
        self._conflict = conflict
        self._rows_max = max(1, min(INSERT_ROWS_MAX, PARAMETERS_MAX // width))
        self._insert_many = f"{insert}{', '.join([values] * self._rows_max)}{conflict}"
        own = ", ".join(f"?{number}" for number in range(1, width + 1))
        self._insert_one = f"{insert}({own}){conflict}"
        self._insert_missing = f"INSERT INTO {table} ({columns}) SELECT {own}{self._missing}"
        if isinstance(plan.mode, Keyed):
            keys = " AND ".join(f"{names.quote(key.name)} = ?" for key in plan.keys)
            self._delete = f"DELETE FROM {table} WHERE {keys}"  # noqa: S608 - quoted
            self._key_processors = [_processor(key) for key in plan.keys]

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        driver: Any = connection.connection.driver_connection
        try:
            self._write(driver, self.stored(rows))
        except sqlite3.OperationalError as error:
            # "Database or disk is full" is also what it says when numbers have run out.
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._plan.nature.rows_numbered:
                table = self._plan.table.name
                last = driver.execute("SELECT max(seq) FROM sqlite_sequence WHERE lower(name) = lower(?)", (table,)).fetchone()[0]
                if last == _LAST_NUMBER:
                    raise ConfigError(
                        f"Table {table}: its numbers (AUTOINCREMENT) have run out: sqlite_sequence stands at {last}.",
                        hint="Where no row has so high a number, lower seq there; else number the rows anew. Then start again.",
                    ) from error
            raise

    def _write(self, driver: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        if self._missing:
            for row in rows:
                if not self._update or not driver.execute(self._update, row).rowcount:
                    driver.execute(self._insert_missing, row)
            return
        whole = len(rows) - len(rows) % self._rows_max
        for first in range(0, whole, self._rows_max):
            driver.execute(self._insert_many, tuple(chain.from_iterable(rows[first : first + self._rows_max])))
        if whole < len(rows):
            driver.executemany(self._insert_one, rows[whole:])

    def stored(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """The rows as SQLite stores them."""
        return _stored(rows, self._processors)

    @override
    def delete(self, connection: sa.Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.executemany(self._delete, _stored(keys, self._key_processors))


class MergeBulk(ValuesBulk):
    """The same, with sums that are as exact, and as bounded by their columns, as those of other databases."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        if not (means := quotients(plan)):
            return
        names = SA_DIALECT.identifier_preparer
        at = {column.name: number for number, column in enumerate(plan.columns, 1)}
        columns = ", ".join(names.quote(name) for name in (*at, *(mean.column.name for mean in means)))

        def row(number: int) -> str:
            # A mean is calculated from the parameters of its row, so these need numbers.
            before = number * len(at)
            own = [f"?{before + n}" for n in at.values()]
            own += [_mean(mean, f"?{before + at[mean.total.name]}", f"?{before + at[mean.number.name]}") for mean in means]
            return f"({', '.join(own)})"

        head = f"INSERT INTO {names.format_table(plan.table)} AS {TARGET} ({columns}) VALUES "  # noqa: S608 - quoted
        self._insert_many = f"{head}{', '.join(map(row, range(self._rows_max)))}{self._conflict}"
        self._insert_one = f"{head}{row(0)}{self._conflict}"
        self._insert_missing = f"{head.removesuffix(' VALUES ')} SELECT {row(0)[1:-1]}{self._missing}"

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            super().write(connection, rows)
        except sqlite3.DataError as error:
            raise sqlite3.DataError("a sum is beyond what its column holds") from error


def _update_first(plan: Plan, becomes: Replacement) -> tuple[str, str]:
    """Where the table numbers rows (AUTOINCREMENT) a row that is there must draw no number: SQL that updates it, or nothing where
    there is nothing to set, and the condition of the INSERT of one that is not there."""
    names = SA_DIALECT.identifier_preparer
    table = names.format_table(plan.table)
    at = {column.name: number for number, column in enumerate(plan.columns, 1)}
    update = ""
    if becomes.sets:
        comes = ", ".join(f"?{number} AS {names.quote(name)}" for name, number in at.items())
        same = " AND ".join(f"{TARGET}.{names.quote(key.name)} = excluded.{names.quote(key.name)}" for key in plan.keys)
        update = f"UPDATE {table} AS {TARGET} SET {becomes.sets} FROM (SELECT {comes}) AS excluded WHERE {same}"  # noqa: S608 - quoted
        update += f" AND {becomes.where}" if becomes.where else ""
    missing = " AND ".join(f"{names.quote(key.name)} = ?{at[key.name]}" for key in plan.keys)
    return update, f" WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {missing})"  # noqa: S608 - quoted


@encodes
def _stored(rows: Sequence[tuple[Any, ...]], processors: Sequence[Callable[[Any], Any] | None]) -> Sequence[tuple[Any, ...]]:
    """The rows as SQLite stores them."""
    if not rows or not any(processors):
        return rows
    columns = columns_of(rows)
    for number, process in enumerate(processors):
        if process is not None:
            columns[number] = [None if value is None else process(value) for value in columns[number]]
    return list(zip(*columns, strict=True))


# A value that SQLite refuses to make, as the one way to an error within an expression.
_REFUSED = "zeroblob(4611686018427387904)"


def _total(column: sa.Column[Any], total: str) -> str:
    """A sum, in the column's own bounds, of which SQLite knows nothing; decimals are floats to it, which must not drift."""
    kind = kind_of(column)
    if kind == "integer":
        low, high = integer_range(column.type)
        # Beyond 64 bits a sum becomes a float.
        beyond = f"typeof({total}) = 'real' OR {total} NOT BETWEEN {low} AND {high}"
    elif kind == "decimal":
        assert isinstance(column.type, sa.Numeric)
        scale = column.type.scale or 0
        total = f"round({total}, {scale})"
        beyond = f"abs({total}) >= 1e{(column.type.precision or DECIMAL_DIGITS_MAX) - scale}"
    else:
        beyond = f"abs({total}) > 1.7976931348623157e308"
    return f"CASE WHEN {beyond} THEN {_REFUSED} ELSE {total} END"


def _mean(mean: MeanColumn, total: str, number: str) -> str:
    quotient = f"CAST({total} AS REAL) / nullif({number}, 0)"
    return _total(mean.column, quotient)


def _processor(column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    return kept_text if kind_of(column) == "json" else column.type.dialect_impl(SA_DIALECT).bind_processor(SA_DIALECT)
