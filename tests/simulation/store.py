"""The model of a connection: the ledger's primitives on the database in memory. The protocol above them is the shipped one.

Before each statement the schedule may crash or freeze the process, lose the connection or end the transaction inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from tests.simulation.database import Key, Lost, Opened, Owner
from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.errors import TransientError
from waxwing.ledger.members import Member, Record
from waxwing.ledger.store import OwnersStore, OwnersTransaction, Race, Step, Stored
from waxwing.ledger.windows import Defined

if TYPE_CHECKING:
    from tests.simulation.database import Database
    from tests.simulation.process import Process
    from tests.simulation.target import ModelTarget
    from tests.simulation.world import World


class ModelTransaction(OwnersTransaction):
    """What one process does within a transaction, and may meet there."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.process: Process = store.process
        self.world: World = store.world
        self.database: Database = store.database
        self.step: str = store.step
        self.opened: Opened = self.database.begin(self.process, self.step)
        self._guarded = False
        self.committing = False

    def statement(self, what: str) -> None:
        """Something may happen before it."""
        self.process.point(f"{self.step}: {what}")
        if not self.opened.open:
            raise Lost("the server has ended the connection")
        if self._guarded and self.process.strikes("swallow"):
            self.world.say(f"{self.process}: the server ends the transaction inside, and the next statement opens another")
            self.database.rollback(self.opened)
            self.opened = self.database.begin(self.process, self.step, whole=False)

    def _key(self, stream: Stream) -> Key:
        return self.database.key(self.step, stream)

    def _row(self, key: Key) -> Stored | None:
        return self.opened.after.get(key, self.database.progress.get(key))

    # -- positions -----------------------------------------------------------------------------------

    @override
    def positions(self) -> list[Stored]:
        self.statement("positions")
        keys = [key for key in {**self.database.progress, **self.opened.after} if key == self._key(key[1])]
        return [row for key in keys if (row := self._row(key)) is not None]

    @override
    def steps(self) -> Mapping[str, int]:
        self.statement("steps")
        names = [step for step, _ in self.database.progress]
        return {name: names.count(name) for name in names}

    @override
    def locked(self, stream: Stream) -> Stored | None:
        self.statement(f"lock {stream}")
        key = self._key(stream)
        if key in self.database.progress:
            self.database.lock(self.opened, key)
        return self._row(key)

    @override
    def add(self, positions: Sequence[Position], generation: int = 0) -> None:
        for position in positions:
            self.statement(f"insert {position.stream}")
            key = self._key(position.stream)
            if self._row(key) is not None or not self.database.claim(self.opened, key):
                raise Race(f"{key} is there already")
            self.opened.after[key] = Stored(position, generation)

    @override
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        held = self.locked(seen.position.stream)
        if held is None or not self.stands(held, seen):
            return False
        kept: dict[str, Any] = {"offset_end": held.position.offset_end, "limits_from": held.position.limits_from, "state": None}
        self.opened.after[self._key(seen.position.stream)] = to._replace(position=to.position._replace(**kept))
        return True

    def stands(self, held: Stored, seen: Stored) -> bool:
        """Is the row as it was seen?"""
        return held.place == seen.place

    @override
    def amend(self, stream: Stream, **values: Any) -> None:
        held = self.locked(stream)
        assert held is not None
        self.opened.after[self._key(stream)] = held._replace(position=held.position._replace(**values))

    @override
    def remove(self, seen: Stored) -> None:
        self.statement(f"delete {seen.position.stream}")
        key = self._key(seen.position.stream)
        self.opened.after[key] = self.opened.states[key] = None

    # -- dead letters and state ----------------------------------------------------------------------

    @override
    def bury(self, letters: Sequence[DeadLetter]) -> None:
        self.statement("dead letters")
        for letter in letters:
            if (letter.offset, letter.row) in self.database.letters.get((self.step, letter.stream), {}):
                self.world.violated(f"{self.step} {letter.stream}: a dead letter comes twice, at {letter.offset}, {letter.row}")
            self.opened.letters.append(letter)

    @override
    def unbury(self, letters: Sequence[DeadLetter]) -> None:
        raise NotImplementedError("no step begins anew")

    @override
    def unbury_from(self, stream: Stream, offset: int) -> None:
        raise NotImplementedError("logs lose nothing here")

    @override
    def letter_offset_max(self, source_id: str) -> int | None:
        return None

    @override
    def state(self, stream: Stream) -> bytes:
        self.statement(f"state of {stream}")
        key = self._key(stream)
        return self.opened.states.get(key, self.database.states.get(key)) or b""

    @override
    def keep(self, stream: Stream, state: bytes) -> None:
        self.statement(f"keep the state of {stream}")
        self.opened.states[self._key(stream)] = state

    @override
    def heads(self, source_id: str) -> list[bytes]:
        self.statement("heads")
        found = {**self.database.states, **self.opened.states}
        kept = [(stream.partition, state) for (step, stream), state in found.items() if step == self.step and state is not None]
        return [state for _, state in sorted(kept)]

    @override
    def defined(self, *, lock: bool = False) -> Defined | None:
        self.statement("windows")
        if lock and self.step in self.database.windows:
            self.database.lock(self.opened, (self.step, None))
        return self.opened.windows or self.database.windows.get(self.step)

    @override
    def define(self, defined: Defined) -> None:
        self.statement("define windows")
        if self.step not in self.database.windows and not self.database.claim(self.opened, (self.step, None)):
            raise Race("windows are there already")
        self.opened.windows = defined

    @override
    def of(self, step: Step) -> ModelTransaction:
        raise NotImplementedError("no step is left behind")

    # -- owners --------------------------------------------------------------------------------------

    @override
    def owners(self) -> list[Record]:
        self.statement("owners")
        return self.records()

    def records(self) -> list[Record]:
        """The owners' records, as they are now."""
        now_ms = int(self.world.clock_s * 1000)
        found = {**self.database.owners, **self.opened.owners}
        return [
            Record(generation, owner.token, owner.member, owner.place, owner.heartbeat_ms, now_ms - owner.heartbeat_ms)
            for (step, generation), owner in found.items()
            if step == self.step and owner is not None
        ]

    @override
    def generation_max(self) -> int:
        self.statement("highest owner")
        return max([0, *(row.generation for (step, _), row in self.database.progress.items() if step == self.step)])

    @override
    def add_owner(self, generation: int, token: str, member: Member) -> None:
        self.statement("new owner")
        key = self.step, generation
        if {**self.database.owners, **self.opened.owners}.get(key) is not None or not self.database.claim(self.opened, key):
            raise Race(f"{key} is there already")
        self.opened.owners[key] = Owner(token, int(self.world.clock_s * 1000), member, str(member))

    def _owner(self, token: str, heartbeat_ms: int | None = None) -> tuple[tuple[str, int], Owner] | None:
        for record in self.records():
            if record.token == token and heartbeat_ms in (None, record.heartbeat_ms):
                key = self.step, record.generation
                self.database.lock(self.opened, key)
                owner = {**self.database.owners, **self.opened.owners}.get(key)
                if owner is not None and owner.token == token and heartbeat_ms in (None, owner.heartbeat_ms):
                    return key, owner
        return None

    @override
    def forget_owner(self, token: str, heartbeat_ms: int | None = None) -> bool:
        self.statement("forget an owner")
        if (found := self._owner(token, heartbeat_ms)) is None:
            return False
        self.opened.owners[found[0]] = None
        return True

    @override
    def forget_owners(self, older_than_ms: int) -> None:
        """No schedule takes a week."""

    @override
    def set_lost(self, token: str, heartbeat_ms: int | None = None) -> bool:
        self.statement("an owner has lost")
        found = self._owner(token, heartbeat_ms)
        if found is None or found[1].heartbeat_ms <= 0:
            return False
        key, owner = found
        self.opened.owners[key] = replace(owner, heartbeat_ms=-int(self.world.clock_s * 1000))
        self.opened.robbed.append(owner.member)
        return True

    @override
    def beat(self, token: str) -> bool:
        self.statement("beat")
        found = self._owner(token)
        if found is None or found[1].heartbeat_ms <= 0:
            return False
        self.opened.owners[found[0]] = replace(found[1], heartbeat_ms=int(self.world.clock_s * 1000))
        return True

    @override
    def stop(self, token: str) -> None:
        self.statement("stop")
        found = self._owner(token)
        if found is not None and found[1].heartbeat_ms > 0:
            self.opened.owners[found[0]] = replace(found[1], heartbeat_ms=0)

    @override
    def vacate(self, keep: Collection[str], generation: int) -> None:
        for key in [key for key in self.database.progress if key[0] == self.step]:
            self.statement(f"vacate {key[1]}")
            self.database.lock(self.opened, key)
            row = self._row(key)
            if row is not None and row.token not in keep:  # buckets may have been divided anew meanwhile
                self.opened.after[key] = row._replace(generation=generation, token="")

    # -- the transaction itself ----------------------------------------------------------------------

    @override
    def guard(self) -> None:
        self._guarded = True

    @override
    def prove(self) -> None:
        self.statement("release savepoint")
        self._guarded = False
        if not self.opened.whole:
            raise Lost("no such savepoint: the transaction was ended inside")

    @override
    def commit(self) -> None:
        self.statement("commit")
        self.committing = True
        process = self.process
        if process.strikes("hang"):
            self.database.hang(self.opened)
            process.point(f"{self.step}: hanging commit", must_fail=True)
        if process.strikes("lost_in_commit"):
            raise Lost("connection lost in COMMIT: not committed")
        if self.world.trace is not None:
            self.world.say(f"{process}: {self.step} commits {_told(self.opened)}")
        self.database.commit(self.opened)
        if process.strikes("lost_in_commit"):
            raise Lost("connection lost in COMMIT: committed")
        process.point(f"{self.step}: committed", may_lose=False)


