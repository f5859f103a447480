"""Bugs to be found: each is the shipped code, or the model of a session, with one thing wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sinks.writer.writer
from sinks.writer.admission import Admission
from sinks.writer.isolation import without_rows
from sinks.writer.suspects import Search, Steps
from tests.simulation import owners
from tests.simulation.database import Database, Key, Progress
from tests.simulation.owners import ModelRecords
from tests.simulation.session import ModelSession
from tests.simulation.stepped import SteppedWriter
from tests.simulation.truth import STEPS
from tests.simulation.world import Parts
from waxwing import ownership, positions
from waxwing.batch import Batch, Stream
from waxwing.errors import RowError, TransientError
from waxwing.ownership import Member, Record
from waxwing.positions import StartAt
from waxwing.target import Change, Position


@dataclass(frozen=True)
class Planted:
    """A bug: what is wrong, the parts with it, and a schedule that met it when it was last looked for."""

    what: str
    parts: Parts
    seed: int = 0


class NoCompareAndSet(ModelSession):
    def _may_move(self, row: Progress, before: Position) -> bool:
        return True


class NoOwnerInCompareAndSet(ModelSession):
    def _may_move(self, row: Progress, before: Position) -> bool:
        return row.position.offset_next == before.offset_next


class CommitInClose(ModelSession):
    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        self._transaction = self.database.begin(self.process, self._step, self._token)
        yield
        self._rollback()

    def close(self) -> None:
        if self._transaction is not None and self._transaction.open and not self.process.dead:
            self.database.commit(self._transaction)
        self._transaction = None


class PositionFirst(ModelSession):
    def _insert(self, change: Change) -> None:
        self.database.commit(self._opened())
        self._transaction = self.database.begin(self.process, self._step, self._token)
        super()._insert(change)


class PositionLast(ModelSession):
    def _release_savepoint(self) -> None:
        super()._release_savepoint()
        rows = self._opened()
        moves, rows.after = rows.after, {}
        self.database.commit(rows)
        self._transaction = self.database.begin(self.process, self._step, self._token)
        self._opened().after = moves


class LettersOutside(ModelSession):
    def _bury(self, change: Change) -> None:
        own = self.database.begin(self.process, self._step, self._token)
        own.letters = list(change.dead_letters)
        self.database.commit(own)


class NoSavepoint(ModelSession):
    def _release_savepoint(self) -> None:
        self._statement("no savepoint")


class NoGeneration(ModelSession):
    def _has_lost(self, mine: Record | None) -> bool:
        return False


class HeartbeatsNotSeen(ModelRecords):
    def _judged(self, me: Member, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        return set()


def nobody_alive(*asked: object, **more: object) -> tuple[list[Record], set[str]]:
    return [], set()


class OwnedAgain(ModelSession):
    def _move(self, change: Change) -> bool:
        for stream in change.before:
            row = self._locked(stream)
            if row.token != self._token:
                self._update(stream, replace(row, owner=self._generation, token=self._token))
        return super()._move(change)


class UnknownIsDone(ModelSession):
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        try:
            super().write(change, dry_run=dry_run)
        except TransientError as error:
            if not error.committing:
                raise


class UnknownIsFailed(ModelSession):
    def _may_move(self, row: Progress, before: Position) -> bool:
        return super()._may_move(row, before) or (self._again and row.token == self._token)

    def _move(self, change: Change) -> bool:
        self._again = change.in_doubt
        return super()._move(change)


class DoubtForgotten(ModelSession):
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        try:
            super().write(change, dry_run=dry_run)
        finally:
            change.in_doubt = False


class DryRunCommits(ModelSession):
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        super().write(change)


class StepNotInKey(Database):
    def key(self, step: str, stream: Stream) -> Key:
        return STEPS[0], stream


class NoReplayCut(Admission):
    def admit(self, batches: list[Batch[Any]]) -> list[Batch[Any]]:
        super().admit(batches)
        return batches


class CutOnAnyBatch(Admission):
    def admit(self, batches: list[Batch[Any]]) -> list[Batch[Any]]:
        out = []
        for batch in batches:
            if batch.offset_first < self.positions[batch.stream].offset_next:
                self._arrived.pop(batch.stream, None)
            out += super().admit([batch])
        return out


class NoGapCheck(Admission):
    def admit(self, batches: list[Batch[Any]]) -> list[Batch[Any]]:
        out = []
        for batch in batches:
            self._arrived[batch.stream] = batch.offset_first
            out += super().admit([batch])
        return out


class CountersNotMoved(Admission):
    def change(self, batches: list[Batch[Any]]) -> Change:
        change = super().change(batches)
        change.after = {s: change.before[s]._replace(offset_next=p.offset_next) for s, p in change.after.items()}
        return change


class BlamesAllRows(SteppedWriter):
    def _isolate(self, change: Change, refusal: RowError) -> Steps[tuple[list[Batch[Any]], list[list[Batch[Any]]]]]:
        yield from ()
        rows = sum(len(batch.records) for batch in change.batches)
        return without_rows(change.batches, dict.fromkeys(range(rows), refusal.message)), []


class LosesFailedGroup(SteppedWriter):
    def _isolate(self, change: Change, refusal: RowError) -> Steps[tuple[list[Batch[Any]], list[list[Batch[Any]]]]]:
        batches, parts = yield from super()._isolate(change, refusal)
        return batches, parts[: (len(parts) + 1) // 2]


class BlamesAtOnce(Search):
    def _behind(self) -> Steps[None]:
        yield from ()


class BlamesOneByOne(Search):
    def _together(self) -> Steps[bool]:
        yield from ()
        return False


def splits_ignored(found: Sequence[tuple[str, Position]]) -> StartAt:
    return StartAt(min(position.offset_next for _, position in found))


def starts_high(found: Sequence[tuple[str, Position]]) -> StartAt:
    return StartAt(max(position.offset_next for _, position in found))


def nothing_buried(batches: list[Batch[Any]], bad: Mapping[int, str], columns: Sequence[str]) -> list[Batch[Any]]:
    left = zip(batches, without_rows(batches, bad, columns), strict=True)
    return [after.with_records(after.records, after.at, before.rejects, after.deletes) for before, after in left]


def _session(session: type[ModelSession]) -> Parts:
    return Parts(session=session)


PLANTED = {
    "heartbeats-not-seen": Planted("targets are taken from an owner that beats again", Parts(records=HeartbeatsNotSeen)),
    "nobody-asked": Planted(
        "targets are taken whoever beats", Parts(replaced=((ownership, "alive", nobody_alive), (owners, "alive", nobody_alive)))
    ),
    "no-compare-and-set": Planted("positions are moved wherever they stand and whoever owns them", _session(NoCompareAndSet)),
    "no-owner": Planted("the compare-and-set looks at the offset and not at the owner", _session(NoOwnerInCompareAndSet), 111),
    "commit-in-close": Planted("close() commits what a failed transaction left open", _session(CommitInClose)),
    "position-first": Planted("the position moves in a transaction of its own before the rows'", _session(PositionFirst)),
    "position-last": Planted("the position moves in a transaction of its own after the rows'", _session(PositionLast)),
    "letters-outside": Planted("dead letters are written outside the transaction", _session(LettersOutside)),
    "no-savepoint": Planted("nobody notices that the server ended the transaction inside", _session(NoSavepoint)),
    "no-generation": Planted("who has lost a target takes streams over all the same", _session(NoGeneration), 209),
    "owned-again": Planted("ownership that was lost is taken again when a transaction begins", _session(OwnedAgain), 226),
    "unknown-is-done": Planted("a COMMIT whose outcome is unknown is taken for done", _session(UnknownIsDone)),
    "unknown-is-failed": Planted(
        "a COMMIT whose outcome is unknown is taken for failed: written again blindly", _session(UnknownIsFailed)
    ),
    "doubt-forgotten": Planted("a further failure makes the unknown COMMIT before it be forgotten", _session(DoubtForgotten), 24),
    "dry-run-commits": Planted("the search for bad rows commits what it tries", _session(DryRunCommits)),
    "step-not-in-key": Planted("positions are keyed without the step", Parts(database=StepNotInKey)),
    "no-replay-cut": Planted("what was taken in before is not cut off", Parts(admission=NoReplayCut)),
    "cut-on-any-batch": Planted(
        "any batch may lie below the position, not just a stream's first", Parts(admission=CutOnAnyBatch), 17
    ),
    "no-gap-check": Planted("a batch need not begin where the one before it ended", Parts(admission=NoGapCheck)),
    "counters-not-moved": Planted("the counters of bad records stay where they are", Parts(admission=CountersNotMoved)),
    "blames-all": Planted("all rows of a message with a bad row are taken for bad", Parts(writer=BlamesAllRows)),
    "half-forgotten": Planted("of a transaction with a bad row only the first half is written", Parts(writer=LosesFailedGroup)),
    "blames-at-once": Planted(
        "a row that was refused is not tried beside rows that come later",
        Parts(replaced=((sinks.writer.writer, "Search", BlamesAtOnce),)),
    ),
    "blames-one-by-one": Planted(
        "rows that need each other are not tried together", Parts(replaced=((sinks.writer.writer, "Search", BlamesOneByOne),))
    ),
    "nothing-buried": Planted(
        "bad rows are left out and not buried", Parts(replaced=((sinks.writer.writer, "without_rows", nothing_buried),))
    ),
    "splits-ignored": Planted(
        "batches do not end at stored positions", Parts(replaced=((positions, "_start_at", splits_ignored),))
    ),
    "starts-high": Planted(
        "the source starts at the highest stored position", Parts(replaced=((positions, "_start_at", starts_high),))
    ),
}
