"""Windows of a calendar: days, weeks and months of a time zone, held against plain walks over its local dates."""

from __future__ import annotations

import pickle
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import MemoryWindows, window_sink
from sources.memory import MemorySource
from waxwing.batch import Batch, Columns, Stream
from waxwing.errors import ConfigError
from waxwing.operators import parse
from waxwing.operators.windows import NEVER, Bucket, Calendar, Count, Emission, Mark, Opening, StreamFold, Sum, Tumbling, Windows
from waxwing.operators.windows.bucket.rebucket import rebucket
from waxwing.operators.windows.definition import calendars
from waxwing.operators.windows.live import Live

STREAM, SECOND, HOUR_S = Stream("flow", "topic", "id", 0), 1_000_000, 3_600
BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"


def define(kind: Any, **changes: Any) -> Windows:
    plain: dict[str, Any] = {
        "by": ("key",),
        "time": "time",
        "aggregates": {"n": Count(), "sum": Sum("value")},
        "lateness_s": HOUR_S,
        "fields": ("time", "key", "value"),
    }
    return Windows(kind=kind, **plain | changes)


def at(text: str, zone: str = "UTC") -> int:
    """A moment in microseconds, as a clock in the zone shows it (for the first time)."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


def said(time_us: int) -> str:
    return datetime.fromtimestamp(time_us // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def days(zone: str, first: str, until: str) -> list[tuple[str, float]]:
    """Where the windows of days begin, between two moments in UTC, and how many hours each has."""
    grid, out = define(Calendar("day", zone)).grid, []
    slot = grid.slot(at(first))
    while slot < at(until):
        out.append((said(slot), (grid.behind(slot) - slot) / (HOUR_S * SECOND)))
        slot = grid.behind(slot)
    return out


# -- what can be said -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "says", "hint"),
    [
        (Calendar("hour", "UTC"), "unit='hour' is unknown", '"day", "week" or "month"'),  # type: ignore[arg-type]
        (Calendar(["day"], "UTC"), "is unknown", "every=12 a year"),  # type: ignore[arg-type]
        (Calendar("day", "UTC", 0), "every=0 is no number of days", "1 to 365"),
        (Calendar("month", "UTC", 13), "every=13 is no number of months", "1 to 12"),
        (Calendar("week", "UTC", 1.0), "every=1.0 is no number of weeks", "1 to 52"),  # type: ignore[arg-type]
        (Calendar("week", "UTC", True), "every=True is no number", "1 to 52"),
        (Calendar("day", "europe/berlin "), "no time zone that this machine knows", "Did you mean 'Europe/Berlin'?"),
        (Calendar("day", "Berlin"), "no time zone", "Did you mean 'Europe/Berlin'?"),
        (Calendar("day", "new york"), "no time zone", "Did you mean 'America/New_York'?"),
        (Calendar("day", "Nowhere/At_All"), "no time zone", "newer package tzdata"),
        (Calendar("day", ""), "no time zone", "Europe/Berlin"),
        (Calendar("day", "Europe"), "no time zone", "Europe/Berlin"),
        (Calendar("day", "../etc/passwd"), "no time zone", "Europe/Berlin"),
        (Calendar("day", "/etc/localtime"), "no time zone", "Europe/Berlin"),
        (Calendar("day", "localtime"), "no time zone", "Europe/Berlin"),
        (Calendar("day", "right/Europe/Berlin"), "no time zone", "Europe/Berlin"),
        (Calendar("day", None), "no time zone", "Europe/Berlin"),  # type: ignore[arg-type]
        (Calendar("day", UTC), "no time zone", "Did you mean 'UTC'?"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_calendar_that_can_not_be_is_refused_with_what_to_do(kind: Calendar, says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        define(kind)
    assert hint in caught.value.hint


def test_a_machine_without_time_zones_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(key: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(key)

    monkeypatch.setattr(calendars, "ZoneInfo", none)
    monkeypatch.setattr(calendars, "available_timezones", set)
    with pytest.raises(ConfigError, match="this machine has no time zones") as caught:
        define(Calendar("day", "UTC"))
    assert "pip install tzdata" in caught.value.hint


def test_the_text_of_a_calendar_names_unit_and_zone_and_any_other_means_something_else() -> None:
    definition = define(Calendar("month", BERLIN, every=3))
    assert definition.text == (
        "by=('key',) time='time' kind=Calendar(unit='month', zone='Europe/Berlin', every=3) "
        "aggregates=(n=Count(field=None), sum=Sum(field='value')) lateness_s=3600.0 grace_s=0.0"
    )
    assert definition.means_the_same(replace(definition, lateness_s=5, grace_s=7).text)
    others = [Calendar("month", BERLIN), Calendar("month", "Europe/Paris", 3), Calendar("week", BERLIN, 3), Tumbling(86_400)]
    assert not any(definition.means_the_same(define(other).text) for other in others)


def test_a_definition_pickles_with_what_it_has_remembered() -> None:
    definition = define(Calendar("day", BERLIN))
    slot = definition.grid.slot(at("2026-03-29T12:00"))
    loaded = pickle.loads(pickle.dumps(definition))
    assert loaded == definition
    assert loaded.grid.slot(slot) == slot


# -- where they begin and end ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "first", "until", "expected"),
    [
        (BERLIN, "2026-03-28T12:00", "2026-03-30T12:00", [("27T23", 24), ("28T23", 23), ("29T22", 24)]),
        (BERLIN, "2026-10-24T23:00", "2026-10-26T12:00", [("24T22", 25), ("25T23", 24)]),
        (LORD_HOWE, "2026-04-04T00:00", "2026-04-05T14:00", [("03T13", 24), ("04T13", 24.5), ("05T13:30", 24)]),
        (LORD_HOWE, "2026-10-03T14:00", "2026-10-04T14:00", [("03T13:30", 23.5), ("04T13", 24)]),
        # Midnight is skipped: the clock goes from 23:59:59 to 01:00.
        ("America/Sao_Paulo", "2018-11-03T12:00", "2018-11-05T12:00", [("03T03", 24), ("04T03", 23), ("05T02", 24)]),
        ("Asia/Beirut", "2022-03-26T12:00", "2022-03-28T12:00", [("25T22", 24), ("26T22", 23), ("27T21", 24)]),
        # Here from 23:30 to 00:30, so that the day begins half an hour behind midnight.
        ("America/Toronto", "1919-03-30T12:00", "1919-03-31T12:00", [("30T05", 23.5), ("31T04:30", 23.5)]),
        # Midnight comes twice, an hour apart; and where the clock shows the day before once more, a minute later.
        ("America/Havana", "2024-11-02T12:00", "2024-11-04T12:00", [("02T04", 24), ("03T04", 25), ("04T05", 24)]),
        ("America/St_Johns", "2006-10-28T12:00", "2006-10-30T12:00", [("28T02:30", 24), ("29T02:30", 25), ("30T03:30", 24)]),
        # The clock goes back at midnight, so that it comes once.
        ("America/Asuncion", "2023-03-25T12:00", "2023-03-26T12:00", [("25T03", 25), ("26T04", 24)]),
        # Friday, 2011-12-30, was skipped: there is no such window.
        ("Pacific/Apia", "2011-12-29T12:00", "2011-12-31T12:00", [("29T10", 24), ("30T10", 24), ("31T10", 24)]),
        (
            "Africa/Monrovia",
            "1972-01-06T12:00",
            "1972-01-08T12:00",
            [("06T00:44:30", 24), ("07T00:44:30", 23.25833), ("08T00", 24)],
        ),
        ("Asia/Kathmandu", "1985-12-31T00:00", "1986-01-01T12:00", [("30T18:30", 24), ("31T18:30", 23.75)]),
        ("UTC", "1969-12-31T23:00", "1970-01-01T01:00", [("31T00", 24), ("01T00", 24)]),
    ],
)
def test_a_day_is_as_long_as_its_zone_makes_it(zone: str, first: str, until: str, expected: list[tuple[str, float]]) -> None:
    found = days(zone, first, until)
    assert len(found) >= len(expected)
    for (begins, hours), (day_and_time, length) in zip(found, expected, strict=False):
        assert begins[8:].startswith(day_and_time), found
        assert hours == pytest.approx(length, abs=1e-4), found


@pytest.mark.parametrize(
    ("kind", "time", "begins", "ends"),
    [
        (Calendar("week", BERLIN), "2026-03-29T12:00", "2026-03-22T23:00:00", "2026-03-29T22:00:00"),  # from Monday to Sunday
        (Calendar("week", "UTC"), "1970-01-01T00:00", "1969-12-29T00:00:00", "1970-01-05T00:00:00"),
        (Calendar("week", "UTC", 2), "1970-01-05T00:00", "1969-12-29T00:00:00", "1970-01-12T00:00:00"),
        (Calendar("month", BERLIN), "2026-03-31T22:30", "2026-03-31T22:00:00", "2026-04-30T22:00:00"),
        (Calendar("month", "UTC"), "2024-02-29T23:59", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        (Calendar("month", "UTC"), "1969-12-31T23:59", "1969-12-01T00:00:00", "1970-01-01T00:00:00"),
        (Calendar("month", "Asia/Tokyo", 3), "2026-05-05T00:00", "2026-03-31T15:00:00", "2026-06-30T15:00:00"),  # a quarter
        (Calendar("month", LORD_HOWE, 12), "2025-12-31T13:00", "2025-12-31T13:00:00", "2026-12-31T13:00:00"),  # a year
        (Calendar("day", "UTC", 10), "1970-01-10T12:00", "1970-01-01T00:00:00", "1970-01-11T00:00:00"),
        (Calendar("day", "UTC", 10), "1969-12-31T12:00", "1969-12-22T00:00:00", "1970-01-01T00:00:00"),
    ],
    ids=repr,
)
def test_weeks_months_and_several_of_them_are_those_of_a_calendar(kind: Calendar, time: str, begins: str, ends: str) -> None:
    grid = define(kind).grid
    slot = grid.slot(at(time))
    assert (said(slot), said(grid.behind(slot))) == (begins, ends)
    assert grid.start_of(grid.behind(slot)) == slot


def first_instant(zone: ZoneInfo, day: date) -> int:
    """In seconds since 1970, found by walking: by minutes, for a clock that is moved back may show a day for a minute first."""

    def is_on(s: int) -> bool:
        return datetime.fromtimestamp(s, zone).date() >= day

    s = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) - 27 * HOUR_S
    while not is_on(s):
        s += 60
    while is_on(s - 1):
        s -= 1
    return s


def following(kind: Calendar, first: date) -> date:
    """The first day of the next window."""
    if kind.unit == "month":
        month = first.month - 1 + kind.every
        return date(first.year + month // 12, month % 12 + 1, 1)
    return first + timedelta(days=kind.every * (7 if kind.unit == "week" else 1))


def walked(kind: Calendar, first: date, zone: ZoneInfo) -> Iterator[tuple[date, int, int]]:
    """Windows from the one that begins with this day on: their first day, start and end in seconds."""
    while True:
        behind = following(kind, first)
        yield first, first_instant(zone, first), first_instant(zone, behind)
        first = behind


ODD_ZONES = [
    BERLIN,
    LORD_HOWE,
    "UTC",
    "Africa/Monrovia",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Beirut",
]
ODD_ZONES += [
    "Asia/Tehran",
    "America/Toronto",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Asia/Manila",
    "Africa/Cairo",
]


@given(
    zone=st.sampled_from(ODD_ZONES),
    unit=st.sampled_from(["day", "week", "month"]),
    every=st.integers(1, 4),
    number=st.integers(-1_500, 800),
    inside=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=150)
def test_a_time_is_in_the_window_that_a_walk_over_local_days_finds(
    zone: str, unit: Any, every: int, number: int, inside: float
) -> None:
    kind = Calendar(unit, zone, every)
    first = date(1970, 1, 1) if unit != "week" else date(1969, 12, 29)
    if unit == "month":
        years, month = divmod(number * every, 12)
        first = date(1970 + years, month + 1, 1)
    else:
        first += timedelta(days=number * every * (7 if unit == "week" else 1))
    grid, ends = define(kind).grid, None
    for (day, start_s, end_s), _ in zip(walked(kind, first, ZoneInfo(zone)), range(3), strict=False):
        start, end = start_s * SECOND, end_s * SECOND
        assert ends in (None, start), "no gap, no overlap"
        ends = end
        if start == end:
            continue  # skipped as a whole
        for t in (start, start + int((end - start - 1) * inside), end - 1):
            assert (grid.slot(t), grid.behind(grid.slot(t)), grid.ends(grid.slot(t))) == (start, end, [end]), said(t)
        assert grid.start_of(end) == start
        if kind.every == 1 and unit == "day":
            assert grid.day(start) == day
        assert grid.slots([end - 1, end, start]) == [start, end, start]


@pytest.mark.parametrize("zone", [BERLIN, "America/Sao_Paulo", "Pacific/Apia"])
def test_every_day_where_a_clock_is_moved_is_one_window_on_its_own_date(zone: str) -> None:
    info, grid, moved = ZoneInfo(zone), define(Calendar("day", zone)).grid, 0
    for ordinal in range(date(2005, 1, 1).toordinal(), date(2020, 1, 1).toordinal()):
        day = date.fromordinal(ordinal)
        midnight = datetime(day.year, day.month, day.day, tzinfo=info)
        if midnight.utcoffset() == (midnight + timedelta(days=1)).utcoffset() == (midnight - timedelta(days=1)).utcoffset():
            continue
        start, end = first_instant(info, day) * SECOND, first_instant(info, day + timedelta(days=1)) * SECOND
        moved += 1
        if start < end:
            assert (grid.slot(start), grid.behind(start), grid.day(start)) == (start, end, day)
    assert moved > 4


@pytest.mark.parametrize("kind", [Calendar("day", "Pacific/Kiritimati"), Calendar("day", "Etc/GMT+12", 365)], ids=repr)
@pytest.mark.parametrize("unit", [("day", 365), ("week", 52), ("month", 12)], ids=repr)
def test_the_first_and_the_last_times_that_records_may_have_are_in_windows_too(kind: Calendar, unit: Any) -> None:
    for one in (kind, replace(kind, unit=unit[0], every=unit[1])):
        records = [(time, "a", 1) for time in (-62_104_000_000, 253_350_000_000)]
        emission = run(define(one, lateness_s=0), [records])
        assert not emission.rejects
        for start, end, *_ in emission.rows.tuples():
            assert datetime(1, 1, 1) < datetime(1970, 1, 1) + timedelta(microseconds=start)  # noqa: DTZ001 - year 1 in UTC
            assert datetime(1970, 1, 1) + timedelta(microseconds=end) < datetime(9999, 12, 31)  # noqa: DTZ001 - likewise


def test_what_is_remembered_of_days_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "DAYS_MAX", 10)
    grid = calendars.CalendarGrid(Calendar("day", BERLIN))
    slots = [grid.slot(at("2026-01-01T12:00") + n * 86_400 * SECOND) for n in range(200)]
    assert len(set(slots)) == 200
    assert len(grid._days) <= 10


# -- folded ---------------------------------------------------------------------------------------------


def batches(parts: Sequence[Sequence[Any]], first: int = 0) -> Iterator[Batch[Any]]:
    for part in parts:
        size = len(part)
        messages = Columns(range(first, first + size), [None] * size, [b"{}"] * size, [-1] * size, [()] * size)
        yield Batch(STREAM, "", first, first + size, messages, part, range(size))
        first += size


def run(definition: Windows, parts: Sequence[Sequence[Any]], counts: Sequence[int] = (1,)) -> Emission:
    """All that comes of the batches; buckets are packed behind each, and divided anew in the numbers that are given in turn."""
    offset, watermark, out = 0, NEVER, Bucket(definition, {STREAM: 0}).emission()
    states = [Bucket(definition, {STREAM: 0}).pack() for _ in range(counts[0])]

    def take(buckets: Sequence[Bucket]) -> None:
        for emission in (bucket.emission() for bucket in buckets):
            out.rows.extend(emission.rows)
            out.late.extend(emission.late)
            out.rejects.extend(emission.rejects)

    for number, batch in enumerate(batches(parts)):
        wanted = counts[number % len(counts)]
        if len(states) != wanted:
            states = rebucket(definition, states, wanted)
        lane = StreamFold(definition, STREAM, wanted, Opening(0, offset, watermark))
        held = [Bucket.load(definition, state) for state in states]
        for bucket, piece in zip(held, lane.fold(batch), strict=True):
            bucket.fold(piece)
        take(held)
        offset, watermark, states = lane.offset, lane.watermark, [bucket.pack() for bucket in held]
    held = [Bucket.load(definition, state) for state in states]
    for bucket in held:
        bucket.mark(Mark(STREAM, 0, offset, ended=True))
    take(held)
    return out


def recomputed(zone: str, records: Sequence[Any], lateness_s: int, grace_s: int) -> tuple[dict[Any, Any], list[Any]]:
    """Count and sum by local date and key, and the late ones: by the clock in the zone, record by record."""
    info = ZoneInfo(zone)
    ends: dict[date, int] = {}
    totals: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    late, highest = [], -1 << 60
    for number, (time, key, value) in enumerate(records):
        day = datetime.fromtimestamp(time, info).date()
        end = ends.get(day) or ends.setdefault(day, first_instant(info, day + timedelta(days=1)))
        if highest - lateness_s >= end + grace_s:
            late.append((day, key, number))
        else:
            totals[day, key][0] += 1
            totals[day, key][1] += value
        highest = max(highest, time)
    return {at: tuple(some) for at, some in totals.items()}, late


@pytest.mark.parametrize("grace_s", [0, 5 * HOUR_S])
@pytest.mark.parametrize("disorder_s", [0, HOUR_S // 2, 40 * HOUR_S])
@pytest.mark.parametrize(
    ("zone", "first"),
    [
        (BERLIN, "2026-03-27T00:00"),
        (BERLIN, "2026-10-23T00:00"),
        (LORD_HOWE, "2026-04-02T00:00"),
        (LORD_HOWE, "2026-10-01T00:00"),
        ("America/Sao_Paulo", "2018-11-02T00:00"),
        ("Pacific/Apia", "2011-12-28T00:00"),
        ("Africa/Monrovia", "1972-01-05T00:00"),
    ],
)
def test_rows_and_late_records_are_those_of_a_recount_however_batches_are_cut(
    zone: str, first: str, disorder_s: int, grace_s: int
) -> None:
    chance = random.Random(f"{zone} {disorder_s}")
    begin = at(first) // SECOND
    records = [
        (begin + n * 700 - chance.randrange(disorder_s + 1), f"key-{chance.randrange(4)}", chance.randrange(99))
        for n in range(900)
    ]
    definition, info = define(Calendar("day", zone), grace_s=grace_s), ZoneInfo(zone)
    want, want_late = recomputed(zone, records, HOUR_S, grace_s)
    assert bool(want_late) == (disorder_s > 10 * HOUR_S)
    for cuts, counts in (([], [1]), ([*range(7, 900, 63)], [2, 3, 1]), ([450], [4])):
        parts = [records[low:high] for low, high in pairwise([0, *cuts, len(records)])]
        emission = run(definition, parts, counts)
        got = {}
        for start, end, key, n, total, revision in sorted(emission.rows.tuples(), key=lambda row: row[-1]):
            day = datetime.fromtimestamp(start // SECOND, info).date()
            assert (start, end) == (
                first_instant(info, day) * SECOND,
                first_instant(info, datetime.fromtimestamp(end // SECOND, info).date()) * SECOND,
            )
            assert grace_s or not revision
            got[day, key] = n, total
        assert got == want
        found = [
            (datetime.fromtimestamp(one.start_us // SECOND, info).date(), one.key, one.letter.offset) for one in emission.late
        ]
        assert sorted(found) == sorted(want_late)


def test_a_batch_that_spans_decades_finds_each_record_s_month() -> None:
    chance, info = random.Random(5), ZoneInfo(BERLIN)
    records = [(chance.randrange(-2_000_000_000, 2_000_000_000), "a", 1) for _ in range(300)]
    emission = run(define(Calendar("month", BERLIN), lateness_s=0).never_late(), [records])
    want: dict[Any, int] = defaultdict(int)
    for time, *_ in records:
        local = datetime.fromtimestamp(time, info)
        want[local.year, local.month] += 1
    # The first instant of a month is in it.
    got = {
        (local.year, local.month): row[3]
        for row in emission.rows.tuples()
        for local in [datetime.fromtimestamp(row[0] / SECOND, info)]
    }
    assert got == want


def test_windows_close_with_their_own_end_and_by_the_clock_when_all_is_idle() -> None:
    definition = define(Calendar("day", BERLIN), lateness_s=0, idle_after_s=10)
    bucket, lane = Bucket(definition, {STREAM: 0}), StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER))
    end = at("2026-03-29T22:00") // SECOND  # of a day of 23 hours
    bucket.fold(*lane.fold(next(batches([[(end - 22 * HOUR_S, "a", 1), (end - 1, "a", 1)]]))))
    assert not bucket.has_closed
    bucket.mark(lane.mark(ended=False, clock_us=end * SECOND - 1))
    assert not bucket.has_closed
    bucket.mark(lane.mark(ended=False, clock_us=end * SECOND))
    assert [row[:4] for row in bucket.emission().rows.tuples()] == [((end - 23 * HOUR_S) * SECOND, end * SECOND, "a", 2)]
    bucket.mark(lane.mark(ended=False, clock_us=(end + 10**6) * SECOND))
    assert bucket.closed_to == end * SECOND, "of what may come the clock says nothing"


def test_windows_that_began_before_reading_did_are_left_out() -> None:
    definition = define(Calendar("day", BERLIN), lateness_s=0)
    begin = at("2026-03-29T05:00") // SECOND
    bucket, lane = Bucket(definition, {STREAM: 7}), StreamFold(definition, STREAM, 1, Opening(7, 7, NEVER, (), begin * SECOND))
    bucket.fold(*lane.fold(next(batches([[(begin, "a", 1), (begin + 20 * HOUR_S, "a", 1)]], 7))))
    bucket.mark(lane.mark(ended=True))
    emission = bucket.emission()
    assert emission.left_out == 1
    assert [said(row[0]) for row in emission.rows.tuples()] == ["2026-03-29T22:00:00"]


def test_live_windows_take_a_calendar() -> None:
    begin = at("2026-10-24T22:00") // SECOND
    rows, rejects, left_out = Live(define(Calendar("day", BERLIN))).fold(
        next(batches([[(begin + hour * HOUR_S, "a", 1) for hour in (0, 24, 25, 49)]]))
    )
    assert (rejects, left_out) == ([], 0)
    assert [(said(row[0]), row[3]) for row in rows.tuples()] == [
        ("2026-10-24T22:00:00", 2),
        ("2026-10-25T23:00:00", 1),
        ("2026-10-26T23:00:00", 1),
    ]


class Sale(msgspec.Struct):
    time: float
    key: str
    value: int


def test_an_open_month_goes_on_at_the_next_run() -> None:
    definition, info = define(Calendar("month", "Asia/Tokyo"), fields=None, lateness_s=0), ZoneInfo("Asia/Tokyo")
    times = [datetime(2024, 12, 20, tzinfo=info).timestamp() + n * 5 * 86_400 for n in range(12)]
    data = {0: [{"time": time, "key": "a", "value": n} for n, time in enumerate(times)]}
    target = MemoryWindows(definition)
    for until in (1, 2, 4, 8, 12):
        flow = Dataflow("months")
        source = MemorySource({0: data[0][:until]}, feeds=[target], batch_records=2, ends=until == 12)
        window_sink("months", parse("parse", op.input("in", flow, source), Sale), target)
        run_main(flow)
    rows = [(datetime.fromtimestamp(row["window_start"] / SECOND, info), row["n"], row["sum"]) for row in target.rows]
    want: dict[Any, list[int]] = defaultdict(list)
    for n, time in enumerate(times):
        local = datetime.fromtimestamp(time, info)
        want[datetime(local.year, local.month, 1, tzinfo=info)].append(n)
    assert rows == [(month, len(some), sum(some)) for month, some in want.items()]
    assert not target.dead_letters


# -- rules that change ----------------------------------------------------------------------------------


class Rules:
    """The time zone data of a machine, in which the zone Test/Zone has the rules of another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def are(self, zone: str) -> Windows:
        """From now on; a definition that goes by them."""
        self._patch.setattr(calendars, "ZoneInfo", lambda key: ZoneInfo(zone if key == "Test/Zone" else key))
        calendars.calendar_grid.cache_clear()
        return define(Calendar("day", "Test/Zone"), lateness_s=0)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rules]:
    yield Rules(monkeypatch)
    calendars.calendar_grid.cache_clear()


