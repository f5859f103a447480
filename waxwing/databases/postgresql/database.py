"""PostgreSQL, by psycopg 3."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import IDLE_MAX_S, Bulk, Database, Need
from waxwing.databases.plain import Bound
from waxwing.databases.postgresql import catalog, rights
from waxwing.databases.postgresql.connect import THRESHOLD, arguments, refuse_shared_sessions
from waxwing.databases.postgresql.copy import CopyBulk, MergeBulk
from waxwing.databases.postgresql.csv import SA_DIALECT
from waxwing.databases.postgresql.errors import failure_of
from waxwing.databases.postgresql.types import TYPES, columns
from waxwing.databases.refusals import Failure
from waxwing.errors import ConfigError
from waxwing.tables.catalog import Found
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Keyed, Merge
from waxwing.tables.plan import Nature, Plan

DIALECT = Dialect(
    name="postgresql",
    drivername="postgresql+psycopg",
    backends=("postgresql", "postgres"),
    port_default=5_432,
    writers_max=None,
    transaction_s=0.1,
    identifier_bytes_max=63,  # NAMEDATALEN - 1; longer names would be cut without an error
    identifier_refused="",
    parameters_max=65_535,  # a 16-bit count in the protocol's Bind message
    lock_wait_sql="SET lock_timeout = {milliseconds}",
    text_prefix="",
    locking_read="",
    rename_column_sql="ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    now_ms_sql="CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    text_nul=False,
    text_utf16=False,
    decimal_digits_max=1_000,
    timezone_kept=True,
    time_timezone_kept=True,
    float_nan=True,
    float_infinity=True,
    lengths_kept=True,
    case_sensitive=True,
    collation_exact='"C", in a column of text or varchar',
    upsert_sets_all=False,
    integer_key_automatic=False,
    json_number_kept=None,
    savepoints=True,
    name_blanks_kept=True,
    char_blanks_kept=True,
    times_are_text=False,
    untyped_columns=False,
)

# What makes one lock of all who make Waxwing's or the flow's tables ("waxwing" in ASCII).
_SCHEMA_LOCK = 0x77617877696E67


_BLOCKERS = sa.text("""
    SELECT DISTINCT 'pid ' || a.pid || ' (' || coalesce(nullif(a.application_name, ''), 'no application name') || ', '
           || coalesce(a.state, 'state unknown')
           || coalesce(', in a transaction since ' || date_trunc('second', a.xact_start), '') || ')'
    FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database()
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
      AND (c.relname LIKE 'waxwing%' AND l.mode <> 'AccessShareLock'
           OR l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
    ORDER BY 1""")


# Single-byte encodings that Python knows under another name.
_ENCODINGS = {"LATIN1": "latin-1", "LATIN2": "iso8859-2", "LATIN9": "iso8859-15", "KOI8R": "koi8-r"}
_ENCODINGS |= {f"WIN{number}": f"cp{number}" for number in range(1250, 1259)}


class PostgreSQL(Database):
    """PostgreSQL 13 or newer: COPY straight into the table, or through a staging table."""

    dialect = DIALECT
    types = TYPES
    blockers_sql = _BLOCKERS
    begin_sql = "BEGIN ISOLATION LEVEL READ COMMITTED"
    deferred_sql = "SET CONSTRAINTS ALL IMMEDIATE"
    commit_sql = "COMMIT"

    @override
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        if not url.database and not url.query.keys() & {"dbname", "service"}:  # libpq would take the user's name for it
            raise ConfigError(
                "The URL of the PostgreSQL database names no database.",
                hint="Append it: postgresql://user:password@host:5432/database",
            )
        ours = {
            "application_name": "waxwing",
            "client_encoding": "UTF8",  # whatever the database's own is
            "connect_timeout": max(2, round(connect_timeout_s)),  # libpq takes 1 for 2
            # A server that vanished without a word is noticed, also while we wait for its answer.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
        engine = sa.create_engine(
            url.set(drivername=DIALECT.drivername).difference_update_query([THRESHOLD]),
            poolclass=sa.NullPool,
            isolation_level="READ COMMITTED",
            connect_args=arguments(url, ours),
        )
        # Set after connecting, not by the `options` of the connection: proxies refuse those.
        limits = (
            f"SET statement_timeout = {_ms(statement_timeout_s)}; SET lock_timeout = {_ms(lock_timeout_s)}; "
            f"SET idle_in_transaction_session_timeout = {_ms(min(statement_timeout_s, IDLE_MAX_S))}"
        )

        @sa.event.listens_for(engine, "connect")
        def set_limits(connection: psycopg.Connection[Any], record: object) -> None:  # noqa: ARG001 - SQLAlchemy gives it
            refuse_shared_sessions(connection)
            connection.execute(limits.encode())
            connection.commit()

        return engine

    @override
    def bulk(self, plan: Plan) -> Bulk:
        return MergeBulk(plan) if isinstance(plan.mode, Merge) else CopyBulk(plan)

    @override
    def of_driver(self, cause: BaseException) -> Failure | None:
        return failure_of(cause) if isinstance(cause, psycopg.Error) else None

    @override
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        return columns(connection, SA_DIALECT.identifier_preparer.format_table(table))

    @override
    def lock_schema(self, connection: sa.Connection) -> None:
        # CREATE TABLE IF NOT EXISTS can still fail when two sessions run it at once.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    @override
    def text_encoding(self, connection: sa.Connection) -> str | None:
        driver = connection.connection.driver_connection
        assert driver is not None
        encoding = driver.info.parameter_status("server_encoding") or ""
        # What Python and the server may not read alike is written in ASCII.
        return None if encoding == "UTF8" else _ENCODINGS.get(encoding, "ascii")

    @override
    def check_deferred(self, connection: sa.Connection) -> None:
        # Undone again, so that they go on to wait. (At a ROLLBACK psycopg forgets what it has prepared.)
        now = f"SAVEPOINT waxwing_check; {self.deferred_sql}; ROLLBACK TO SAVEPOINT waxwing_check"
        connection.connection.cursor().execute(now)

    @override
    def begins_itself(self, connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.autocommit = True  # else psycopg sends BEGIN in a round trip of its own

    @override
    def stands_in_error(self, connection: sa.Connection) -> bool:
        driver = connection.connection.driver_connection
        return driver is not None and driver.info.transaction_status == psycopg.pq.TransactionStatus.INERROR

    @override
    def together(self, connection: sa.Connection, statements: Sequence[Bound]) -> list[int]:
        driver = connection.connection.driver_connection
        assert driver is not None
        with psycopg.ClientCursor(driver) as cursor:
            texts = [sql if parameters is None else cursor.mogrify(sql, parameters) for sql, parameters in statements]
            cursor.execute("; ".join(texts).encode())
            counts = [cursor.rowcount]
            while cursor.nextset():
                counts.append(cursor.rowcount)
            return counts

    @override
    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:
        # No limit of the server reaches a COPY that waits for its client, nor one who sent a part of a pipeline and went silent,
        # nor one whose COPY was refused while more of it was on its way (the clock of idle transactions is off then): a process
        # frozen there would hold its locks for ever.
        connection.execute(_OVERDUE, {"seconds": statement_timeout_s})

    @override
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        return catalog.nature(connection, plan)

    @override
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        return catalog.key_problems(connection, table, keys)

    @override
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        return catalog.shape(connection, table, self.statements)

    @override
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        return catalog.constrained(connection, table, constraint)

    @override
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        return rights.lacking(connection, need)

    @override
    def obstacles(self, connection: sa.Connection, need: Need) -> Sequence[str]:
        return rights.obstacles(connection, need)

    @override
    def more_needs(self, plan: Plan) -> Sequence[Need]:
        return [Need(rights.TEMPORARY, plan.table, ())] if isinstance(plan.mode, Keyed) else ()

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        name = SA_DIALECT.identifier_preparer.format_table(table)
        found = connection.execute(_RELATIONS, {"name": name}).all()
        why = [text.format(row.name) for row in found for value, text in _KINDS.items() if value in (row.kind, row.persistence)]
        if found and connection.scalar(sa.text("SELECT row_security_active(to_regclass(:name))"), {"name": name}):
            why.append(f"{name} has row-level security for this user, which COPY does not support")
        if connection.scalar(_RULES, {"name": name}):
            why.append(f"{name} has rules (CREATE RULE), which COPY passes over")
        return why


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


_OVERDUE = sa.text("""
    SELECT pg_terminate_backend(a.pid)
    FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.mode = 'RowExclusiveLock' AND c.relname = 'waxwing_progress' AND a.datname = current_database()
      AND a.wait_event = 'ClientRead'
      AND (a.state = 'active'
           OR a.state IN ('idle in transaction', 'idle in transaction (aborted)')
              AND a.application_name = current_setting('application_name'))
      AND a.query_start < clock_timestamp() - make_interval(secs => :seconds)""")

_RELATIONS = sa.text("""
    SELECT CAST(c.oid AS regclass)::text AS name, CAST(c.relkind AS text) AS kind, CAST(c.relpersistence AS text) AS persistence
    FROM pg_class c
    WHERE c.oid = to_regclass(:name) OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)))""")

_RULES = sa.text("SELECT count(*) FROM pg_rewrite WHERE ev_class = to_regclass(:name) AND CAST(ev_type AS text) <> '1'")

_KINDS = {
    "v": "{} is a view",
    "m": "{} is a materialized view",
    "f": "{} is a foreign table, which commits apart from the positions",
    "u": "{} is UNLOGGED: a crash of the server empties it, and the positions stay",
    "t": "{} is a temporary table",
}
