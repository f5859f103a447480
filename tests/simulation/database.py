"""A database in memory: tables, row locks, transactions, and what a commit may never do.

Every commit is checked at once: whoever looks into a table at that moment sees each record behind the position once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.truth import Rows, counters, expected, good_after_all
from waxwing.batch import Stream
from waxwing.target import DeadLetter, Position

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

Key = tuple[str, Stream]


class Lost(Exception):
    """What a driver raises: connection lost, lock time-out, deadlock."""


class Violation(AssertionError):
    """The protocol was broken."""


@dataclass(slots=True)
class Progress:
    """A row of waxwing_progress."""

    position: Position
    owner: int = 0
    token: str = ""


@dataclass(slots=True)
class Owner:
    """A row of waxwing_owners."""

    token: str
    heartbeat_ms: int
    place: str


@dataclass(eq=False)
class Transaction:
    """What is not committed yet, and the locks."""

    process: Process
    step: str
    token: str
    # Does the savepoint that was set at its beginning still stand?
    whole: bool = True
    open: bool = True
    locked: list[Key] = field(default_factory=list)
    after: dict[Key, Progress] = field(default_factory=dict)
    rows: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


class Database:
    """The tables of all steps, with a row lock for each position."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.progress: dict[Key, Progress] = {}
        self.owners: dict[tuple[str, int], Owner] = {}
        self.rows: dict[tuple[str, int], Rows] = {}
        self.letters: dict[tuple[str, int], dict[tuple[int, int], DeadLetter]] = {}
        self._locks: dict[Key, Transaction] = {}
        self._open: list[Transaction] = []
        # COMMIT was sent, the client is gone, and the server has not decided yet.
        self.in_doubt: list[Transaction] = []
        self._displaced: set[tuple[Key, str]] = set()

    def key(self, step: str, stream: Stream) -> Key:
        """The key of a position."""
        return step, stream

    # -- transactions --------------------------------------------------------------------------

    def begin(self, process: Process, step: str, token: str, *, whole: bool = True) -> Transaction:
        """Open a transaction."""
        transaction = Transaction(process, step, token, whole)
        self._open.append(transaction)
        return transaction

    def lock(self, transaction: Transaction, key: Key) -> None:
        """Lock a row. Another's lock ends now (its COMMIT is decided, or by the server's own limit), or is waited for in vain."""
        holder = self._locks.get(key)
        if holder is transaction:
            return
        if holder is not None:
            if not self._world.calm and self._world.chance.random() < 0.4:
                raise Lost("lock time-out")
            if holder in self.in_doubt:
                self.settle(holder)
            else:
                self._world.say(f"the server ends the idle transaction of {holder.process}")
                self.rollback(holder)
        self._locks[key] = transaction
        transaction.locked.append(key)

    def rollback(self, transaction: Transaction) -> None:
        """Undo it; its connection finds out with its next statement."""
        if transaction.open:
            self._end(transaction)

    def hang(self, transaction: Transaction) -> None:
        """COMMIT has arrived, the answer never will; until the server decides, the locks stay."""
        self._open.remove(transaction)
        self.in_doubt.append(transaction)

    def settle(self, transaction: Transaction) -> None:
        """The server decides about a hanging COMMIT."""
        self.in_doubt.remove(transaction)
        self._open.append(transaction)
        committed = self._world.chance.random() < 0.5
        self._world.say(f"a hanging COMMIT of {transaction.process} is decided: {'committed' if committed else 'rolled back'}")
        self.commit(transaction) if committed else self.rollback(transaction)

    def abandon(self, process: Process) -> None:
        """The process is gone: its open transactions are undone (a COMMIT that was sent is not)."""
        for transaction in [t for t in self._open if t.process is process]:
            self._end(transaction)

    def commit(self, transaction: Transaction) -> None:
        """Make it durable, all at once, and check that it was allowed."""
        self._end(transaction)
        for key, after in transaction.after.items():
            self._check_owner(transaction, key, after)
            self.progress[key] = after
        for partition, row in transaction.rows:
            held = self.rows.setdefault((transaction.step, partition), {})
            held[row] = held.get(row, 0) + 1
        for partition in {letter.stream.partition for letter in transaction.letters}:
            self._check_condemned(transaction, partition)
        for letter in transaction.letters:
            self.letters.setdefault((transaction.step, letter.stream.partition), {})[letter.offset, letter.row] = letter
        partitions = {stream.partition for _, stream in transaction.after}
        partitions |= {partition for partition, _ in transaction.rows} | {
            letter.stream.partition for letter in transaction.letters
        }
        for partition in sorted(partitions):
            self.check(transaction.step, partition)

    def _end(self, transaction: Transaction) -> None:
        transaction.open = False
        self._open.remove(transaction)
        for key in transaction.locked:
            del self._locks[key]

    # -- what must hold ------------------------------------------------------------------------

    def _check_owner(self, transaction: Transaction, key: Key, after: Progress) -> None:
        before = self.progress[key]
        where = f"{transaction.step} {key[1]}"
        if after.owner < before.owner:
            self._world.violated(f"{where}: generation {after.owner} took over from generation {before.owner}")
        if after.token != before.token:
            self._displaced.add((key, before.token))
        if (key, transaction.token) in self._displaced:
            self._world.violated(f"{where}: {transaction.process} wrote after it was fenced")
        if after.position.offset_next < before.position.offset_next:
            self._world.violated(f"{where}: the position moved back")
        if after.position.offset_next == before.position.offset_next:
            return
        torn_at = transaction.process.torn.get((transaction.step, key[1].partition))
        if torn_at is not None and after.position.offset_next > torn_at:
            self._world.violated(f"{where}: {transaction.process} went on behind a batch that came in two halves")

    def _check_condemned(self, transaction: Transaction, partition: int) -> None:
        """No row is condemned that would have fitted beside the others of its transaction."""
        needs = self._world.logs[partition].needs
        buried = {(letter.offset, letter.row) for letter in transaction.letters if letter.stream.partition == partition}
        held = self.rows.get((transaction.step, partition), {})
        good = good_after_all(buried & needs.keys(), held, needs, row_by_row=self._world.row_by_row)
        if good:
            self._world.violated(f"{transaction.step}[{partition}]: rows were condemned that fit beside others: {sorted(good)}")

    def check(self, step: str, partition: int, *, complete: bool = False) -> None:
        """Rows, dead letters and counters are those of the records between the step's start and its position."""
        log = self._world.logs[partition]
        position = self.progress[self.key(step, log.stream)].position
        held, buried = self.rows.get((step, partition), {}), self.letters.get((step, partition), {})
        rows, letters = expected(step, log, position.offset_start, log.end if complete else position.offset_next, buried)
        where = f"{step} {log.stream}, read from {position.offset_start}, stands at {position.offset_next}"
        torn = self._world.torn.get((step, partition), [])
        lost = [row for row in [*(rows.keys() - held.keys()), *(letters - buried.keys())] if not _within(row[0], torn)]
        if lost:
            self._world.violated(f"{where}: rows or dead letters are lost, (offset, row) {sorted(lost)}")
        more = [row for row, times in held.items() if times > 1 or row not in rows]
        if more := more + sorted(buried.keys() - letters):
            self._world.violated(f"{where}: too many rows or dead letters, (offset, row) {more}")
        if torn:
            return
        told = position.records_seen, position.records_bad, position.bad_run
        if told != (true := counters(step, log, position.offset_start, position.offset_next, buried)):
            self._world.violated(f"{where}: counters of bad records {told}, expected {true}")


def _within(offset: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= offset < end for first, end in ranges)
