"""SQLite, by the standard library.

Decimals of up to 15 digits come back exactly; columns with more, and timestamps with time zone, are refused at the start.
Everything is stored as SQLAlchemy stores it, so that reading with the same `Table` gives equal values.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.address import check_options
from waxwing.databases.base import Bulk, Database, Need
from waxwing.databases.refusals import Failure
from waxwing.databases.sqlite import catalog
from waxwing.databases.sqlite.errors import failure_of
from waxwing.databases.sqlite.insert import DECIMAL_DIGITS_MAX, PARAMETERS_MAX, SA_DIALECT, MergeBulk, ValuesBulk
from waxwing.databases.sqlite.types import TYPES, columns
from waxwing.errors import ConfigError
from waxwing.tables.catalog import Found
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Merge
from waxwing.tables.plan import Nature, Plan


def _number_kept(text: str) -> bool:
    """Whether a number alone stays as it stands in a column of the type JSON, which SQLite takes for one of numbers."""
    if text.lstrip("-").isdigit():
        return text != "-0" and -(2**63) <= int(text) < 2**63
    return format(float(text), ".15g") == text and "e" not in text


DIALECT = Dialect(
    name="sqlite",
    drivername="sqlite",
    backends=("sqlite",),
    port_default=None,
    writers_max=1,
    transaction_s=0.1,
    identifier_bytes_max=1_000,  # SQLite has no limit of its own but that of a statement
    identifier_refused="",
    parameters_max=PARAMETERS_MAX,
    lock_wait_sql="PRAGMA busy_timeout = {milliseconds}",
    text_prefix="",
    locking_read="",
    rename_column_sql="ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    now_ms_sql="CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    text_nul=True,
    text_utf16=False,
    decimal_digits_max=DECIMAL_DIGITS_MAX,
    timezone_kept=False,
    time_timezone_kept=False,
    float_nan=False,  # it would be stored as NULL
    float_infinity=True,
    lengths_kept=False,
    case_sensitive=False,
    collation_exact="BINARY",
    upsert_sets_all=False,
    integer_key_automatic=True,
    json_number_kept=_number_kept,
    savepoints=True,
    name_blanks_kept=True,
    char_blanks_kept=True,
    times_are_text=True,
    untyped_columns=True,
)

# The default (2 MB) no longer holds the index of a table of a few 10,000 rows, and by default the log is copied into the
# file every 1,000 pages, several times a transaction of ours. 400,000 new orders: 57,000/s with the defaults, 103,000/s so.
CACHE_KIB = 65_536
CHECKPOINT_PAGES = 10_000

# https://www.sqlite.org/uri.html, but for what would make the file read-only or a memory of its own.
_URI_OPTIONS = ("cache", "mode", "nolock", "psow", "vfs")
_BUSY_POLL_S = 0.01


class SQLite(Database):
    """SQLite 3.33 or newer, one writer, write-ahead log."""

    dialect = DIALECT
    types = TYPES

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
            _write_ahead(connection, lock_timeout_s)
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
        return catalog.nature(connection, plan)

    @override
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        return catalog.key_problems(connection, table, keys)

    @override
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        return columns(connection, table)

    @override
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        driver: Any = connection.connection.driver_connection
        # By the driver alone: asked in every transaction, it would take four times as long by SQLAlchemy.
        return tuple(driver.execute(_of_table(table), (table.name,)))

    @override
    def value_bytes_max(self, connection: sa.Connection) -> int:
        driver = connection.connection.driver_connection
        assert driver is not None
        return min(super().value_bytes_max(connection), int(driver.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)) // 2)

    @override
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        return catalog.constrained(connection, table, constraint)

    @override
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        # Who may write the file may write every table; of one that may not be written, SQLite just begins to read.
        if need.right != "SELECT":
            name = SA_DIALECT.identifier_preparer.format_table(need.table)
            connection.exec_driver_sql(f"DELETE FROM {name} WHERE 0")  # noqa: S608 - quoted
        return None

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        found = connection.execute(_definition(table), {"name": table.name}).all()
        why = [f"{table.name} is a view" for row in found if row.type == "view"]
        sql = " ".join(row.sql.upper() for row in found if row.type == "table")
        if sql.startswith("CREATE VIRTUAL"):
            why.append(f"{table.name} is a virtual table")
        if re.search(r"\bINITIALLY\s+DEFERRED\b", sql):
            why.append(f"{table.name} has a deferred foreign key, whose violation shows at COMMIT only and on no row")
        if clause := re.search(r"\bON\s+CONFLICT\s+(REPLACE|IGNORE)\b", sql):
            why.append(f"{table.name} has a key ON CONFLICT {clause[1]}, which drops rows without a word")
        return why


def _write_ahead(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Ask for the write-ahead log. Where several open a new file at once, SQLite answers this without waiting: it is busy."""
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(_BUSY_POLL_S)
        else:
            return


def _definition(table: sa.Table) -> sa.TextClause:
    return sa.text(f"SELECT sql, type FROM {_master(table)} WHERE lower(name) = lower(:name)")  # noqa: S608 - quoted


def _of_table(table: sa.Table) -> str:
    """The table with its indexes and triggers."""
    return f"SELECT type, name, sql FROM {_master(table)} WHERE lower(tbl_name) = lower(?) ORDER BY 1, 2"  # noqa: S608 - quoted


def _master(table: sa.Table) -> str:
    return f"{SA_DIALECT.identifier_preparer.quote(table.schema)}.sqlite_master" if table.schema else "sqlite_master"