class ModelStore(OwnersStore):
    """A process's connection."""

    def __init__(self, target: ModelTarget) -> None:
        self.process: Process = target.process
        self.world: World = target.world
        self.database: Database = target.database
        self.step: str = target.step
        self._kind = target.world.parts.transaction

    @override
    @contextmanager
    def transaction(self, *, names_blockers: bool = False) -> Iterator[ModelTransaction]:
        opened: ModelTransaction | None = None
        try:
            opened = self._kind(self)
            try:
                yield opened
            finally:
                self.ended(opened)
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            committing = opened is not None and opened.committing
            raise TransientError(str(error), committing=committing, locked=error.locked) from error

    def ended(self, transaction: ModelTransaction) -> None:
        """What is not committed is rolled back; where COMMIT was sent, the server decides."""
        if transaction.opened not in self.database.in_doubt:
            self.database.rollback(transaction.opened)

    @property
    @override
    def is_open(self) -> bool:
        return not self.process.dead

    @override
    def close(self) -> None:
        """Nothing is open between transactions."""


def _told(opened: Opened) -> str:
    moved = [(stream, row.generation, row.position) for (_, stream), row in opened.after.items() if row is not None]
    moves = [
        f"{stream} to {p.offset_next} by {generation}{'' if p.token is None else f', {p.token!r}'}"
        for stream, generation, p in moved
    ]
    letters = [(letter.stream.partition, (letter.offset, letter.row)) for letter in opened.letters]
    return f"{', '.join(moves)}; rows {opened.written}; dead letters {letters}"
