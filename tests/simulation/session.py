"""The model of a connection: what sinks/sql/session.py does, statement by statement, on the database in memory.

Before each statement the schedule may crash or freeze the process, lose the connection or end the transaction inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from tests.simulation.database import Key, Lost, Progress, Transaction
from tests.simulation.truth import Row
from waxwing.batch import Stream
from waxwing.errors import ConfigError, Fenced, RowError, TargetError, TransientError
from waxwing.ownership import Record
from waxwing.target import Change, Position, Session

if TYPE_CHECKING:
    from tests.simulation.target import ModelTarget


class ModelSession(Session):
    """One partition's connection."""

    def __init__(self, target: ModelTarget, token: str) -> None:
        self.process, self.world, self.database = target.process, target.world, target.database
        self._step, self._token, self._records = target.step, token, target.records()
        self._transaction: Transaction | None = None
        self._committing = self._has_savepoint = False
        with self._errors():
            self.process.point(f"{self._step}: connect")

    # -- ownership -----------------------------------------------------------------------------

    @property
    def _generation(self) -> int:
        return self._records.generation

    @override
    def take_over(self, stream: Stream) -> Position:
        with self._errors(), self._begun():
            row = self._locked(stream)
            if row.token == self._token:
                return row.position
            records = {record.token: record for record in self._records.records()}
            mine, holder = records.get(self._token), records.get(row.token)
            if self._has_lost(mine):
                raise self._fenced(stream, row)
            if mine is not None and mine.released:
                raise TransientError(f"{stream}: this process has let go")
            of_others = mine is None or (holder is not None and holder.member.run != mine.member.run)
            if of_others and holder is not None and holder.fresh(self._records.stale_ms):
                raise TransientError(f"{stream}: generation {row.owner} is alive")
            self._update(stream, replace(self._locked(stream), owner=self._generation, token=self._token))
            self._commit()
        with self._errors(), self._begun():
            row = self._locked(stream)
            if row.token != self._token:
                raise TransientError(f"{stream}: taken over by generation {row.owner}")
            return row.position

    def _has_lost(self, mine: Record | None) -> bool:
        return mine is None or mine.lost

    def _fenced(self, stream: Stream, row: Progress) -> Fenced:
        return Fenced(f"{stream}: generation {row.owner} has it, ours is {self._generation}")

    # -- the transaction -----------------------------------------------------------------------

    @override
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        with self._errors(), self._begun():
            self._has_savepoint = True
            if self._move(change):
                return
            self._insert(change)
            self._bury(change)
            self._release_savepoint()
            if not dry_run:
                self._committing = True
                self._commit()

    def _move(self, change: Change) -> bool:
        done = 0
        for number, (stream, before) in enumerate(change.before.items()):
            after = change.after[stream]
            row = self._locked(stream)
            if self._may_move(row, before):
                self._update(stream, Progress(after, row.owner, row.token))
                continue
            if row.token != self._token:
                raise self._fenced(stream, row)
            if change.in_doubt and row.position.offset_next == after.offset_next and done == number:
                done += 1
                continue
            raise TargetError(f"{stream}: stands at {row.position.offset_next}, expected was {before.offset_next}")
        if done not in (0, len(change.before)):
            raise TargetError("one transaction stands half committed")
        return done > 0

    def _may_move(self, row: Progress, before: Position) -> bool:
        return (row.position.offset_next, row.owner, row.token) == (before.offset_next, self._generation, self._token)

    def _insert(self, change: Change) -> None:
        parts = [change.batches] if change.parts is None else change.parts
        if sum(len(batch.records) for part in parts for batch in part) > self.world.rows_max:
            raise TransientError("the transaction takes too long", too_large=True)
        for part in parts:
            try:
                self._insert_part([(batch.stream.partition, record) for batch in part for record in batch.records])
            except RowError:
                self._statement("rollback to savepoint")
                if not self._opened().whole:
                    raise Lost("no such savepoint: the transaction was ended inside") from None
                raise

    def _insert_part(self, records: list[tuple[int, Any]]) -> None:
        bad: dict[int, str] = {}
        lacking = False
        for number, (partition, record) in enumerate(records):
            if number % 3 == 0:
                self._statement("insert")
            if self._step != "sums" and self.world.is_bad(partition, record[0]):
                bad[number] = "bad row"
                if self.world.blames == "first":
                    break
            self._opened().rows += [(partition, row) for row in record]
            lacking |= self.world.row_by_row and self._lacks(partition, record[0])
        if bad:
            raise RowError("bad row", bad=None if self.world.blames == "none" else bad)
        if lacking or any(self._lacks(partition, record[0]) for partition, record in records):
            raise RowError("a row lacks another")

    def _lacks(self, partition: int, row: Row) -> bool:
        """Is the row that it needs neither here nor there?"""
        needed = self.world.logs[partition].needs.get(row)
        if needed is None or self._step == "sums":
            return False
        return (
            needed not in self.database.rows.get((self._step, partition), {}) and (partition, needed) not in self._opened().rows
        )

    def _bury(self, change: Change) -> None:
        if change.dead_letters:
            self._statement("dead letters")
        for letter in change.dead_letters:
            if (letter.offset, letter.row) in self.database.letters.get((self._step, letter.stream.partition), {}):
                raise RowError("duplicate key in the dead letters")
            self._opened().letters.append(letter)

    def _release_savepoint(self) -> None:
        self._statement("release savepoint")
        self._has_savepoint = False
        if not self._opened().whole:
            raise Lost("no such savepoint: the transaction was ended inside")

    @override
    def close(self) -> None:
        self._rollback()

    # -- statements ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        self._transaction = self.database.begin(self.process, self._step, self._token)
        try:
            yield
        finally:
            self._rollback()

    def _rollback(self) -> None:
        transaction, self._transaction, self._has_savepoint = self._transaction, None, False
        if transaction is not None:
            self.database.rollback(transaction)

    def _opened(self) -> Transaction:
        assert self._transaction is not None
        return self._transaction

    def _statement(self, what: str) -> None:
        self.process.point(f"{self._step}: {what}")
        if not self._opened().open:
            raise Lost("the server has ended the connection")
        if self._has_savepoint and self.process.strikes("swallow"):
            self.world.say(f"{self.process}: the server ends the transaction inside, and the next statement opens another")
            self._rollback()
            self._transaction = self.database.begin(self.process, self._step, self._token, whole=False)
            self._has_savepoint = True

    def _locked(self, stream: Stream) -> Progress:
        self._statement(f"lock {stream}")
        key = self._key(stream)
        self.database.lock(self._opened(), key)
        row = self.database.progress.get(key)
        if row is None:
            raise ConfigError(f"Step {self._step} has no position for {stream}.")
        return self._opened().after.get(key, row)

    def _key(self, stream: Stream) -> Key:
        return self.database.key(self._step, stream)

    def _update(self, stream: Stream, row: Progress) -> None:
        self._opened().after[self._key(stream)] = row

    def _commit(self) -> None:
        self._statement("commit")
        transaction, process = self._opened(), self.process
        if process.strikes("hang"):
            self.database.hang(transaction)
            self._transaction = None
            process.point(f"{self._step}: hanging commit", must_fail=True)
        if process.strikes("lost_in_commit"):
            raise Lost("connection lost in COMMIT: not committed")
        self.world.say(f"{process}: {self._step} commits {_told(transaction)}")
        self.database.commit(transaction)
        if process.strikes("lost_in_commit"):
            raise Lost("connection lost in COMMIT: committed")
        process.point(f"{self._step}: committed", may_lose=False)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        self._committing = False
        try:
            yield
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error), committing=self._committing) from error


def _told(transaction: Transaction) -> str:
    moves = [f"{key[1]} to {row.position.offset_next} by {row.owner}" for key, row in transaction.after.items()]
    letters = [(letter.stream.partition, (letter.offset, letter.row)) for letter in transaction.letters]
    return f"{', '.join(moves)}; rows {transaction.rows}; dead letters {letters}"
