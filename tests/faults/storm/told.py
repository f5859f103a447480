"""Where a storm takes place, and what is told of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.faults.storm.databases import DatabaseServer
from tests.faults.storm.schedule import Kind, Shape
from tests.servers import Kafka


class StormError(AssertionError):
    """The flow did what it must not do."""


class Verdict(Protocol):
    """What the comparison says; as text for people."""

    @property
    def equal(self) -> bool: ...


@dataclass
class Told:
    """What a storm did and what came out."""

    database_restarts_are: str
    done: Counter[Kind] = field(default_factory=Counter)
    shapes: Counter[Shape] = field(default_factory=Counter)
    kills: int = 0
    kills_at_work: int = 0
    fenced: int = 0
    ended_75: int = 0
    records: int = 0
    seconds: float = 0.0
    difference: Verdict | None = None

    def __str__(self) -> str:
        count = self.done
        starts = ", ".join(f"{number} x {shape}" for shape, number in sorted(self.shapes.items()))
        return (
            f"{self.kills} kill -9 ({self.kills_at_work} while records were being written), "
            f"{count[Kind.FREEZE]} frozen and thawed ({self.fenced} of their processes ended with 76), "
            f"{count[Kind.STALL]} of the kills after a stall, "
            f"{count[Kind.DATABASE_RESTART]} + {count[Kind.DATABASE_KILL]} {self.database_restarts_are}, "
            f"{count[Kind.BROKER_RESTART]} broker restarts and {count[Kind.BROKER_KILL]} kill -9 of it, "
            f"{count[Kind.PARTITION_ADDED]} partitions added; "
            f"started with processes {starts}; {self.ended_75} ends with 75 and a restart; {self.records:,} records, "
            f"{self.seconds:.0f} s\n{self.difference}"
        )


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a storm takes place. `server` is None for a database that is a file."""

    database: str
    url: str
    server: DatabaseServer | None
    kafka: Kafka
    topic: str
    folder: Path
