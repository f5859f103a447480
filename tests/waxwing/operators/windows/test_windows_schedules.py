"""Windows under random schedules: the real lanes and buckets, killed at any point, against a plain recomputation.

One seed is one topic (holes, disorder, empty and added partitions, perhaps an older topic that is gone), one definition
(tumbling, hopping, sessions; lateness, grace) and one schedule: batch boundaries, interleavings, emissions, kills, idleness. A
value is a power of two, so that a sum names its records. What a killed run committed is all that the next one knows.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import pytest

from waxwing.batch import Batch, Columns, Stream
from waxwing.errors import OffsetGap
from waxwing.operators.windows import (
    NEVER,
    Bucket,
    Calendar,
    Count,
    Emission,
    First,
    Fold,
    Hopping,
    Last,
    Mark,
    Max,
    Mean,
    Opening,
    Piece,
    Session,
    StreamFold,
    Sum,
    Windows,
    openings,
)

CASES = 1_200
SECOND = 1_000_000
Record = tuple[int, int, int, int]  # offset, time in seconds, key, value
AGGREGATES = {
    "n": Count(),
    "sum": Sum("value"),
    "max": Max("value"),
    "mean": Mean("value", places=3),
    "first": First("value"),
    "last": Last("value"),
    "bits": Fold("value", list, lambda state, value: [*state, value], lambda a, b: [*a, *b]),
}


class Topic(NamedTuple):
    records: dict[int, list[Record]]
    ends: dict[int, int]


def random_definition(rng: random.Random) -> Windows:
    lateness = rng.choice((0, 3, 8))
    if rng.random() < 0.3:
        return Windows(
            by=("key",),
            time="time",
            kind=Session(rng.choice((3, 5, 9))),
            aggregates=AGGREGATES,
            lateness_s=lateness,
            fields=("time", "key", "value"),
        )
    every = rng.choice((5, 10))
    length = every * rng.choice((1, 1, 2, 3)) + (rng.random() < 0.15) * 2
    return Windows(
        by=("key",),
        time="time",
        kind=Hopping(length, every),
        aggregates=AGGREGATES,
        lateness_s=lateness,
        grace_s=rng.choice((0, 0, 6, 15)),
        corrections=rng.choice(("at_end", "eager")),
        fields=("time", "key", "value"),
    )


def random_topic(rng: random.Random) -> Topic:
    records: dict[int, list[Record]] = {}
    ends: dict[int, int] = {}
    serial = 0
    for partition in range(rng.randint(2, 4)):
        records[partition], offset, clock = [], 0, rng.randint(0, 10)
        for _ in range(0 if rng.random() < 0.12 else rng.randint(3, 14)):
            offset += 1 + (rng.random() < 0.2) * rng.randint(1, 3)
            clock += rng.randint(0, 6)
            time = max(0, clock - rng.choice((0, 0, 0, 1, 3, 8, 20)))
            records[partition].append((offset, time, rng.randint(0, 3), 1 << serial))
            serial += 1
        ends[partition] = offset + 1 + rng.randint(0, 2)
    return Topic(records, ends)


# -- the plain recomputation ----------------------------------------------------------------------------


def row_of(members: list[tuple[int, int, int, int]]) -> tuple[Any, ...]:
    """The aggregates of records given as (time, partition, offset, value)."""
    values = [value for *_, value in members]
    mean = round(Fraction(sum(values) * 1000, len(values)))
    first, last = min(members)[3], max(members)[3]
    return len(values), sum(values), max(values), mean, first, last, sorted(values)


def windows_of(definition: Windows, time: int) -> list[int]:
    """The ends, in seconds, of the windows that hold a time."""
    kind = definition.kind
    assert isinstance(kind, Hopping)
    length, every = int(kind.length_s), int(kind.every_s)
    return [start + length for start in range(-10 * every, time + 1, every) if start <= time < start + length]


def recomputed(topic: Topic, definition: Windows) -> tuple[dict[Any, list[Any]], set[Any]]:
    """Rows of each window by (end, key), the last being the whole, and {(end, value)} late; by each record's partition alone."""
    on_time: dict[Any, list[Any]] = defaultdict(list)
    grace: dict[Any, list[Any]] = defaultdict(list)
    late = set()
    spoken: dict[int, list[Any]] = defaultdict(list)  # of sessions: by key, sorted below
    for partition, records in topic.records.items():
        highest = -(10**9)
        for offset, time, key, value in records:
            mark, member = highest - definition.lateness_s, (time, partition, offset, value)
            if isinstance(definition.kind, Session):
                if time < mark:
                    late.add((time + int(definition.kind.gap_s), value))
                else:
                    spoken[key].append(member)
            else:
                for end in windows_of(definition, time):
                    if mark >= end + definition.grace_s:
                        late.add((end, value))
                    else:
                        (on_time if mark < end else grace)[end, key].append(member)
            highest = max(highest, time)
    if isinstance(definition.kind, Session):
        return sessions_of(spoken, int(definition.kind.gap_s)), late
    rows = {}
    for at in {*on_time, *grace}:
        rows[at] = [row_of(on_time[at])] if on_time[at] else []
        if grace[at]:
            rows[at].append(row_of(on_time[at] + grace[at]))
    return rows, late


