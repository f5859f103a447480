"""MySQL and MariaDB, by PyMySQL."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from inspect import signature
from typing import Any

import pymysql
import sqlalchemy as sa
from pymysql.constants import CLIENT
from typing_extensions import override

from waxwing.databases.address import check_options
from waxwing.databases.base import IDLE_MAX_S, Bulk, Database, Need
from waxwing.databases.mysql import catalog, rights
from waxwing.databases.mysql.ddl import OurTables, OurTypes
from waxwing.databases.mysql.errors import meaning
from waxwing.databases.mysql.insert import InsertBulk, MergeBulk
from waxwing.databases.mysql.types import TYPES, columns
from waxwing.databases.refusals import UNKNOWN, Failure
from waxwing.errors import ConfigError, is_disk_full
from waxwing.tables.catalog import Found
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Keyed, Merge
from waxwing.tables.plan import Nature, Plan

DIALECT = Dialect(
    name="mysql",
    drivername="mysql+pymysql",
    backends=("mysql", "mariadb"),
    port_default=3_306,
    writers_max=None,
    transaction_s=0.1,
    identifier_bytes_max=64,  # characters, to the server; names are ASCII nearly always
    identifier_refused="`",  # SQLAlchemy can't read such names back
    parameters_max=65_535,  # of a prepared statement; ours are written into the text
    lock_wait_sql="SET SESSION innodb_lock_wait_timeout = {seconds}",
    text_prefix="",
    locking_read="",
    rename_column_sql="ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    now_ms_sql="CAST(unix_timestamp(sysdate(3)) * 1000 AS SIGNED)",
    text_nul=True,
    text_utf16=False,
    decimal_digits_max=65,
    timezone_kept=False,  # TIMESTAMP keeps the instant, but ends in 2038
    time_timezone_kept=False,
    float_nan=False,
    float_infinity=False,
    lengths_kept=True,
    case_sensitive=False,
    collation_exact="utf8mb4_nopad_bin, in MySQL utf8mb4_0900_bin; utf8mb4_bin passes over blanks at the end",
    upsert_sets_all=True,  # `key = IF(key <=> VALUES(key), ...)`, `column = IF(newer, VALUES(column), column)`
    integer_key_automatic=False,
    json_number_kept=None,
    savepoints=True,
    name_blanks_kept=True,
    char_blanks_kept=False,
    times_are_text=False,
    untyped_columns=False,
)

# Whatever the server's own default is: a value that does not fit is an error, never cut or zero; a 0 in a numbered
# column is a 0; backslashes escape and double quotes are text.
SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
# Besides InnoDB: engines with transactions and row locks.
ENGINES = ("InnoDB", "RocksDB", "ndbcluster")


_BLOCKERS = sa.text("""
    SELECT concat('connection ', t.trx_mysql_thread_id,
                  coalesce(concat(' (', p.user, ' from ', p.host, ', ', p.command, ')'), ''),
                  ', in a transaction since ', t.trx_started)
    FROM information_schema.innodb_trx t
    LEFT JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE t.trx_mysql_thread_id <> connection_id() AND (t.trx_rows_locked > 0 OR t.trx_tables_locked > 0)
    ORDER BY 1""")

# Where nobody holds rows, it is a table that can't be altered, and that needs no more than to have been read.
_READERS = sa.text("""
    SELECT concat('connection ', p.id, ' (', p.user, ' from ', p.host, ', ', p.command, '), in a transaction since ',
                  t.trx_started)
    FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE p.id <> connection_id() AND p.db = database()
    ORDER BY 1""")

# Sessions of our own kind (same user and database) that have waited for their client inside a transaction for too long.
_OVERDUE = sa.text("""
    SELECT p.id
    FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE p.id <> connection_id() AND p.db = database() AND p.user = substring_index(current_user(), '@', 1)
      AND p.command = 'Sleep' AND p.time >= :seconds AND t.trx_rows_locked > 0""")


class _Connection(pymysql.connections.Connection):
    """PyMySQL's, which would read the system's certificates for each connection (40 ms) and then verify none of the server's."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        made: ssl.SSLContext = super()._create_ssl_ctx(sslp) if sslp else _unverified()  # type: ignore[misc]  # no stub names it
        return made


