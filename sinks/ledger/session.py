"""A connection of one writer into a target whose positions a ledger keeps: the protocol of a change, in order."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from typing_extensions import override

from sinks.ledger.target import LedgerTarget
from waxwing.batch import Stream
from waxwing.change import Change, Position
from waxwing.errors import RowError, TransientError
from waxwing.ledger.ledger import Owner
from waxwing.ledger.store import OwnersTransaction, Race, Store, Transaction
from waxwing.tables.rows import NO_DELETES
from waxwing.target import TryingSession


class LedgerSession(TryingSession):
    """One connection of one writer: the protocol of a change, in order. A subclass writes the rows.

    Args:
        target: whose session it is.
        store: a connection of its own.
        token: of this owner.

    Attributes:
        takes_deletes: whether it writes the deletes of a change, or says of which it can't; by default they are dead letters.
    """

    takes_deletes = False

    def __init__(self, target: LedgerTarget, store: Store, token: str) -> None:
        self._target_of = target
        self._ledger, self._store, self._token = target.ledger, store, token
        self._owners = target.owners() if target.owned else None

    @property
    def _owner(self) -> Owner:
        return Owner(0, self._token) if self._owners is None else self._owners.owner(self._token)

    @override
    def take_over(self, stream: Stream) -> Position:
        with self._store.transaction(names_blockers=True) as transaction:
            self._take_over(transaction, stream)
            transaction.commit()
        with self._store.transaction() as transaction:
            return self._ledger.owned(transaction, stream, self._owner, state=self._target_of.keeps_state)

    def _take_over(self, transaction: Transaction, stream: Stream) -> None:
        if self._owners is None:
            self._ledger.take_over(transaction, stream, self._owner, None)
            return
        assert isinstance(transaction, OwnersTransaction)
        self._ledger.take_over(transaction, stream, self._owner, transaction.owners, self._owners.stale_ms)

    @override
    def commit(self, change: Change) -> None:
        self._transact(change, dry_run=False)
        try:
            self.committed(change)
        except TransientError as error:
            error.committing = True  # it is done, and will be found so
            raise

    @override
    def attempt(self, change: Change) -> None:
        self._transact(change, dry_run=True)

    def _transact(self, change: Change, *, dry_run: bool) -> None:
        if not self.takes_deletes:
            _refuse_deletes(change)
        prepared = self.prepared(change)
        try:
            self._once(change, prepared, dry_run=dry_run)
        except Race:
            if self._target_of.letters_again:
                raise
            self._target_of.letters_again = True
            self._once(change, prepared, dry_run=dry_run)

    def _once(self, change: Change, prepared: Any, *, dry_run: bool) -> None:
        with self._store.transaction() as transaction:
            transaction.guard()
            if self._ledger.move(transaction, change, self._owner):
                return
            self.write_rows(transaction, prepared)
            self.bury(transaction, change)
            for stream, after in change.after.items():
                if after.state is not None:
                    transaction.keep(stream, after.state)
            self.check_rows(transaction, prepared)
            if dry_run:
                transaction.prove()
            else:
                transaction.finish()

    def bury(self, transaction: Transaction, change: Change) -> None:
        """Store the dead letters. Those of an earlier step of this name, which the operator kept, give way to their like."""
        if change.dead_letters:
            if self._target_of.letters_again:
                transaction.unbury(change.dead_letters)
            transaction.bury(change.dead_letters)

    # -- what a subclass does ------------------------------------------------------------------------

    def prepared(self, change: Change) -> Any:
        """What can be made of the change before the transaction begins, and its locks are held.

        Raises:
            RowError: rows that can't be stored, found without asking.
        """

    @abstractmethod
    def write_rows(self, transaction: Transaction, prepared: Any) -> None:
        """Write what was prepared.

        Raises:
            RowError: rows that can't be stored.
        """

    def check_rows(self, transaction: Transaction, prepared: Any) -> None:
        """Let what waits for COMMIT speak now."""

    def committed(self, change: Change) -> None:
        """The change is durable: show what was written beside. (Where the process dies before, `take_over` does it.)

        The change may have been written by an earlier session of this process, whose COMMIT had no answer.
        """

    def note(self, transaction: Transaction, stream: Stream, text: bytes) -> None:
        """Remember something of a stream, in the transaction that moves its position, until it is replaced."""
        transaction.keep(_of_target(stream), text)

    def noted(self, transaction: Transaction, stream: Stream) -> bytes:
        """What was remembered; empty: nothing."""
        return transaction.state(_of_target(stream))

    @override
    def close(self) -> None:
        self._store.close()


def _of_target(stream: Stream) -> Stream:
    """The place of a target's own notes: what is kept with the stream itself belongs to the step's windows."""
    return stream._replace(source_id=f"target:{stream.source_id}")


def _refuse_deletes(change: Change) -> None:
    deletes = sum(len(batch.deletes) for batch in change.batches)
    if deletes:
        records = sum(len(batch.records) for batch in change.batches)
        raise RowError(NO_DELETES, bad=dict.fromkeys(range(records, records + deletes), NO_DELETES))
