"""What a storm will do, made before it begins: a pure function of the seed and the counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice


class Kind(StrEnum):
    """What happens to a flow. The values are what a reader sees."""

    KILL_ALL = "kill -9 of all processes, at work"
    KILL_ONE = "kill -9 of one process, at work"
    KILL_ANY_TIME = "kill -9 of all processes, after a while"
    FREEZE = "freeze, start a successor, thaw once it writes"
    STALL = "stall: the database blocked by a lock, then kill -9 of all processes"
    DATABASE_RESTART = "database restart (a file: lock)"
    DATABASE_KILL = "database kill -9 and start (a file: lock)"
    BROKER_RESTART = "broker restart"
    BROKER_KILL = "broker kill -9 and start"
    PARTITION_ADDED = "partition added"
    END = "all is sent; asked to stop, then a run to the end"


# Most kills hit a flow that writes; some hit one that starts or takes over.
KILLS = (Kind.KILL_ALL, Kind.KILL_ONE, Kind.KILL_ANY_TIME, Kind.KILL_ONE, Kind.KILL_ALL)
DATABASE = (Kind.DATABASE_RESTART, Kind.DATABASE_KILL)
BROKER = (Kind.BROKER_RESTART, Kind.BROKER_KILL)
# The flow that an event meets is gone, or a zombie, after these.
ENDING = frozenset({Kind.KILL_ALL, Kind.KILL_ONE, Kind.KILL_ANY_TIME, Kind.FREEZE, Kind.STALL})
AT_WORK = frozenset(Kind) - {Kind.KILL_ANY_TIME, Kind.END}


class Shape(StrEnum):
    """How the flow is started."""

    ONE = "1"
    TWO = "2"
    THREE = "3"
    WORKERS = "1 -w 2"

    @property
    def processes(self) -> int:
        return int(self[0])

    @property
    def args(self) -> tuple[str, ...]:
        return tuple(self.split()[1:])


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many of each kind of event."""

    kills: int
    freezes: int = 1
    stalls: int = 1
    stall_s: float = 3.0
    database_restarts: int = 1
    broker_restarts: int = 1
    partitions_added: int = 1


@dataclass(frozen=True)
class Event:
    """One thing that happens.

    Attributes:
        shape: how the flow runs when it happens; it is started so where it does not run.
        share: how much of what was sent and not yet taken in the flow takes in before that.
        seconds: how long it lasts, by kind: until the kill, frozen, stalled, down.
        which: the process that is hit, modulo their number.
    """

    number: int
    kind: Kind
    shape: Shape
    share: float
    seconds: float
    which: int

    def __str__(self) -> str:
        after = f"after {self.share:.0%} of what waits, " if self.kind in AT_WORK else ""
        lasts = f", {self.seconds:.1f} s" if self.seconds else ""
        which = f" (number {self.which} modulo their count)" if self.kind is Kind.KILL_ONE else ""
        return f"{self.number:3} processes {self.shape:<6} {after}{self.kind}{which}{lasts}"


def schedule(seed: int, counts: Counts) -> tuple[Event, ...]:
    """The events of a storm, in order; the last one is END."""
    chance = random.Random(seed)
    kinds = [
        *islice(cycle(KILLS), counts.kills),
        *[Kind.FREEZE] * counts.freezes,
        *[Kind.STALL] * counts.stalls,
        *islice(cycle(DATABASE), counts.database_restarts),
        *islice(cycle(BROKER), counts.broker_restarts),
        *[Kind.PARTITION_ADDED] * counts.partitions_added,
    ]
    chance.shuffle(kinds)
    kinds.append(Kind.END)
    seconds = {
        Kind.KILL_ANY_TIME: lambda: chance.uniform(0.1, 4.0),  # a start with take-over takes about three
        Kind.FREEZE: lambda: chance.uniform(0.0, 2.0),
        Kind.STALL: lambda: counts.stall_s,
        **dict.fromkeys((*DATABASE, *BROKER), lambda: chance.uniform(0.0, 3.0)),
    }
    shapes = _shapes(chance, kinds)
    events: list[Event] = []
    shape = next(shapes)
    for number, kind in enumerate(kinds, 1):
        lasts_s = seconds[kind]() if kind in seconds else 0.0
        events.append(Event(number, kind, shape, chance.uniform(0.05, 0.4), lasts_s, chance.randrange(6)))
        if kind in ENDING:
            shape = next(shapes)
    return tuple(events)


def _shapes(chance: random.Random, kinds: list[Kind]) -> Iterator[Shape]:
    """A shape for each run: all of them in turn, in an order of chance; but a run that loses one process has several."""
    bag: list[Shape] = []
    for end in [kind for kind in kinds if kind in ENDING or kind is Kind.END]:
        several = end is Kind.KILL_ONE
        if not any(shape.processes > 1 or not several for shape in bag):
            bag += chance.sample(list(Shape), len(Shape))
        fits = next(shape for shape in bag if shape.processes > 1 or not several)
        bag.remove(fits)
        yield fits
