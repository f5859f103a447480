"""What windows over the logs must hold, recounted record by record. Knows no code of ours.

Each record bears a power of two, so that a sum names its records, and a count beside it tells when one is in it twice.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from tests.simulation.truth import Log

NEVER = -(2**62)
KEYS = 4
BEGIN_S = 990
# The window (its end) and the key of a row. A session is known by them as well.
Place = tuple[int, int]


class Event(NamedTuple):
    """What a row of a message is to windows: a time in seconds, a key, and the value that names it."""

    offset: int
    time_s: int
    key: int
    value: int


@dataclass(frozen=True)
class Shape:
    """The windows of a schedule. `gap_s`: of sessions (then they have no length). `idles`: partitions are said to be idle, so
    that the clock decides; `ends`: logs are said to end."""

    length_s: int
    every_s: int
    gap_s: int
    lateness_s: int
    grace_s: int
    eager: bool
    idles: bool
    ends: bool
    buckets: int

    def ends_of(self, time_s: int) -> list[int]:
        """The ends of the windows that a time is in."""
        last = time_s - time_s % self.every_s
        return [start + self.length_s for start in range(last, time_s - self.length_s, -self.every_s)]

    def bucket_of(self, key: int) -> int:
        """Where a key is kept."""
        return crc32(b"%d" % key) % self.buckets


def draw_shape(chance: random.Random) -> Shape:
    """Tumbling, hopping, or sessions."""
    every, gap = chance.choice((5, 10)), chance.choice((0, 0, 0, 4))
    length, grace = every * chance.choice((1, 1, 2, 3)), chance.choice((0, 0, 6, 15))
    eager, idles, ends = chance.random() < 0.4, chance.random() < 0.25, chance.random() < 0.6
    lateness = chance.choice((0, 3, 8))
    return Shape(length, every, gap, lateness, 0 if gap else grace, eager and not gap, idles, ends, chance.randint(1, 3))


def draw_events(chance: random.Random, log: Log, taken: int) -> dict[int, list[Event]]:
    """By offset what the rows of a message are; `taken` values were given to others before."""
    out: dict[int, list[Event]] = {}
    now_s, number = BEGIN_S + chance.randint(0, 8), taken
    for record in log.records:
        now_s += chance.choice((0, 1, 2, 3, 6))
        rows: list[Event] = []
        for _ in range(0 if record.rejected else record.rows):
            late_s = chance.choice((0, 0, 0, 1, 3, 8, 20))
            rows.append(Event(record.offset, now_s - late_s, chance.randrange(KEYS), 1 << number))
            number += 1
        out[record.offset] = rows
    return out


class Of(NamedTuple):
    """What windows must hold of some records: by place the values on time and those within the grace; for sessions the records
    themselves; those that are late, as (partition, offset, end of the window)."""

    on_time: Counter[Place]
    grace: Counter[Place]
    sessions: list[Event]
    late: Counter[tuple[int, int, int]]

    def all(self, place: Place) -> int:
        """All values of a window and key."""
        return self.on_time[place] | self.grace[place]


def watermark(shape: Shape, events: Iterator[Event]) -> int:
    """Behind these records of one partition."""
    return max((event.time_s - shape.lateness_s for event in events), default=NEVER)


def judge(shape: Shape, bucket: int, logs: Mapping[int, dict[int, list[Event]]], folded: Mapping[int, int]) -> tuple[Of, int]:
    """What a bucket must hold that has taken in each partition up to `folded`; and up to where its windows have closed."""
    out, closed_to = Of(Counter(), Counter(), [], Counter()), 2**62
    for partition, end in folded.items():
        mark = NEVER
        for event in (event for offset, events in logs[partition].items() if offset < end for event in events):
            if shape.bucket_of(event.key) == bucket:
                _add(shape, out, partition, event, mark)
            mark = max(mark, event.time_s - shape.lateness_s)
        closed_to = min(closed_to, mark)
    return out, closed_to


def _add(shape: Shape, out: Of, partition: int, event: Event, mark: int) -> None:
    if shape.gap_s:
        if event.time_s < mark:
            out.late[partition, event.offset, event.time_s + shape.gap_s] += 1
        else:
            out.sessions.append(event)
        return
    for end in shape.ends_of(event.time_s):
        if mark >= end + shape.grace_s:
            out.late[partition, event.offset, end] += 1
        elif mark >= end:
            out.grace[end, event.key] += event.value
        else:
            out.on_time[end, event.key] += event.value


def joined(shape: Shape, events: list[Event]) -> dict[Place, int]:
    """Sessions by their end and key: what lies closer to each other than the gap."""
    out: dict[Place, int] = {}
    for key in range(KEYS):
        value = last = 0
        for event in sorted((event for event in events if event.key == key), key=lambda event: event.time_s):
            if value and event.time_s - last >= shape.gap_s:
                out[last + shape.gap_s, key] = value
                value = 0
            value, last = value | event.value, event.time_s
        if value:
            out[last + shape.gap_s, key] = value
    return out
