"""One process of a flow: a worker that reads and hands over to the shipped partitions, until something ends it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sources.kit.starting.positions import StartAt, open_feeds
from sources.kit.starting.preparing import prepare_feeds
from tests.simulation.database import Crash, Lost, Violation
from tests.simulation.polled import Poll, PolledLog
from tests.simulation.source import LaneReader, Starts, Straddles, place_told
from tests.simulation.steps import fed_of
from tests.simulation.steps.stepped import SteppedWriter
from tests.simulation.truth import FLOW, Log
from waxwing.batch import lane_name
from waxwing.errors import ConfigError, Fenced, OffsetGap, TransientError
from waxwing.ledger.members import Member
from waxwing.ledger.ownership import POLL_S

if TYPE_CHECKING:
    from sources.kit.words import Raw
    from tests.simulation.world import World

OPEN_TRIES_MAX = 5
# Of the faults that happen once a process has opened its source.
OPENING_FAULTS = 0.4
# So often a partition that waits at its log's end is said to be idle, where windows want to hear of it.
IDLE_SHARE = 0.2


class ModelHeart:
    """Stands for the shipped one, whose thread beats: here the schedule says when."""

    def __init__(self, process: Process, name: str, pause_s: float, beat: Callable[[], None]) -> None:
        self._process, self._name, self._pause_s, self._beat, self.due_s = process, name, pause_s, beat, 0.0
        process._hearts[name] = self

    def beats(self) -> None:
        """Once."""
        self.due_s = self._process.world.clock_s + self._pause_s
        with contextlib.suppress(TransientError):
            self._beat()

    def stop(self) -> None:
        """No more."""
        self._process._hearts.pop(self._name, None)

    def check(self, silent_max_s: float) -> None:
        """Nobody is silent here."""


class Process:
    """The lanes of one process, from opening to its end."""

    def __init__(self, world: World, number: int, lanes: int, mine: set[int], run: str) -> None:
        self.world, self.number = world, number
        self.dead = self.frozen = self.working = self.doomed = False
        self.miswired = self.opened = False
        self.peers: list[Process] = []
        self.partitions_known = 0
        self.torn: dict[tuple[str, int], int] = {}
        self._lanes, self._mine = lanes, mine
        self._open_tries = 0
        self.open_due_s = 0.0
        self.readers: list[LaneReader] = []
        self.lanes, self.buckets = lanes, world.shape.buckets
        self.writers: list[SteppedWriter] = []
        self.steps = {step: fed_of(self, step) for step in world.steps}
        together: dict[str, Any] = {}
        for step, fed in self.steps.items():
            fed.target.bind(FLOW, step, together)
        member = Member(run, min(mine, default=0), f"p{number}")
        self._hearts: dict[str, ModelHeart] = {}
        self.ownership = world.parts.ownership(member, partial(ModelHeart, self))
        for step, fed in self.steps.items():
            fed.target.ownership = fed.model.ownership = self.ownership
            owners = fed.model.owners()
            assert owners is not None
            self.ownership.add(FLOW, step, owners)

    def __str__(self) -> str:
        return f"process {self.number}"

    # -- what the schedule does to it ------------------------------------------------------------

    def point(self, what: str, *, may_lose: bool = True, must_fail: bool = False) -> None:
        """A moment at which something may happen to the process, before it does `what`."""
        world = self.world
        if self.dead or world.violation:
            raise Crash
        world.statements += 1
        if self.strikes("crash"):
            self.kill(f"before: {what}")
            raise Crash
        if self.strikes("freeze"):
            world.say(f"{self} freezes before: {what}")
            self.frozen = True
            world.nested(world.chance.randint(3, 40))
            self.frozen = False
            world.say(f"{self} goes on: {what}")
        elif self.strikes("yield"):
            world.nested(world.chance.randint(1, 6))
        if self.dead:
            raise Crash
        if must_fail or (may_lose and self.strikes("lose")):
            raise Lost(f"connection lost before: {what}")

    def strikes(self, fault: str) -> bool:
        """Does this fault happen now? An opening has many statements, and most have to get through."""
        weight = 1.0 if self.opened else OPENING_FAULTS
        return not self.world.calm and self.world.chance.random() < self.world.faults[fault] * weight

    def pass_time(self, seconds: float) -> None:
        """The process sleeps, others go on."""
        self.world.nested(self.world.chance.randint(1, 8))
        self.world.clock_s += seconds
        if self.dead:
            raise Crash

    def kill(self, why: str) -> None:
        """kill -9: what it has under way ends here."""
        if not self.dead:
            self.world.say(f"{self} is killed {why}")
            self.dead = True
            self.world.database.abandon(self)

    # -- its own doing ---------------------------------------------------------------------------

    @property
    def ready(self) -> list[Callable[[], None]]:
        """What it could do next."""
        if self.dead or self.frozen:
            return []
        out: list[Callable[[], None]] = [
            lambda writer=writer: self._guarded(writer.advance)  # type: ignore[misc]  # a default has no type
            for writer in self.writers
            if not writer.busy and not writer.ended and writer.due_s <= self.world.clock_s
        ]
        out += [
            lambda heart=heart: self._guarded(heart.beats)  # type: ignore[misc]  # a default has no type
            for heart in self._hearts.values()
            if heart.due_s <= self.world.clock_s
        ]
        if not self.working and self._has_work() and not any(writer.blocks for writer in self.writers):
            out.append(lambda: self._guarded(self._work))
        if not self.working and self.has_mail and not any(writer.blocks for writer in self.writers):
            out.append(lambda: self._guarded(self._receive))
        return out

    @property
    def has_mail(self) -> bool:
        """Has a peer sent anything that was not taken in?"""
        return any(fed.has_mail for fed in self.steps.values())

    def _receive(self) -> None:
        self.working = True
        try:
            self.world.chance.choice([fed for fed in self.steps.values() if fed.has_mail]).receive()
        finally:
            self.working = False

    def _has_work(self) -> bool:
        if not self.opened:
            return self.open_due_s <= self.world.clock_s
        return any(map(self._says, self.readers)) or any(writer.holds for writer in self.writers)

    @property
    def due_s(self) -> float:
        """When it has something to do that waits for its time."""
        dues = [writer.due_s for writer in self.writers if not writer.ended]
        dues += [heart.due_s for heart in self._hearts.values()] or ([] if self.opened else [self.open_due_s])
        return min(dues, default=math.inf)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Crash:
            return
        except Exception as error:
            self._end(error)
            return
        for writer in self.writers:
            if writer.error is not None and not self.dead:
                self._end(writer.error)

    def _end(self, error: BaseException) -> None:
        """An error ends the process; outside a run, Bytewax closes the partitions before."""
        if self.dead or isinstance(error, (Crash, Violation)):
            return
        self.world.say(f"{self} ends: {type(error).__name__}: {error}")
        allowed = isinstance(error, (Fenced, TransientError))
        allowed |= isinstance(error, OffsetGap) and any(peer.miswired for peer in self.peers)
        allowed |= isinstance(error, Straddles) and not error.known
        allowed |= isinstance(error, ConfigError) and self.buckets != self.world.shape.buckets
        if not allowed:
            self.world.violated(f"{self} stopped: {type(error).__name__}: {error}")
        if self.world.chance.random() < 0.5:
            self.close()
        self.kill("by its error")

    def close(self) -> None:
        """What Bytewax does at an end that nobody asked for."""
        self.working = True
        for fed in self.steps.values():
            fed.close()

    def take_all_in(self) -> None:
        """Whatever peers have sent."""
        while self.has_mail and not self.dead:
            self._guarded(self._receive)

    def stop(self) -> None:
        """Asked to stop: the source ends, the sink is flushed and closed."""
        if not self.working and not any(writer.busy for writer in self.writers):
            self.world.say(f"{self} is asked to stop")
            self._guarded(self._flush)
            if not self.dead:
                self.close()
                self.kill("at its end")

    def _flush(self) -> None:
        for fed in self.steps.values():
            fed.flush()

    def _work(self) -> None:
        self.working = True
        try:
            if not self.opened:
                self._open()
            elif self.world.chance.random() < 0.1 and not any(writer.busy for writer in self.writers):
                self._flush()
            else:
                self._read()
        finally:
            self.working = False

    def _open(self) -> None:
        world = self.world
        feeds = [fed.target for fed in self.steps.values()]
        starts = Starts(world.logs, latest=world.from_latest)
        self._open_tries += 1
        try:
            self.point("open")
            prepare_feeds(feeds, FLOW)
            if self.ownership.take():
                self._open_tries -= 1
                self.open_due_s = self.world.clock_s + POLL_S
                return
            opened = open_feeds(feeds, starts.first, starts.resolve, None, token_of=starts.token_of)
        except (TransientError, Lost) as error:
            if self._open_tries >= OPEN_TRIES_MAX:
                raise TransientError(str(error)) from error
            return
        for fed in self.steps.values():
            fed.open()
        self.readers = [
            self._reader(world.logs[stream.partition], lane_name(stream.partition % self._lanes), start)
            for stream, start in opened.items()
            if stream.partition % self._lanes in self._mine
        ]
        told = ", ".join(f"{stream} from {place_told(start)} split at {start.splits}" for stream, start in opened.items())
        world.say(f"{self} with lanes {sorted(self._mine)} of {self._lanes} reads {told}")
        self.opened, self.partitions_known = True, len(opened)

    def _reader(self, log: Log, lane: str, start: StartAt) -> LaneReader:
        if isinstance(log, PolledLog):
            if log.was_read(start):
                self.world.say(f"{self} reads {log.stream} anew, and otherwise")
            return Poll(log, lane, start, self.world.chance, self.number)
        return LaneReader(log, lane, start, self.world.chance)

    def has(self, name: str) -> bool:
        """Is the sink partition of this lane here?"""
        return self.world.one_writer or name in {lane_name(lane) for lane in self._mine}

    def _says(self, reader: LaneReader) -> bool:
        return reader.behind or (self.world.shape.ends and reader.is_over)

    def _mark(self, batch: Raw) -> None:
        for step, fed in self.steps.items():
            self.point(
                f"say to {step} that {batch.stream} is at its {batch.mark or 'rest'} at {batch.offset_next}", may_lose=False
            )
            fed.put(batch)

    def _read(self) -> None:
        readers = [reader for reader in self.readers if self._says(reader)]
        quiet = [reader for reader in self.readers if not reader.behind] if self.world.shape.idles else []
        if quiet and self.world.chance.random() < IDLE_SHARE:
            self._mark(self.world.chance.choice(quiet).idle())
        if not readers:
            return
        reader = self.world.chance.choice(readers)
        if not reader.behind:
            self._mark(reader.ended())
            return
        for read in reader.read(self.world.chance.randint(1, 6)):
            named = "" if read.token is None else f", {read.token!r}"
            for step, fed in self.steps.items():
                self.point(f"hand {read.stream} {read.offset_first} to {read.offset_next}{named} to {step}", may_lose=False)
                batch = fed.batch(read, reader.records(read))
                if batch.offset_next > batch.offset_first and self.strikes("miswire"):
                    self.miswired = True
                    fed.put_wrongly(batch)
                else:
                    fed.put(batch)
