"""A ledger that is one object, read whole and replaced whole: in memory, in a file, wherever that can be done at once."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.ledger.contents import Contents, OwnerRow
from waxwing.ledger.members import Member, Record
from waxwing.ledger.store import OwnersStore, OwnersTransaction, Race, Step, Stored
from waxwing.ledger.windows import Defined


class Whole(ABC):
    """Where the object lives."""

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Keep everybody else from loading and saving, in this process and in others."""

    @abstractmethod
    def load(self) -> Contents:
        """The object as it was saved last; a new one where nothing was saved."""

    @abstractmethod
    def save(self, contents: Contents) -> None:
        """Replace it, durably, all at once."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, by the clock that heartbeats are judged by."""
        return time.time_ns() // 1_000_000

    def fence(self, contents: Contents, step: Step, keep: Sequence[str]) -> None:  # noqa: B027 - `save` alone does, as a rule
        """See to it that owners with other tokens than these (the first is the new one's own) write no more, where `save` alone
        does not; what they wrote last is in `contents` then.

        Raises:
            Race: another one is about to take the step, or has just done so.
        """


class WholeTransaction(OwnersTransaction):
    """A copy of the object, while nobody else has it."""

    def __init__(self, whole: Whole, step: Step, contents: Contents) -> None:
        self._whole, self._step, self._contents = whole, step, contents

    @override
    def of(self, step: Step) -> WholeTransaction:
        return WholeTransaction(self._whole, step, self._contents)

    def _of_step(self) -> Iterator[tuple[Stream, Stored]]:
        return ((stream, row) for (step, stream), row in self._contents.positions.items() if step == self._step)

    # -- positions -----------------------------------------------------------------------------------

    @override
    def positions(self) -> list[Stored]:
        return [row for _, row in self._of_step()]

    @override
    def steps(self) -> Mapping[str, int]:
        names = [step.name for step, _ in self._contents.positions if step.flow == self._step.flow]
        return {name: names.count(name) for name in names}

    @override
    def locked(self, stream: Stream) -> Stored | None:
        return self._contents.positions.get((self._step, stream))

    @override
    def add(self, positions: Sequence[Position], generation: int = 0) -> None:
        for position in positions:
            if self.locked(position.stream) is not None:
                raise Race(f"{position.stream} has a position already")
            self._contents.positions[self._step, position.stream] = Stored(position, generation)

    @override
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        held = self.locked(seen.position.stream)
        if held is None or held.place != seen.place:
            return False
        kept: dict[str, Any] = {"offset_end": held.position.offset_end, "limits_from": held.position.limits_from, "state": None}
        self._contents.positions[self._step, seen.position.stream] = to._replace(position=to.position._replace(**kept))
        return True

    @override
    def amend(self, stream: Stream, **values: Any) -> None:
        held = self._contents.positions[self._step, stream]
        self._contents.positions[self._step, stream] = held._replace(position=held.position._replace(**values))

    @override
    def remove(self, seen: Stored) -> None:
        key = self._step, seen.position.stream
        del self._contents.positions[key]
        self._contents.states.pop(key, None)

    # -- dead letters and state ----------------------------------------------------------------------

    @override
    def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._contents.letters.add(self._step, letters)

    @override
    def unbury(self, letters: Sequence[DeadLetter]) -> None:
        gone = {letter.place for letter in letters}
        self._contents.letters.remove(self._step, lambda letter: letter.place in gone)

    @override
    def unbury_from(self, stream: Stream, offset: int) -> None:
        self._contents.letters.remove(self._step, lambda letter: letter.stream == stream and letter.offset >= offset)

    @override
    def letter_offset_max(self, source_id: str) -> int | None:
        found = self._contents.letters.all()
        return max((one.offset for step, one in found if step == self._step and one.stream.source_id == source_id), default=None)

    @override
    def state(self, stream: Stream) -> bytes:
        return self._contents.states.get((self._step, stream), b"")

    @override
    def keep(self, stream: Stream, state: bytes) -> None:
        self._contents.states[self._step, stream] = state

    @override
    def heads(self, source_id: str) -> list[bytes]:
        kept = [
            (at, one) for (step, at), one in self._contents.states.items() if step == self._step and at.source_id == source_id
        ]
        return [state for _, state in sorted(kept)]

    @override
    def defined(self, *, lock: bool = False) -> Defined | None:
        return self._contents.windows.get(self._step)

    @override
    def define(self, defined: Defined) -> None:
        self._contents.windows[self._step] = defined

    # -- owners --------------------------------------------------------------------------------------

    @override
    def owners(self) -> list[Record]:
        now_ms = self._whole.now_ms()
        return [
            Record(generation, one.token, one.member, one.place, one.heartbeat_ms, now_ms - one.heartbeat_ms)
            for (step, generation), one in self._contents.owners.items()
            if step == self._step
        ]

    @override
    def generation_max(self) -> int:
        return max((row.generation for _, row in self._of_step()), default=0)

    @override
    def add_owner(self, generation: int, token: str, member: Member) -> None:
        if (self._step, generation) in self._contents.owners:
            raise Race(f"owner {generation} is there already")
        self._contents.owners[self._step, generation] = OwnerRow(token, member, member.place, self._whole.now_ms())

    def _owner(self, token: str, heartbeat_ms: int | None = None) -> tuple[Step, int] | None:
        for key, one in self._contents.owners.items():
            if key[0] == self._step and one.token == token and heartbeat_ms in (None, one.heartbeat_ms):
                return key
        return None

    @override
    def forget_owner(self, token: str, heartbeat_ms: int | None = None) -> bool:
        key = self._owner(token, heartbeat_ms)
        return key is not None and self._contents.owners.pop(key, None) is not None

    @override
    def forget_owners(self, older_than_ms: int) -> None:
        kept = self._whole.now_ms() - older_than_ms
        owners = self._contents.owners
        for key in [key for key, one in owners.items() if key[0] == self._step and abs(one.heartbeat_ms) < kept]:
            del owners[key]

    def _set(self, key: tuple[Step, int] | None, heartbeat_ms: int) -> bool:
        owners = self._contents.owners
        if key is None or owners[key].heartbeat_ms <= 0:
            return False
        owners[key] = owners[key]._replace(heartbeat_ms=heartbeat_ms)
        return True

    @override
    def set_lost(self, token: str, heartbeat_ms: int | None = None) -> bool:
        return self._set(self._owner(token, heartbeat_ms), -self._whole.now_ms())

    @override
    def beat(self, token: str) -> bool:
        return self._set(self._owner(token), self._whole.now_ms())

    @override
    def stop(self, token: str) -> None:
        self._set(self._owner(token), 0)

    @override
    def vacate(self, keep: Sequence[str], generation: int) -> None:
        self._whole.fence(self._contents, self._step, keep)
        for stream, row in list(self._of_step()):
            if row.token not in keep:
                self._contents.positions[self._step, stream] = row._replace(generation=generation, token="")

    # -- the transaction itself ----------------------------------------------------------------------

    @override
    def guard(self) -> None:
        """Nobody else can end it."""

    @override
    def prove(self) -> None:
        """As above."""

    @override
    def commit(self) -> None:
        self._whole.save(self._contents)


class WholeStore(OwnersStore):
    """A store over such an object."""

    def __init__(self, whole: Whole, step: Step) -> None:
        self.whole, self._step = whole, step

    @override
    @contextmanager
    def transaction(self, *, names_blockers: bool = False) -> Iterator[WholeTransaction]:
        with self.whole.held():
            yield WholeTransaction(self.whole, self._step, self.whole.load())

    @property
    @override
    def is_open(self) -> bool:
        return True

    @override
    def close(self) -> None:
        """Nothing is open between transactions."""
