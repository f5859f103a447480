"""The owners' records of a step whose ledger is kept in a store: asked for, taken, kept alive."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from typing_extensions import override

from waxwing.errors import TransientError
from waxwing.ledger.ledger import Owner
from waxwing.ledger.members import Member, Record, alive, beating, is_lost, is_rival, run_of
from waxwing.ledger.ownership import Owners
from waxwing.ledger.store import OwnersStore, OwnersTransaction, Race

# How long the record of an owner that has gone is kept, for whoever wants to know who wrote when: a week.
OWNER_KEPT_MS = 7 * 86_400_000
# So often a target is tried again where another process has just taken it: there are no more processes in a mesh, as a rule.
RACES_MAX = 20


class LedgerOwners(Owners):
    """Records over a connection of their own. Thread-safe.

    An owner's number (generation) only rises, by one with every owner: it is a key, and so lets one of two that take at once win.

    Args:
        name: of the target.
        stale_ms: after how long without a heartbeat an owner is taken for dead.
        store: a connection for nothing else, which waits for locks as briefly as can be.
        prepare: makes the ledger where there is none.
        end_sessions: ends what holds the positions of an owner that was found stale: its process is frozen, and holds them for
            ever.
    """

    def __init__(
        self, name: str, stale_ms: float, store: OwnersStore, prepare: Callable[[], None], end_sessions: Callable[[], None]
    ) -> None:
        self.name, self.stale_ms = name, stale_ms
        self.generation, self._member = 0, Member("", 0, "")  # ours
        self._store, self._prepare, self._end_sessions = store, prepare, end_sessions
        self._lock = threading.RLock()

    def owner(self, token: str) -> Owner:
        """Ours, of this token."""
        return Owner(self.generation, token)

    @override
    def ask(self) -> Sequence[Record]:
        self._prepare()
        with self._lock, self._store.transaction() as transaction:
            return transaction.owners()

    @override
    def take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        # Processes that start together meet in each of their targets: who lets go of all for that meets them again and again.
        for _ in range(RACES_MAX):
            with contextlib.suppress(Race):  # another one drew the same number at this moment
                return self._take_once(me, token, seen, robbed)
        return None

    def _take_once(
        self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]
    ) -> set[str] | None:
        try:
            return self._take(me, token, seen, robbed)
        except TransientError as error:
            if not error.locked and not error.too_large:
                raise
        self._end_sessions()
        return self._take(me, token, seen, robbed)

    def _take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        with self._lock, self._store.transaction() as transaction:
            # Before the records: whoever takes a position has its record there by then.
            highest = transaction.generation_max()
            now = transaction.owners()
            asked = {**seen, self.name: now}
            dead = self._judged(me, asked, robbed)
            if dead is None:
                return None
            before = {record.token: record.heartbeat_ms for record in seen[self.name]}
            beat = beating(asked.values(), self.stale_ms)
            rivals = [record for record in now if is_rival(record, me, beat)]
            for record in rivals:
                if not self._rob(transaction, record, me, robbed, before):
                    return None  # others' records may have been changed by then: rolled back
            self.generation = 1 + max([highest, *(record.generation for record in now)])
            self._vacate(transaction, now, rivals, token)
            # The positions are locked now. Who took them since the records were read has a number that is none of these (and
            # may have dropped one that is): it is not to be fenced, since nobody has judged it.
            if {record.generation for record in transaction.owners()} - {record.generation for record in now}:
                return None
            transaction.forget_owner(token)
            transaction.add_owner(self.generation, token, me)
            transaction.forget_owners(OWNER_KEPT_MS)
            self._member = me
            transaction.commit()
            return dead | {run_of(record, me) for record in rivals}

    def _judged(self, me: Member, asked: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        """The starts whose heartbeats count no more; None: somebody is alive, or we have lost this one."""
        waited, dead = alive(asked.values(), me, self.stale_ms, robbed)
        return None if waited or any(is_lost(record, me) for record in asked[self.name]) else dead

    def _rob(
        self, transaction: OwnersTransaction, record: Record, me: Member, robbed: Collection[str], before: Mapping[str, int]
    ) -> bool:
        """Take the target from an owner; False: it beats again, or was not there when it was asked for."""
        if record.member.run == me.run and me.reused:  # of an earlier start of this mesh
            return transaction.forget_owner(record.token, record.heartbeat_ms)
        if record.heartbeat_ms <= 0:
            return True
        known = run_of(record, me) in robbed or record.fresh(self.stale_ms)  # fresh: of a mesh that another process holds up
        if not known and before.get(record.token) != record.heartbeat_ms:
            return False
        return transaction.set_lost(record.token, None if known else record.heartbeat_ms)

    def _vacate(self, transaction: OwnersTransaction, now: Sequence[Record], rivals: Sequence[Record], token: str) -> None:
        """Positions of all but this start's own processes are nobody's from here on: whoever held them is fenced."""
        taken = {record.token for record in rivals}
        transaction.vacate([token, *(record.token for record in now if record.token not in taken)], self.generation)

    @override
    def beat(self, token: str) -> bool:
        try:
            return self._beat(token)
        except Race:  # another one drew our number at this moment
            return self._beat(token)

    def _beat(self, token: str) -> bool:
        with self._lock, self._store.transaction() as transaction:
            if not transaction.beat(token):
                if any(record.generation >= self.generation for record in transaction.owners()):
                    return False
                transaction.add_owner(self.generation, token, self._member)  # somebody cleaned up
            transaction.commit()
            return True

    @override
    def release(self, token: str) -> None:
        # Over the connection that there is: a courtesy is no reason to wait for a server.
        if not self._store.is_open or not self._lock.acquire(timeout=1.0):
            return
        try:
            with contextlib.suppress(Exception), self._store.transaction() as transaction:
                transaction.stop(token)
                transaction.commit()
        finally:
            self._store.close()
            self._lock.release()
