"""Members: the processes that own a flow's targets, what their records say, and which of them are alive."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Self

from waxwing import runtime

# Set by `waxwing run`: names the start, the same in each of its processes.
RUN_VARIABLE = "WAXWING_RUN"
HOST_CHARACTERS_MAX = 150


class Member(NamedTuple):
    """One process of one start: the start's name (`run`), which of its processes it is, and a name of its own."""

    run: str
    process: int
    own: str

    @classmethod
    def this_process(cls) -> Self:
        """A new one: of the start that `waxwing run` named, else of the mesh at these addresses, else on its own."""
        addresses = _option("BYTEWAX_ADDRESSES", "-a", "--addresses")
        run = os.environ.get(RUN_VARIABLE, "")
        if addresses and not run:
            run = "mesh-" + hashlib.blake2b(addresses.encode(), digest_size=6).hexdigest()
        number = _option("BYTEWAX_PROCESS_ID", "-i", "--process-id")
        return cls(run or secrets.token_hex(6), int(number) if number.isdigit() else 0, secrets.token_hex(4))

    @property
    def place(self) -> str:
        """For people: where it runs."""
        return f"{socket.gethostname()[:HOST_CHARACTERS_MAX]} pid {os.getpid()} (process {self.process}, run {self.run})"

    @property
    def reused(self) -> bool:
        """Do earlier starts bear the same name?"""
        return self.run.startswith("mesh-")


def _option(variable: str, *names: str) -> str:
    words = runtime.words()
    for at, word in enumerate(words):
        for name in names:
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if word.startswith(f"{name}=") or (len(name) == 2 and word.startswith(name) and word != name):
                return word.removeprefix(name).removeprefix("=")
    return os.environ.get(variable, "")


class Record(NamedTuple):
    """An owner's record in one target. `heartbeat_ms` is 0 once it has stopped, negative once it has lost the target."""

    generation: int
    token: str
    member: Member
    place: str
    heartbeat_ms: int
    age_ms: int  # of the heartbeat, by the target's clock

    @property
    def lost(self) -> bool:
        """Has another owner taken the target from it?"""
        return self.heartbeat_ms < 0

    @property
    def released(self) -> bool:
        """Has it stopped?"""
        return self.heartbeat_ms == 0

    def fresh(self, stale_ms: float) -> bool:
        """Does it beat?"""
        return self.heartbeat_ms > 0 and self.age_ms < stale_ms


def beating(asked: Iterable[Sequence[Record]], stale_ms: float) -> set[Member]:
    """The processes that beat on any of these targets: a heartbeat on one of them may be late."""
    return {record.member for records in asked for record in records if record.fresh(stale_ms)}


def is_rival(record: Record, me: Member, beat: Collection[Member]) -> bool:
    """Is it a record of another start? (Of a mesh without a name of its own, who beats nowhere is of an earlier start.)"""
    other = record.member
    if other == me:
        return False
    if other.run != me.run or other.process == me.process:
        return True
    return me.reused and other not in beat


def alive(
    asked: Iterable[Sequence[Record]], me: Member, stale_ms: float, robbed: Collection[str] = ()
) -> tuple[list[Record], set[str]]:
    """The records of others that have to be waited for, and the starts whose heartbeats count no more.

    Args:
        asked: the records of each target, asked in one go.
        me: who asks.
        stale_ms: after how long without a heartbeat an owner is taken for dead.
        robbed: starts that have lost a target to us.
    """
    of_run: dict[str, dict[Member, list[Record]]] = {}
    asked = list(asked)
    beat = beating(asked, stale_ms)
    for record in (record for records in asked for record in records):
        if is_rival(record, me, beat):
            member = record.member
            run = member.own if member.run == me.run else member.run  # one that had our place in the mesh before us
            of_run.setdefault(run, {}).setdefault(member, []).append(record)
    waited: list[Record] = []
    dead = set(robbed)
    for run, members in of_run.items():
        if run in dead or any(record.lost for records in members.values() for record in records):
            dead.add(run)
            continue
        # A process that beats on one target is not stale; who has stopped is not missed.
        stands = [records for records in members.values() if any(not record.released for record in records)]
        beats = [any(record.fresh(stale_ms) for record in records) for records in stands]
        if all(beats):
            waited += [record for records in stands for record in records if record.fresh(stale_ms)]
    return waited, dead


def is_lost(record: Record, me: Member) -> bool:
    """Is it one of ours, and another owner has the target?"""
    return record.lost and record.member == me


def run_of(record: Record, me: Member) -> str:
    """The start that a record counts as, as `alive` sees it."""
    member = record.member
    return member.own if member.run == me.run else member.run
