"""Processes that write one folder, each held up at every call of the operating system: any may be next, die, or freeze.

It is the code that runs in production, over a real folder; only the clock is another: whoever asks takes all others for dead.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa
from typing_extensions import override

from sinks.parquet import ParquetTarget, beats, chains, session
from sinks.parquet.place import Place
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, DeadLetter, Start
from waxwing.errors import Fenced, TargetError, TransientError, TryLater
from waxwing.ledger.members import Member
from waxwing.ledger.ownership import Ownership
from waxwing.ledger.store import Step
from waxwing.settings import ParquetSettings

CALLS = ("link", "rename", "unlink", "mkdir", "rmdir", "listdir", "fsync")


class Killed(BaseException):
    """The process is dead: nothing of it runs on."""


class Still:
    """A heart that does not beat."""

    def __init__(self, name: str, pause_s: float, beat: Callable[[], None]) -> None:
        """Nothing begins."""

    def stop(self) -> None:
        """Nothing ends."""

    def check(self, silent_max_s: float) -> None:
        """All is well."""


class Kept(ParquetTarget):
    """A target that keeps something with its positions, as windows do."""

    keeps_state = True


def table() -> sa.Table:
    return sa.Table("t", sa.MetaData(), sa.Column("p", sa.Integer), sa.Column("o", sa.Integer))


def target_of(folder: Path, lanes: int = 2, **settings: Any) -> Kept:
    made = ParquetSettings(lanes=lanes, owner_stale_s=1.0, **settings)
    return Kept(made, folder, table(), partition_by=["p"], positions=True)


def bound(target: ParquetTarget, member: Member) -> ParquetTarget:
    """A target that serves its step, for this member of a start."""
    target.bind("flow", "out")
    owners = target.owners()
    assert owners is not None
    target.ownership = Ownership(member, heart=Still)
    target.ownership.add("flow", "out", owners)
    return target


def stream(number: int) -> Stream:
    return Stream("flow", "topic", "id", number)


def state_of(offset: int) -> bytes:
    return b"below %d" % offset


def change_of(position: Any, end: int, *, bad: frozenset[int] = frozenset()) -> Change:
    """The records of a stream up to an offset; some of them are dead letters."""
    at, first = position.stream, position.offset_next
    offsets = range(first, end)
    n = len(offsets)
    messages = Columns(offsets, [None] * n, [b"%d" % o for o in offsets], [-1] * n, [()] * n)
    good = [k for k, o in enumerate(offsets) if o not in bad]
    batch = Batch(at, "lane", first, end, messages, [(at.partition, first + k) for k in good], good)
    letters = [DeadLetter(at, o, 0, "parse", "bad", None, b"%d" % o, (), -1) for o in offsets if o in bad]
    after = position._replace(offset_next=end, records_seen=end, state=state_of(end))
    return Change([batch], {at: position}, {at: after}, letters)


class Process(threading.Thread):
    """One process of a start: it takes the step, and writes the streams that are its own."""

    def __init__(self, world: World, start: int, index: int, of: int) -> None:
        super().__init__(daemon=True)
        self.world, self.start_, self.index, self.of = world, start, index, of
        self.rng = random.Random(world.rng.random())
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = self.over = False
        self.error: BaseException | None = None
        self.frozen = 0
        self.start()

    def point(self) -> None:
        """Others may be next."""
        if self.killed:
            raise Killed
        self.waits.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    def step(self) -> None:
        """Go on up to the next call."""
        self.go.release()
        self.waits.acquire()

    @override
    def run(self) -> None:
        here.process = self
        self.go.acquire()
        try:
            self.work()
        except (Killed, Fenced, TryLater, TargetError):
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.over = True
            self.waits.release()

    def work(self) -> None:
        world = self.world
        target = bound(
            target_of(world.folder), Member(f"start-{self.start_}", self.index, f"{self.start_}.{self.index}.{id(self)}")
        )
        self.take(target)
        mine = [s for s in world.ends if s % self.of == self.index]
        if self.rng.random() < 0.5:
            target.begin([Start(stream(s), 0, None) for s in world.ends])  # all, as a source does; else only its own
        target.begin([Start(stream(s), 0, None) for s in mine])
        sessions = {s: target.connect(f"lane-{s % 2:03}", target.token()) for s in mine}
        at: dict[int, Any] = {}
        while left := [s for s in mine if s not in at or at[s].offset_next < world.ends[s]]:
            s = self.rng.choice(left)
            if s not in at:
                at[s] = sessions[s].take_over(stream(s))
                assert at[s].state == (state_of(at[s].offset_next) if at[s].offset_next else b""), at[s]
                continue
            end = min(world.ends[s], at[s].offset_next + self.rng.randint(1, 3))
            change = change_of(at[s], end, bad=frozenset(o for o in world.flaky if self.rng.random() < 0.5))
            sessions[s].stage(change.batches)
            sessions[s].commit(Change([], change.before, change.after, change.dead_letters))
            at[s] = change.after[stream(s)]
            if self.rng.random() < world.sets and not world.calm:
                target.in_transaction(lambda t, s=s: t.amend(stream(s), rows_bad=self.rng.randint(1, 99)))  # type: ignore[misc]

    def take(self, target: ParquetTarget) -> None:
        target.prepare()
        while True:
            try:
                if not target.ownership.take():
                    return
            except TransientError:
                pass
            self.point()


here = threading.local()


class World:
    """A folder, and all that happens to it.

    Args:
        folder: an empty one.
        seed: of all that is left to chance.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        rng = self.rng
        self.ends = {s: rng.randint(1, 12) for s in range(rng.randint(1, 3))}
        self.flaky = frozenset(o for o in range(12) if rng.random() < 0.2)
        self.sets = rng.choice((0.0, 0.0, 0.1))
        self.calm = False
        self.seen: Counter[tuple[int, int]] = Counter()
        self.files: set[Path] = set()
        self.processes: list[Process] = []
        self.starts, self.of = 0, 1
        self.now_ms = 0

    def play(self, steps: int) -> None:
        """So many steps of processes that come and go, and then one that is left alone."""
        rng = self.rng
        dies, most = rng.choice((0.002, 0.01, 0.03)), rng.choice((1, 2, 2, 3))
        for number in range(steps):
            awake = [one for one in self.processes if not one.over and one.frozen <= number]
            if len(awake) < most and (not awake or rng.random() < 0.05):
                awake.append(self.born())
            one = awake[-1] if rng.random() < 0.4 else rng.choice(awake)
            if rng.random() < dies:
                if rng.random() < 0.5:
                    one.frozen = number + rng.choice((5, 30, 200))
                    continue
                one.killed = True
            self.step(one)
        self.calm = True
        while any(not one.over for one in self.processes):
            self.step(rng.choice([one for one in self.processes if not one.over]))
        self.of = 1
        self.starts += 1
        for _ in range(2):
            last = Process(self, self.starts, 0, 1)
            while not last.over:
                self.step(last)
        assert self.seen == Counter({(s, o): 1 for s, end in self.ends.items() for o in range(end)})
        left = {path.name.split("-")[1] for path in Place(self.folder, target_step()).staging.iterdir()}
        assert len(left) <= len(self.ends) + 1, left  # what is kept with each stream, and no more

    def born(self) -> Process:
        """A process of the last start, or of a new one."""
        if not self.starts or self.of == 1 or self.rng.random() < 0.5:
            self.starts += 1
            self.of = self.rng.choice((1, 1, 2))
        made = Process(self, self.starts, self.rng.randrange(self.of), self.of)
        self.processes.append(made)
        return made

    def step(self, one: Process) -> None:
        one.step()
        if one.error is not None:
            raise one.error
        self.look()

    def look(self) -> None:
        """What a reader finds, without a word of ours: never a row twice, nor one gone."""
        now = {
            path
            for of in (self.folder, self.folder.with_name("out_dead_letters"))
            if of.exists()
            for path in of.rglob("*.parquet")
        }
        assert now >= self.files, "a file is gone"
        for path in now - self.files:
            letters = path.parent.name == "out_dead_letters"
            found = pq.ParquetFile(path).read().to_pydict()
            rows = (
                zip(found["partition"], found["offset"], strict=True)
                if letters
                else zip(found["kafka_partition"], found["o"], strict=True)
            )
            for row in rows:
                self.seen[row] += 1
                assert self.seen[row] == 1, f"{row} is there twice"
                assert not letters or row[1] in self.flaky
        self.files = now

    def clock(self) -> int:
        """Time flies."""
        self.now_ms += 1_000_000
        return self.now_ms


def target_step() -> Step:
    return Step("flow", "out")


@contextlib.contextmanager
def held_up(world: World) -> Iterator[None]:
    """Processes wait before each call of the operating system."""
    real = {name: getattr(os, name) for name in CALLS}
    real_now, real_read = beats.Beats.now_ms, Place.read
    sizes = [(module, vars(module)["SEGMENT_RECORDS"]) for module in (chains, session)]

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **kwargs: Any) -> Any:
            if (process := getattr(here, "process", None)) is not None:
                process.point()
            return call(*args, **kwargs)

        return wait

    for name, call in real.items():
        setattr(os, name, around(call))
    Place.read = around(real_read)  # type: ignore[method-assign]
    beats.Beats.now_ms = lambda self: world.clock()  # type: ignore[method-assign]
    for module, _ in sizes:
        vars(module)["SEGMENT_RECORDS"] = 3
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)
        Place.read, beats.Beats.now_ms = real_read, real_now  # type: ignore[method-assign]
        for module, size in sizes:
            vars(module)["SEGMENT_RECORDS"] = size
        for one in world.processes:
            if not one.over:
                one.killed = True
                one.go.release()
                one.join(10)
