"""How SQLAlchemy talks to SQL Server for us: types that lose nothing, names in quotes, a proof that a transaction is whole."""

# ruff: noqa: ARG002 - methods in SQLAlchemy's shape

from __future__ import annotations

import contextlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mssql.base import MSIdentifierPreparer, MSTypeCompiler
from sqlalchemy.dialects.mssql.pyodbc import MSDialect_pyodbc

# Of an engine of ours; users write mssql:// or mssql+pyodbc://.
DRIVERNAME = "mssql+waxwing"

# Text of a key compares by code point, as in Python and in Kafka, where "a" and "A" are two keys. (Trailing blanks are passed
# over by every collation of SQL Server, this one included.)
KEY_COLLATION = "Latin1_General_100_BIN2"

# A lock that the transaction itself owns is gone when that transaction has ended, whatever began since.
_BEGIN_PROOF = (
    "IF @@TRANCOUNT = 0 BEGIN TRANSACTION; SET NOCOUNT OFF; "
    "DECLARE @held int, @name nvarchar(255) = CONCAT(N'waxwing transaction ', @@SPID); "
    "EXEC @held = sp_getapplock @Resource = @name, @LockMode = N'Exclusive', @LockOwner = N'Transaction', @LockTimeout = 0; "
    "IF @held < 0 THROW 51901, N'The lock of this session is held by another one.', 1; "
)
_END_PROOF = "SELECT APPLOCK_MODE(N'public', CONCAT(N'waxwing transaction ', @@SPID), N'Transaction')"


class BrokenTransaction(Exception):
    """The server has ended the transaction, and silently begun another (a trigger did, for example)."""


class _Types(MSTypeCompiler):
    """Text as NVARCHAR, since VARCHAR turns what its code page lacks into question marks; times with their microseconds."""

    def _text(self, type_: Any, name: str, kw: Any) -> str:
        column = kw.get("type_expression")
        if not type_.collation and isinstance(column, sa.Column) and _is_key(column):
            return f"{name}({type_.length or 'max'}) COLLATE {KEY_COLLATION}"
        return f"{name}({type_.length or 'max'})" + (f" COLLATE {type_.collation}" if type_.collation else "")

    def visit_string(self, type_: Any, **kw: Any) -> str:
        return self._text(type_, "NVARCHAR", kw)

    visit_text = visit_unicode = visit_unicode_text = visit_enum = visit_string

    def visit_CHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802 - SQLAlchemy's name
        return self._text(type_, "NCHAR", kw).replace("(max)", "(1)")

    def visit_large_binary(self, type_: Any, **kw: Any) -> str:
        length = type_.length if type_.length and type_.length <= 8_000 else "max"
        return f"VARBINARY({length})"

    def visit_datetime(self, type_: Any, **kw: Any) -> str:
        return "DATETIMEOFFSET(6)" if type_.timezone else "DATETIME2(6)"

    def visit_time(self, type_: Any, **kw: Any) -> str:
        return "TIME(6)"


def _is_key(column: sa.Column[Any]) -> bool:
    table = column.table
    return bool(
        column.primary_key
        or column.unique
        or any(column.name in each.columns for each in table.constraints if isinstance(each, sa.UniqueConstraint))
        or any(column.name in index.columns for index in table.indexes if index.unique)
    )


class _Names(MSIdentifierPreparer):
    """Names in double quotes, which every SQL Server takes (QUOTED_IDENTIFIER is on for ODBC), `]` in them included."""

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__(dialect)  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are not annotated
        self.initial_quote = self.final_quote = self.escape_quote = '"'
        self.escape_to_quote = '""'

    def _escape_identifier(self, value: str) -> str:
        return value.replace('"', '""')

    def _unescape_identifier(self, value: str) -> str:
        return value.replace('""', '"')


class SQLServerDialect(MSDialect_pyodbc):
    """SQLAlchemy's own dialect for pyodbc, with our types, names, and proof."""

    supports_statement_cache = True
    type_compiler_cls = _Types
    preparer = _Names  # type: ignore[assignment]  # as SQLAlchemy's own dialects do

    def get_unique_constraints(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        """None beside the unique indexes, among which SQL Server keeps them."""
        return []

    def do_savepoint(self, connection: sa.Connection, name: str) -> None:
        """SAVE TRANSACTION, and the beginning of a proof: XACT_ABORT leaves savepoints nothing else to do."""
        connection.exec_driver_sql(f"{_BEGIN_PROOF}SAVE TRANSACTION {name}")

    def do_release_savepoint(self, connection: sa.Connection, name: str) -> None:
        """SQL Server has no RELEASE: the end of the proof."""
        if connection.exec_driver_sql(_END_PROOF).scalar() != "Exclusive":
            raise BrokenTransaction("the transaction was ended within, by a trigger or by the server")

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back. Where the server has done so already the connection is no longer to be trusted, and is closed."""
        try:
            dbapi_connection.rollback()
        except self.dbapi.Error:  # type: ignore[union-attr]  # the module pyodbc
            with contextlib.suppress(Exception):
                dbapi_connection.close()


registry.register("mssql.waxwing", __name__, "SQLServerDialect")
