"""Rows into a folder of Parquet files, exactly once."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import LedgerTarget
from sinks.misfits import check_records
from sinks.parquet.ledger import ParquetLedger
from sinks.parquet.place import Place
from sinks.parquet.records import Anchor, stream_of, unpack
from sinks.parquet.rows import FileRows
from sinks.parquet.session import Lane, ParquetSession
from waxwing.batch import Stream, lane_name
from waxwing.change import Size, Start
from waxwing.errors import ConfigError
from waxwing.ledger.anchored import AnchoredOwners
from waxwing.ledger.store import Step, Transaction
from waxwing.ledger.whole import WholeStore
from waxwing.settings import ParquetSettings
from waxwing.tables.files.arrow import FILES
from waxwing.tables.files.keys import PartitionKey


class ParquetTarget(LedgerTarget):
    """A folder of Parquet files, divided by keys as Hive does; what is remembered of it lies beside, in `.FOLDER.waxwing`, and
    dead letters in `FOLDER_dead_letters`.

    A file is written beside the folder, and moved in by the commit that moves the positions: readers that look at `*.parquet`
    never see a row twice, nor one gone; the files of one commit come one by one, within a second. Files are compressed by zstd;
    their columns may all be null. A column that comes later is null in the files before. Files that are removed by hand, or put
    together to larger ones, are not missed. There are no deletes: tombstones are dead letters.

    Args:
        settings: how large and how old files get.
        folder: made where it is missing; on a local disk, in a folder in which others may be made beside it.
        table: the columns of the files.
        partition_by: keys of folders: names of columns, which are then in no file, or `day("at")`, `hour("at")`, PartitionKey.
        columns: those that records bring; None: all but what only a database fills.
        positions: whether files have columns kafka_partition and kafka_offset.

    Parallelism: a writer with files of its own a lane.
    Delivery: exactly once, for readers of `*.parquet` (tests/sinks/parquet/test_crashes.py). Not on network file systems.

    Raises:
        ConfigError: pyarrow is missing, files can't keep a column, or what is to be a key can't be one.
    """

    def __init__(
        self,
        settings: ParquetSettings,
        folder: Path | str,
        table: sa.Table,
        *,
        partition_by: Sequence[str | PartitionKey] = (),
        columns: Sequence[str] | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__(settings)
        self.parquet_settings, self.folder = settings, Path(os.path.abspath(folder))  # noqa: PTH100 - links stay
        if "://" in str(folder):
            raise ConfigError(
                f"{folder} is no folder of a local disk, and Parquet files go into no other.",
                hint="Object stores are written as Delta tables (docs/delta.md).",
            )
        if not self.folder.name:
            raise ConfigError(f"{self.folder} can't be a folder of files.", hint="Give it a name of its own.")
        self.table_given = table
        self.rows = FileRows(table, columns, partition_by, positions=positions)
        self.parts = tuple(lane_name(lane) for lane in range(settings.lanes))
        self._made: tuple[Step, ParquetLedger] | None = None
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._prepared = False

    # -- what it is ----------------------------------------------------------------------------------

    @property
    @override
    def name(self) -> str:
        return f"Parquet files in {self.folder}"

    @property
    @override
    def store(self) -> Hashable:
        return f"parquet {self.folder}"

    @property
    @override
    def columns(self) -> Sequence[str]:
        return self.rows.names

    @property
    @override
    def again(self) -> str:
        return "every row would stand there twice"

    @property
    @override
    def size(self) -> Size:
        settings = self.parquet_settings
        return Size(settings.parquet_file_rows_max, settings.parquet_file_age_s, commit_s=None, staged=True)

    @property
    @override
    def owners_kind(self) -> type[AnchoredOwners]:
        return AnchoredOwners

    @override
    def check_records(self, kind: Any) -> None:
        check_records(kind, self.rows.plan.columns, FILES, f"of files in {self.folder}")

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        return self.rows.misfits(records)

    # -- at the start --------------------------------------------------------------------------------

    @property
    def parquet_ledger(self) -> ParquetLedger:
        """What its step keeps."""
        if self._made is None or self._made[0] != self.own_step:
            place = Place(self.folder, self.own_step)
            self._made = self.own_step, ParquetLedger(place, self.own_step, self.rows.types, self.rows.partitions.names)
        self._made[1].parts = self.parts
        return self._made[1]

    @property
    def place(self) -> Place:
        """The folders of its step."""
        return self.parquet_ledger.place

    @override
    def prepare_once(self) -> None:
        if not self._prepared:
            self.prepare()

    @override
    def prepare(self) -> None:
        for folder in (self.place.folder, self.place.letters):
            if (folder / "_delta_log").exists():
                raise ConfigError(f"{folder} is a Delta table.", hint="Write into another folder; or by DeltaTarget.")
        self.place.make()
        for step, anchor in self._anchors():
            self._check(step, anchor)
        self._prepared = True

    def _check(self, step: Step, anchor: Anchor) -> None:
        """Raises ConfigError where files of this table can't be read together with those that are there."""
        who = "they have" if step == self.own_step else f"those of step {step.name} of flow {step.flow} have"
        problems = [
            f"column {name} is {kind}, where {who} {anchor.columns[name]}"
            for name, kind in self.rows.types.items()
            if anchor.columns.get(name, kind) != kind
        ]
        keys = self.rows.partitions.names
        if anchor.keys is not None and anchor.keys != keys:
            problems.append(
                f"their folders' keys are {', '.join(keys) or 'none'}, where {who} {', '.join(anchor.keys) or 'none'}"
            )
        if problems:
            raise ConfigError(
                f"{self.name} can't be read together with what is there: {'; '.join(problems)}.",
                hint="Go back to what it was (columns may be added); or write into another folder.",
                step=self.step,
            )

    def _anchors(self) -> Iterator[tuple[Step, Anchor]]:
        """Of all steps that write into the folder, the last one."""
        place = self.place
        with place.speaking():
            for own in sorted(place.all.iterdir()) if place.all.exists() else ():
                numbers = sorted(path for path in (own / "anchor").glob("*") if path.name.isdigit())
                if numbers and (packed := place.read(numbers[-1])) is not None:
                    anchor = unpack(numbers[-1], packed, Anchor)
                    yield Step(anchor.flow, anchor.step), anchor

    @override
    def steps(self) -> Mapping[str, int]:
        return {step.name: len(anchor.rows) for step, anchor in self._anchors() if step.flow == self.flow and anchor.rows}

    @override
    def alive(self, steps: Collection[str]) -> str:
        stale_ms = self.settings.owner_stale_s * 1000
        for step, _ in list(self._anchors()):
            if step.flow == self.flow and step.name in steps:
                ledger = ParquetLedger(Place(self.folder, step), step, {}, ())
                with WholeStore(ledger, step).transaction() as transaction:
                    for record in transaction.owners():
                        if record.fresh(stale_ms):
                            return record.place
        return ""

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        wanted = {stream[1:] for stream in streams}
        return [
            step
            for step, anchor in self._anchors()
            if step != self.own_step and wanted & {stream_of(step.flow, row)[1:] for row in anchor.rows}
        ]

    @override
    def forgets(self, flow: str, step: str) -> str:
        return f"remove {Place(self.folder, Step(flow, step)).own}"

    @override
    def left_behind(self) -> str:
        others = {Place(self.folder, step).prefix for step, _ in self._anchors() if step != self.own_step}
        for _, _, names in os.walk(self.folder):
            for name in names:
                if name.endswith(".parquet") and name.partition("-")[0] not in others:
                    return f"files such as {name}"
        return ""

    @override
    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        self.prepare_once()
        super().beginning(transaction, starts)

    # -- writing -------------------------------------------------------------------------------------

    @override
    def open_store(self, *, briefly: bool = False) -> WholeStore:
        return WholeStore(self.parquet_ledger, self.own_step)

    @override
    def connect(self, part: str, token: str) -> ParquetSession:
        self.prepare_once()
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.token == token}
        if (part, token) not in self._lanes:
            self._lanes[part, token] = Lane(self, part, token)
        return ParquetSession(self._lanes[part, token])
