"""A writer of one sink partition: rows in files that grow, dead letters, and the commit that names what it remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from sinks.delta.ledger import DeltaLedger
from sinks.delta.log import Conflict, Unknown
from sinks.delta.records import Found, Held, Key, Part, draw, dump, held_of, key_of
from sinks.delta.rows.staging import Staging
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.errors import ConfigError, TransientError, TryLater, WaxwingError
from waxwing.ledger.ledger import UNFED_HINT
from waxwing.target import Session

if TYPE_CHECKING:
    from sinks.delta.target import DeltaTarget

# Each try that fails means that somebody else has got further; of answers that say nothing it takes no more than a few.
TRIES_MAX = 100
UNKNOWN_MAX = 3


class _Pending(NamedTuple):
    """A change on its way into the table: its number stays the same until it is there."""

    change: Change
    number: int
    part: Part
    letters: list[Any]


class DeltaWriter:
    """It outlives sessions, and goes with its owner.

    Args:
        ledger: of the step.
        at: the number of the sink partition.
        token: of the owner.
        staging: the rows' files.
    """

    def __init__(self, ledger: DeltaLedger, at: int, token: str, staging: Staging) -> None:
        self._ledger, self._at, self._token, self.staging = ledger, at, token, staging
        self._name = ledger.names.part(at)
        self._seen: int | None = None  # the number that the log has of this partition, as far as we know
        self._before: int | None = None  # the one before it
        self._part, self._opening = Part(), 0
        self._held: dict[Key, Held] = {}  # of the streams that were taken over
        self._files: list[Any] = []  # closed, and not committed yet
        self._pending: _Pending | None = None

    def take_over(self, stream: Stream) -> Position:
        """The position of a stream, which is ours; with what windows keep.

        Raises:
            Fenced: another owner has the step.
            ConfigError: the step has no such stream.
        """
        ledger = self._ledger
        with ledger.held():
            contents, found = ledger.load_with()
            ledger.demand_owned(found, self._token)
            row = contents.positions.get((ledger.names.step, stream))
            if row is None:
                step = ledger.names.step.name
                raise ConfigError(f"{ledger.rows.folder.path} has no position of {stream}.", hint=UNFED_HINT, step=step)
            if self._seen is None:
                if self._at not in found.numbers:
                    raise TransientError(f"{ledger.rows.folder.path}: this process has let go of it.")
                self._adopt(found)
            self._held[key_of(stream)] = found.winners()[key_of(stream)][1]
            return row.position._replace(state=contents.states.get((ledger.names.step, stream), b""))

    def _adopt(self, found: Found) -> None:
        self._seen, self._part, self._opening = found.numbers[self._at], found.parts[self._at], found.anchor.opening

    # -- a change ------------------------------------------------------------------------------------

    def commit(self, change: Change) -> None:
        """Make it durable, once, however often it is asked for.

        Raises:
            Fenced: another owner has the step.
            TransientError: the table is away, or others commit all the time. The same change may come again.
            TryLater: another writer of this very partition has moved it.
        """
        with self._ledger.held():
            unknown = 0
            for _ in range(TRIES_MAX):
                try:
                    if self._once(change):
                        return
                except Unknown as error:
                    if (unknown := unknown + 1) >= UNKNOWN_MAX:
                        raise TransientError(f"{self._ledger.rows.folder.path}: {error}", committing=True) from error
                except Conflict:
                    continue
        raise TransientError(f"{self._ledger.rows.folder.path}: others commit all the time.", contended=True)

    def _once(self, change: Change) -> bool:
        """One try: snapshots, the comparison, and the commits on those very snapshots. False: they are old."""
        ledger, letters = self._ledger, self._ledger.place.letters.log
        pending = self._prepared(change)
        if pending.letters:
            letters.refresh()
        found = ledger.look()
        number = found.numbers.get(self._at)
        if number == pending.number:
            self._done(pending)
            return True
        if number != self._seen:
            return self._was_replaced(found, pending)
        if pending.letters and letters.number(self._name) != pending.number:
            self._write_letters(found, pending)
        self.staging.demand_there(self._files)
        ledger.rows.append({self._name: pending.number}, self._files)
        if not ledger.rows.stands({self._name: pending.number}):
            return False
        self._done(pending)
        return True

    def _write_letters(self, found: Found, pending: _Pending) -> None:
        """Before the rows, on the snapshot that was taken before theirs. Raises Conflict where that is old."""
        letters = self._ledger.place.letters.log
        if letters.number(self._ledger.names.anchor) != found.anchor.opening:
            self._ledger.settle()  # who opened it has not come to it yet
            raise Conflict
        if letters.number(self._name) not in (found.anchor.opening, self._part.letters):
            raise self._moved_by_another("dead letters")
        letters.append({self._name: pending.number}, pending.letters)
        if not letters.stands({self._name: pending.number}):
            raise Conflict
        letters.sync()

    def _prepared(self, change: Change) -> _Pending:
        if self._pending is not None and self._pending.change is change:
            return self._pending
        assert self._pending is None
        self._files += self.staging.finish()
        return self._draw(change)

    def _draw(self, change: Change) -> _Pending:
        ledger, number = self._ledger, draw()
        held = {one.key: one for one in self._part.held} | {one.key: one for one in self._after(change)}
        letters = change.dead_letters
        if ledger.rows.table is None:
            ledger.rows.refresh()
        kept = tuple(held[key] for key in sorted(held))
        part = Part(version=ledger.rows.version, letters=number if letters else self._part.letters, held=kept)
        files = [ledger.place.letters.write(ledger.names.step, letters, number)] if letters else []
        ledger.place.state.write(ledger.names.file(number), dump(part))
        self._pending = _Pending(change, number, part, files)
        return self._pending

    def _after(self, change: Change) -> list[Held]:
        out = []
        for stream, position in change.after.items():
            before = self._held[key_of(stream)]
            state = before.state if position.state is None else position.state
            out.append(held_of(position, before.moves + 1, state))
        return out

    def _was_replaced(self, found: Found, pending: _Pending) -> bool:
        """The partition's number is another: are we fenced, or did an opening keep us? True: the change is done."""
        self._ledger.demand_owned(found, self._token)
        if found.anchor.opening == self._opening:
            raise self._moved_by_another("rows")
        winners = found.winners()
        after = {one.key: one for one in self._after(pending.change)}
        for expected in (self._held, self._held | after):
            if all(winners.get(key, (0, None))[1] == one for key, one in expected.items()):
                break
        else:
            raise self._moved_by_another("positions")
        self._adopt(found)
        if expected is not self._held:
            self._done(pending._replace(number=self._seen or 0, part=self._part))
            return True
        self._pending = None
        self._draw(pending.change)
        return False

    def _done(self, pending: _Pending) -> None:
        ledger = self._ledger
        ledger.rows.sync()
        gone, self._before, self._seen = self._before, self._seen, pending.number
        self._held |= {one.key: one for one in self._after(pending.change)}
        self._part, self._files, self._pending = pending.part, [], None
        if gone is not None:
            with contextlib.suppress(WaxwingError):  # the next opening removes it
                ledger.place.state.remove(ledger.names.file(gone))

    def _moved_by_another(self, what: str) -> TryLater:
        where = self._ledger.rows.folder.path
        return TryLater(
            f"{where}: another process of flow {self._ledger.names.step.flow} has written {what} of sink partition {self._at}.",
            hint="Of an earlier start that is not quite dead, perhaps. Nothing of this change was written; start again.",
        )


class DeltaSession(Session):
    """A session of one sink partition.

    Args:
        target: whose.
        writer: of the partition.
    """

    def __init__(self, target: DeltaTarget, writer: DeltaWriter) -> None:
        self._target, self._writer = target, writer

    @override
    def take_over(self, stream: Stream) -> Position:
        position = self._writer.take_over(stream)
        return position if self._target.keeps_state else position._replace(state=None)

    @override
    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        self._writer.staging.add(self._target.rows_of(batches))

    @override
    def commit(self, change: Change) -> None:
        if change.batches:
            self.stage(change.batches)
            change.batches = []
        self._writer.commit(change)

    @override
    def close(self) -> None:
        """The writer belongs to the target: another session goes on with it."""
