"""The bulk path of MySQL and MariaDB: INSERT with thousands of rows, written as literals.

Measured on an orders row, MariaDB 10.11, 5,000 rows a statement, new and existing keys: literals 183,000 and 156,000 rows/s,
JSON_TABLE with one parameter 164,000 and 133,000, LOAD DATA LOCAL into a temporary table 73,000 and 64,000. So there is one way,
which every version knows, and which takes the rows one after the other: keys that are equal to the server alone
(capitals, accents, blanks at the end) end as the last row of them says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymysql
import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import Bulk
from waxwing.databases.merging import SPARE_DIGITS, MeanColumn, becomes, quotients
from waxwing.databases.mysql.catalog import asked, numbered
from waxwing.databases.mysql.literals import SA_DIALECT, Literals
from waxwing.databases.mysql.numbered import Numbered, query
from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Keyed, Merge, Upsert
from waxwing.tables.plan import Plan

# More made it no faster, and the statement leaves the processor's cache.
STATEMENT_ROWS_MAX = 5_000
# What a statement holds besides its rows, and the protocol around it.
_PACKET_SPARE_BYTES = 1_024
_OUT_OF_RANGE = 1264
# What no column takes, whether it is NOT NULL or not: an error that is met only where it is evaluated. The variable tells it from
# the same error of a trigger.
_REFUSED = "IF((@waxwing_refused := 1) = 1, (SELECT NULL FROM (SELECT 1 UNION ALL SELECT 2) AS waxwing_two), NULL)"
_REFUSED_CODE = 1242


class InsertBulk(Bulk):
    """INSERT of literals, for one table over one connection."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        names = SA_DIALECT.identifier_preparer
        table = names.format_table(plan.table)
        columns = ", ".join(names.quote(column.name) for column in plan.columns)
        self._literals = Literals(plan.columns)
        self._head = f"INSERT INTO {table} ({columns}) VALUES ".encode()  # noqa: S608 - quoted
        filled = [*plan.columns, *(mean.column for mean in quotients(plan))]  # without one of them it would be refused
        nulls = ", ".join(["NULL"] * len(filled))
        all_columns = ", ".join(names.quote(column.name) for column in filled)
        self._hold = f"INSERT INTO {table} ({all_columns}) SELECT {nulls} FROM DUAL WHERE FALSE".encode()  # noqa: S608 - quoted
        self._tail = _on_duplicate(plan, plan.mode).encode() if isinstance(plan.mode, Keyed) else b""
        self._numbered = Numbered(plan) if plan.keys and plan.nature.rows_numbered else None
        if isinstance(plan.mode, Keyed):
            keys = ", ".join(names.quote(key.name) for key in plan.keys)
            self._delete = f"DELETE FROM {table} WHERE ({keys}) IN (".encode()  # noqa: S608 - quoted
            self._keys = Literals(plan.keys)

    @override
    def hold(self, connection: sa.Connection) -> bool:
        query(connection, self._hold)  # MyISAM, which it may have become, takes no row back
        return True

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            later: Sequence[tuple[Any, ...]] = rows
            while self._numbered is not None and later:
                # Those of which there is one; of the others the first of each key is inserted, and the rest meets that.
                self._numbered.stage(connection)
                self._send_all(connection, self._numbered.head, self._numbered.literals, self._numbered.placed(later), b"")
                query(connection, self._numbered.update + self._tail)
                rows, later = self._numbered.first(later, self._numbered.missing(connection))
                self._send_all(connection, self._head, self._literals, rows, self._tail)
            if self._numbered is None:
                self._send_all(connection, self._head, self._literals, rows, self._tail)
        except pymysql.err.OperationalError as error:
            if error.args[0] != _REFUSED_CODE or not _refused(connection):
                raise
            # Ours (`_on_duplicate`).
            raise pymysql.err.IntegrityError(1062, "another row has the same value in another unique key of the table") from error
        except pymysql.err.DataError as error:
            self._look_at_numbers(connection, error)
            raise

    def _look_at_numbers(self, connection: sa.Connection, error: pymysql.err.DataError) -> None:
        """A number beyond a column's range: one that the database drew for it?"""
        code, text = error.args[0], str(error.args[-1])
        if code != _OUT_OF_RANGE or not self._plan.nature.rows_numbered:
            return
        for name in numbered(connection, self._plan):
            if f"column '{name}'" in text:
                raise ConfigError(
                    f"Table {self._plan.table.fullname}: the numbers of column {name} have run out: {text}.",
                    hint="Give the column a larger type, then start again. Nothing was written.",
                ) from error

    @staticmethod
    def _send_all(
        connection: sa.Connection, head: bytes, literals: Literals, rows: Sequence[tuple[Any, ...]], tail: bytes
    ) -> None:
        for first in range(0, len(rows), STATEMENT_ROWS_MAX):
            _send(connection, head, literals, rows[first : first + STATEMENT_ROWS_MAX], tail)

    @override
    def delete(self, connection: sa.Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        for first in range(0, len(keys), STATEMENT_ROWS_MAX):
            _send(connection, self._delete, self._keys, keys[first : first + STATEMENT_ROWS_MAX], b")")


class MergeBulk(InsertBulk):
    """The same, with means calculated from the other values of the row."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        if means := quotients(plan):
            names = SA_DIALECT.identifier_preparer
            columns = ", ".join(map(names.quote, (*(c.name for c in plan.columns), *(mean.column.name for mean in means))))
            self._head = f"INSERT INTO {names.format_table(plan.table)} ({columns}) VALUES ".encode()  # noqa: S608 - quoted
            # A value may name the columns before it.
            self._literals = Literals(plan.columns, more="".join(f",{_mean(mean)}" for mean in means))
            if self._numbered is not None:
                at = {column.name: f"waxwing_{number}" for number, column in enumerate(plan.columns)}
                self._numbered.means = [(m.column.name, _mean(m, at[m.total.name], at[m.number.name])) for m in means]


def _refused(connection: sa.Connection) -> bool:
    """Has `_REFUSED` been met? It has not been then."""
    [(met,)] = asked(connection, "SELECT @waxwing_refused")
    query(connection, b"SET @waxwing_refused = NULL")
    return met is not None


def _send(connection: sa.Connection, head: bytes, literals: Literals, rows: Sequence[tuple[Any, ...]], tail: bytes) -> None:
    """One statement, or several where the server takes no packet so large."""
    most = connection.info["packet_bytes_max"] - _PACKET_SPARE_BYTES
    statement = b"".join((head, literals.encode(rows), tail))
    if len(statement) <= most:
        query(connection, statement)
    elif len(rows) > 1:
        half = len(rows) // 2
        _send(connection, head, literals, rows[:half], tail)
        _send(connection, head, literals, rows[half:], tail)
    else:
        raise pymysql.err.DataError(1153, f"a row of {len(statement):,} bytes; max_allowed_packet of the server is below that")


def _on_duplicate(plan: Plan, mode: Keyed) -> str:
    quote = SA_DIALECT.identifier_preparer.quote
    newer_by = mode.newer_by if isinstance(mode, Upsert) else None
    newer = _newer(plan.table.c[newer_by]) if newer_by is not None else ""
    # A row that is equal in ANOTHER unique key of the table would be updated as well, and become a mixture: an error keeps it
    # as it is. (A null in the key would be none where the key takes nulls.)
    sets = [f"{key} = IF({key} <=> VALUES({key}), {key}, {_REFUSED})" for key in map(quote, mode.keys)]
    # The version last: assignments go from left to right, and the others ask for the stored one.
    changed = [column.name for column in plan.columns if column.name not in (*mode.keys, newer_by)]
    if isinstance(mode, Merge):
        assigned = list(becomes(mode, changed, quote, lambda name: f"VALUES({quote(name)})").items())
        # Likewise from left to right: the sums are the new ones by now.
        assigned += [(mean.column.name, _mean(mean)) for mean in quotients(plan)]
    else:
        assigned = [(name, f"VALUES({quote(name)})") for name in changed]
    assigned += [(column.name, _set_on_update(column)) for column in plan.touched]
    if newer_by is not None:
        assigned.append((newer_by, f"VALUES({quote(newer_by)})"))
    pairs = [(quote(name), value) for name, value in assigned]
    sets += [f"{name} = IF({newer}, {value}, {name})" if newer else f"{name} = {value}" for name, value in pairs]
    return f" ON DUPLICATE KEY UPDATE {', '.join(sets)}"


# A DECIMAL's digits in all, and behind the point in MySQL.
_DIGITS_MAX, _DECIMALS_MAX = 65, 30


def _mean(mean: MeanColumn, total: str = "", number: str = "") -> str:
    quote = SA_DIALECT.identifier_preparer.quote
    total, number = total or quote(mean.total.name), number or quote(mean.number.name)
    if mean.floats:
        return f"({total} + 0e0) / nullif({number}, 0)"
    kind = mean.total.type
    whole = kind.precision - (kind.scale or 0) if isinstance(kind, sa.Numeric) and kind.precision else _DIGITS_MAX - _DECIMALS_MAX
    digits = min(mean.decimals + SPARE_DIGITS, _DECIMALS_MAX, _DIGITS_MAX - whole)
    return f"CAST({total} AS DECIMAL({_DIGITS_MAX}, {digits})) / nullif({number}, 0)"


def _newer(column: sa.Column[Any]) -> str:
    """Is the row that comes newer? A stored null is older than every version, a null that comes is newer than none."""
    name = SA_DIALECT.identifier_preparer.quote(column.name)
    stored, comes = name, f"VALUES({name})"
    if kind_of(column) == "text":  # by code point, as Python compares
        stored, comes = f"CAST({stored} AS BINARY)", f"CAST({comes} AS BINARY)"
    return f"{stored} < {comes} OR ({name} IS NULL AND VALUES({name}) IS NOT NULL)"


def _set_on_update(column: sa.Column[Any]) -> str:
    assert isinstance(column.onupdate, sa.ColumnDefault)
    return str(column.onupdate.arg.compile(dialect=SA_DIALECT, compile_kwargs={"literal_binds": True}))
