"""Who owns a flow's targets: this process among all that have been started, and what it finds out about the others.

A process takes all targets of its flow or none. It asks all of them first; whoever beats is left alone. Then it takes them in
the order of their names: an earlier owner that was found stale has lost each from then on, by compare-and-set of the heartbeat
that was seen, and its positions too. Who has lost one target has lost all.

The processes of a mesh own together, each with a record of its own: a mesh that has a stale process can't work, so it is stale.
"""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from waxwing import log, runtime
from waxwing.errors import Fenced, TransientError
from waxwing.ledger.heart import Heart
from waxwing.ledger.members import Member, Record, alive, is_lost

# While another owner is alive, it is asked for this often.
POLL_S = 0.25
SAY_AGAIN_S = 60.0  # what lasts is said again
# Heartbeats per OWNER_STALE_S: one may be lost, and one be late, before an owner is taken for dead.
BEATS_PER_STALE = 4


class Owners(ABC):
    """The owners' records of one target (one step of a flow), and ours among them.

    Every method may raise TransientError (the server is away, or another session holds a lock).
    """

    name: str  # of the target: it is taken in the order of names
    stale_ms: float

    @abstractmethod
    def ask(self) -> Sequence[Record]:
        """All records."""

    @abstractmethod
    def take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        """Take the target, in one transaction: the records of all others are lost, their positions belong to nobody, ours stands.

        Args:
            me: who takes it.
            token: of the positions that are ours.
            seen: what each target said when it was asked, by name, this one included.
            robbed: starts that have lost another target to us: their heartbeats count no more.

        Returns the starts that have lost this one; None, and nothing at all is done: somebody beats who was found stale, or is
        new, or an earlier record of ours is lost.
        """

    @abstractmethod
    def beat(self, token: str) -> bool:
        """Say that we are alive; False: the record says that another owner has the target."""

    @abstractmethod
    def release(self, token: str) -> None:
        """Say that we have stopped, so that the next start need not wait. Never raises, never waits."""


class Beating(Protocol):
    """What a heart does, once it was made."""

    def stop(self) -> None:
        """Beat no more."""

    def check(self, silent_max_s: float) -> None:
        """Raises what ended it, or that a target is silent."""


