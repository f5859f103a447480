"""What a ledger asks of the place where it is kept: a handful of primitives inside one transaction.

Whoever provides them has the whole protocol: who owns a step, take-over, the compare-and-set and its outcomes, begin, jump.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.ledger.members import Member, Record
from waxwing.ledger.windows import Defined


class Step(NamedTuple):
    """A step of a flow: whose positions a transaction is about."""

    flow: str
    name: str


class Stored(NamedTuple):
    """A position as it is stored, with the owner who may move it: its number (the generation) and its token (empty: nobody)."""

    position: Position
    generation: int = 0
    token: str = ""

    @property
    def place(self) -> tuple[int, bytes | None, int, str]:
        """What a compare-and-set compares."""
        return (*self.position.place, self.generation, self.token)


class Race(Exception):
    """Another transaction made the same thing first."""


class Transaction(ABC):
    """What is kept of one step, inside one transaction.

    Every method may raise TransientError (the transaction is then over). What is not committed never happened.
    """

    # -- positions -----------------------------------------------------------------------------------

    @abstractmethod
    def positions(self) -> list[Stored]:
        """All of the step, read without a lock."""

    @abstractmethod
    def steps(self) -> Mapping[str, int]:
        """All steps of the flow that have positions here, with how many."""

    @abstractmethod
    def locked(self, stream: Stream) -> Stored | None:
        """The one of a stream by a locking read, which waits for whoever holds it; None: there is none."""

    @abstractmethod
    def add(self, positions: Sequence[Position], generation: int = 0) -> None:
        """Store new ones, of nobody; the number is that of the last owner of what they stand for.

        Raises:
            Race: one is there already.
        """

    @abstractmethod
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        """Where the stream stands at the place (offset and token), and belongs to the owner, that were seen: move it, give it to
        the new owner, set token and counters. Takes the lock. False: it stands elsewhere, or is another's."""

    def compare_and_set_all(self, moves: Sequence[tuple[Stored, Stored]]) -> Stored | None:
        """The same of several streams: what was seen of the first that stands elsewhere or is another's; None: all are moved."""
        return next((seen for seen, to in moves if not self.compare_and_set(seen, to)), None)

    @abstractmethod
    def remove(self, seen: Stored) -> None:
        """Delete a position, with what is kept with it."""

    @abstractmethod
    def amend(self, stream: Stream, **values: Any) -> None:
        """Set columns that no compare-and-set does (`offset_end`, `limits_from`), or counters."""

    # -- dead letters and state ----------------------------------------------------------------------

    @abstractmethod
    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters.

        Raises:
            Race: there is one of this key already. The transaction is over.
        """

    @abstractmethod
    def unbury(self, letters: Sequence[DeadLetter]) -> None:
        """Delete what stands in the place of these."""

    @abstractmethod
    def unbury_from(self, stream: Stream, offset: int) -> None:
        """Delete the dead letters of a stream from this offset on."""

    @abstractmethod
    def letter_offset_max(self, source_id: str) -> int | None:
        """The highest offset among the step's dead letters of a source; None: there is none."""

    @abstractmethod
    def state(self, stream: Stream) -> bytes:
        """What the step keeps with a position; empty where it keeps nothing."""

    @abstractmethod
    def keep(self, stream: Stream, state: bytes) -> None:
        """Replace what the step keeps with a position."""

    @abstractmethod
    def heads(self, source_id: str) -> list[bytes]:
        """The beginning (STATE_HEAD_BYTES at least, or all) of what is kept with each position of a source, by partition."""

    @abstractmethod
    def defined(self, *, lock: bool = False) -> Defined | None:
        """What is kept of the step's windows as a whole; None: it has none."""

    @abstractmethod
    def define(self, defined: Defined) -> None:
        """Replace it.

        Raises:
            Race: another transaction has just made the first one.
        """

    # -- the transaction itself ----------------------------------------------------------------------

    @abstractmethod
    def guard(self) -> None:
        """Set the mark that `prove` looks for."""

    @abstractmethod
    def prove(self) -> None:
        """Right before COMMIT: is it still the same transaction? A server may have ended it inside.

        Raises:
            TransientError: it is not.
        """

    def finish(self) -> None:
        """Prove it, then make it durable. Raises what these raise."""
        self.prove()
        self.commit()

    @abstractmethod
    def commit(self) -> None:
        """Make it durable.

        Raises:
            TransientError: its `committing` is True where the outcome is unknown.
        """


class OwnersTransaction(Transaction):
    """One in which owners' records are kept as well: where others may write, too."""

    @abstractmethod
    def of(self, step: Step) -> OwnersTransaction:
        """The same transaction, of another step."""

    @abstractmethod
    def owners(self) -> list[Record]:
        """All records of owners, with ages by the store's own clock."""

    @abstractmethod
    def generation_max(self) -> int:
        """The highest number of an owner that any position bears; 0 where there is none."""

    @abstractmethod
    def add_owner(self, generation: int, token: str, member: Member) -> None:
        """A record with a heartbeat of now.

        Raises:
            Race: another one drew the same number at this moment.
        """

    @abstractmethod
    def forget_owner(self, token: str, heartbeat_ms: int | None = None) -> bool:
        """Delete a record, where its heartbeat is the given one. False: it is not, or there is no record."""

    @abstractmethod
    def forget_owners(self, older_than_ms: int) -> None:
        """Delete records of owners that are gone for so long."""

    @abstractmethod
    def set_lost(self, token: str, heartbeat_ms: int | None = None) -> bool:
        """Say in a record that its owner has lost the target, where it still beats (and its heartbeat is the given one).
        False: it does not, or it is not."""

    @abstractmethod
    def beat(self, token: str) -> bool:
        """Set a record's heartbeat to now; False: it has lost the target, has stopped, or is gone."""

    @abstractmethod
    def stop(self, token: str) -> None:
        """Say in a record that its owner has stopped, unless it has lost the target."""

    @abstractmethod
    def vacate(self, keep: Sequence[str], generation: int) -> None:
        """Positions that belong to none of these tokens (the first is the new owner's) are nobody's, and bear this number, from
        here on."""


class Store(ABC):
    """A connection to the place where a ledger is kept, for one step."""

    @abstractmethod
    def transaction(self, *, names_blockers: bool = False) -> AbstractContextManager[Transaction]:
        """A transaction, rolled back at the end unless it was committed. `names_blockers`: an error says who holds locks."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Is there a connection, so that asking costs no more than an answer?"""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Never raises; a later transaction opens another."""


class OwnersStore(Store):
    """One that keeps owners' records as well."""

    @abstractmethod
    @override
    def transaction(self, *, names_blockers: bool = False) -> AbstractContextManager[OwnersTransaction]: ...
