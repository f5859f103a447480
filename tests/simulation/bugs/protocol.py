"""Bugs of the protocol: positions, owners, transactions, places to read from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sinks.writer.commits
from sinks.writer.admission import Admission
from sinks.writer.commits import Commits
from sinks.writer.isolation import without_rows
from sinks.writer.suspects import Search, Steps
from sources.kit.reading.stream import StreamReader
from sources.kit.starting import positions
from sources.kit.starting.positions import StartAt
from sources.kit.starting.positions import _start_at as start_at
from sources.kit.words import Raw, Run
from tests.simulation import source
from tests.simulation.bugs.planted import Planted
from tests.simulation.database import Database, Key
from tests.simulation.parts import Parts
from tests.simulation.steps.rows import RowsSession
from tests.simulation.store import ModelStore, ModelTransaction
from tests.simulation.truth import STEPS
from waxwing.batch import Batch, Messages, Stream
from waxwing.change import Change, DeadLetter, Position
from waxwing.errors import RowError, TransientError
from waxwing.ledger import owners, ownership
from waxwing.ledger.ledger import Ledger, Owner
from waxwing.ledger.members import Member, Record
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import Stored, Transaction


class NoCompareAndSet(ModelTransaction):
    def stands(self, held: Stored, seen: Stored) -> bool:
        return True


class NoOwnerInCompareAndSet(ModelTransaction):
    def stands(self, held: Stored, seen: Stored) -> bool:
        return held.position.offset_next == seen.position.offset_next


class CommitInClose(ModelStore):
    left: ModelTransaction | None = None

    def ended(self, transaction: ModelTransaction) -> None:
        self.left = transaction

    def close(self) -> None:
        if self.left is not None and self.left.opened.open and not self.process.dead:
            self.database.commit(self.left.opened)


class PositionFirst(RowsSession):
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        assert isinstance(transaction, ModelTransaction)
        self.database.commit(transaction.opened)
        transaction.opened = self.database.begin(self.process, self._step)
        super().write_rows(transaction, prepared)


class PositionLast(ModelTransaction):
    def prove(self) -> None:
        super().prove()
        moves, self.opened.after = self.opened.after, {}
        self.database.commit(self.opened)
        self.opened = self.database.begin(self.process, self.step)
        self.opened.after = moves


class LettersOutside(ModelTransaction):
    def bury(self, letters: Sequence[DeadLetter]) -> None:
        own = self.database.begin(self.process, self.step)
        own.letters = list(letters)
        self.database.commit(own)


class NoSavepoint(ModelTransaction):
    def prove(self) -> None:
        self.statement("no savepoint")


class NoGeneration(Ledger):
    def take_over(self, transaction: Transaction, stream: Stream, owner: Owner, owners: Any, stale_ms: float = 0.0) -> None:
        def nobody_lost() -> list[Record]:
            return [record._replace(heartbeat_ms=abs(record.heartbeat_ms)) for record in owners()]

        super().take_over(transaction, stream, owner, nobody_lost, stale_ms)


class HeartbeatsNotSeen(LedgerOwners):
    def _judged(self, me: Member, asked: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        return set()


def nobody_alive(*asked: object, **more: object) -> tuple[list[Record], set[str]]:
    return [], set()


class OwnedAgain(Ledger):
    def move(self, transaction: Transaction, change: Change, owner: Owner) -> bool:
        for stream in change.before:
            row = transaction.locked(stream)
            if row is not None and row.token != owner.token:
                transaction.compare_and_set(row, row._replace(generation=owner.generation, token=owner.token))
        return super().move(transaction, change, owner)


class UnknownIsDone(RowsSession):
    def commit(self, change: Change) -> None:
        try:
            super().commit(change)
        except TransientError as error:
            if not error.committing:
                raise


class UnknownIsFailed(Ledger):
    def move(self, transaction: Transaction, change: Change, owner: Owner) -> bool:
        if not change.in_doubt:
            return super().move(transaction, change, owner)
        for stream in change.before:
            row = transaction.locked(stream)
            if row is None or row.token != owner.token:
                raise TransientError("another's")
            transaction.compare_and_set(row, row._replace(position=change.after[stream]))
        return False


class DoubtForgotten(RowsSession):
    def commit(self, change: Change) -> None:
        try:
            super().commit(change)
        finally:
            change.in_doubt = False


class DryRunCommits(RowsSession):
    def attempt(self, change: Change) -> None:
        super().commit(change)


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


class TokenAtFirst(Admission):
    def _judged(self, position: Position, batch: Batch[Any]) -> Position:
        after = super()._judged(position, batch)
        return after if batch.token is None else after._replace(token_offset=batch.offset_first)


class TokenNotMoved(Admission):
    def _judged(self, position: Position, batch: Batch[Any]) -> Position:
        return super()._judged(position, batch)._replace(token=position.token, token_offset=position.token_offset)


class TokenNotStored(ModelTransaction):
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        return super().compare_and_set(seen, to._replace(position=to.position._replace(token=seen.position.token)))


class CutKeepsToken(StreamReader):
    def _batch(self, offset_next: int, messages: Messages, token: bytes | None, run: Run, *, at_end: bool) -> list[Raw]:
        return super()._batch(offset_next, messages, token or run.token, run, at_end=at_end)


class WholeIsCut(StreamReader):
    def take(self, run: Run, *, at_end: bool = False) -> list[Raw]:
        batches = super().take(run, at_end=at_end)
        return [part for one in batches for part in ((one.part(0, 1), one.part(1, 9)) if len(one.messages) > 1 else (one,))]


class CountersNotMoved(Admission):
    def change(self, batches: list[Batch[Any]]) -> Change:
        change = super().change(batches)
        change.after = {s: change.before[s]._replace(offset_next=p.offset_next) for s, p in change.after.items()}
        return change


class BlamesAllRows(Commits):
    def _isolate(self, change: Change, refusal: RowError) -> Steps[tuple[list[Batch[Any]], list[list[Batch[Any]]]]]:
        yield from ()
        rows = sum(len(batch.records) for batch in change.batches)
        return without_rows(change.batches, dict.fromkeys(range(rows), refusal.message)), []


class LosesFailedGroup(Commits):
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


def splits_ignored(found: Sequence[tuple[str, Position]], log_token: tuple[int, bytes | None] | None) -> StartAt:
    return start_at(found, log_token)._replace(splits=())


def starts_high(found: Sequence[tuple[str, Position]], log_token: tuple[int, bytes | None] | None) -> StartAt:
    return start_at(found, log_token)._replace(offset=max(position.offset_next for _, position in found))


def numbered_from_next(found: Sequence[tuple[str, Position]], log_token: tuple[int, bytes | None] | None) -> StartAt:
    start = start_at(found, log_token)
    return start._replace(token_offset=None if start.token is None else start.offset)


def nothing_buried(batches: list[Batch[Any]], bad: Mapping[int, str], columns: Sequence[str]) -> list[Batch[Any]]:
    left = zip(batches, without_rows(batches, bad, columns), strict=True)
    return [after.with_records(after.records, after.at, before.rejects, after.deletes) for before, after in left]


PLANTED = {
    "heartbeats-not-seen": Planted("targets are taken from an owner that beats again", Parts(owners=HeartbeatsNotSeen)),
    "nobody-asked": Planted(
        "targets are taken whoever beats", Parts(replaced=((ownership, "alive", nobody_alive), (owners, "alive", nobody_alive)))
    ),
    "no-compare-and-set": Planted("positions move wherever they stand, whoever owns them", Parts(transaction=NoCompareAndSet)),
    "no-owner": Planted(
        "the compare-and-set looks at the offset and not at the owner", Parts(transaction=NoOwnerInCompareAndSet)
    ),
    "commit-in-close": Planted("close() commits what a failed transaction left open", Parts(store=CommitInClose)),
    "position-first": Planted("the position moves in a transaction of its own before the rows'", Parts(session=PositionFirst)),
    "position-last": Planted("the position moves in a transaction of its own after the rows'", Parts(transaction=PositionLast)),
    "letters-outside": Planted("dead letters are written outside the transaction", Parts(transaction=LettersOutside)),
    "no-savepoint": Planted("nobody notices that the server ended the transaction inside", Parts(transaction=NoSavepoint)),
    "no-generation": Planted("who has lost a target takes streams over all the same", Parts(ledger=NoGeneration)),
    "owned-again": Planted("ownership that was lost is taken again when a transaction begins", Parts(ledger=OwnedAgain)),
    "unknown-is-done": Planted("a COMMIT whose outcome is unknown is taken for done", Parts(session=UnknownIsDone)),
    "unknown-is-failed": Planted(
        "a COMMIT whose outcome is unknown is taken for failed: written again blindly", Parts(ledger=UnknownIsFailed)
    ),
    "doubt-forgotten": Planted(
        "a further failure makes the unknown COMMIT before it be forgotten", Parts(session=DoubtForgotten)
    ),
    "dry-run-commits": Planted("the search for bad rows commits what it tries", Parts(session=DryRunCommits)),
    "step-not-in-key": Planted("positions are keyed without the step", Parts(database=StepNotInKey)),
    "no-replay-cut": Planted("what was taken in before is not cut off", Parts(admission=NoReplayCut)),
    "cut-on-any-batch": Planted(
        "any batch may lie below the position, not just a stream's first", Parts(admission=CutOnAnyBatch)
    ),
    "no-gap-check": Planted("a batch need not begin where the one before it ended", Parts(admission=NoGapCheck)),
    "counters-not-moved": Planted("the counters of bad records stay where they are", Parts(admission=CountersNotMoved)),
    "token-at-first": Planted("the token gets the number of the batch's first record", Parts(admission=TokenAtFirst)),
    "token-not-moved": Planted("the token stays where it is", Parts(admission=TokenNotMoved)),
    "token-not-stored": Planted("the number of a token is stored without it", Parts(transaction=TokenNotStored)),
    "cut-keeps-token": Planted(
        "what is cut off in front of a split point has the token of the whole",
        Parts(replaced=((source, "StreamReader", CutKeepsToken),)),
    ),
    "numbered-from-next": Planted(
        "what is read from a token is numbered from the position", Parts(replaced=((positions, "_start_at", numbered_from_next),))
    ),
    "whole-is-cut": Planted(
        "what can't be read again the same way is cut", Parts(replaced=((source, "StreamReader", WholeIsCut),))
    ),
    "two-steps-polled": Planted("what can't be read again the same way feeds two steps", Parts(steps_polled=2)),
    "blames-all": Planted("all rows of a message with a bad row are taken for bad", Parts(commits=BlamesAllRows)),
    "half-forgotten": Planted("of a transaction with a bad row only the first half is written", Parts(commits=LosesFailedGroup)),
    "blames-at-once": Planted(
        "a row that was refused is not tried beside rows that come later",
        Parts(replaced=((sinks.writer.commits, "Search", BlamesAtOnce),)),
    ),
    "blames-one-by-one": Planted(
        "rows that need each other are not tried together", Parts(replaced=((sinks.writer.commits, "Search", BlamesOneByOne),))
    ),
    "nothing-buried": Planted(
        "bad rows are left out and not buried", Parts(replaced=((sinks.writer.commits, "without_rows", nothing_buried),))
    ),
    "splits-ignored": Planted(
        "batches do not end at stored positions", Parts(replaced=((positions, "_start_at", splits_ignored),))
    ),
    "starts-high": Planted(
        "the source starts at the highest stored position", Parts(replaced=((positions, "_start_at", starts_high),))
    ),
}