class Ownership:
    """This process as the owner of a flow's targets. Thread-safe.

    Attributes:
        me: this process, as its records name it.
        token: names this owner in positions; drawn once a start.
    """

    def __init__(self, me: Member | None = None, heart: Callable[[str, float, Callable[[], None]], Beating] = Heart) -> None:
        self._given = me
        self.me = me or Member.this_process()
        self.token = secrets.token_hex(8)
        self._heart = heart
        self._flow = ""
        self._owners: dict[str, Owners] = {}
        self._lock = threading.RLock()
        self._taken = False
        self._lost: Fenced | None = None
        self._users = 0
        self._hearts: dict[str, Beating] = {}  # of the steps whose targets have been taken

    def add(self, flow: str, step: str, owners: Owners) -> None:
        """One more target of the flow."""
        self._flow = flow
        self._owners[step] = owners

    @property
    def taken(self) -> bool:
        """Are the targets ours, as far as we know?"""
        return self._taken and self._lost is None

    # -- taking --------------------------------------------------------------------------------------

    def take(self) -> str:
        """Take all targets, unless somebody else is alive: then where it runs, and nothing is ours.

        Raises:
            Fenced: another process has taken them from us.
            TransientError: a target is away.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._taken or not self._owners:
                return ""
            alive_at = self._take()
            self._taken = not alive_at
            return alive_at

    def _take(self) -> str:
        targets = dict(sorted(self._owners.items(), key=lambda item: item[1].name))
        seen = {owners.name: owners.ask() for owners in targets.values()}
        for name, asked in seen.items():
            if any(is_lost(record, self.me) for record in asked):
                raise self._fenced(name)  # while we took, or between two tries
        waited, _ = alive(seen.values(), self.me, max(owners.stale_ms for owners in targets.values()))
        if waited:
            return waited[0].place
        robbed: set[str] = set()  # of those that have lost one to others each target tells anew: they may own it again by then
        try:
            for step, owners in targets.items():
                done = owners.take(self.me, self.token, seen, robbed)
                if done is None:
                    return "it has just come first, or beats again"
                robbed |= done
                self._start_to_beat(step, owners)  # at once: the next one may keep us waiting
            return ""
        finally:
            if len(self._hearts) < len(targets):  # all or none
                self._let_go(targets.values(), self.token)

    def stand_by(self, pause: Callable[[float], None], wait_max_s: float) -> None:
        """Take all targets; while another process is alive, wait for its end.

        Raises:
            Fenced: another process has taken them from us.
            TransientError: it is still alive after `wait_max_s`, or a target is away.
        """
        began_s, say_s = time.monotonic(), 0.0
        while alive_at := self.take():
            now_s = time.monotonic()
            message = f"Another process of flow {self._flow} is alive and owns its positions ({alive_at})."
            if now_s - began_s > wait_max_s:
                hint = "Stop that one first. (A second one only stands by, for RETRY_MAX_S.) Another flow? Give one a FLOW_NAME."
                raise TransientError(message, hint=hint)
            if now_s > say_s:
                log.warning("standing_by", f"{message} Standing by until it stops or dies.")
                say_s = now_s + SAY_AGAIN_S
            pause(POLL_S)

    # -- keeping -------------------------------------------------------------------------------------

    def beat(self, step: str) -> None:
        """Say on one target that we are alive.

        Raises:
            Fenced: it is another's.
            TransientError: the target is away.
        """
        hearts = self._hearts
        if step not in hearts or self._owners[step].beat(self.token):
            return
        with self._lock:
            if hearts is self._hearts:  # else we have let go meanwhile
                raise self._fenced(self._owners[step].name)

    def check(self, token: str, silent_max_s: float) -> None:
        """Asks nobody: may the owner of this token go on writing, as far as we know?

        Raises:
            Fenced: another process has one of the targets, and so has all.
            TransientError: this process has let go of its targets, or one of them has been silent for `silent_max_s`.
        """
        if self._lost is not None:
            raise self._lost
        if token != self.token:
            raise TransientError("This process has let go of its targets.")
        for heart in tuple(self._hearts.values()):
            heart.check(silent_max_s)

    def last_look(self, error: BaseException) -> BaseException:
        """What is to be said before this process fails: who has lost its targets says that. Then let go of all."""
        if self._taken and not isinstance(error, Fenced):
            for step in self._owners:
                try:
                    self.beat(step)
                except Fenced as lost:
                    error = lost
                    break
                except Exception as away:  # noqa: BLE001 - then nobody can say; the error itself counts
                    log.warning("owner_unknown", f"{self._owners[step].name}: {away}")
        self.release()
        return error

    def enter(self) -> None:
        """A writer begins."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """A writer ends; with the last one we let go of all."""
        with self._lock:
            self._users -= 1
            self.release_unused()

    def release_unused(self) -> None:
        """Let go of all where no writer has it."""
        with self._lock:
            if not self._users:
                self.release()

    def release(self) -> None:
        """Say everywhere that we have stopped, so that the next start need not wait. What begins here later is another owner."""
        with self._lock:
            if self._hearts or self._lost is not None:
                token, self.token = self.token, secrets.token_hex(8)  # before: writers that are still there end at once
                self._let_go(self._owners.values(), token)
                # A new name too: the old one may stand in records as one that has lost.
                self.me = Member.this_process() if self._given is None else self._given._replace(own=secrets.token_hex(4))
            self._taken, self._lost = False, None

    def _let_go(self, targets: Iterable[Owners], token: str) -> None:
        runtime.no_longer(self.last_look)
        hearts, self._hearts = self._hearts, {}
        for heart in hearts.values():
            heart.stop()
        for owners in targets:
            owners.release(token)

    def _fenced(self, name: str) -> Fenced:
        """Another owner has one of our targets: so all are lost."""
        if self._lost is None:
            self._lost = Fenced(
                f"Another process of flow {self._flow} has taken over its positions ({name}).",
                hint="Nothing was written after that. The other process goes on; do not restart this one.",
            )
        return self._lost

    def _start_to_beat(self, step: str, owners: Owners) -> None:
        if not self._hearts:
            runtime.before_failing(self.last_look)
        pause_s = owners.stale_ms / 1000 / BEATS_PER_STALE
        self._hearts[step] = self._heart(owners.name, pause_s, partial(self.beat, step))