@cache
def _unverified() -> ssl.SSLContext:
    """TLS where the server has it, as `ssl_mode=PREFERRED` means: nothing was said of certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class MySQL(Database):
    """MySQL 8 or MariaDB 10.6, or newer: INSERT with many rows as literals."""

    dialect = DIALECT
    types = TYPES
    blockers_sql = _BLOCKERS

    @override
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        if not url.database:
            raise ConfigError(
                "The URL of the MySQL database names no database.", hint="Append it: mysql://user:password@host:3306/database"
            )
        ours = {
            # Matched rows, not changed ones: a compare-and-set that changes nothing must still count.
            "client_flag": CLIENT.FOUND_ROWS,
            "charset": "utf8mb4",
            "sql_mode": SQL_MODE,  # given at once: SQLAlchemy asks for it before anything of ours is run
            "password": (url.password or "").encode(),  # PyMySQL would take a text for Latin-1
            "connect_timeout": max(1, round(connect_timeout_s)),
            "read_timeout": max(1, round(connect_timeout_s)),  # while connecting; then as below
            "write_timeout": round(statement_timeout_s) + 30,
        }
        check_options(url, _OPTIONS)
        with _options_read():
            engine = sa.create_engine(
                url.set(drivername=DIALECT.drivername),
                poolclass=sa.NullPool,
                # REPEATABLE READ, the default, would show a position as it was when the transaction began, and lock gaps.
                isolation_level="READ COMMITTED",
                connect_args=ours,
            )
        engine.dialect.type_compiler_instance = OurTypes(engine.dialect)
        engine.dialect.ddl_compiler = OurTables
        lock_s, statement_s = max(1, round(lock_timeout_s)), max(1, round(statement_timeout_s))

        @sa.event.listens_for(engine, "do_connect")
        def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:  # noqa: ARG001 - SQLAlchemy gives them
            with _options_read():
                return _Connection(*arguments, **options)

        idle_s = min(statement_s, round(IDLE_MAX_S))

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, record: Any) -> None:
            limits = (
                # Of an idle transaction, and of a statement (seconds).
                f"idle_write_transaction_timeout = {idle_s}, max_statement_time = {statement_s}"
                if "mariadb" in connection.get_server_info().lower()
                else f"wait_timeout = {statement_s}"
            )
            # A server that vanished without a word; above its own limits, which speak first. (There is no other way to set it.)
            connection._read_timeout = round(statement_timeout_s + lock_timeout_s) + 30
            with connection.cursor() as cursor:
                locks = f"innodb_lock_wait_timeout = {lock_s}, lock_wait_timeout = {lock_s}"
                cursor.execute(f"SET SESSION time_zone = '+00:00', {locks}, {limits}")
                cursor.execute("SELECT @@max_allowed_packet")
                [[record.info["packet_bytes_max"]]] = cursor.fetchall()
            connection.commit()

        return engine

    @override
    def bulk(self, plan: Plan) -> Bulk:
        return MergeBulk(plan) if isinstance(plan.mode, Merge) else InsertBulk(plan)

    @override
    def of_driver(self, cause: BaseException) -> Failure | None:
        if isinstance(cause, pymysql.err.Error) and cause.args and isinstance(cause.args[0], int):
            return meaning(cause.args[0], str(cause.args[-1]))
        if isinstance(cause, FileNotFoundError | PermissionError | ssl.SSLError):
            hint = "Check the TLS files in DATABASE_URL (ssl_ca, ssl_cert, ssl_key)."
            return Failure("config", type(cause).__name__, str(cause), hint)
        if isinstance(cause, RuntimeError) and "cryptography" in str(cause):
            return Failure("config", "RuntimeError", str(cause), "pip install 'waxwing-streams[mysql]'.")
        if isinstance(cause, pymysql.err.InterfaceError) or (isinstance(cause, OSError) and not is_disk_full(cause)):
            return Failure("transient", "connection", str(cause) or "the connection is closed")
        return UNKNOWN.failure(type(cause).__name__, str(cause)) if isinstance(cause, pymysql.err.Error) else None

    @override
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        return columns(connection, table)

    @override
    def lock_schema(self, connection: sa.Connection) -> None:
        # By name, since CREATE TABLE ends a transaction. Held until the connection is closed, at the end of the preparation.
        got = connection.scalar(
            sa.text("SELECT get_lock(left(concat('waxwing:', coalesce(database(), '')), 64), @@lock_wait_timeout)")
        )
        if got != 1:
            raise pymysql.err.OperationalError(1205, "another process makes or checks the tables")

    @override
    def blockers(self, connection: sa.Connection) -> str:
        return super().blockers(connection) or "; ".join(connection.scalars(_READERS))

    @override
    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:
        # The server's own limit frees them later. Without PROCESS nobody's transactions show; then that limit is what there is.
        for session in connection.scalars(_OVERDUE, {"seconds": statement_timeout_s}).all():
            with contextlib.suppress(sa.exc.DBAPIError):  # it has just ended
                connection.exec_driver_sql(f"KILL {int(session)}")

    @override
    def value_bytes_max(self, connection: sa.Connection) -> int:
        # Written as a literal it may take twice as much; and the packet holds the rest of the row.
        packet_bytes_max: int = connection.info["packet_bytes_max"]
        return max(packet_bytes_max // 2 - 8_192, 0)

    @override
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        return catalog.nature(connection, plan)

    @override
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        return catalog.key_problems(connection, table, keys)

    @override
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        return catalog.shape(connection, table)

    @override
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        return catalog.constrained(connection, table, constraint)

    @override
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        return rights.lacking(connection, need)

    @override
    def more_needs(self, plan: Plan) -> Sequence[Need]:
        # (Append goes without: see numbered.py.)
        through_stage = plan.nature.rows_numbered and isinstance(plan.mode, Keyed)
        return [Need(rights.TEMPORARY, plan.table, ())] if through_stage else ()

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        where = {"schema": table.schema, "name": table.name}
        row = connection.execute(_KIND, where).one_or_none()
        if row is None:
            return []
        if row.kind not in {"BASE TABLE", "SYSTEM VERSIONED"}:
            return [f"{table.name} is a {row.kind.lower()}, not a table"]
        why = []
        if (row.engine or "").lower() not in map(str.lower, ENGINES):
            why.append(f"{table.name} has the engine {row.engine}, which has no transactions (ALTER TABLE ... ENGINE=InnoDB)")
        why += [
            f"column {column.name} has the character set {column.charset}, which can't hold all text "
            f"(ALTER TABLE {table.name} CONVERT TO CHARACTER SET utf8mb4)"
            for column in connection.execute(_CHARSETS, where)
            if column.name in table.c
        ]
        return why


# Options of the URL: what PyMySQL takes as text, and what SQLAlchemy makes its TLS settings of.
# (init_command could undo what the session is set to.)
_NO_TEXT = {"ssl", "conv", "cursorclass", "auth_plugin_map", "defer_connect", "init_command"}
_OPTIONS = {*signature(pymysql.connections.Connection).parameters, "ssl_capath", "ssl_cipher", "ssl_check_hostname"} - _NO_TEXT


@contextlib.contextmanager
def _options_read() -> Iterator[None]:
    """What SQLAlchemy and PyMySQL say of an option's value is a matter of the URL (the same of a row's value is not)."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"An option of the database's URL can't be read: {error}.", hint="Check the options in DATABASE_URL."
        ) from error


_KIND = sa.text("""
    SELECT table_type AS kind, engine AS engine FROM information_schema.tables
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name""")

_CHARSETS = sa.text("""
    SELECT column_name AS name, character_set_name AS charset FROM information_schema.columns
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
      AND character_set_name NOT IN ('utf8mb4', 'ascii')""")
