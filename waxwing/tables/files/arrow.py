"""Rows as columns of Arrow, for targets that are files: the schema of a table, and checked rows as record batches.

What is written is what DuckDB, polars, pyarrow and Spark all read, and read alike:

- integers with a sign, of 16, 32 or 64 bits (what has no sign takes the next wider type, 64 bits without a sign a decimal);
- decimals of up to 38 digits: DuckDB reads longer ones as floats, polars and Spark not at all;
- timestamps in microseconds: with a zone they are instants in UTC, without one they stay without;
- floats of 64 bits, NaN and infinity among them (that of single precision is refused everywhere: it rounds);
- texts, enumerations by their label, UUIDs and JSON as text, since readers differ in the types that files have for them;
- no time of day: Spark reads none.

Every column may be null in a file, whatever the table says: a column that comes later is null in what was written before.

pyarrow is imported when the first schema is made, and nowhere else: a flow without files neither needs nor loads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.dialect import MEMORY, Dialect
from waxwing.tables.modes import Append
from waxwing.tables.plan import Plan, columns_of
from waxwing.tables.planning import plan
from waxwing.tables.values.json_values import kept_text
from waxwing.tables.values.rules import integer_range

# Digits of a decimal that every reader keeps exactly.
DECIMAL_DIGITS_MAX = 38
# Rows of a row group at most, and what those that wait for one take in memory: of one file, and of all of a writer's. Writing one
# takes as much again, and every lane may be at it.
GROUP_ROWS_MAX = 65_536
GROUP_BYTES_MAX = 16 << 20
WAITING_BYTES_MAX = 32 << 20
# Rows of one record batch at most: a column of text holds 2 GiB in one.
BATCH_ROWS_MAX = 10_000

# What files keep. Readers pass over capitals in names (DuckDB, Spark), so two columns may not differ by them alone.
FILES: Dialect = replace(
    MEMORY,
    name="a file",
    drivername="files",
    backends=(),
    decimal_digits_max=DECIMAL_DIGITS_MAX,
    time_timezone_kept=False,
    case_sensitive=False,
    integer_key_automatic=False,
    untyped_columns=False,
)

Values = Sequence[Any]


def load(extra: str = "parquet") -> Any:
    """The module pyarrow, imported when it is first needed.

    Its memory is the system's, where ARROW_DEFAULT_MEMORY_POOL names no other: its own allocator keeps what was freed for
    seconds, and so a flow took 80 MB more.

    Args:
        extra: of the package, which brings it: "parquet" or "delta".

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # it looks there, once
    try:
        import pyarrow as pa  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        raise ConfigError(
            f"pyarrow can't be loaded: {error}.", hint=f"Install it: pip install waxwing-streams[{extra}]"
        ) from error
    return pa


def file_plan(table: sa.Table, *, columns: Sequence[str] | None = None, dialect: Dialect = FILES) -> Plan:
    """What rows of files bring: the columns named; by default all but those that only a database fills (server defaults, computed
    ones, identities, those set on update). Nobody numbers a row here: an integer primary key is brought.

    Raises:
        ConfigError: all that is wrong with the table, in one message; types that files can't keep among it.
    """
    brought = [column.name for column in table.c if not _filled(column)] if columns is None else list(columns)
    made = plan(table, Append(), dialect=dialect, columns=brought)
    if problems := [why for column in made.columns if (why := _refused(column))]:
        raise ConfigError(
            f"Table {table.fullname} can't be written into files: {'; '.join(problems)}.",
            hint="Correct the flow's Table, and convert the values in a step before the sink (map).",
        )
    return made


def _filled(column: sa.Column[Any]) -> bool:
    by_default = column.server_default is not None  # computed columns and identities have one, too
    return by_default or (isinstance(column.onupdate, sa.ColumnDefault) and column.onupdate.is_clause_element)


def _refused(column: sa.Column[Any]) -> str:
    if kind_of(column) == "time":
        return f"column {column.name} is a time of day ({column.type!r}), which readers of files differ in (Text is read by all)"
    return ""


class ArrowRows:
    """Rows of a plan as record batches.

    Args:
        plan: what is written: of `file_plan`.
        extra: of the package, for whom pyarrow is missing.

    Attributes:
        schema: the pyarrow.Schema of the plan's columns, in their order; all may be null.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, plan: Plan, extra: str = "parquet") -> None:
        self._pa = pa = load(extra)
        self.schema = pa.schema([pa.field(column.name, arrow_type(pa, column)) for column in plan.columns])
        self._types = list(self.schema.types)
        self._encoders = [encoder_of(column) for column in plan.columns]

    def batches(self, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The rows as pyarrow.RecordBatches, of BATCH_ROWS_MAX rows at most, in their order. None for no rows.

        The rows were checked (by RowMaker): a value that does not fit is a mistake of ours, and raises what pyarrow raises.
        """
        return [self._batch(rows[first : first + BATCH_ROWS_MAX]) for first in range(0, len(rows), BATCH_ROWS_MAX)]

    def _batch(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        made = []
        for values, kind, encode in zip(columns_of(rows), self._types, self._encoders, strict=True):
            made.append(self._pa.array(values if encode is None else encode(values), kind))
        return self._pa.RecordBatch.from_arrays(made, schema=self.schema)


def arrow_type(pa: Any, column: sa.Column[Any]) -> Any:
    """The pyarrow type that keeps a column's values."""
    return _TYPES.get(kind_of(column), lambda pa, _: pa.string())(pa, column.type)


def _integer(pa: Any, kind: sa.types.TypeEngine[Any]) -> Any:
    low, high = integer_range(kind)
    for bits, made in ((16, pa.int16), (32, pa.int32), (64, pa.int64)):
        if -(1 << bits - 1) <= low and high < 1 << bits - 1:
            return made()
    return pa.decimal128(20, 0)  # 64 bits without a sign


# Of a type, by its kind; texts, enumerations, UUIDs and JSON are text.
_TYPES: dict[str, Callable[[Any, Any], Any]] = {
    "integer": _integer,
    "decimal": lambda pa, kind: pa.decimal128(kind.precision, kind.scale or 0),
    "float": lambda pa, _: pa.float64(),
    "boolean": lambda pa, _: pa.bool_(),
    "date": lambda pa, _: pa.date32(),
    "datetime": lambda pa, kind: pa.timestamp("us", tz="UTC" if kind.timezone else None),
    "binary": lambda pa, _: pa.binary(),
}


def encoder_of(column: sa.Column[Any]) -> Callable[[Values], Values] | None:
    """What a column's values become before pyarrow takes them; None: they stay."""
    kind: Any = column.type
    match kind_of(column):
        case "json":
            return partial(_each, kept_text)
        case "uuid" if kind.as_uuid:
            return partial(_each, str)
        case "float":
            return _floats
        case "enum":
            dialect = DefaultDialect()
            process = kind.dialect_impl(dialect).bind_processor(dialect)
            return None if process is None else partial(_each, process)
    return None


def _each(encode: Callable[[Any], Any], values: Values) -> Values:
    return [None if value is None else encode(value) for value in values]


def _floats(values: Values) -> Values:
    """Integers among them that floats hold exactly: pyarrow takes none beyond 2**53."""
    return _each(float, values) if int in set(map(type, values)) else values
