"""Columns of SQL Server's tables as they stand in the database, and how values travel to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.databases.sqlserver.dialect import SQLServerDialect
from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Plan
from waxwing.tables.values.json_values import kept_text

SA_DIALECT: sa.Dialect = SQLServerDialect(paramstyle="named")  # type: ignore[no-untyped-call]  # as SQLAlchemy's
Encode = Callable[[Sequence[Any]], Sequence[Any]]

UNICODE = {"nvarchar", "nchar", "ntext"}
BYTES = {"varchar", "char", "text"}  # text in a code page
BINARY = {"varbinary", "binary", "image"}
# Old types that can't be compared or staged, and what holds the same.
_MODERN = {"text": "varchar", "ntext": "nvarchar", "image": "varbinary"}
_PLAIN = {
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "bit",
    "money",
    "smallmoney",
    "float",
    "real",
    "date",
    "uniqueidentifier",
    "xml",
}
_FRACTION = {"time", "datetime2", "datetimeoffset"}
_ROUGH = {"datetime", "smalldatetime"}
NVARCHAR_MAX = 4_000  # characters that an nvarchar holds which is no nvarchar(max)
# Kinds whose keys are equal where Python says so; capitals, blanks at the end and zeros at the end of bytes pass for others.
EXACT = {"integer", "decimal", "boolean", "date", "datetime", "time", "float"}
# These compare by code point, and pass over nothing but blanks at the end.
_BINARY_COLLATION = re.compile(r"_BIN2?(_UTF8)?$", re.IGNORECASE)


class StoredColumn(NamedTuple):
    """One column as the database describes it."""

    column: sa.Column[Any]
    kind: str  # "nvarchar"
    length: int  # characters or bytes; -1: max
    precision: int
    scale: int  # digits behind the point, of a number or of a second
    collation: str
    code_page: int
    identity: bool

    @property
    def name(self) -> str:
        return SA_DIALECT.identifier_preparer.quote_identifier(self.column.name)

    @property
    def type(self) -> str:
        """As a column of a staging table, comparing as the target's column does."""
        kind = _MODERN.get(self.kind, self.kind)
        if self.kind in UNICODE | BYTES:
            return f"{kind}({self._size}) COLLATE {self.collation}"
        return self.bare

    @property
    def bare(self) -> str:
        """The type without its collation."""
        kind = _MODERN.get(self.kind, self.kind)
        if self.kind in UNICODE | BYTES | BINARY:
            return f"{kind}({self._size})"
        if self.kind in {"decimal", "numeric"}:
            return f"decimal({self.precision}, {self.scale})"
        return f"{kind}({self.scale})" if self.kind in _FRACTION else kind

    @property
    def _size(self) -> str:
        return "max" if self.length < 0 or self.kind in _MODERN else str(self.length)

    @property
    def carried(self) -> str:
        """The type in which values are read from JSON. Text has room for one more: a cut would be silent, so it is an error."""
        if self.kind in UNICODE | BYTES:
            return f"nvarchar({'max' if self._size == 'max' or self.length >= NVARCHAR_MAX else self.length + 1})"
        if self.kind in BINARY or self.kind == "xml":
            return "nvarchar(max)"
        if self.kind == "datetimeoffset":
            return "nvarchar(40)"
        return "datetime2(6)" if self.kind in _ROUGH else self.bare

    def value(self, source: str) -> str:
        """The column's value out of the carried one."""
        name = f"{source}.{self.name}"
        if self.kind in BINARY:
            return f"CONVERT(varbinary(max), {name}, 2)"
        return f"CAST({name} AS {self.bare})" if self.kind in {"datetimeoffset", "xml"} else name

    def key(self, source: str) -> str:
        """The value as the target's column compares it."""
        name = f"{source}.{self.name}"
        if self.kind in UNICODE:
            return f"{name} COLLATE {self.collation}"
        return f"CAST({name} COLLATE {self.collation} AS {self.bare})" if self.kind in BYTES else self.value(source)

    @property
    def folds(self) -> bool:
        """May two values that differ be one key? (Capitals, accents, trailing blanks; trailing zeros of binaries.)"""
        return self.kind in UNICODE | BYTES | BINARY

    def compared(self, keys: Sequence[Any]) -> Sequence[Any] | None:
        """Keys, equal where the column takes two for one; None where only the server can tell."""
        kind = kind_of(self.column)
        if kind == "text" and self.kind in UNICODE | BYTES and _BINARY_COLLATION.search(self.collation):
            return [key.rstrip(" ") for key in keys]
        return keys if kind in EXACT and not self.folds else None

    def holds(self, key: Any) -> bool:
        """Could the column hold this key? What it can't hold, no row has."""
        if isinstance(key, str):
            try:
                size = len(key.encode("utf-16-le")) // 2 if self.kind in UNICODE else len(key.encode(self._codec))
            except UnicodeEncodeError:
                return False
            return "\x00" not in key and (self._size == "max" or size <= self.length)
        return not isinstance(key, bytes) or self._size == "max" or len(key) <= self.length

    @property
    def _codec(self) -> str:
        return f"cp{self.code_page}" if self.code_page else "ascii"

    def encoder(self, *, as_json: bool) -> Encode | None:
        """From a column of values to what travels; None where that is the same. Raises UnicodeEncodeError."""
        if self.kind in BYTES:
            inner, codec = _encoder(self.column, self.kind, as_json=as_json), self._codec

            def in_code_page(values: Sequence[Any]) -> Sequence[Any]:
                out = values if inner is None else inner(values)
                if not (joined := "".join(filter(None, out))).isascii():
                    joined.encode(codec)
                return out

            return in_code_page
        return _encoder(self.column, self.kind, as_json=as_json)


