"""A ledger in memory: an object that a transaction copies, and swaps whole when it commits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.ledger.store import Race, Step, Store, Stored, Transaction
from waxwing.ledger.windows import Defined

# Of a step, what it keeps of a stream.
Key = tuple[Step, Stream]


@dataclass
class Tables:
    """What is kept, of any number of steps."""

    positions: dict[Key, Stored] = field(default_factory=dict)
    states: dict[Key, bytes] = field(default_factory=dict)
    windows: dict[Step, Defined] = field(default_factory=dict)
    letters: list[tuple[Step, DeadLetter]] = field(default_factory=list)

    def copy(self) -> Tables:
        """Another object, of the same things."""
        return Tables(dict(self.positions), dict(self.states), dict(self.windows), list(self.letters))


class MemoryLedger:
    """Where the tables of a target live; one transaction at a time."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.lock = threading.RLock()


class MemoryTransaction(Transaction):
    """A copy of the tables."""

    def __init__(self, ledger: MemoryLedger, step: Step) -> None:
        self._ledger, self._step, self._tables = ledger, step, ledger.tables.copy()

    def _of_step(self) -> Iterator[tuple[Stream, Stored]]:
        return ((stream, row) for (step, stream), row in self._tables.positions.items() if step == self._step)

    @override
    def positions(self) -> list[Stored]:
        return [row for _, row in self._of_step()]

    @override
    def steps(self) -> Mapping[str, int]:
        names = [step.name for step, _ in self._tables.positions if step.flow == self._step.flow]
        return {name: names.count(name) for name in names}

    @override
    def locked(self, stream: Stream) -> Stored | None:
        return self._tables.positions.get((self._step, stream))

    @override
    def add(self, positions: Sequence[Position], generation: int = 0) -> None:
        for position in positions:
            if self.locked(position.stream) is not None:
                raise Race(f"{position.stream} has a position already")
            self._tables.positions[self._step, position.stream] = Stored(position, generation)

    @override
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        held = self.locked(seen.position.stream)
        if held is None or (held.position.offset_next, *held[1:]) != (seen.position.offset_next, *seen[1:]):
            return False
        kept: dict[str, Any] = {"offset_end": held.position.offset_end, "limits_from": held.position.limits_from, "state": None}
        self._tables.positions[self._step, seen.position.stream] = to._replace(position=to.position._replace(**kept))
        return True

    @override
    def amend(self, stream: Stream, **values: Any) -> None:
        held = self._tables.positions[self._step, stream]
        self._tables.positions[self._step, stream] = held._replace(position=held.position._replace(**values))

    @override
    def remove(self, seen: Stored) -> None:
        key = self._step, seen.position.stream
        del self._tables.positions[key]
        self._tables.states.pop(key, None)

    @override
    def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._tables.letters += [(self._step, letter) for letter in letters]

    @override
    def unbury(self, letters: Sequence[DeadLetter]) -> None:
        gone = {letter.place for letter in letters}
        self._unbury(lambda letter: letter.place in gone)

    @override
    def unbury_from(self, stream: Stream, offset: int) -> None:
        self._unbury(lambda letter: letter.stream == stream and letter.offset >= offset)

    def _unbury(self, goes: Callable[[DeadLetter], bool]) -> None:
        self._tables.letters = [(step, one) for step, one in self._tables.letters if step != self._step or not goes(one)]

    @override
    def letter_offset_max(self, source_id: str) -> int | None:
        mine = [one for step, one in self._tables.letters if step == self._step and one.stream.source_id == source_id]
        return max((letter.offset for letter in mine), default=None)

    @override
    def state(self, stream: Stream) -> bytes:
        return self._tables.states.get((self._step, stream), b"")

    @override
    def keep(self, stream: Stream, state: bytes) -> None:
        self._tables.states[self._step, stream] = state

    @override
    def heads(self, source_id: str) -> list[bytes]:
        kept = [(at, one) for (step, at), one in self._tables.states.items() if step == self._step and at.source_id == source_id]
        return [state for _, state in sorted(kept)]

    @override
    def defined(self, *, lock: bool = False) -> Defined | None:
        return self._tables.windows.get(self._step)

    @override
    def define(self, defined: Defined) -> None:
        self._tables.windows[self._step] = defined

    @override
    def guard(self) -> None:
        """Nobody else can end it."""

    @override
    def prove(self) -> None:
        """As above."""

    @override
    def commit(self) -> None:
        self._ledger.tables = self._tables


class MemoryStore(Store):
    """A connection to a ledger in memory."""

    def __init__(self, ledger: MemoryLedger, step: Step) -> None:
        self._ledger, self._step = ledger, step

    @override
    @contextmanager
    def transaction(self, *, names_blockers: bool = False) -> Iterator[MemoryTransaction]:
        with self._ledger.lock:
            yield MemoryTransaction(self._ledger, self._step)

    @property
    @override
    def is_open(self) -> bool:
        return True

    @override
    def close(self) -> None:
        """Nothing is open."""
