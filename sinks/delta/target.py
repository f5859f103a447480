"""Rows into a Delta table, exactly once."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from typing_extensions import override

from sinks.delta.files import escaped
from sinks.delta.ledger import DeltaLedger
from sinks.delta.place import DeltaPlace
from sinks.delta.records import key_of
from sinks.delta.rows.schema import Divided, RowsSchema
from sinks.delta.rows.staging import Staging
from sinks.delta.writer import DeltaSession, DeltaWriter
from sinks.ledger import LedgerTarget
from sinks.misfits import check_records
from waxwing import log
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Size
from waxwing.errors import ConfigError
from waxwing.ledger.anchored import AnchoredOwners
from waxwing.ledger.store import Step
from waxwing.ledger.whole import WholeStore
from waxwing.settings import DeltaSettings
from waxwing.tables.files.arrow import FILES, file_plan
from waxwing.tables.files.keys import PartitionKey
from waxwing.tables.rows import RowMaker


class DeltaTarget(LedgerTarget):
    """A Delta table: a commit a minute, with the rows that came, each record in it once.

    Dead letters go into a second table beside it, NAME.dead_letters; what the flow remembers lies in a folder beside it,
    .NAME.waxwing, which belongs to the table as its log does.

    Args:
        settings: how large and how old commits get; how an object store is reached.
        path: of the table, or its URL (s3://, abfss://, gs://). It is made where there is none.
        table: the columns, with their types. Those that an existing table lacks are added to it.
        partition_by: columns that divide the table into folders: of the table, or made of one (day, hour, PartitionKey).
        positions: are there to be columns kafka_partition and kafka_offset?
        columns: those that records bring; None: all but those with a server default.

    Parallelism: one writer a lane, each with files of its own; commits come one after the other.
    Delivery: exactly once (tests/sinks/delta/test_crashes.py).

    Raises:
        ConfigError: the table can't be kept in files, or partitioned so; pyarrow is not installed.
    """

    def __init__(
        self,
        settings: DeltaSettings,
        path: str | os.PathLike[str],
        table: sa.Table,
        *,
        partition_by: str | PartitionKey | Sequence[str | PartitionKey] = (),
        positions: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings)
        self.delta_settings, self.table_given = settings, table
        self.place = DeltaPlace(settings, path)
        self.writers = settings.lanes
        self.plan = plan = file_plan(table, columns=columns)
        keys = [partition_by] if isinstance(partition_by, str | PartitionKey) else partition_by
        self._schema = RowsSchema(plan, keys, positions=positions)
        self._names = [column.name for column in plan.columns]
        self._maker = RowMaker(plan, self._names, FILES)
        self._ledger_made: tuple[Step, DeltaLedger] | None = None
        self._writers: dict[tuple[str, str], DeltaWriter] = {}
        self._prepared = False

    # -- what it is ----------------------------------------------------------------------------------

    @property
    @override
    def name(self) -> str:
        return f"Delta table {self.place.table.path}"

    @property
    @override
    def store(self) -> Hashable:
        return "delta", self.place.table.path

    @property
    @override
    def size(self) -> Size:
        return Size(self.delta_settings.delta_commit_rows_max, self.delta_settings.delta_commit_age_s, commit_s=None, staged=True)

    @property
    @override
    def columns(self) -> Sequence[str]:
        return self._names

    @property
    @override
    def again(self) -> str:
        return "every row would stand there twice"

    @property
    @override
    def owners_kind(self) -> type[AnchoredOwners]:
        return AnchoredOwners

    @override
    def check_records(self, kind: Any) -> None:
        check_records(kind, self._schema.plan.columns, FILES, self.place.table.name)

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        return self._maker.misfits(records)

    # -- at the start --------------------------------------------------------------------------------

    @override
    def prepare_once(self) -> None:
        if not self._prepared:
            self.prepare()

    @override
    def prepare(self) -> None:
        if os.path.isfile(self.place.table.path):  # noqa: PTH113 - it may be a URL
            raise ConfigError(f"{self.place.table.path} is a file, and no folder of a Delta table.", step=self.step)
        with self.ledger_of_step.held():
            rows = self.place.rows
            if not rows.exists() and rows.is_to_be_made(self.place.data):
                rows.create(self._schema.schema, self._schema.by)
                log.info("table_made", f"{self.name} was not there and is made.")
            if lacking := self._schema.compare(rows.table):
                rows.add_columns(lacking)
                log.info("columns_added", f"{self.name}: added {', '.join(field.name for field in lacking)}.", step=self.step)
                self._schema.compare(rows.table)
            self.place.letters.prepare()
        self._prepared = True

    @property
    def ledger_of_step(self) -> DeltaLedger:
        """What its step keeps."""
        if self._ledger_made is None or self._ledger_made[0] != self.own_step:
            self._ledger_made = self.own_step, DeltaLedger(self.own_step, self.place, self.writers)
        return self._ledger_made[1]

    @override
    def open_store(self, *, briefly: bool = False) -> WholeStore:
        return WholeStore(self.ledger_of_step, self.own_step)

    def _ledger(self, step: Step) -> DeltaLedger:
        """Of any step that keeps something of this table."""
        return self.ledger_of_step if step == self.own_step else DeltaLedger(step, self.place, 0)

    def _streams_of(self, step: Step) -> list[tuple[str, str, int]]:
        ledger = self._ledger(step)
        with self.ledger_of_step.held():  # there is one log for all
            return [one.key for one in ledger.look().anchor.said]

    @override
    def steps(self) -> Mapping[str, int]:
        names = [unquote(name) for name in self.place.state.folders(escaped(self.flow))]
        found = {name: len(self._streams_of(Step(self.flow, name))) for name in names}
        return {name: number for name, number in found.items() if number}

    @override
    def alive(self, steps: Collection[str]) -> str:
        stale_ms = self.settings.owner_stale_s * 1000
        for name in steps:
            step = Step(self.flow, name)
            with self.ledger_of_step.held(), WholeStore(self._ledger(step), step).transaction() as transaction:
                if place := next((one.place for one in transaction.owners() if one.fresh(stale_ms)), ""):
                    return place
        return ""

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        wanted, state = {key_of(stream) for stream in streams}, self.place.state
        steps = [Step(unquote(flow), unquote(step)) for flow in sorted(state.folders()) for step in sorted(state.folders(flow))]
        return [(step.flow, step.name) for step in steps if step != self.own_step and wanted & set(self._streams_of(step))]

    @override
    def forgets(self, flow: str, step: str) -> str:
        return f"remove {self.place.state_at}/{escaped(flow)}/{escaped(step)}"

    @override
    def left_behind(self) -> str:
        """Rows, where the log names us, or where nobody at all remembers anything of the table."""
        rows = self.place.rows
        with self.ledger_of_step.held():
            rows.refresh()
            if not rows.holds_rows():
                return ""
            is_ours = rows.number(self.ledger_of_step.names.anchor) is not None
        return "rows" if is_ours or not self.place.state.folders() else ""

    # -- writing -------------------------------------------------------------------------------------

    def rows_of(self, batches: Sequence[Batch[Any]]) -> list[Divided]:
        """The rows of batches, divided by partitions.

        Raises:
            RowError: rows that can't be stored.
        """
        rows = self._maker.of(Change(list(batches), {}, {})).rows
        places = _places(batches) if self._schema.positions else ()
        return self._schema.divided(rows, places)

    @override
    def connect(self, part: str, token: str) -> DeltaSession:
        self.prepare_once()
        with self.ledger_of_step.held():
            for which in [which for which in self._writers if which[0] != token]:
                self._writers.pop(which).staging.discard()
            if (token, part) not in self._writers:
                staging = Staging(self.place.data, self._schema, self.name)
                self._writers[token, part] = DeltaWriter(self.ledger_of_step, int(part.rpartition("-")[2]), token, staging)
            return DeltaSession(self, self._writers[token, part])


def _places(batches: Sequence[Batch[Any]]) -> list[tuple[int, int | None]]:
    """Of each record its partition and offset. (One of a batch that is whole stands for many.)"""
    return [(b.stream.partition, None if b.whole else b.messages.offsets[at]) for b in batches for at in b.at]
