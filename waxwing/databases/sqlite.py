"""SQLite, by the standard library.

Decimals of up to 15 digits come back exactly; columns with more, and timestamps with time zone, are refused at the start.
Everything is stored as SQLAlchemy stores it, so that reading with the same `Table` gives equal values.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from typing_extensions import override

from waxwing.databases import sqlite_catalog
from waxwing.databases.address import check_options
from waxwing.databases.base import Bulk, Database, Dialect, Keyed, Merge, Nature, Plan, columns_of
from waxwing.databases.columns import kind_of
from waxwing.databases.json_values import text_of
from waxwing.databases.merging import Mean, quotients
from waxwing.databases.on_conflict import TARGET, change, merged_values, on_conflict
from waxwing.databases.refusals import Failure
from waxwing.databases.rules import integer_range
from waxwing.databases.sqlite_errors import failure_of
from waxwing.errors import ConfigError


def _number_kept(text: str) -> bool:
    """Whether a number alone stays as it stands in a column of the type JSON, which SQLite takes for one of numbers."""
    if text.lstrip("-").isdigit():
        return text != "-0" and -(2**63) <= int(text) < 2**63
    return format(float(text), ".15g") == text and "e" not in text


DIALECT = Dialect(
    name="sqlite",
    drivername="sqlite",
    backends=("sqlite",),
    writers_max=1,
    transaction_s=0.1,
    identifier_bytes_max=1_000,  # SQLite has no limit of its own but that of a statement
    identifier_refused="",
    parameters_max=32_766,  # SQLITE_MAX_VARIABLE_NUMBER since 3.32
    now_ms_sql="CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    text_nul=True,
    text_utf16=False,
    decimal_digits_max=15,  # they are kept as 64-bit floats
    timezone_kept=False,
    time_timezone_kept=False,
    float_nan=False,  # it would be stored as NULL
    float_infinity=True,
    lengths_kept=False,
    case_sensitive=False,
    integer_key_automatic=True,
    json_number_kept=_number_kept,
    char_blanks_kept=True,
)

SA_DIALECT: sa.Dialect = sqlite.dialect()

# Rows of one INSERT at most. Measured on an orders row: 1,000 are 1.5 times faster than executemany on existing
# keys and as fast on new ones; json_each with one parameter is slower than either.
INSERT_ROWS_MAX = 1_000

# The default (2 MB) no longer holds the index of a table of a few 10,000 rows, and by default the log is copied into the
# file every 1,000 pages, several times a transaction of ours. 400,000 new orders: 57,000/s with the defaults, 103,000/s so.
CACHE_KIB = 65_536
CHECKPOINT_PAGES = 10_000

# https://www.sqlite.org/uri.html, but for what would make the file read-only or a memory of its own.
_URI_OPTIONS = ("cache", "mode", "nolock", "psow", "vfs")


class SQLite(Database):
    """SQLite 3.32 or newer, one writer, write-ahead log."""

    dialect = DIALECT

    @override
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
            raise ConfigError(
                "An SQLite database in memory can't be written: each connection would have one of its own.",
                hint="Give a file: sqlite:////var/lib/waxwing/orders.sqlite, or use the memory target.",
            )
        if url.host or url.username:
            raise ConfigError(
                "DATABASE_URL has two slashes before the SQLite file, so that its first folder would be a server.",
                hint="Three and a path from here, or four and a path from the root: sqlite:////var/lib/waxwing/orders.sqlite.",
            )
        check_options(url, () if url.query.get("uri") is None else ("uri", *_URI_OPTIONS))
        engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            # isolation_level None: Python's own BEGIN would come late, and never before a SELECT.
            connect_args={"timeout": lock_timeout_s, "isolation_level": None, "check_same_thread": False},
        )

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, record: object) -> None:  # noqa: ARG001 - SQLAlchemy gives it
            connection.execute("PRAGMA journal_mode = WAL")
            # Not FULL: after a power cut the last transactions may be missing, but whole ones. Rows and positions go
            # together, so the flow reads the records again.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            # The write lock now: a transaction that reads first can't get it later (SQLITE_BUSY_SNAPSHOT).
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    @override
    def bulk(self, plan: Plan) -> Bulk:
        return MergeBulk(plan) if isinstance(plan.mode, Merge) else ValuesBulk(plan)

    @override
    def of_driver(self, cause: BaseException) -> Failure | None:
        return failure_of(cause)

    @override
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        return sqlite_catalog.nature(connection, plan)

    @override
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        return sqlite_catalog.key_problems(connection, table, keys)

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        master = f"{SA_DIALECT.identifier_preparer.quote(table.schema)}." if table.schema else ""
        query = sa.text(f"SELECT type, sql FROM {master}sqlite_master WHERE lower(name) = lower(:name)")  # noqa: S608 - quoted
        found = connection.execute(query, {"name": table.name}).all()
        why = [f"{table.name} is a view" for row in found if row.type == "view"]
        sql = " ".join(row.sql.upper() for row in found if row.type == "table")
        if sql.startswith("CREATE VIRTUAL"):
            why.append(f"{table.name} is a virtual table")
        if re.search(r"\bINITIALLY\s+DEFERRED\b", sql):
            why.append(f"{table.name} has a deferred foreign key, whose violation shows at COMMIT only and on no row")
        return why


class ValuesBulk(Bulk):
    """INSERT with many rows of parameters, for one table over one connection."""

    def __init__(self, plan: Plan) -> None:
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
        self._conflict = conflict
        self._rows_max = max(1, min(INSERT_ROWS_MAX, DIALECT.parameters_max // width))
        self._insert_many = f"{insert}{', '.join([values] * self._rows_max)}{conflict}"
        self._insert_one = f"{insert}{values}{conflict}"
        if isinstance(plan.mode, Keyed):
            keys = " AND ".join(f"{names.quote(key.name)} = ?" for key in plan.keys)
            self._delete = f"DELETE FROM {table} WHERE {keys}"  # noqa: S608 - quoted
            self._key_processors = [_processor(key) for key in plan.keys]

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        rows = self.stored(rows)
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

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            super().write(connection, rows)
        except sqlite3.DataError as error:
            raise sqlite3.DataError("a sum is beyond what its column holds") from error


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
        beyond = f"abs({total}) >= 1e{(column.type.precision or DIALECT.decimal_digits_max) - scale}"
    else:
        beyond = f"abs({total}) > 1.7976931348623157e308"
    return f"CASE WHEN {beyond} THEN {_REFUSED} ELSE {total} END"


def _mean(mean: Mean, total: str, number: str) -> str:
    quotient = f"CAST({total} AS REAL) / nullif({number}, 0)"
    return _total(mean.column, quotient)


def _processor(column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    return text_of if kind_of(column) == "json" else column.type.dialect_impl(SA_DIALECT).bind_processor(SA_DIALECT)
