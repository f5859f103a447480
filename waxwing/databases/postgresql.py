"""PostgreSQL, by psycopg 3."""

from __future__ import annotations

import re
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import LOCKED, Bulk, Database, Dialect, Failure, Merge, Plan
from waxwing.databases.postgresql_copy import CopyBulk, MergeBulk
from waxwing.databases.postgresql_csv import SA_DIALECT

DIALECT = Dialect(
    name="postgresql",
    drivername="postgresql+psycopg",
    backends=("postgresql", "postgres"),
    writers_max=None,
    transaction_s=0.1,
    identifier_bytes_max=63,  # NAMEDATALEN - 1; longer names would be cut without an error
    identifier_refused="",
    parameters_max=65_535,  # a 16-bit count in the protocol's Bind message
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
    integer_key_automatic=False,
    json_as_text=False,
    char_blanks_kept=True,
)

# SQLSTATE -> what it means: https://www.postgresql.org/docs/current/errcodes-appendix.html
# Five characters win over the class (two). What is not listed stops the flow.
_CODES = {
    "08": "transient",  # connection exception
    "09": "row",  # triggered action exception
    "0A": "config",  # feature not supported: a view, row-level security with COPY
    "21": "target",  # cardinality violation: one key twice in a statement would be our bug
    "22": "row",  # data exception: too long, out of range, not a number
    "22P04": "target",  # bad COPY format: our bug
    "23": "row",  # integrity constraint violation
    "25006": "transient",  # read-only transaction: connected to a standby, until the failover is done
    "25P03": "transient",  # idle_in_transaction_session_timeout
    "25P04": "transient",  # transaction_timeout
    "27": "row",  # triggered data change violation
    "28": "config",  # invalid authorization: password, pg_hba.conf
    "3D": "config",  # no such database
    "3F": "config",  # no such schema
    "40": "transient",  # transaction rollback: 40001 serialization, 40P01 deadlock, 40003 outcome unknown
    "40002": "row",  # an integrity constraint, found at the end of the transaction
    "42": "config",  # no such table or column, no permission, syntax
    # Another process made it at the same moment; next time it is there.
    "42P07": "transient",
    "42710": "transient",
    "44": "row",  # WITH CHECK OPTION
    "53200": "transient",  # out of memory: may pass
    "53300": "transient",  # too many connections
    "54000": "row",  # program limit exceeded: one value too large for an index
    "55006": "transient",  # object in use
    "55P03": "transient",  # lock_timeout
    "57014": "transient",  # statement_timeout, or cancelled by an administrator
    "57P01": "transient",  # shut down by an administrator
    "57P02": "transient",  # another server process crashed
    "57P03": "transient",  # starting up, or shutting down
    "57P05": "transient",  # idle_session_timeout
    "45": "row",  # a user's own errors, by the SQL standard
    "P0": "row",  # RAISE EXCEPTION, by a trigger of the table
}  # and 53100 disk full, 53400, 54*, 55000, 58*, XX* (internal, corrupted): target

_HINTS = {
    "28": "Check user and password in DATABASE_URL, and the server's pg_hba.conf.",
    "3D": "Create the database, or correct its name in DATABASE_URL.",
    "3F": "Create the schema, or correct it in DATABASE_TABLE.",
    "42501": "Grant it: CONNECT and TEMPORARY on the database, USAGE and CREATE on the schema, "
    "SELECT, INSERT, UPDATE and DELETE on the tables.",
    "42P01": "It was there at the start: somebody dropped or renamed it.",
    "53100": "Free disk space on the database server, then start again.",
    "55P03": LOCKED,
}

# libpq hands out no SQLSTATE for a refused connection, only the server's message. It is in English unless the
# server says otherwise (lc_messages); in another language it counts as transient, and so ends in exit 75.
_REFUSED = (
    (re.compile(r"password authentication failed|no password supplied|authentication failed"), "28P01"),
    (re.compile(r"no pg_hba\.conf entry|FATAL: +role .* (does not exist|is not permitted to log in)"), "28000"),
    (re.compile(r"FATAL: +database .* does not exist"), "3D000"),
    (re.compile(r"permission denied for database"), "42501"),
    (re.compile(r"too many clients|too many connections|connection slots are reserved"), "53300"),
    (re.compile(r"starting up|shutting down|in recovery mode|not (yet )?accepting connections"), "57P03"),
    (re.compile(r"server does not support SSL|certificate verify failed|root certificate file .* does not exist"), "28000"),
)
_UNKNOWN_HOST = re.compile(r"failed to resolve host|could not translate host name")

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


