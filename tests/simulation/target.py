"""The model target: a step's ledger and rows in the database in memory. All but the rows is the shipped code."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from sinks.ledger import LedgerSession, LedgerTarget
from tests.simulation.database import Lost
from tests.simulation.store import ModelStore, ModelTransaction
from tests.simulation.truth import Row
from waxwing.batch import Stream
from waxwing.change import Change, Position, Start
from waxwing.errors import RowError, TransientError
from waxwing.ledger.ledger import Ledger
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import Transaction
from waxwing.settings import SinkSettings

if TYPE_CHECKING:
    from tests.simulation.process import Process


class ModelTarget(LedgerTarget):
    """One step's target, as one process has it."""

    def __init__(self, process: Process, settings: SinkSettings) -> None:
        super().__init__(settings)
        self.process, self.world, self.database = process, process.world, process.world.database
        # Where this step stood when the process opened its source.
        self.began: dict[Stream, int] = {}

    @property
    @override
    def name(self) -> str:
        return "model"

    @property
    @override
    def store(self) -> Hashable:
        return id(self.database)

    @property
    @override
    def parts_max(self) -> int | None:
        return 1 if self.world.one_writer else None

    @property
    @override
    def ledger(self) -> Ledger:
        return self.world.parts.ledger(self.own_step, self.name)

    @property
    @override
    def owners_kind(self) -> type[LedgerOwners]:
        return self.world.parts.owners

    @override
    def open_store(self, *, briefly: bool = False) -> ModelStore:
        return self.world.parts.store(self)

    @override
    def prepare(self) -> None:
        try:
            self.process.point(f"{self.step}: prepare")
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error)) from error

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        stored = super().begin(starts)
        self.began = {position.stream: position.offset_next for position in stored}
        return stored

    @override
    def connect(self, part: str, token: str) -> ModelSession:
        return self.world.parts.session(self, token)


class ModelSession(LedgerSession):
    """One partition's connection."""

    def __init__(self, target: ModelTarget, token: str) -> None:
        super().__init__(target, target.open_store(), token)
        self.process, self.world, self.database, self._step = target.process, target.world, target.database, target.step

    @override
    def prepared(self, change: Change) -> Change:
        return change

    @override
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        opened = cast("ModelTransaction", transaction)
        parts = [prepared.batches] if prepared.parts is None else prepared.parts
        if sum(len(batch.records) for part in parts for batch in part) > self.world.rows_max:
            raise TransientError("the transaction takes too long", too_large=True)
        for part in parts:
            try:
                self._insert(opened, [(batch.stream.partition, record) for batch in part for record in batch.records])
            except RowError:
                opened.statement("rollback to savepoint")
                if not opened.opened.whole:
                    raise Lost("no such savepoint: the transaction was ended inside") from None
                raise

    def _insert(self, transaction: ModelTransaction, records: list[tuple[int, Any]]) -> None:
        bad: dict[int, str] = {}
        lacking = False
        for number, (partition, record) in enumerate(records):
            if number % 3 == 0:
                transaction.statement("insert")
            if self._step != "sums" and self.world.is_bad(partition, record[0]):
                bad[number] = "bad row"
                if self.world.blames == "first":
                    break
            transaction.opened.rows += [(partition, row) for row in record]
            lacking |= self.world.row_by_row and self._lacks(transaction, partition, record[0])
        if bad:
            raise RowError("bad row", bad=None if self.world.blames == "none" else bad)
        if lacking or any(self._lacks(transaction, partition, record[0]) for partition, record in records):
            raise RowError("a row lacks another")

    def _lacks(self, transaction: ModelTransaction, partition: int, row: Row) -> bool:
        """Is the row that it needs neither here nor there?"""
        needed = self.world.logs[partition].needs.get(row)
        if needed is None or self._step == "sums":
            return False
        there = self.database.rows.get((self._step, partition), {})
        return needed not in there and (partition, needed) not in transaction.opened.rows
