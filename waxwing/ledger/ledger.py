"""The ledger: how positions begin, change hands and move, over the primitives of any store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from waxwing.batch import Stream
from waxwing.change import Change, Position, Start, refuse_renamed
from waxwing.errors import ConfigError, Fenced, TargetError, TransientError
from waxwing.ledger.members import Record
from waxwing.ledger.store import Step, Stored, Transaction

# What to do about a target whose position nobody has stored.
UNFED_HINT = (
    "Its batches come from no source that knows it: read them with sources.read (a source told feeds=[...] knows these alone)."
)


class Owner(NamedTuple):
    """Who owns positions: a number that only rises, and a token drawn at random."""

    generation: int
    token: str


class Ledger:
    """What is done with the positions of one step.

    Args:
        step: the step.
        name: of the target, for messages.
    """

    def __init__(self, step: Step, name: str) -> None:
        self.step, self._name = step, name

    # -- at the start --------------------------------------------------------------------------------

    def begin(self, transaction: Transaction, starts: Sequence[Start]) -> list[Start]:
        """Store a position for each stream that has none; returns these. The others keep theirs, and get the end of this run.

        Raises:
            Race: another process was first.
            DataError: one is known under another name.
        """
        held = {row.position.stream: row.position for row in transaction.positions()}
        refuse_renamed(held, starts, self._name, self.step.name)
        new = [start for start in starts if start.stream not in held]
        transaction.add([start.position for start in new])
        for start in starts:
            if start.stream in held and _may_end(held[start.stream], start.offset_end):
                transaction.amend(start.stream, offset_end=start.offset_end)
        return new

    def jump(self, transaction: Transaction, stream: Stream, offset: int) -> None:
        """Move a position over records that are gone. Those that are read again bring their dead letters again."""
        row = self._row(transaction, stream)
        position = row.position._replace(offset_next=offset)
        if position.token_offset is not None and position.token_offset >= offset:  # it is the place of what is gone
            position = position._replace(token=None, token_offset=None)
        transaction.compare_and_set(row, row._replace(position=position))
        transaction.unbury_from(stream, offset)

    # -- whose they are ------------------------------------------------------------------------------

    def take_over(
        self,
        transaction: Transaction,
        stream: Stream,
        owner: Owner,
        owners: Callable[[], Sequence[Record]] | None,
        stale_ms: float = 0.0,
    ) -> None:
        """Give a stream's position to this owner.

        Args:
            transaction: to be committed.
            stream: whose position.
            owner: who takes it.
            owners: reads the owners' records in the transaction; None: nobody else can write here.
            stale_ms: after how long without a heartbeat an owner is taken for dead.

        Raises:
            Fenced: the owner has lost the target.
            TransientError: another owner is alive; or this one has let go.
        """
        row = self._row(transaction, stream)
        if row.token == owner.token:
            return
        if owners is not None:
            records = {record.token: record for record in owners()}
            mine, holder = records.get(owner.token), records.get(row.token)
            if mine is None or mine.lost:
                raise self._fenced(stream, row, owner)
            if mine.released:
                raise TransientError(f"{stream}: this process has let go of its targets.")
            if holder is not None and holder.member.run != mine.member.run and holder.fresh(stale_ms):
                raise TransientError(f"{stream}: another process of flow {self.step.flow} is alive and owns it ({holder.place}).")
        # Whoever had it when it was read, once more: a server that silently ended the transaction has let go of the row, too.
        transaction.compare_and_set(row, row._replace(generation=owner.generation, token=owner.token))

    def owned(self, transaction: Transaction, stream: Stream, owner: Owner, *, state: bool) -> Position:
        """The position of a stream that was taken over; with what is kept with it, if that is wanted.

        Raises:
            TransientError: it is another's by now.
        """
        row = self._row(transaction, stream)
        if row.token != owner.token:
            raise TransientError(f"{stream}: another process has just taken it over.")
        return row.position._replace(state=transaction.state(stream)) if state else row.position

    # -- a change --------------------------------------------------------------------------------------

    def move(self, transaction: Transaction, change: Change, owner: Owner) -> bool:
        """Move the positions by compare-and-set, first of all in a transaction: it takes the locks and fences.

        Returns True when an earlier COMMIT of this change, whose outcome was unknown, did succeed.

        Raises:
            Fenced: a position is another's.
            TargetError: one stands where nobody but somebody else can have put it.
        """
        if change.in_doubt and self._is_done(transaction, change, owner):
            return True
        stands = [Stored(before, *owner) for before in change.before.values()]
        moves = [(seen, seen._replace(position=change.after[seen.position.stream])) for seen in stands]
        if (other := transaction.compare_and_set_all(moves)) is not None:
            stream = other.position.stream
            raise self._conflict(stream, other.position, self._row_of(transaction, stream, owner))
        return False

    def _is_done(self, transaction: Transaction, change: Change, owner: Owner) -> bool:
        """Has the COMMIT of unknown outcome succeeded? The locking reads wait for its end."""
        stands = {stream: self._row_of(transaction, stream, owner).position for stream in change.before}
        if all(position.place == change.after[stream].place for stream, position in stands.items()):
            return True
        for stream, position in stands.items():
            if position.place != change.before[stream].place:
                raise self._conflict(stream, change.before[stream], Stored(position))
        return False

    def _row_of(self, transaction: Transaction, stream: Stream, owner: Owner) -> Stored:
        row = self._row(transaction, stream)
        if row.token != owner.token:
            raise self._fenced(stream, row, owner)
        return row

    def _row(self, transaction: Transaction, stream: Stream) -> Stored:
        row = transaction.locked(stream)
        if row is None:
            raise ConfigError(
                f"Step {self.step.name} has no position for {stream}.",
                hint=UNFED_HINT,
                step=self.step.name,
            )
        return row

    def _conflict(self, stream: Stream, before: Position, row: Stored) -> TargetError:
        return TargetError(
            f"{stream}: the stored position in {self._name} is {row.position.offset_next}, expected was {before.offset_next}; "
            "somebody else changed it.",
            hint="Nothing was written. Find out who writes to Waxwing's own tables, then start again.",
            step=self.step.name,
        )

    def _fenced(self, stream: Stream, row: Stored, owner: Owner) -> Fenced:
        return Fenced(
            f"{stream}: another process has taken over its position in {self._name} "
            f"(generation {row.generation}, ours is {owner.generation}).",
            hint="Nothing was written after that. The other process goes on; do not restart this one.",
            step=self.step.name,
        )


def _may_end(held: Position, offset_end: int | None) -> bool:
    """May the stored end be replaced? An unfinished one stays: another process of this run may just have stored it."""
    unfinished = held.offset_end is not None and held.offset_next < held.offset_end
    return held.offset_end != offset_end and (offset_end is None or not unfinished)
