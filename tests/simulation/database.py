"""A database in memory: tables, row locks, openeds, and what a commit may never do.

Every commit is checked at once: whoever looks into a table at that moment sees each record behind the position once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.ledger.members import Member
from waxwing.ledger.store import Stored
from waxwing.ledger.windows import BUCKETS_SOURCE, Defined

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.steps.judge import Judge
    from tests.simulation.world import World

Key = tuple[str, Stream]


class Crash(BaseException):
    """The process is gone. It passes through whatever handlers the code has; none of them reaches the database any more."""


class Lost(Exception):
    """What a driver raises: connection lost, lock time-out, deadlock."""

    def __init__(self, message: str, *, locked: bool = False) -> None:
        super().__init__(message)
        self.locked = locked


class Violation(AssertionError):
    """The protocol was broken."""


@dataclass(slots=True)
class Owner:
    """A row of waxwing_owners."""

    token: str
    heartbeat_ms: int
    member: Member
    place: str


@dataclass(eq=False)
class Opened:
    """What is not committed yet, and the locks."""

    process: Process
    step: str
    # Does the savepoint that was set at its beginning still stand?
    whole: bool = True
    open: bool = True
    locked: list[Any] = field(default_factory=list)
    after: dict[Key, Stored | None] = field(default_factory=dict)
    owners: dict[tuple[str, int], Owner | None] = field(default_factory=dict)
    robbed: list[Member] = field(default_factory=list)
    states: dict[Key, bytes | None] = field(default_factory=dict)
    windows: Defined | None = None
    # What the step's own session has written: its judge knows what it is.
    written: list[Any] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    @property
    def partitions(self) -> set[int]:
        """Of the streams that it is about."""
        moved = {stream.partition for _, stream in self.after} | {letter.stream.partition for letter in self.letters}
        return moved | {partition for partition, *_ in self.written}


class Database:
    """The tables of all steps, with a row lock for each position."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.progress: dict[Key, Stored] = {}
        self.owners: dict[tuple[str, int], Owner] = {}
        self.letters: dict[Key, dict[tuple[int, int], DeadLetter]] = {}
        self.tables: set[str] = set()  # that were made
        self.judges: dict[str, Judge] = {}
        self.states: dict[Key, bytes] = {}
        self.windows: dict[str, Defined] = {}
        self._locks: dict[Any, Opened] = {}
        self._open: list[Opened] = []
        # COMMIT was sent, the client is gone, and the server has not decided yet.
        self.in_doubt: list[Opened] = []
        self._displaced: set[tuple[Key, str]] = set()

    def key(self, step: str, stream: Stream) -> Key:
        """The key of a position."""
        return step, stream

    # -- openeds --------------------------------------------------------------------------

    def begin(self, process: Process, step: str, *, whole: bool = True) -> Opened:
        """Open a transaction."""
        opened = Opened(process, step, whole)
        self._open.append(opened)
        return opened

    def lock(self, opened: Opened, key: Any) -> None:
        """Lock a row. Another's lock ends now (its COMMIT is decided, or by the server's own limit), or is waited for in vain."""
        holder = self._locks.get(key)
        if holder is opened:
            return
        if holder is not None:
            if not self._world.calm and self._world.chance.random() < 0.4:
                raise Lost("lock time-out", locked=True)
            if holder in self.in_doubt:
                self.settle(holder)
            else:
                self._world.say(f"the server ends the idle transaction of {holder.process}")
                self.rollback(holder)
        self._locks[key] = opened
        opened.locked.append(key)

    def claim(self, opened: Opened, key: Any) -> bool:
        """Wait for whoever inserts the same key; is there none then?"""
        self.lock(opened, key)
        is_there = key in self.progress and opened.after.get(key, self.progress[key]) is not None
        return not is_there and key not in self.owners and key not in ((step, None) for step in self.windows)

    def rollback(self, opened: Opened) -> None:
        """Undo it; its connection finds out with its next statement."""
        if opened.open:
            self._end(opened)

    def hang(self, opened: Opened) -> None:
        """COMMIT has arrived, the answer never will; until the server decides, the locks stay."""
        self._open.remove(opened)
        self.in_doubt.append(opened)

    def settle(self, opened: Opened) -> None:
        """The server decides about a hanging COMMIT."""
        self.in_doubt.remove(opened)
        self._open.append(opened)
        committed = self._world.chance.random() < 0.5
        self._world.say(f"a hanging COMMIT of {opened.process} is decided: {'committed' if committed else 'rolled back'}")
        self.commit(opened) if committed else self.rollback(opened)

    def abandon(self, process: Process) -> None:
        """The process is gone: its open openeds are undone (a COMMIT that was sent is not)."""
        for opened in [t for t in self._open if t.process is process]:
            self._end(opened)

    def commit(self, opened: Opened) -> None:
        """Make it durable, all at once, and check that it was allowed."""
        self._end(opened)
        for key, after in opened.after.items():
            if after is None:
                self.progress.pop(key)
                continue
            if key in self.progress:
                self._check_owner(opened, key, after)
            self.progress[key] = after
        for member in opened.robbed:
            self._check_healthy(opened, member)
        for owner_key, owner in opened.owners.items():
            if owner is None:
                self.owners.pop(owner_key, None)
            else:
                self.owners[owner_key] = owner
        for key, state in opened.states.items():
            if state is None:
                self.states.pop(key, None)
            else:
                self.states[key] = state
        if opened.windows is not None:
            self.windows[opened.step] = opened.windows
        for letter in opened.letters:
            self.letters.setdefault((opened.step, letter.stream), {})[letter.offset, letter.row] = letter
        self.judges[opened.step].commit(opened)

    def _end(self, opened: Opened) -> None:
        opened.open = False
        self._open.remove(opened)
        for key in opened.locked:
            del self._locks[key]

    # -- what must hold ------------------------------------------------------------------------

    def _check_owner(self, opened: Opened, key: Key, after: Stored) -> None:
        before = self.progress[key]
        where = f"{opened.step} {key[1]}"
        if after.generation < before.generation and not self._of_one_start(opened.step, after.generation, before.generation):
            self._world.violated(f"{where}: generation {after.generation} took over from generation {before.generation}")
        if after.token != before.token and before.token:
            self._displaced.add((key, before.token))
        if (key, after.token) in self._displaced:
            self._world.violated(f"{where}: {opened.process} wrote after it was fenced")
        if key[1].source == BUCKETS_SOURCE:
            return
        log = self._world.logs[key[1].partition]
        if wrong := log.move(opened.step, opened.process.number, before.position, after.position):
            self._world.violated(f"{where}: {wrong}")
        if after.position.offset_next < before.position.offset_next:
            self._world.violated(f"{where}: the position moved back")
        if after.position.offset_next == before.position.offset_next:
            return
        torn_at = opened.process.torn.get((opened.step, key[1].partition))
        if torn_at is not None and after.position.offset_next > torn_at:
            self._world.violated(f"{where}: {opened.process} went on behind a batch that came in two halves")

    def _of_one_start(self, step: str, *generations: int) -> bool:
        """Processes of a mesh own together, each with a number of its own."""
        found = [self.owners.get((step, generation)) for generation in generations]
        return len({None if owner is None else owner.member.run for owner in found}) == 1

    def _check_healthy(self, opened: Opened, member: Member) -> None:
        """Nobody takes a target from a start whose processes all go on, and have lost nothing."""
        world = self._world
        run = [process for process in world.processes if process.ownership.me.run == member.run]
        well = run and all(not p.frozen and not p.dead and p.ownership.taken and len(p.peers) == len(run) for p in run)
        rows = [owner for owner in self.owners.values() if owner.member.run == member.run]
        stale_ms = world.stale_s * 1000
        beats = all(o.heartbeat_ms > 0 and world.clock_s * 1000 - o.heartbeat_ms < stale_ms / 2 for o in rows)
        if well and beats:
            world.violated(f"{opened.process} takes {opened.step} from {member.run}, which is well")
