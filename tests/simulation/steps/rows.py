"""Steps that write a row for each record (or a sum for each batch): the session that inserts them, and the judge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from tests.simulation.database import Lost
from tests.simulation.steps.judge import Judge
from tests.simulation.store import ModelTransaction
from tests.simulation.target import ModelSession
from tests.simulation.truth import Row, Rows, counters, expected, good_after_all
from waxwing.change import Change, DeadLetter, Position
from waxwing.errors import RowError, TransientError
from waxwing.ledger.store import Transaction

if TYPE_CHECKING:
    from tests.simulation.database import Opened
    from tests.simulation.truth import Log


class RowsSession(ModelSession):
    """Inserts the rows of a change, which may be refused, and may need each other."""

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
            transaction.opened.written += [(partition, row) for row in record]
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
        judge = self.database.judges[self._step]
        assert isinstance(judge, RowsJudge)
        return needed not in judge.rows.get(partition, {}) and (partition, needed) not in transaction.opened.written


def row_of(letter: DeadLetter) -> Row:
    """The row that a dead letter is of: where a batch is taken in as a whole, its value says so, and its place does not."""
    if letter.value:
        ((offset, row),) = json.loads(letter.value)
        return offset, row
    return letter.offset, letter.row


class StreamsJudge(Judge):
    """Of a step that has one position for each stream: looks at the streams that a transaction moved."""

    @override
    def commit(self, opened: Opened) -> None:
        self.take(opened)
        for partition in sorted(opened.partitions):
            self.check(partition)

    def take(self, opened: Opened) -> None:
        """Make durable what it wrote."""

    def position(self, log: Log) -> Position:
        """Of a log."""
        return self.database.progress[self.database.key(self.step, log.stream)].position

    def buried(self, log: Log) -> set[Row]:
        """The rows that dead letters of a log are of."""
        return {row_of(letter) for letter in self.database.letters.get((self.step, log.stream), {}).values()}

    def check(self, partition: int, *, complete: bool = False) -> None:
        """What is held of a partition is right at this moment; `complete`: all of it is there."""
        log = self.world.logs[partition]
        position = self.position(log)
        end = max(log.end, position.offset_next) if complete else position.offset_next
        where = f"{log.stream}, read from {position.offset_start}, stands at {position.offset_next}"
        if wrong := log.wrong_token(position):
            self.wrong(where, wrong)
        self.check_rows(where, log, position, end)

    def check_rows(self, where: str, log: Log, position: Position, end: int) -> None:
        """Rows and dead letters are those of the records between the step's start and this end."""

    def check_counters(self, where: str, log: Log, position: Position, buried: set[Row]) -> None:
        """Bad records are counted one by one. Those of a batch that is whole are of no one message, and spread evenly."""
        told = position.records_seen, position.records_bad, position.bad_run
        true = counters(self.step, log, position.offset_start, position.offset_next, buried)
        if any(letter.value for letter in self.database.letters.get((self.step, log.stream), {}).values()):
            told, true = (told[0], 0, 0), (true[0], 0, 0)
        if told != true:
            self.wrong(where, f"counters of bad records {told}, expected {true}")

    @override
    def check_end(self) -> None:
        for number in self.world.logs:
            self.check(number, complete=True)

    @override
    def is_complete(self) -> bool:
        keys = [(self.database.key(self.step, log.stream), log) for log in self.world.logs.values()]
        rows = self.database.progress
        return all(key in rows and log.ends(rows[key].position) for key, log in keys)


class RowsJudge(StreamsJudge):
    """Each row stands there once, or as a dead letter, if the database refuses it."""

    rows: dict[int, Rows]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows = {}

    @override
    def take(self, opened: Opened) -> None:
        for partition, row in opened.written:
            held = self.rows.setdefault(partition, {})
            held[row] = held.get(row, 0) + 1
        for partition in {letter.stream.partition for letter in opened.letters}:
            self._check_condemned(opened, partition)

    def _check_condemned(self, opened: Opened, partition: int) -> None:
        """No row is condemned that would have fitted beside the others of its transaction."""
        needs = self.world.logs[partition].needs
        buried = {row_of(letter) for letter in opened.letters if letter.stream.partition == partition}
        held = self.rows.get(partition, {})
        good = good_after_all(buried & needs.keys(), held, needs, row_by_row=self.world.row_by_row)
        if good:
            self.wrong(f"[{partition}]", f"rows were condemned that fit beside others: {sorted(good)}")

    @override
    def check_rows(self, where: str, log: Log, position: Position, end: int) -> None:
        held, buried = self.rows.get(log.stream.partition, {}), self.buried(log)
        rows, letters = expected(self.step, log, position.offset_start, end, buried)
        torn = self.world.torn.get((self.step, log.stream.partition), [])
        lost = [row for row in [*(rows.keys() - held.keys()), *(letters - buried)] if not _within(row[0], torn)]
        if lost:
            self.wrong(where, f"rows or dead letters are lost, (offset, row) {sorted(lost)}")
        more = [row for row, times in held.items() if times > 1 or row not in rows]
        if more := more + sorted(buried - letters):
            self.wrong(where, f"too many rows or dead letters, (offset, row) {more}")
        if not torn:
            self.check_counters(where, log, position, buried)


def _within(offset: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= offset < end for first, end in ranges)