def _encoder(column: sa.Column[Any], stored: str, *, as_json: bool) -> Encode | None:  # noqa: PLR0911 - a list of kinds
    """By the declared type, decided once."""
    kind = kind_of(column)
    if kind == "decimal":
        return _decimals
    if kind == "binary":
        return (lambda values: [None if value is None else value.hex() for value in values]) if as_json else None
    if kind == "json":
        return lambda values: [None if value is None else kept_text(value) for value in values]
    if kind == "datetime" and stored == "datetimeoffset":
        return lambda values: [None if value is None else value.astimezone(UTC).isoformat() for value in values]
    if kind == "uuid" and getattr(column.type, "hyphens", False):
        return lambda values: [None if value is None else str(value) for value in values]
    if kind == "uuid" and stored != "uniqueidentifier":
        return lambda values: [None if value is None else str(value).replace("-", "") for value in values]
    if kind == "enum":
        process = column.type.dialect_impl(SA_DIALECT).bind_processor(SA_DIALECT)
        if process is not None:
            return lambda values: [None if value is None else process(value) for value in values]
    # Floats as text: a server that reads numbers of JSON as decimals would lose the smallest and the largest.
    # Times as text: orjson 3.13 drops a zero ("00:00:00.10000" for 10,000 microseconds).
    if kind in {"float", "time"} or (not as_json and kind != "text"):
        return lambda values: [None if value is None else str(value) for value in values]
    return None


def _decimals(values: Sequence[Decimal | int | None]) -> Sequence[str | None]:
    texts: list[str | None] = list(map(str, values))
    letters = "".join(texts)  # type: ignore[arg-type]  # no None among them yet
    if "E" in letters:  # 1E+3, which no decimal column reads
        return [None if value is None else format(Decimal(value), "f") for value in values]
    if "N" in letters:
        return [None if text == "None" else text for text in texts]
    return texts


_KNOWN = _PLAIN | _FRACTION | _ROUGH | UNICODE | BYTES | BINARY | {"decimal", "numeric"}


# (sysname is an alias of nvarchar to SQL Server; a type of its own, in a code page, to a server that is not Microsoft's.)
_COLUMNS = """
    SELECT c.name, REPLACE(TYPE_NAME(c.system_type_id), 'sysname', 'varchar'), c.max_length, c.precision, c.scale,
           COALESCE(c.collation_name, ''),
           COALESCE(CAST(COLLATIONPROPERTY(c.collation_name, 'CodePage') AS int), 0), c.is_identity
    FROM sys.columns AS c WHERE c.object_id = OBJECT_ID(?)"""


def stored_columns(connection: sa.Connection, plan: Plan) -> list[StoredColumn]:
    """The plan's columns as they stand in the database, in the order of the plan.

    Raises:
        ConfigError: a column is missing, or of a type that can't be written.
    """
    quoted = connection.dialect.identifier_preparer.format_table(plan.table)
    found = {row[0].lower(): row for row in connection.exec_driver_sql(_COLUMNS, (quoted,))}
    out = []
    for column in plan.columns:
        row = found.get(column.name.lower())
        if row is None or row[1] not in _KNOWN:
            raise ConfigError(
                f"Table {plan.table.fullname}: column {column.name} "
                f"{'is missing' if row is None else f'is {row[1]}, which can not be written'}.",
                hint="Alter the table, or name the columns to write: SqlTarget(..., columns=[...]).",
            )
        _, kind, length, precision, scale, collation, code_page, identity = row
        length = length // 2 if kind in UNICODE and length > 0 else length  # bytes
        out.append(StoredColumn(column, kind, length, precision, scale, collation, code_page, identity=bool(identity)))
    return out
