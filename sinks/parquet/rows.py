"""Rows and dead letters as record batches of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from sinks.parquet.partitions import Partitions
from waxwing.batch import Batch
from waxwing.change import Change
from waxwing.errors import ConfigError, RowError
from waxwing.tables.files.arrow import FILES, ArrowRows, file_plan, load
from waxwing.tables.files.keys import PartitionKey
from waxwing.tables.rows import RowMaker

PARTITION, OFFSET = "kafka_partition", "kafka_offset"


class FileRows:
    """Rows of a table on their way into files.

    Args:
        table: their columns.
        columns: those that records bring; None: all but what a database fills.
        partition_by: keys of folders.
        positions: whether files have columns for partition and offset.

    Attributes:
        plan: what records bring.
        schema: of the files.
        types: of the columns of files, and of those that stand in folders' names, by name.

    Raises:
        ConfigError: what files can't keep; pyarrow is missing.
    """

    def __init__(
        self, table: sa.Table, columns: Sequence[str] | None, partition_by: Sequence[str | PartitionKey], *, positions: bool
    ) -> None:
        self.plan = file_plan(table, columns=columns)
        self.names = [column.name for column in self.plan.columns]
        taken = {name.lower() for name in self.names} & {PARTITION, OFFSET}
        if positions and taken:
            raise ConfigError(
                f"Files of {table.name} can't have the positions of records: there is a column {', '.join(sorted(taken))}.",
                hint="Give it another name, or leave positions=True out.",
            )
        self.partitions = Partitions(partition_by, self.plan.columns, table.name)
        self._maker = RowMaker(self.plan, self.names, FILES)
        self._arrow, self._pa, self._positions = ArrowRows(self.plan), load(), positions
        all_of_table = self._arrow.schema
        fields = [all_of_table.field(number) for number in self.partitions.written]
        if positions:
            fields += [self._pa.field(PARTITION, self._pa.int32()), self._pa.field(OFFSET, self._pa.int64())]
        self.schema = self._pa.schema(fields)
        self.types = {field.name: str(field.type) for field in [*all_of_table, *fields]}

    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        """By their numbers the reasons of records that files can't hold."""
        return self._maker.misfits(records)

    def of(self, batches: Sequence[Batch[Any]]) -> list[tuple[str, Any]]:
        """The batches' records as record batches, each with its folder.

        Raises:
            RowError: records that can't be rows, and deletes.
        """
        rows = self._maker.of(Change(list(batches), {}, {})).rows
        places = [place for batch in batches for place in _places(batch)] if self._positions else []
        out: list[tuple[str, Any]] = []
        bad: dict[int, str] = {}
        first = 0
        for batch in self._arrow.batches(rows):
            behind = first + batch.num_rows
            made = self._batch(batch, places[first:behind])
            if self.partitions.names:
                folders, refused = self.partitions.of(rows[first:behind], batch)
                bad |= {first + number: why for number, why in refused.items()}
                out += self._divided(made, folders)
            else:
                out.append(("", made))
            first = behind
        if bad:
            raise RowError(f"{len(bad)} rows can't be in any folder", bad=bad)
        return out

    def _batch(self, batch: Any, places: list[tuple[int, int | None]]) -> Any:
        """What of a record batch stands in files."""
        columns = [batch.column(number) for number in self.partitions.written]
        if self._positions:
            kinds = self.schema.types[-2:]
            columns += [self._pa.array(values, kind) for values, kind in zip(zip(*places, strict=True), kinds, strict=True)]
        return self._pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _divided(self, batch: Any, folders: Sequence[str]) -> list[tuple[str, Any]]:
        """Its rows by their folders."""
        if len(names := set(folders)) == 1:
            return [(names.pop(), batch)]
        numbers: dict[str, list[int]] = {}
        for number, folder in enumerate(folders):
            numbers.setdefault(folder, []).append(number)
        return [(folder, batch.take(self._pa.array(some))) for folder, some in numbers.items()]


def _places(batch: Batch[Any]) -> list[tuple[int, int | None]]:
    """Of each record, partition and offset. (One of a batch that is whole stands for many.)"""
    partition, offsets = batch.stream.partition, batch.messages.offsets
    return [(partition, None if batch.whole else offsets[at]) for at in batch.at]
