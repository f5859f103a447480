"""The columns of a Delta table: what the flow's Table is there, what an existing one may be, and how rows are divided."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sinks.delta.library import EXTRA, load
from sinks.delta.rows.stats import COLUMNS_MAX
from waxwing.errors import ConfigError, RowError
from waxwing.tables.arrow import ArrowRows
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Plan

# Kinds whose values every reader reads alike as the name of a partition.
_PARTITIONS = ("integer", "text", "enum", "boolean", "date", "uuid")
_INTEGERS = ("byte", "short", "integer", "long")
_DECIMAL = re.compile(r"decimal\((\d+),\s*(-?\d+)\)")
# Properties and features by which a table wants more of a writer than data files.
_REFUSED_PROPERTIES = {
    "delta.columnMapping.mode": "maps columns to other names (delta.columnMapping.mode)",
    "delta.setTransactionRetentionDuration": "forgets who wrote (delta.setTransactionRetentionDuration), which positions rest on",
}
_REFUSED_METADATA = {
    "delta.generationExpression": "is computed by the table",
    "delta.identity.start": "is numbered by the table",
    "delta.invariants": "has an invariant, which is not checked here",
}
EMPTY_PARTITION = "an empty text, which readers of a partition take for null"


class RowsSchema:
    """How rows of a plan become files.

    Args:
        plan: what is written.
        partition_by: columns that divide the table, in this order.

    Attributes:
        by: the same.
        written: the schema of data files, which have no partition columns.
        indexed: the columns that statistics are given of.

    Raises:
        ConfigError: a partition column is not written, or its type can't be one.
    """

    def __init__(self, plan: Plan, partition_by: Sequence[str]) -> None:
        self.plan, self.by = plan, tuple(partition_by)
        columns = {column.name: column for column in plan.columns}
        self._at = [list(columns).index(name) for name in self.by if name in columns]
        problems = [f"rows bring no column {name}" for name in self.by if name not in columns]
        problems += [
            f"column {name} ({columns[name].type!r}) can't be the name of a partition (take {', '.join(_PARTITIONS)})"
            for name in self.by
            if name in columns and kind_of(columns[name]) not in _PARTITIONS
        ]
        if len(set(self.by)) < len(self.by) or len(self.by) >= len(columns):
            problems.append("there must be columns besides those that partition, and each of these once")
        if problems:
            raise ConfigError(
                f"Table {plan.table.fullname} can't be partitioned by {', '.join(self.by)}: {'; '.join(problems)}.",
                hint="Partition by a few values of a column, a date's say; or not at all.",
            )
        self._texts = [at for at in self._at if kind_of(plan.columns[at]) == "text"]
        self._names = {at: plan.columns[at].name for at in self._at}
        self._rows = ArrowRows(plan, EXTRA)
        self.schema = self._rows.schema
        self._set_types(self.schema)

    def _set_types(self, schema: Any) -> None:
        pa = load().pyarrow
        self._kept = [name for name in schema.names if name not in self.by]
        self.written = pa.schema([schema.field(name) for name in self._kept])
        self.indexed = {
            field.name
            for field in list(schema)[:COLUMNS_MAX]
            if not (pa.types.is_binary(field.type) or pa.types.is_boolean(field.type))
        }
        self._floats = [field.name for field in self.written if pa.types.is_floating(field.type)]
        self._full, self._cast = schema, schema != self.schema

    # -- rows ----------------------------------------------------------------------------------------

    def refuse(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raises RowError for values that can't name a partition."""
        bad = {
            number: f"column {self._names[at]}: {EMPTY_PARTITION}"
            for at in self._texts
            for number, row in enumerate(rows)
            if row[at] == ""
        }
        if bad:
            raise RowError(f"{len(bad)} rows have no partition", bad=bad)

    def batches(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[str | None, ...], Any]]:
        """The rows as pyarrow.RecordBatches of the schema `written`, each of one partition, with its values as the log says."""
        for batch in self._rows.batches(rows):
            full = batch.cast(self._full) if self._cast else batch
            if not self.by:
                yield (), full
                continue
            of_rows: dict[tuple[Any, ...], list[int]] = {}
            for number, values in enumerate(zip(*(full.column(name).to_pylist() for name in self.by), strict=True)):
                of_rows.setdefault(values, []).append(number)
            kept = full.select(self._kept)
            for values, numbers in of_rows.items():
                yield tuple(map(_named, values)), kept if len(of_rows) == 1 else kept.take(load().pyarrow.array(numbers))

    def nan_in(self, batch: Any) -> set[str]:
        """The columns of floats that hold a NaN."""
        compute = load().compute
        return {name for name in self._floats if compute.any(compute.is_nan(batch.column(name))).as_py()}

    # -- the table as it is ----------------------------------------------------------------------------

    def compare(self, table: Any) -> list[Any]:
        """Take an existing table's types. Returns the columns that it lacks (as deltalake.Field), which may be added.

        Raises:
            ConfigError: with all that does not fit.
        """
        metadata = table.metadata()
        there = {field.name: field for field in table.schema().fields}
        mine = {field.name: field for field in load().Schema.from_arrow(self.schema).fields}
        nullable = {column.name: bool(column.nullable) for column in self.plan.columns}
        problems = [f"it {why}" for name, why in _REFUSED_PROPERTIES.items() if _is_set(metadata.configuration, name)]
        problems += [
            f"it has a constraint ({name.rpartition('.')[2]}), which is not checked here"
            for name in metadata.configuration
            if name.startswith("delta.constraints.")
        ]
        if list(metadata.partition_columns) != list(self.by):
            by, wanted = (", ".join(names) or "nothing" for names in (metadata.partition_columns, self.by))
            problems.append(f"it is partitioned by {by}, and not by {wanted}")
        folded = {name.lower(): name for name in there}
        for name, field in mine.items():
            if name not in there:
                other = folded.get(name.lower())
                problems += [f"its column {other} is written {name} here"] if other else []
                continue
            if not _takes(there[name].type, field.type):
                problems.append(f"its column {name} is {_shown(there[name].type)}, where {_shown(field.type)} is needed")
            if nullable[name] and not there[name].nullable:
                problems.append(f"its column {name} takes no nulls, and rows may bring them (nullable=False)")
        for name, field in there.items():
            problems += [f"its column {name} {why}" for key, why in _REFUSED_METADATA.items() if key in field.metadata]
            if name not in mine and not field.nullable:
                problems.append(f"its column {name} takes no nulls, and rows do not bring it")
        if problems:
            raise ConfigError(
                f"The Delta table {table.table_uri} is not what the flow writes: {'; '.join(problems)}.",
                hint="Correct the flow's Table (or partition_by); or alter the table; or take another one.",
            )
        lacking = [field for name, field in mine.items() if name not in there]
        types = load().pyarrow.schema(table.schema())
        self._set_types(
            load().pyarrow.schema(
                [types.field(field.name).with_nullable(True) if field.name in there else field for field in self.schema]
            )
        )
        return lacking


def _is_set(configuration: dict[str, Any], name: str) -> bool:
    return configuration.get(name) not in (None, "", "none")


def _takes(there: Any, mine: Any) -> bool:
    """Does a column keep all values of another type?"""
    if there == mine:
        return True
    has, needs = _shown(there), _shown(mine)
    if has in _INTEGERS and needs in _INTEGERS:
        return _INTEGERS.index(has) >= _INTEGERS.index(needs)
    wide, narrow = _DECIMAL.fullmatch(has), _DECIMAL.fullmatch(needs)
    if wide is None or narrow is None:
        return False
    (precision, scale), (digits, decimals) = ((int(one[1]), int(one[2])) for one in (wide, narrow))
    return scale >= decimals and precision - scale >= digits - decimals


def _shown(kind: Any) -> str:
    return str(getattr(kind, "type", kind))


def _named(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
