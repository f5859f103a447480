"""What a ledger holds that is one object: read whole, and replaced whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step, Stored
from waxwing.ledger.windows import Defined

# What is kept of a stream in a step.
Key = tuple[Step, Stream]
Letter = tuple[Step, DeadLetter]


class OwnerRow(NamedTuple):
    """An owner's record."""

    token: str
    member: Member
    place: str
    heartbeat_ms: int


class Letters:
    """The dead letters of all steps, which are read when they are asked for.

    Attributes:
        added: since they were saved.
        whole: whether all have to be saved anew, since some are gone.
    """

    def __init__(self, load: Callable[[], list[Letter]] = list) -> None:
        self._load = load
        self._saved: list[Letter] | None = None
        self.added: list[Letter] = []
        self.whole = False

    def all(self) -> list[Letter]:
        """Each with its step, in the order in which they came."""
        if self._saved is None:
            self._saved = self._load()
        return [*self._saved, *self.added]

    def add(self, step: Step, letters: Sequence[DeadLetter]) -> None:
        """Behind the others."""
        self.added += [(step, letter) for letter in letters]

    def remove(self, step: Step, goes: Callable[[DeadLetter], bool]) -> None:
        """Those of a step that go."""
        before = self.all()
        kept = [(of, letter) for of, letter in before if of != step or not goes(letter)]
        if len(kept) < len(before):
            self._saved, self.added, self.whole = [], kept, True

    def copy(self) -> Letters:
        """Another object, of the same letters."""
        copied = Letters()
        copied.added = self.all()
        return copied


@dataclass
class Contents:
    """What is kept, of any number of steps."""

    positions: dict[Key, Stored] = field(default_factory=dict)
    states: dict[Key, bytes] = field(default_factory=dict)
    windows: dict[Step, Defined] = field(default_factory=dict)
    letters: Letters = field(default_factory=Letters)
    owners: dict[tuple[Step, int], OwnerRow] = field(default_factory=dict)

    def copy(self) -> Contents:
        """Another object, of the same things."""
        return Contents(dict(self.positions), dict(self.states), dict(self.windows), self.letters.copy(), dict(self.owners))
