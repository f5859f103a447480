"""The columns of a Delta table: what the flow's Table is there, what an existing one may be, and how rows are divided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sinks.delta.library import EXTRA, load
from sinks.delta.rows.keys import field_of, made
from waxwing.errors import ConfigError, RowError
from waxwing.tables.columns import kind_of
from waxwing.tables.files.arrow import ArrowRows
from waxwing.tables.files.keys import PartitionKey
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
# What stands for a null in the name of a partition's folder.
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
# A name of a folder holds so much.
NAME_BYTES_MAX = 255
PARTITION, OFFSET = "kafka_partition", "kafka_offset"

# The values of a partition's columns, as the log says them, and its rows.
Divided = tuple[tuple[str | None, ...], Any]


class RowsSchema:
    """How rows of a plan become files.

    Args:
        plan: what is written.
        partition_by: columns that divide the table, in this order: of the plan, or made of one.
        positions: are there columns for a record's partition and offset?

    Attributes:
        by: the names of the columns that divide.
        positions: as given.
        schema: of the whole table, as a new one is made.
        written: the schema of data files, which have no partition columns.
        indexed: the columns of the table that statistics are given of.

    Raises:
        ConfigError: a partition column is not written, or its type can't be one.
    """

    def __init__(self, plan: Plan, partition_by: Sequence[str | PartitionKey] = (), *, positions: bool = False) -> None:
        columns = {column.name: column for column in plan.columns}
        self.plan, self.by = plan, tuple(key if isinstance(key, str) else key.name for key in partition_by)
        self._made = [key for key in partition_by if isinstance(key, PartitionKey)]
        more = [*(key.name for key in self._made), *((PARTITION, OFFSET) if positions else ())]
        problems = [f"rows bring no column {name}" for key in partition_by if (name := _source(key)) not in columns]
        problems += [
            f"column {name} ({columns[name].type!r}) can't be the name of a partition (take {', '.join(_PARTITIONS)})"
            for name in self.by
            if name in columns and kind_of(columns[name]) not in _PARTITIONS
        ]
        problems += [
            f"column {key.column} ({columns[key.column].type!r}) has no {key.floor}"
            for key in self._made
            if key.floor
            and key.column in columns
            and kind_of(columns[key.column]) not in ("datetime", "date")[: 2 - (key.floor == "hour")]
        ]
        lower = [name.lower() for name in [*columns, *more]]
        problems += [f"there are two columns {name}" for name in more if lower.count(name.lower()) > 1]
        if len(set(self.by)) < len(self.by) or len(self.by) >= len(columns) + len(more):
            problems.append("there must be columns besides those that partition, and each of these once")
        if problems:
            raise ConfigError(
                f"Table {plan.table.fullname} can't be divided or written like that: {'; '.join(problems)}.",
                hint="Partition by few values: day() and hour() of timestamps, or a column; or not at all.",
            )
        pa = load().pyarrow
        self._rows, self.positions = ArrowRows(plan, EXTRA), positions
        fields = [*self._rows.schema, *map(field_of, self._made)]
        if positions:
            fields += [pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64())]
        self.schema = pa.schema(fields)
        self._set_types(self.schema)

    def _set_types(self, schema: Any) -> None:
        pa = load().pyarrow
        self._kept = [name for name in schema.names if name not in self.by]
        self.written = pa.schema([schema.field(name) for name in self._kept])
        self.indexed = self._indexed(schema)
        self._floats = [field.name for field in self.written if pa.types.is_floating(field.type)]
        self._full, self._cast = schema, schema != self.schema

    def _indexed(self, schema: Any) -> set[str]:
        """All columns that readers may expect statistics of: of others that have none they would find nothing."""
        types = load().pyarrow.types
        return {
            field.name
            for field in schema
            if field.name not in self.by and not (types.is_binary(field.type) or types.is_nested(field.type))
        }

    # -- rows ----------------------------------------------------------------------------------------

    def divided(self, rows: Sequence[tuple[Any, ...]], places: Sequence[tuple[int, int | None]]) -> list[Divided]:
        """The rows as pyarrow.RecordBatches of the schema `written`, each of one partition, with its values as the log says.

        Args:
            rows: those of the plan.
            places: of each row its record's partition and offset, where they are columns.

        Raises:
            RowError: values that can't name a partition.
        """
        out: list[Divided] = []
        bad: dict[int, str] = {}
        first = 0
        for batch in self._rows.batches(rows):
            behind = first + batch.num_rows
            try:
                out += self._parts(self._whole(batch, places[first:behind]))
            except RowError as error:
                bad |= {first + number: why for number, why in error.bad.items()}
            first = behind
        if bad:
            raise RowError(f"{len(bad)} rows have no partition", bad=bad)
        return out

    def _whole(self, batch: Any, places: Sequence[tuple[int, int | None]]) -> Any:
        """A record batch with all columns."""
        columns = [*batch.columns, *(made(key, batch.column(key.column)) for key in self._made)]
        if self.positions:
            kinds = self.schema.types[-2:]
            columns += [load().pyarrow.array(values, kind) for values, kind in zip(zip(*places, strict=True), kinds, strict=True)]
        whole = load().pyarrow.RecordBatch.from_arrays(columns, schema=self.schema)
        return whole.cast(self._full) if self._cast else whole

    def _parts(self, whole: Any) -> list[Divided]:
        if not self.by:
            return [((), whole)]
        of_rows: dict[tuple[Any, ...], list[int]] = {}
        for number, values in enumerate(zip(*(whole.column(name).to_pylist() for name in self.by), strict=True)):
            of_rows.setdefault(values, []).append(number)
        named = {values: tuple(map(_named, values)) for values in of_rows}
        reasons = {values: why for values, names in named.items() if (why := self._refused(names))}
        if reasons:
            bad = {number: why for values, why in reasons.items() for number in of_rows[values]}
            raise RowError(f"{len(bad)} rows have no partition", bad=bad)
        kept = whole.select(self._kept)
        if len(of_rows) == 1:
            return [(*named.values(), kept)]
        return [(named[values], kept.take(load().pyarrow.array(numbers))) for values, numbers in of_rows.items()]

    def _refused(self, names: tuple[str | None, ...]) -> str:
        for column, name in zip(self.by, names, strict=True):
            if name in ("", NULL_FOLDER):
                return f"column {column}: {name!r} is a null to readers of a partition"
            if (size := len(folder_name(column, name))) > NAME_BYTES_MAX:
                return f"column {column}: as the name of a folder it has {size} bytes, at most {NAME_BYTES_MAX}"
        return ""

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
        nullable |= {key.name: nullable[key.column] for key in self._made} | {PARTITION: False, OFFSET: True}
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
        self.indexed |= self._indexed(types)
        return lacking


def folder_name(column: str, value: str | None) -> str:
    """Of a partition's folder."""
    return f"{_escaped(column)}={NULL_FOLDER if value is None else _escaped(value)}"


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~") if text not in (".", "..") else text.replace(".", "%2E")


def _source(key: str | PartitionKey) -> str:
    return key if isinstance(key, str) else key.column


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
