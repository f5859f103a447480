"""SQL Server and Azure SQL, by pyodbc and Microsoft's ODBC driver."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.address import check_options
from waxwing.databases.base import Bulk, Database, Need
from waxwing.databases.refusals import UNKNOWN, Failure, Meaning
from waxwing.databases.sqlserver import catalog
from waxwing.databases.sqlserver import driver as sqlserver_driver
from waxwing.databases.sqlserver.bulk import Abilities, KeyRace, SQLServerBulk
from waxwing.databases.sqlserver.dialect import DRIVERNAME, BrokenTransaction
from waxwing.databases.sqlserver.errors import failure
from waxwing.databases.sqlserver.types import TYPES, columns
from waxwing.errors import ConfigError
from waxwing.tables.catalog import Found
from waxwing.tables.dialect import Dialect
from waxwing.tables.plan import Nature, Plan

DIALECT = Dialect(
    name="sqlserver",
    drivername="mssql+pyodbc",
    backends=("mssql",),
    port_default=1_433,
    writers_max=None,
    transaction_s=0.5,  # seven requests each, and they are what it costs
    identifier_bytes_max=128,  # characters, in fact: longer ones of other alphabets are refused with them
    identifier_refused="",
    parameters_max=2_100,
    lock_wait_sql="SET LOCK_TIMEOUT {milliseconds}",
    text_prefix="N",
    locking_read="WITH (UPDLOCK, ROWLOCK)",
    rename_column_sql="EXEC sp_rename '{table}.{old}', '{new}', 'COLUMN'",
    now_ms_sql="DATEDIFF_BIG(ms, '1970-01-01', SYSUTCDATETIME())",
    text_nul=False,  # it could be stored, but most collations pass over it when they compare
    text_utf16=True,
    decimal_digits_max=38,
    timezone_kept=True,
    time_timezone_kept=False,
    float_nan=False,
    float_infinity=False,
    lengths_kept=True,
    case_sensitive=False,
    collation_exact="Latin1_General_BIN2",
    upsert_sets_all=False,
    integer_key_automatic=False,
    json_number_kept=None,
    savepoints=False,  # under XACT_ABORT any error dooms the transaction
    name_blanks_kept=False,
    char_blanks_kept=True,
    times_are_text=False,
    untyped_columns=False,
)

# What every connection is given unless the URL says otherwise. https://learn.microsoft.com/sql/connect/odbc/dsn-connection-string-attribute
_OPTIONS = {
    "APP": "waxwing",
    # A server that vanished without a word is noticed.
    "KeepAlive": "30",
    "KeepAliveInterval": "10",
    # A connection restored behind our back would have lost its temporary tables and its settings.
    "ConnectRetryCount": "0",
    # Without it fast_executemany does not find temporary tables.
    "UseFMTONLY": "yes",
}

_ENCRYPT = ("", "yes", "no", "true", "false", "mandatory", "optional", "strict")

_BLOCKERS = sa.text("""
    SELECT CONCAT('session ', s.session_id, ' (', s.program_name, ' on ', s.host_name, ', ', s.status,
                  ', ', s.open_transaction_count, ' open transactions)')
    FROM sys.dm_exec_sessions s
    WHERE s.session_id <> @@SPID AND s.is_user_process = 1 AND s.database_id = DB_ID() AND s.open_transaction_count > 0
    ORDER BY s.session_id""")


class SQLServer(Database):
    """SQL Server 2016 or newer, Azure SQL: rows as one JSON parameter, older ones by fast_executemany."""

    dialect = DIALECT
    types = TYPES
    blockers_sql = _BLOCKERS

    def __init__(self) -> None:
        super().__init__()
        self._pyodbc = sqlserver_driver.load()
        self._abilities = Abilities()

    @override
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        given = {name.lower() for name in url.query}
        if url.port and not url.database and "database" not in given:  # without a port the host may be a DSN's name
            raise ConfigError(
                "The URL of the SQL Server names no database.", hint="Append it: mssql://user:password@host:1433/database"
            )
        check_options(url, sqlserver_driver.OPTIONS)
        encrypt = next((str(value) for name, value in url.query.items() if name.lower() == "encrypt"), "")
        if encrypt.lower() not in _ENCRYPT:
            raise ConfigError(f"DATABASE_URL has Encrypt={encrypt}.", hint=f"It is one of {', '.join(filter(None, _ENCRYPT))}.")
        options = {name: value for name, value in _OPTIONS.items() if name.lower() not in given}
        if "driver" not in given and not url.query.get("odbc_connect"):
            options["driver"] = sqlserver_driver.driver().name
        engine = sa.create_engine(
            url.set(drivername=DRIVERNAME).update_query_dict(options),
            poolclass=sa.NullPool,
            connect_args={"timeout": max(1, round(connect_timeout_s))},
        )
        settings = (
            "SET NOCOUNT OFF; SET XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LANGUAGE us_english; "
            f"SET LOCK_TIMEOUT {round(lock_timeout_s * 1000)}"
        )

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, record: object) -> None:  # noqa: ARG001 - SQLAlchemy gives it
            connection.timeout = max(1, round(statement_timeout_s))
            connection.execute(settings).close()
            connection.commit()
            if not self._abilities.known:
                self._abilities.probe(connection)

        @sa.event.listens_for(engine, "do_setinputsizes")
        def declare(sizes: dict[Any, Any], *unused: object) -> None:  # noqa: ARG001 - SQLAlchemy gives it
            # Else pyodbc declares each by its length, up to what the server says a varbinary(n) can have; and where the server
            # was too busy to say so when the connection was made, beyond (HY104).
            for parameter in sizes:
                if isinstance(parameter.type, sa.LargeBinary):
                    sizes[parameter] = (self._pyodbc.SQL_VARBINARY, 0, 0)  # varbinary(max)
                elif isinstance(parameter.type, sa.String):  # else as varchar, where the code page turns much into "?"
                    sizes[parameter] = (self._pyodbc.SQL_WVARCHAR, 0, 0)

        return engine

    @override
    def bulk(self, plan: Plan) -> Bulk:
        return SQLServerBulk(plan, self._abilities)

    @override
    def of_driver(self, cause: BaseException) -> Failure | None:
        if isinstance(cause, self._pyodbc.Error):
            state, message = (*map(str, cause.args), "", "")[:2]
            if not message:  # pyodbc's own, of a closed connection or of its arguments
                return (Meaning("transient") if "closed" in state else UNKNOWN).failure(type(cause).__name__, state)
            return failure(state, message)
        if isinstance(cause, KeyRace):
            return Failure("transient", "2627", "another writer inserted the same key at the same moment")
        if isinstance(cause, BrokenTransaction):
            return Failure("transient", type(cause).__name__, str(cause))
        return None

    @override
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        return columns(connection, table)

    @override
    def lock_schema(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(_LOCK_SCHEMA)

    @override
    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:
        # SQL Server ends nobody's idle transaction: a process frozen in one would hold its locks for ever.
        sessions = connection.scalars(_OVERDUE, {"milliseconds": round(statement_timeout_s * 1000)}).all()
        connection.rollback()
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.autocommit = True  # KILL is refused inside a transaction
        for session in sessions:
            with contextlib.suppress(self._pyodbc.Error):  # no permission, or it has just ended: the time-out's message names it
                driver.execute(f"KILL {int(session)}").close()
        driver.autocommit = False

    @override
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        return catalog.nature(connection, plan)

    @override
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        return catalog.key_problems(connection, table, keys)

    @override
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        name = connection.dialect.identifier_preparer.format_table(table).replace("'", "''")
        return tuple(map(tuple, connection.exec_driver_sql(_SHAPE.format(name=f"N'{name}'"))))

    @override
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        return catalog.constrained(connection, table, constraint)

    @override
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        given = {"name": connection.dialect.identifier_preparer.format_table(need.table), "right": need.right}
        if not need.columns:
            return [] if connection.scalar(_HAS, given) == 0 else None
        columns = [column.name.lower() for column in need.columns]
        return connection.scalars(_LACKING, {**given, "columns": columns}).all() or None

    @override
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        return self.refusals_of(connection, [table])

    @override
    def refusals_of(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> list[str]:
        why, quoted = [], connection.dialect.identifier_preparer.format_table
        for schema in {table.schema for table in tables}:
            names = {table.name.lower(): quoted(table) for table in tables if table.schema == schema}
            for found, kind, durability in connection.execute(_OBJECTS, {"names": list(names), "schema": schema}):
                name = names.get(found.lower(), found)
                if kind.strip() in _KINDS:
                    why.append(_KINDS[kind.strip()].format(name))
                if durability == 1:
                    why.append(
                        f"{name} is memory-optimised with DURABILITY = SCHEMA_ONLY: a restart empties it, and the positions stay"
                    )
        return why


# Null where there is no such table.
_HAS = sa.text("SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', :right)")
_LACKING = sa.text("""
    SELECT c.name FROM sys.columns AS c
    WHERE c.object_id = OBJECT_ID(:name) AND LOWER(c.name) IN :columns
      AND HAS_PERMS_BY_NAME(:name, 'OBJECT', :right, c.name, 'COLUMN') = 0""").bindparams(sa.bindparam("columns", expanding=True))

_LOCK_SCHEMA = (
    "DECLARE @held int, @name nvarchar(255) = CONCAT(N'waxwing schema ', DB_NAME()); "
    "EXEC @held = sp_getapplock @Resource = @name, @LockMode = N'Exclusive', @LockOwner = N'Transaction'; "
    "IF @held < 0 THROW 51902, N'Another process makes the tables and does not finish.', 1"
)

# Not its unique keys, which took longer than all the rest: rows are updated or inserted by a join on the columns of the keys,
# whatever index there is. With the name in it: a statement with parameters is two requests (it is made ready, then let go of).
_SHAPE = """
    SELECT 1 AS kind, column_id AS id, name, system_type_id AS a, user_type_id AS b, max_length AS c, precision AS d, scale AS e,
           is_nullable AS f, default_object_id AS g, is_identity AS h, is_computed AS i, collation_name AS j
    FROM sys.columns WHERE object_id = OBJECT_ID({name})
    UNION ALL
    SELECT 2, object_id, name, is_disabled, 0, 0, 0, 0, 0, 0, 0, 0, NULL FROM sys.triggers WHERE parent_id = OBJECT_ID({name})
    UNION ALL
    SELECT 3, object_id, name, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL FROM sys.foreign_keys WHERE parent_object_id = OBJECT_ID({name})
    UNION ALL
    SELECT 4, object_id, name, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL FROM sys.check_constraints
    WHERE parent_object_id = OBJECT_ID({name})
    ORDER BY 1, 2, 3, 4, 5"""

_OBJECTS = sa.text("""
    SELECT o.name, o.type, t.durability
    FROM sys.objects AS o LEFT JOIN sys.tables AS t ON t.object_id = o.object_id
    WHERE o.name IN :names AND o.schema_id = SCHEMA_ID(COALESCE(:schema, SCHEMA_NAME()))""").bindparams(
    sa.bindparam("names", expanding=True)
)
_KINDS = {
    "V": "{} is a view",
    "SN": "{} is a synonym",
    "ET": "{} is an external table, which commits apart from the positions",
}

# Who stands in somebody's way, and who has an open transaction and does nothing. Needs VIEW SERVER STATE; without it only
# one's own session shows, and nobody is named.

# Sessions of our own kind (same login, program and database) that have waited for their client inside a transaction for too long.
_OVERDUE = sa.text("""
    SELECT s.session_id
    FROM sys.dm_exec_sessions s
    WHERE s.session_id <> @@SPID AND s.is_user_process = 1 AND s.database_id = DB_ID() AND s.open_transaction_count > 0
      AND s.login_name = SUSER_SNAME() AND s.program_name = APP_NAME() AND s.status IN ('sleeping', 'idle in transaction')
      AND s.last_request_end_time < DATEADD(ms, -:milliseconds, GETDATE())""")
