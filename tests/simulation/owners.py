"""The model of the owners' records: what SqlOwners (sinks/sql/ownership.py) does, on the database in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from tests.simulation.database import Lost, Owner
from waxwing.errors import TransientError
from waxwing.ownership import Member, Record, Records, alive, is_lost, is_rival, run_of

if TYPE_CHECKING:
    from tests.simulation.target import ModelTarget


class ModelRecords(Records):
    """The records of one step, as one process sees them."""

    def __init__(self, target: ModelTarget) -> None:
        self.process, self.world, self.database = target.process, target.world, target.database
        self.step = self.name = target.step
        self.stale_ms = target.settings.owner_stale_s * 1000
        self.generation = 0

    def records(self) -> list[Record]:
        """All of them, as they are now."""
        now_ms = int(self.world.clock_s * 1000)
        return [
            Record(generation, owner.token, owner.place, owner.heartbeat_ms, now_ms - owner.heartbeat_ms)
            for (step, generation), owner in self.database.owners.items()
            if step == self.step
        ]

    @override
    def ask(self) -> Sequence[Record]:
        self._statement("ask")
        return self.records()

    @override
    def take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        self._statement("take")
        self._sees_lately()
        if self._judged(me, seen, robbed) is None:
            return None
        transaction = self.database.begin(self.process, self.step, token)
        try:
            for key, row in [(k, r) for k, r in self.database.progress.items() if k[0] == self.step]:
                if row.token not in ("", token) and not self._is_ours(row.token, me):
                    self._statement(f"vacate {key[1]}")
                    self.database.lock(transaction, key)
                    transaction.after[key] = replace(self.database.progress[key], token="")
            self._statement("take, commit")
            if not transaction.open:
                raise Lost("the server has ended the connection")
            if (dead := self._judged(me, seen, robbed)) is None:
                return None
            self.database.commit(transaction)
            self._commit(me, token)
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error)) from error
        finally:
            self.database.rollback(transaction)
        self._statement("taken")  # and perhaps nobody hears of it
        return dead

    def _judged(self, me: Member, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        """The starts that lose it; None: somebody beats again, or is new."""
        before = {record.token: record.heartbeat_ms for record in seen[self.name]}
        now = self.records()
        waited, dead = alive({**seen, self.name: now}.values(), me, self.stale_ms, robbed)
        rivals = [record for record in now if is_rival(record, me, self.stale_ms)]
        changed = [
            record
            for record in rivals
            if record.heartbeat_ms > 0
            and not record.fresh(self.stale_ms)
            and run_of(record, me) not in robbed
            and before.get(record.token) != record.heartbeat_ms
        ]
        ours_lost = any(is_lost(record, me) for record in now)
        return None if waited or changed or ours_lost else dead | {run_of(record, me) for record in rivals}

    def _commit(self, me: Member, token: str) -> None:
        now = self.records()
        for record in now:
            if is_rival(record, me, self.stale_ms) and record.heartbeat_ms > 0:
                self._check_healthy(record)
                self.database.owners[self.step, record.generation].heartbeat_ms = -record.heartbeat_ms
            if record.token == token:
                del self.database.owners[self.step, record.generation]
        rows = [row.owner for (step, _), row in self.database.progress.items() if step == self.step]
        self.generation = 1 + max([0, *rows, *(record.generation for record in now)])
        self.database.owners[self.step, self.generation] = Owner(token, int(self.world.clock_s * 1000), me.place)
        self.world.say(f"{self.process} owns {self.step}, generation {self.generation}")

    def _check_healthy(self, record: Record) -> None:
        """Nobody takes a target from a start whose processes all go on, and have lost nothing."""
        run = [p for p in self.world.processes if p.ownership.me.run == record.member.run]
        well = run and all(not p.frozen and not p.dead and p.ownership.taken and len(p.peers) == len(run) for p in run)
        rows = [o for (_, _), o in self.database.owners.items() if Member.of(o.place, o.token).run == record.member.run]
        beats = all(o.heartbeat_ms > 0 and self.world.clock_s * 1000 - o.heartbeat_ms < self.stale_ms / 2 for o in rows)
        if well and beats:
            self.world.violated(f"{self.process} takes {self.step} from {record.member.run}, which is well")

    def _is_ours(self, token: str, me: Member) -> bool:
        return any(record.token == token and not is_rival(record, me, self.stale_ms) for record in self.records())

    def _sees_lately(self) -> None:
        """Planted bugs look later, or not at all."""

    @override
    def beat(self, token: str) -> bool:
        self._statement("beat")
        for owner in self.database.owners.values():
            if owner.token == token and self.database.owners.get((self.step, self.generation)) is owner:
                if owner.heartbeat_ms <= 0:
                    return False
                owner.heartbeat_ms = int(self.world.clock_s * 1000)
                return True
        return False

    @override
    def release(self, token: str) -> None:
        owner = self.database.owners.get((self.step, self.generation))
        if not self.process.dead and owner is not None and owner.token == token and owner.heartbeat_ms > 0:
            owner.heartbeat_ms = 0

    def _statement(self, what: str) -> None:
        try:
            self.process.point(f"{self.step}: {what}")
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error)) from error
