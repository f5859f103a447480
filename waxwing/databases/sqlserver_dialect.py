"""How SQLAlchemy talks to SQL Server for us: types that lose nothing, names in quotes, a proof that a transaction is whole."""

# ruff: noqa: ARG002 - methods in SQLAlchemy's shape

from __future__ import annotations

import contextlib
from ctypes import c_float
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, registry
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


_DIGITS = """
    SELECT c.name, c.scale
    FROM sys.columns AS c INNER JOIN sys.objects AS o ON o.object_id = c.object_id
    WHERE o.name = ? AND o.schema_id = SCHEMA_ID(COALESCE(?, SCHEMA_NAME()))"""


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


class _Datetime(sa.DATETIME):
    """DATETIME: from 1753 on, in steps of 1/300 s, which it gives as .000, .003 and .007."""

    @staticmethod
    def keeps(value: datetime) -> bool:
        """Does it come back as it was?"""
        return value.microsecond % 10_000 in _TICKS and value.year >= _DATETIME_YEAR_FIRST


class _SmallDatetime(mssql.SMALLDATETIME):
    """SMALLDATETIME: minutes."""

    @staticmethod
    def keeps(value: datetime) -> bool:
        """Does it come back as it was?"""
        return not value.second and not value.microsecond and _SMALL_FIRST <= value <= _SMALL_LAST


class _Real(sa.REAL[float]):
    """REAL, which FLOAT(1) to FLOAT(24) are too: four bytes."""

    @staticmethod
    def keeps(value: float) -> bool:
        """Does it come back as it was? Numbers closer to zero than _REAL_LEAST are outside of its range."""
        return c_float(value).value == value and (value == 0 or abs(value) >= _REAL_LEAST)


class _Money(sa.NUMERIC[Decimal]):
    """MONEY: a whole number of ten-thousandths in eight bytes."""

    most = Decimal("922337203685477.5807")

    def keeps(self, value: Decimal | int) -> bool:
        """Is it within the range?"""
        return -self.most <= value <= self.most


class _SmallMoney(_Money):
    """SMALLMONEY: the same in four bytes."""

    most = Decimal("214748.3647")


_REAL_LEAST = 2.0**-126
_TICKS = {0, 3_000, 7_000}
_DATETIME_YEAR_FIRST = 1753
_SMALL_FIRST, _SMALL_LAST = datetime(1900, 1, 1), datetime(2079, 6, 6, 23, 59)  # noqa: DTZ001 - it has no zone


def _general(kind: Any) -> Any:
    """What a type of SQL Server's own is among the general ones; rough times and floats say which values they keep."""
    if isinstance(kind, mssql.MONEY):
        return _Money(19, 4)
    if isinstance(kind, mssql.SMALLMONEY):
        return _SmallMoney(10, 4)
    if isinstance(kind, mssql.DATETIMEOFFSET):
        kind.timezone = True
    elif isinstance(kind, mssql.SMALLDATETIME):
        return _SmallDatetime()
    elif type(kind) is sa.DATETIME:
        return _Datetime()
    elif isinstance(kind, sa.REAL):
        return _Real()
    return kind


class SQLServerDialect(MSDialect_pyodbc):
    """SQLAlchemy's own dialect for pyodbc, with our types, names, and proof."""

    supports_statement_cache = True
    type_compiler_cls = _Types
    preparer = _Names  # type: ignore[assignment]  # as SQLAlchemy's own dialects do

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        """As SQLAlchemy reads them, with types of SQL Server's own as the general ones that hold the same."""
        columns = super().get_columns(connection, table_name, schema=schema, **kw)  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are not annotated
        # Digits of a second, which SQLAlchemy does not ask for.
        digits = {row[0].lower(): row[1] for row in connection.exec_driver_sql(_DIGITS, (table_name, schema))}
        for column in columns:
            kind: Any = column["type"]
            if isinstance(kind, mssql.DATETIME2 | mssql.DATETIMEOFFSET | mssql.TIME):
                kind.precision = digits.get(column["name"].lower())
        return [{**column, "type": _general(column["type"])} for column in columns]

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