class PostgreSQL(Database):
    """PostgreSQL 13 or newer: COPY straight into the table, or through a staging table."""

    dialect = DIALECT
    blockers_sql = _BLOCKERS

    @override
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
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
            url.set(drivername=DIALECT.drivername),
            poolclass=sa.NullPool,
            isolation_level="READ COMMITTED",
            connect_args={name: value for name, value in ours.items() if name not in url.query},
        )
        # Set after connecting, not by the `options` of the connection: proxies refuse those.
        limits = (
            f"SET statement_timeout = {_ms(statement_timeout_s)}; SET lock_timeout = {_ms(lock_timeout_s)}; "
            f"SET idle_in_transaction_session_timeout = {_ms(statement_timeout_s)}"
        )

        @sa.event.listens_for(engine, "connect")
        def set_limits(connection: psycopg.Connection[Any], record: object) -> None:  # noqa: ARG001 - SQLAlchemy gives it
            connection.execute(limits.encode())
            connection.commit()

        return engine

    @override
    def bulk(self, plan: Plan) -> Bulk:
        return MergeBulk(plan) if isinstance(plan.mode, Merge) else CopyBulk(plan)

    @override
    def classify(self, error: BaseException) -> Failure:
        cause = getattr(error, "orig", None) or error
        if not isinstance(cause, psycopg.Error):
            if isinstance(cause, UnicodeEncodeError):
                return Failure("row", "UnicodeEncodeError", "text that is no Unicode")
            # SQLAlchemy has seen the connection end, and says so of every later call.
            kind: Literal["transient", "target"] = "transient" if isinstance(cause, sa.exc.PendingRollbackError) else "target"
            return Failure(kind, type(cause).__name__, str(cause))
        if cause.sqlstate:
            failure = _failure(cause.sqlstate, cause.diag.message_primary or str(cause))
            # The detail of a row's error names the key that exists; of others, nothing of use.
            if failure.kind == "row" and cause.diag.message_detail:
                return failure._replace(reason=f"{failure.reason}: {cause.diag.message_detail}")
            return failure
        return _without_code(cause)

    @override
    def lock_schema(self, connection: sa.Connection) -> None:
        # CREATE TABLE IF NOT EXISTS can still fail when two sessions run it at once.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    @override
    def check_deferred(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

    @override
    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:
        # No limit of the server reaches a COPY that waits for its client, nor one who sent a part of a pipeline and went silent
        # (the clock of idle transactions is off then): a process frozen there would hold its locks for ever.
        connection.execute(_OVERDUE, {"seconds": statement_timeout_s})

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        name = SA_DIALECT.identifier_preparer.format_table(table)
        found = connection.execute(_RELATIONS, {"name": name}).all()
        why = [text.format(row.name) for row in found for value, text in _KINDS.items() if value in (row.kind, row.persistence)]
        if found and connection.scalar(sa.text("SELECT row_security_active(to_regclass(:name))"), {"name": name}):
            why.append(f"{name} has row-level security for this user, which COPY does not support")
        if connection.scalar(_RULES, {"name": name}):
            why.append(f"{name} has rules (CREATE RULE), which COPY passes over")
        if not connection.scalar(sa.text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")):
            why.append("the user may not make temporary tables, which upserts go through (GRANT TEMPORARY ON DATABASE)")
        return why


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _failure(code: str, reason: str) -> Failure:
    kind: Any = _CODES.get(code, _CODES.get(code[:2], "target"))
    return Failure(kind, code, reason.strip(), _HINTS.get(code, _HINTS.get(code[:2], "")), code == "57014")


def _without_code(error: psycopg.Error) -> Failure:
    """An error that no server gave a code to: of connecting, of a lost connection, of the driver itself."""
    reason = " ".join(str(error).split())
    if isinstance(error, psycopg.OperationalError):
        for pattern, code in _REFUSED:
            if pattern.search(reason):
                return _failure(code, reason)
        hint = "Check the host in DATABASE_URL." if _UNKNOWN_HOST.search(reason) else ""
        return Failure("transient", "connection", reason, hint)
    if isinstance(error, psycopg.InterfaceError):  # "the connection is closed"
        return Failure("transient", "connection", reason)
    if isinstance(error, psycopg.DataError):
        return Failure("row", type(error).__name__, reason)
    if isinstance(error, psycopg.ProgrammingError):  # an unknown option in the URL
        return Failure("config", type(error).__name__, reason, "Check the options in DATABASE_URL.")
    return Failure("target", type(error).__name__, reason)


_OVERDUE = sa.text("""
    SELECT pg_terminate_backend(a.pid)
    FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.mode = 'RowExclusiveLock' AND c.relname = 'waxwing_progress' AND a.datname = current_database()
      AND a.wait_event = 'ClientRead'
      AND (a.state = 'active'
           OR a.state = 'idle in transaction' AND a.application_name = current_setting('application_name'))
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