def sessions_of(spoken: dict[int, list[Any]], gap: int) -> dict[Any, list[Any]]:
    rows = {}
    for key, members in spoken.items():
        session: list[Any] = []
        for member in [*sorted(members), (10**12, 0, 0, 0)]:
            if session and member[0] - session[-1][0] >= gap:
                rows[session[-1][0] + gap, key] = [row_of(session)]
                session = []
            session.append(member)
    return rows


# -- one world ------------------------------------------------------------------------------------------

Bug = str | None


class HastyLane(StreamFold):
    """Judges every record of a batch by the batch's highest time."""

    def _befores(self, times: Any) -> list[int]:
        befores = super()._befores(times)
        return [befores[-1]] * len(befores)


class Forgetful(Bucket):
    """Drops what comes for windows that are gone."""

    def emission(self) -> Emission:
        return super().emission()._replace(late_entries=[])


def mix_grace(bucket: Bucket) -> None:
    """Entries within the grace go to those on time."""
    fold = bucket._windows.fold
    bucket._windows.fold = lambda group, *at: fold(group._replace(grace=False), *at)  # type: ignore[method-assign]  # planted


class World:
    """The target's memory, and one run at a time: lanes, channels (first in, first out per partition and bucket), buckets."""

    def __init__(self, seed: int, bug: Bug = None) -> None:
        self.rng = rng = random.Random(seed)
        self.bug = bug
        self.definition, self.topic = random_definition(rng), random_topic(rng)
        self.streams = {p: Stream("flow", "topic", "id", p) for p in self.topic.records}
        self.added = max(self.streams) if rng.random() < 0.25 else None
        self.clock = rng.random() < 0.4  # in this world idleness is declared
        self.decided = self.added is not None
        starts = {self.streams[p]: 0 for p in self.streams if p != self.added}
        if seed % 4 == 1:  # read by nobody any more
            starts[Stream("flow", "older", "id", 0)] = 0
        self.states = [Bucket(self.definition, starts).pack() for _ in range(rng.randint(1, 3))]
        self.rows: list[Any] = []
        self.late: list[tuple[int, int]] = []
        self.late_sums: list[tuple[int, int]] = []
        self.kills = self.left_out = 0
        self.start()

    def start(self) -> None:
        """Another run, from what is committed."""
        kind = Forgetful if self.bug == "late entries dropped" else Bucket
        self.buckets = []
        for state in self.states:
            bucket = kind.load(self.definition, state, self.streams.values())
            bucket.__class__ = kind
            if self.bug == "watermark not kept":
                bucket._progress.held = {stream: held._replace(watermark=NEVER) for stream, held in bucket.held.items()}
            if self.bug == "closed_to not kept":
                lowest = min((held.watermark for held in bucket.held.values()), default=NEVER)
                bucket._closed_to = bucket._windows.dropped_to = lowest
            if self.bug == "open windows not kept":
                bucket._windows.held.clear()
            if self.bug == "grace not apart":
                mix_grace(bucket)
            self.buckets.append(bucket)
        opened = openings(
            {s: held._replace(watermark=NEVER) for s, held in Bucket.positions(state).items()}
            if self.bug == "watermark not kept"
            else Bucket.positions(state)
            for state in self.states
        )
        self.splits: dict[int, tuple[int, ...]] = {}
        self.lanes: dict[int, StreamFold] = {}
        for partition, stream in self.streams.items():
            opening = opened.get(stream, Opening(0, 0, NEVER))
            if self.bug == "lanes start at the highest position":
                opening = opening._replace(offset=max((opening.offset, *opening.splits)))
            lane = HastyLane if self.bug == "judged by the batch's highest time" else StreamFold
            self.lanes[partition] = lane(self.definition, stream, len(self.buckets), opening)
            self.splits[partition] = () if self.bug == "straddling batch folded whole" else opening.splits
        self.channels: dict[tuple[int, int], deque[Piece | Mark]] = defaultdict(deque)
        self.waiting: list[deque[tuple[Emission, bytes]]] = [deque() for _ in self.buckets]

    # -- what happens -------------------------------------------------------------------------------

    def read(self, partition: int) -> None:
        lane = self.lanes[partition]
        first, end = lane.offset, self.topic.ends[partition]
        if first >= end:
            return
        behind = min([end, first + self.rng.randint(1, 7), *(split for split in self.splits[partition] if split > first)])
        records = [record for record in self.topic.records[partition] if first <= record[0] < behind]
        size = len(records)
        offsets = [record[0] for record in records]
        messages = Columns(offsets, [None] * size, [b"%d" % record[3] for record in records], [-1] * size, [()] * size)
        batch = Batch(self.streams[partition], "lane", first, behind, messages, [record[1:] for record in records], range(size))
        for number, piece in enumerate(lane.fold(batch)):
            self.channels[partition, number].append(piece)

    def mark(self, partition: int, *, ended: bool) -> None:
        self.decided |= not ended
        for number in range(len(self.buckets)):
            self.channels[partition, number].append(self.lanes[partition].mark(ended=ended))

    def deliver(self, partition: int, number: int) -> None:
        if channel := self.channels[partition, number]:
            item, bucket = channel.popleft(), self.buckets[number]
            if isinstance(item, Mark):
                return bucket.mark(item)
            held = bucket.held.get(item.stream)
            if self.bug == "straddling batch folded whole" and held and item.offset_first < held.offset_next < item.offset_next:
                item.offset_first = held.offset_next
            bucket.fold(item)
        return None

    def emit(self, number: int) -> None:
        emission = self.buckets[number].emission()
        self.waiting[number].append((emission, self.buckets[number].pack()))

    def commit(self, number: int) -> None:
        if not self.waiting[number]:
            return
        emission, state = self.waiting[number].popleft()
        self.rows += emission.rows.tuples()
        self.left_out += emission.left_out
        self.late += [(late.end_us // SECOND, int(late.letter.value or 0)) for late in emission.late]
        for entries in emission.late_entries:
            self.late_sums += [(row[1] // SECOND, row[4]) for row in entries.rows.tuples()]
        if not (self.bug == "rows without state" and emission.rows):
            self.states[number] = state

    def act(self) -> None:
        rng = self.rng
        partition, number, kind = rng.choice(list(self.streams)), rng.randrange(len(self.buckets)), rng.random()
        if kind < 0.3:
            self.read(partition)
        elif kind < 0.75:
            self.deliver(partition, number)
        elif kind < 0.85:
            self.emit(number)
        elif kind < 0.96:
            self.commit(number)
        elif kind < 0.98 and self.clock:
            self.mark(partition, ended=False)
        elif rng.random() < 0.8:
            self.kills += 1
            self.start()

    def finish(self) -> None:
        """Read to the end and close."""
        while any(lane.offset < self.topic.ends[partition] for partition, lane in self.lanes.items()):
            self.read(self.rng.choice(list(self.streams)))
        for partition in self.streams:
            self.mark(partition, ended=True)
        while left := [at for at, channel in self.channels.items() if channel]:
            self.deliver(*self.rng.choice(left))
        for number in range(len(self.buckets)):
            self.emit(number)
            while self.waiting[number]:
                self.commit(number)

    # -- the verdict --------------------------------------------------------------------------------

    def difference(self) -> str | None:
        want, want_late = recomputed(self.topic, self.definition)
        got: dict[Any, list[Any]] = defaultdict(list)
        for start, end, key, n, total, largest, mean, first, last, bits, revision in sorted(self.rows, key=lambda row: row[-1]):
            at = (end // SECOND, key) if not isinstance(self.definition.kind, Session) or not self.decided else (start, end, key)
            if revision != len(got[at]):
                return f"{at}: revision {revision} behind {len(got[at])} rows"
            got[at].append((n, total, largest, int(mean * 1000), first, last, sorted(bits)))
        if problem := self.unaccounted(got):
            return problem
        if self.decided:
            return None if want_late <= set(self.late) else "a late record is not among the late"
        if sorted(self.late) != sorted(want_late) or self.late_sums:
            return f"late: {sorted(self.late)} {self.late_sums}, true {sorted(want_late)}"
        if self.definition.corrections == "eager":
            return next((f"{at}: {got[at]}, true {rows}" for at, rows in want.items() if got[at][-1] != rows[-1]), None)
        return None if got == want else f"rows differ: {dict(got)}, true {want}"

    def unaccounted(self, got: dict[Any, list[Any]]) -> str | None:
        """Whether each record is in exactly one place for each of its windows."""
        seen: dict[int, int] = defaultdict(int)
        for rows in got.values():
            if sum(rows[-1][6]) != rows[-1][1] or len(rows[-1][6]) != rows[-1][0]:
                return f"aggregates of one row disagree: {rows[-1]}"
            for value in rows[-1][6]:
                seen[value] += 1
        for _, value in self.late:
            seen[value] += 1
        for _, total in self.late_sums:
            for bit in range(total.bit_length()):
                seen[1 << bit] += total >> bit & 1
        for records in self.topic.records.values():
            for _, time, _, value in records:
                times = 1 if isinstance(self.definition.kind, Session) else len(windows_of(self.definition, time))
                if seen.pop(value, 0) != times:
                    return f"record {value} at {time}: not exactly once in each of its {times} windows"
        return f"unknown records {dict(seen)}" if any(seen.values()) else None


def outcome(seed: int, bug: Bug = None) -> tuple[str | None, World]:
    world = World(seed, bug)
    try:
        for _ in range(world.rng.randint(20, 200)):
            world.act()
        world.start()
        world.finish()
    except OffsetGap as error:
        return f"stopped: {error}", world
    return world.difference(), world


def test_windows_are_those_of_a_plain_recomputation_under_every_schedule() -> None:
    kills, sessions, decided = 0, 0, 0
    for seed in range(CASES):
        problem, world = outcome(seed)
        assert problem is None, f"seed {seed}: {problem}\n{world.definition.text}"
        kills += world.kills
        sessions += isinstance(world.definition.kind, Session)
        decided += world.decided
    assert kills > CASES
    assert sessions > CASES / 5
    assert CASES / 5 < decided < CASES * 3 / 5


@pytest.mark.parametrize(
    "bug",
    [
        "watermark not kept",
        "closed_to not kept",
        "open windows not kept",
        "rows without state",
        "straddling batch folded whole",
        "late entries dropped",
        "judged by the batch's highest time",
        "lanes start at the highest position",
        "grace not apart",
    ],
)
def test_the_schedules_find_each_planted_bug(bug: str) -> None:
    assert any(outcome(seed, bug)[0] for seed in range(CASES))


def test_without_idleness_nothing_depends_on_the_number_of_buckets_or_the_order() -> None:
    """The same topic and definition twice, under two schedules: the same rows."""
    compared = 0
    for seed in range(200):
        first, second = World(seed), World(seed)
        if first.added is not None or first.definition.corrections == "eager":
            continue
        first.clock = second.clock = False
        second.rng = random.Random(-seed - 1)
        second.states = [Bucket(second.definition, dict.fromkeys(second.streams.values(), 0)).pack() for _ in range(5)]
        second.start()
        for world in (first, second):
            for _ in range(100):
                world.act()
            world.finish()
        normal: Callable[[Any], Any] = lambda row: (*row[:-2], sorted(row[-2]), row[-1])  # noqa: E731 - of one line
        assert sorted(map(normal, first.rows)) == sorted(map(normal, second.rows)), f"seed {seed}"
        compared += 1
    assert compared > 50


def in_days(seed: int) -> tuple[World, World, int] | None:
    """A world of windows side by side, and the same one slowed down so that each of them is a day; how much slower."""
    first, second = World(seed), World(seed)
    kind = first.definition.kind
    if not isinstance(kind, Hopping) or kind.length_s != kind.every_s:
        return None
    slower, definition = 86_400 // int(kind.length_s), second.definition
    second.definition = replace(
        definition,
        kind=Calendar("day", "UTC"),
        lateness_s=definition.lateness_s * slower,
        grace_s=definition.grace_s * slower,
    )
    for records in second.topic.records.values():
        records[:] = [(offset, time * slower, key, value) for offset, time, key, value in records]
    starts = {stream: held.offset_start for stream, held in Bucket.positions(second.states[0]).items()}
    second.states = [Bucket(second.definition, starts).pack() for _ in second.states]
    second.start()
    return first, second, slower


def test_days_of_utc_are_windows_of_86_400_seconds_under_every_schedule() -> None:
    compared = corrected = 0
    for seed in range(700):
        if (both := in_days(seed)) is None:
            continue
        first, second, slower = both
        for world in (first, second):
            for _ in range(100):
                world.act()
            world.start()
            world.finish()
        want = [(start * slower, end * slower, *row) for start, end, *row in first.rows]
        assert second.rows == want, f"seed {seed}: {second.definition.text}"
        assert second.late == [(end * slower, value) for end, value in first.late], f"seed {seed}"
        assert second.late_sums == [(end * slower, value) for end, value in first.late_sums], f"seed {seed}"
        compared += 1
        corrected += any(row[-1] for row in first.rows)
    assert compared > 150
    assert corrected > 30


def in_bounded_runs(seed: int, buckets: int, chance: int) -> tuple[list[Any], list[Any]] | None:
    """Rows and late records of a topic read in three runs, each to the end of that time.

    Not of sessions: a batch's records that are close together are one entry, which is late as a whole behind such an end.
    """
    world = World(seed)
    if world.added is not None or world.definition.corrections == "eager" or isinstance(world.definition.kind, Session):
        return None
    world.clock, world.rng = False, random.Random(chance)
    world.states = [Bucket(world.definition, dict.fromkeys(world.streams.values(), 0)).pack() for _ in range(buckets)]
    whole = world.topic
    for part in (1, 2, 3):
        world.topic = whole._replace(ends={p: end * part // 3 for p, end in whole.ends.items()})
        world.start()
        for _ in range(30):
            world.act()
        world.finish()
    late = {(end, bit) for end, total in world.late_sums for bit in range(total.bit_length()) if total >> bit & 1}
    return sorted((*row[:-2], sorted(row[-2]), row[-1]) for row in world.rows), [*sorted(world.late), *sorted(late)]


def test_the_ends_of_bounded_runs_are_the_same_for_any_number_of_buckets() -> None:
    compared = 0
    for seed in range(150):
        if (one := in_bounded_runs(seed, 1, 7)) is not None:
            assert in_bounded_runs(seed, 4, 8) == one, f"seed {seed}"
            compared += len(one[1]) > 0
    assert compared > 30


def begun_in_the_middle(seed: int, buckets: int, chance: int) -> tuple[World, int] | None:
    """A topic without records that are later than the lateness, read from somewhere on, and the place in seconds where every
    window is whole again: behind the records that were never read, which are no younger than this."""
    world = World(seed)
    if world.added is not None:
        return None
    lateness = int(world.definition.lateness_s)
    for records in world.topic.records.values():
        highest = 0
        for n, (offset, time, key, value) in enumerate(records):
            records[n] = (offset, max(time, highest - lateness), key, value)
            highest = max(highest, records[n][1])
    starts, places = {}, [-(10**9)]
    for partition, stream in world.streams.items():
        left = [record for record in world.topic.records[partition] if record[0] > 1]
        starts[stream] = world.rng.choice(left)[0] if left and world.rng.random() < 0.7 else 0
        if starts[stream]:
            earliest = min(time for offset, time, *_ in left if offset >= starts[stream])
            places.append(earliest + lateness + bool(lateness))
            if not lateness and any(offset < starts[stream] and time == earliest for offset, time, *_ in left):
                return None  # of one and the same moment, which nobody can tell
    world.clock, world.rng = False, random.Random(chance)
    world.states = [Bucket(world.definition, starts).pack() for _ in range(buckets)]
    world.start()
    for _ in range(120):
        world.act()
    world.finish()
    return world, max(places)


def test_of_windows_begun_in_the_middle_those_that_are_whole_are_written_and_no_others() -> None:
    left_out = sessions = 0
    for seed in range(150):
        for buckets, chance in ((1, seed), (3, seed + 1)):
            if (one := begun_in_the_middle(seed, buckets, chance)) is None:
                continue
            world, place = one
            gap = int(getattr(world.definition.kind, "gap_s", 0))
            whole, late = recomputed(world.topic, world.definition)
            assert not late
            length = world.definition.length_us // SECOND
            want = {at: rows[-1] for at, rows in whole.items()}
            got = {(row[1] // SECOND, row[2]): row for row in world.rows}
            assert len(got) == len(world.rows)
            for at, row in got.items():
                start = row[0] // SECOND
                assert start >= place + gap, f"seed {seed}: {at} is not whole"
                assert (row[3], row[4], sorted(row[9])) == (want[at][0], want[at][1], want[at][6]), f"seed {seed}: {at}"
            if length:
                assert got.keys() == {(end, key) for end, key in want if end - length >= place}, f"seed {seed}"
            left_out += world.left_out
            sessions += bool(gap and got)
            assert world.late_sums == [] == world.late
    assert left_out > 300
    assert sessions > 15