class Going:
    """One bucket over its restarts, each under a definition of its own."""

    def __init__(self) -> None:
        self.state = b""
        self.rows: list[Any] = []
        self.late: list[int] = []
        self.offset, self.watermark = 0, NEVER

    def on(self, definition: Windows, *times: str) -> None:
        """A run that takes in a record at each of these times."""
        bucket = Bucket.load(definition, self.state) if self.state else Bucket(definition, {STREAM: 0})
        lane = StreamFold(definition, STREAM, 1, Opening(0, self.offset, self.watermark))
        for batch in batches([[(at(time) // SECOND, "a", 1)] for time in times], self.offset):
            bucket.fold(*lane.fold(batch))
        emission = bucket.emission()
        self.rows += [(said(row[0])[8:13], said(row[1])[8:13], row[3], row[-1]) for row in emission.rows.tuples()]
        self.late += [row[3] for entries in emission.late_entries for row in entries.rows.tuples()]
        self.late += [1] * len(emission.late)
        self.offset, self.watermark, self.state = lane.offset, lane.watermark, bucket.pack()


@pytest.mark.parametrize(("zone", "begins"), [("Etc/GMT-3", "11T21"), ("Etc/GMT-1", "11T23"), ("Etc/GMT+8", "12T08")])
def test_a_window_that_is_open_goes_by_the_rules_of_now(rules: Rules, zone: str, begins: str) -> None:
    going = Going()
    before = rules.are("Etc/GMT-2")
    going.on(before, "2026-01-10T12:00", "2026-01-11T12:00", "2026-01-12T12:00")
    going.on(rules.are(zone), "2026-01-12T13:00", "2026-01-13T12:00", "2026-01-14T12:00")
    first = int(begins[:2])
    starts = [f"{day}{begins[2:]}" for day in range(first, first + 3)]
    assert going.rows == [
        ("09T22", "10T22", 1, 0),
        ("10T22", "11T22", 1, 0),
        (starts[0], starts[1], 2, 0),
        (starts[1], starts[2], 1, 0),
    ]
    assert not going.late


@pytest.mark.parametrize("divided", [False, True])
def test_what_comes_for_a_window_that_was_written_by_other_rules_is_late_and_opens_none_over_it(
    rules: Rules, divided: bool
) -> None:
    going, before = Going(), rules.are("Etc/GMT-2")
    going.on(before, "2026-01-10T12:00", "2026-01-10T22:10")
    assert going.rows == [("09T22", "10T22", 1, 0)]
    if divided:
        (going.state,) = rebucket(before, rebucket(before, [going.state], 3), 1)
    after = rules.are("Etc/GMT-1")  # by which the day lasts until 23
    going.on(after, "2026-01-10T22:20", "2026-01-10T22:30")
    going.on(after, "2026-01-10T22:40")
    going.on(after, "2026-01-11T12:00", "2026-01-12T12:00")
    assert going.late == [1, 1, 1]
    assert going.rows[1:] == [("10T23", "11T23", 2, 0)], "the record of 22:10 was the next day's, and stays in it"


def test_a_correction_goes_to_the_row_that_was_written(rules: Rules) -> None:
    going = Going()
    before = replace(rules.are("Etc/GMT-2"), grace_s=20 * HOUR_S)
    going.on(before, "2026-01-10T12:00", "2026-01-10T22:10")
    after = replace(rules.are("Etc/GMT-1"), grace_s=20 * HOUR_S)
    going.on(after, "2026-01-10T22:20", "2026-01-10T23:30", "2026-01-12T12:00")
    assert going.rows[:2] == [("09T22", "10T22", 1, 0), ("09T22", "10T22", 2, 1)]
    assert not going.late
    written = at("2026-01-09T22:00")
    assert after.day(written) == before.day(written) == date(2026, 1, 10), "a Date column keeps it in its row, too"


def test_two_open_windows_that_are_one_by_other_rules_stop_the_flow_with_what_to_do(rules: Rules) -> None:
    going = Going()
    going.on(replace(rules.are("Etc/GMT-14"), lateness_s=86_400 * 9), "1867-10-18T12:00", "1867-10-19T12:00")
    after = rules.are("America/Juneau")  # where the clock was set back by a whole day then
    with pytest.raises(ConfigError, match="two open windows") as caught:
        Bucket.load(after, going.state)
    assert "tzdata" in caught.value.hint


def test_processes_of_different_rules_stop_the_flow_with_what_to_do(rules: Rules) -> None:
    of_lane = rules.are("Etc/GMT-2")
    piece = StreamFold(of_lane, STREAM, 1, Opening(0, 0, NEVER)).fold(
        next(batches([[(at("2026-01-10T12:00") // SECOND, "a", 1)]]))
    )
    with pytest.raises(ConfigError, match="different time zone data") as caught:
        Bucket(rules.are("Etc/GMT-3"), {STREAM: 0}).fold(*piece)
    assert "tzdata" in caught.value.hint


def taken(definition: Windows, states: Sequence[bytes], offset: int, watermark: int, records: list[Any]) -> list[bytes]:
    """The buckets with these records."""
    lane = StreamFold(definition, STREAM, len(states), Opening(0, offset, watermark))
    buckets = [Bucket.load(definition, state) for state in states]
    for bucket, piece in zip(buckets, lane.fold(next(batches([records], offset))), strict=True):
        bucket.fold(piece)
    return [bucket.pack() for bucket in buckets]


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_bucket_has_written_is_known_to_all_that_it_is_divided_into(rules: Rules, order: int) -> None:
    before = rules.are("Etc/GMT-2")
    day, end = at("2026-01-10T12:00") // SECOND, at("2026-01-10T22:00") // SECOND
    states = taken(before, [Bucket(before, {STREAM: 0}).pack()] * 2, 0, NEVER, [(day, "a", 1), (end + 600, "a", 1)])
    states = rebucket(before, states[::order], 3)
    after, rows, late = rules.are("Etc/GMT-1"), 0, 0
    lane = StreamFold(after, STREAM, 3, Opening(0, 2, (end + 600) * SECOND))
    records = [(end + 1_200, "a", 1), (end + 1_200, "b", 1), (end + 5 * HOUR_S, "a", 1)]
    for state, piece in zip(states, lane.fold(next(batches([records], 2))), strict=True):
        bucket = Bucket.load(after, state)
        bucket.fold(piece)
        emission = bucket.emission()
        rows, late = rows + len(emission.rows), late + sum(len(one.rows) for one in emission.late_entries)
    assert (rows, late) == (0, 2)


def test_buckets_that_wrote_a_window_by_different_rules_are_not_divided_before_it_is_over(rules: Rules) -> None:
    before = replace(rules.are("Etc/GMT-2"), grace_s=20 * HOUR_S)
    keys = ["a", "b", "c", "d", "e", "f"]
    day, end = at("2026-01-10T12:00") // SECOND, at("2026-01-10T22:00") // SECOND

    states = [Bucket(before, {STREAM: 0}).pack() for _ in range(2)]
    # One key alone is written by the rules of before, so that its bucket alone has the window.
    states = taken(before, states, 0, NEVER, [(day, keys[0], 1), (end + 600, keys[0], 1)])
    after = replace(rules.are("Etc/GMT-1"), grace_s=20 * HOUR_S)
    states = taken(after, states, 2, (end + 600) * SECOND, [(end + 1_200, key, 1) for key in keys])
    states = taken(after, states, 8, (end + 1_200) * SECOND, [(end + 2 * HOUR_S, keys[0], 1)])
    with pytest.raises(ConfigError, match="rules of its time zone have changed") as caught:
        rebucket(after, states, 3)
    assert "divide" in caught.value.hint
    states = taken(after, states, 9, (end + 2 * HOUR_S) * SECOND, [(end + 100 * HOUR_S, keys[0], 1)])
    assert len(rebucket(after, states, 3)) == 3
