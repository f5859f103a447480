"""Windows: what can be defined, every aggregate, what is rejected, late or packed; without a target."""

from __future__ import annotations

import math
import pickle
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import MemoryWindows
from waxwing.batch import Batch, Columns, Delete, Reject, Stream, marked
from waxwing.change import Start
from waxwing.errors import ConfigError, DataError, OffsetGap
from waxwing.operators.windows import (
    MESSAGE_TIME,
    NEVER,
    Aggregate,
    Bucket,
    Count,
    Emission,
    First,
    Fold,
    Held,
    Hopping,
    Last,
    Mark,
    Max,
    Mean,
    Min,
    Opening,
    Session,
    StreamFold,
    Sum,
    Tumbling,
    Windows,
    openings,
)
from waxwing.operators.windows.aggregates.parts import EXACT, _expansion
from waxwing.operators.windows.bucket.packing import compress, decode, decompress, encode, pack_column, unpack_column
from waxwing.operators.windows.live import Live
from waxwing.operators.windows.pieces import buckets_of
from waxwing.operators.windows.stream.reading import _times

STREAM = Stream("flow", "topic", "id", 0)
SECOND = 1_000_000
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def define(**changes: Any) -> Windows:
    plain: dict[str, Any] = {
        "by": ("key",),
        "time": "time",
        "kind": Tumbling(60),
        "aggregates": {"n": Count()},
        "lateness_s": 5,
        "fields": ("time", "key", "value"),
    }
    return Windows(**plain | changes)


def batch(records: Sequence[Any], first: int = 0, stamps: Sequence[int] | None = None, **more: Any) -> Batch[Any]:
    size = len(records)
    values = [b"%d" % n for n in range(size)]
    stamps = [-1] * size if stamps is None else stamps
    messages = Columns(range(first, first + size), [b"k"] * size, values, stamps, [(("h", b"1"),)] * size)
    return Batch(STREAM, "lane-000", first, first + size, messages, records, more.pop("at", range(size)), **more)


def run(definition: Windows, *batches: Batch[Any], clock_us: Callable[[], int] | None = None) -> Emission:
    """Everything through one lane and one bucket, to the end; the bucket is packed and loaded on the way, after each batch."""
    lane, bucket = StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER), clock_us=clock_us), Bucket(definition, {STREAM: 0})
    parts: list[Emission] = []
    for one in batches:
        (piece,) = pickle.loads(pickle.dumps(lane.fold(one)))
        bucket.fold(piece)
        parts.append(bucket.emission())
        bucket = Bucket.load(definition, bucket.pack())
    bucket.mark(lane.mark(ended=True))
    whole = bucket.emission()
    for part in parts:
        whole.rows.extend(part.rows)
        whole.late.extend(part.late)
        whole.rejects.extend(part.rejects)
    return whole


def aggregated(aggregate: Aggregate, values: Sequence[Any], cuts: Sequence[int] = ()) -> Any:
    """One aggregate of one key, over values cut into batches."""
    records = [(1, "a", value) for value in values]
    bounds = [0, *sorted(cuts), len(records)]
    batches = [batch(records[low:high], low) for low, high in pairwise(bounds)]
    ((*_, result, revision),) = run(define(aggregates={"result": aggregate}), *batches).rows.tuples()
    assert revision == 0
    return result


# -- definitions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"by": "key"}, "no tuple of field names"),
        ({"by": ("",)}, "no tuple of field names"),
        ({"time": ""}, "no field's name"),
        ({"time": None}, "no field's name"),
        ({"kind": "tumbling"}, "unknown"),
        ({"kind": Tumbling(0)}, "too short"),
        ({"kind": Tumbling(math.inf)}, "no span of time"),
        ({"kind": Tumbling(-1)}, "no span of time"),
        ({"kind": Hopping(10, 20)}, "leave gaps"),
        ({"kind": Hopping(60, 0.001)}, "60,000 windows"),
        ({"kind": Session(0)}, "too short"),
        ({"kind": Session(5), "grace_s": 1}, "Sessions take no corrections"),
        ({"aggregates": {}}, "compute nothing"),
        ({"aggregates": {"n": Count}}, "no aggregate"),
        ({"aggregates": {"key": Count()}}, "two columns would be called key"),
        ({"aggregates": {"window_end": Count()}}, "two columns would be called window_end"),
        ({"lateness_s": -1}, "no span of time"),
        ({"lateness_s": "5"}, "no span of time"),
        ({"idle_after_s": 0}, "too short"),
        ({"corrections": "never"}, "unknown"),
        ({"null_keys": "keep"}, "unknown"),
        ({"null_keys": {"customer": ""}}, "customer is no field of the key"),
        ({"null_keys": {"key": None}}, "None can't stand for a null in key"),
        ({"fields": ("time", "value")}, "lacks key"),
    ],
)
def test_what_can_not_be_is_refused_with_what_to_do(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        define(**changes)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "arguments"), [(Sum, [""]), (Max, [7]), (Mean, ["v", -1]), (Mean, ["v", 2.0]), (Fold, ["v", list, None, max])]
)
def test_an_aggregate_that_can_not_be_is_refused(kind: Any, arguments: list[Any]) -> None:
    with pytest.raises(ConfigError):
        kind(*arguments)


def test_a_definition_does_not_change_and_pickles() -> None:
    definition = define(aggregates={"a": Sum("value"), "b": Mean("value", 2)})
    with pytest.raises(AttributeError):
        definition.lateness_s = 6  # type: ignore[misc]  # it is frozen
    assert pickle.loads(pickle.dumps(definition)) == definition
    assert len(definition.parts) == 2, "the mean shares the sum"


@given(st.integers(1, 40), st.integers(1, 40), st.integers(-500, 500))
@settings(max_examples=200)
def test_a_slot_is_in_exactly_the_windows_that_hold_its_times(length: int, every: int, time: int) -> None:
    if every > length:
        length, every = every, length
    definition = define(kind=Hopping(length, every))
    t = time * SECOND
    held = [n * every + length for n in range(-1200, 1200) if n * every <= time < n * every + length]
    assert definition.grid.ends(definition.grid.slot(t)) == [end * SECOND for end in held]


# -- aggregates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregate", "values", "expected"),
    [
        (Count(), [1, None, 3], 3),
        (Count("value"), [1, None, 3], 2),
        (Sum("value"), [1, None, 2**70], 2**70 + 1),
        (Sum("value"), [Decimal("0.10")] * 3, Decimal("0.30")),
        (Sum("value"), [Decimal("1E+30"), Decimal("1E-30"), 1], Decimal(f"1{1:030}.{1:030}")),
        (Sum("value"), [0.1] * 10, 1.0),
        (Sum("value"), [1e100, 1.0, -1e100], 1.0),
        (Sum("value"), [1, 0.5, Decimal("0.25")], 1.75),
        (Sum("value"), [None, None], None),
        (Mean("value", 2), [Decimal("0.01"), Decimal("0.02")], Decimal("0.02")),  # 0.015 to even
        (Mean("value", 2), [Decimal("0.02"), Decimal("0.03")], Decimal("0.02")),  # 0.025 to even
        (Mean("value", 3), [1, 1, 2], Decimal("1.333")),
        (Mean("value", 3), [1.0, None, 2], 1.5),
        (Mean("value", 0), [None], None),
        (Mean("value"), [0.1] * 3, 0.1),  # the sum, rounded before it is divided, would give 0.10000000000000002
        (Mean("value"), [1e100, 1.0, None, -1e100], 1 / 3),
        (Mean("value"), [1, Decimal("0.5")], 0.75),
        (Mean("value"), [1, 1, 2], 4 / 3),
        (Mean("value"), [None], None),
        (Min("value"), [3, None, Decimal("2.5"), 2.75], Decimal("2.5")),
        (Max("value"), ["b", "a", "c"], "c"),
        (Max("value"), [date(2026, 1, 1), date(2026, 1, 2)], date(2026, 1, 2)),
        (Max("value"), [1, "text", b"bytes"], b"bytes"),  # an order over all kinds, so that the answer is one
        (Min("value"), [time(9, tzinfo=UTC), time(10)], time(10)),
        (Min("value"), ["text", 1, b"bytes"], 1),
        (First("value"), [None, 7, 8], 7),
        (Last("value"), [7, 8, None], 8),
        (First("value"), [None], None),
        (Fold("value", set, lambda state, v: state | {v}, lambda a, b: a | b), [1, 2, 2, None], {1, 2}),
        (Fold(None, int, lambda state, record: state + len(record), lambda a, b: a + b), [1, None], 6),
        (Fold("value", lambda: None, lambda _, v: v, lambda a, b: a if b is None else b), [1], 1),
    ],
)
def test_an_aggregate_is_what_it_says_however_its_values_are_cut(aggregate: Aggregate, values: list[Any], expected: Any) -> None:
    for cuts in ([], [1], range(1, len(values))):
        result = aggregated(aggregate, values, [cut for cut in cuts if cut < len(values)])
        assert (result, type(result)) == (expected, type(expected))


numbers = st.one_of(
    st.none(),
    st.integers(-(2**80), 2**80),
    st.decimals(-(10**20), 10**20, places=5),
    st.floats(-1e200, 1e200, allow_nan=False),
)


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_sum_is_exact_and_rounded_once_in_any_order_and_cut(values: list[Any], rng: random.Random) -> None:
    present = [value for value in values if value is not None]
    exact = sum(map(Fraction, present), Fraction(0))
    for _ in range(3):
        rng.shuffle(values)
        got = aggregated(Sum("value"), values, rng.sample(range(len(values)), rng.randint(0, len(values) - 1)))
        if not present:
            assert got is None
        elif float in set(map(type, present)):
            assert got == float(exact)
            assert type(got) is float
        else:
            assert Fraction(got) == exact


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_a_mean_without_places_is_the_double_nearest_to_the_exact_one(values: list[Any], rng: random.Random) -> None:
    present = [Fraction(value) for value in values if value is not None]
    rng.shuffle(values)
    got = aggregated(Mean("value"), values, rng.sample(range(len(values)), rng.randint(0, len(values) - 1)))
    assert got == (float(sum(present) / len(present)) if present else None)


@given(st.lists(st.floats(-1e250, 1e250), max_size=8), st.randoms(use_true_random=False))
def test_equal_sums_of_floats_have_equal_states(values: list[float], rng: random.Random) -> None:
    expected = _expansion(list(values))
    rng.shuffle(values)
    assert _expansion([*_expansion(values[:3]), *_expansion(values[3:])]) == expected


def test_first_and_last_go_by_time_then_partition_then_offset() -> None:
    definition = define(aggregates={"first": First("value"), "last": Last("value")})
    bucket = Bucket(definition, {STREAM: 0, STREAM._replace(partition=1): 0})
    lanes = {p: StreamFold(definition, STREAM._replace(partition=p), 1, Opening(0, 0, NEVER)) for p in (1, 0)}
    for partition, lane in lanes.items():
        records = [(2, "a", f"{partition} middle"), (1, "a", f"{partition} first"), (3, "a", "x"), (3, "a", f"{partition} last")]
        one = batch(records)
        (piece,) = lane.fold(Batch(STREAM._replace(partition=partition), "lane", 0, 4, one.messages, records, range(4)))
        bucket.fold(piece)
    for lane in lanes.values():
        bucket.mark(lane.mark(ended=True))
    ((*_, first, last, _),) = bucket.emission().rows.tuples()
    assert (first, last) == ("0 first", "1 last")


def test_a_merge_that_changes_its_state_leaves_overlapping_windows_apart() -> None:
    def add(state: list[int], value: int) -> list[int]:
        state.append(value)
        return state

    def merge(state: list[int], other: list[int]) -> list[int]:
        state.extend(other)
        return state

    definition = define(kind=Hopping(20, 10), aggregates={"all": Fold("value", list, add, merge)})
    emission = run(definition, batch([(5, "a", 1), (15, "a", 2)]), batch([(16, "a", 3)], 2))
    assert {row[1] // SECOND: row[3] for row in emission.rows.tuples()} == {10: [1], 20: [1, 2, 3], 30: [2, 3]}


# -- records, times, keys ---------------------------------------------------------------------------------


class Struct(msgspec.Struct):
    time: Any
    key: Any
    value: Any = 1


@dataclass
class Data:
    time: Any
    key: Any
    value: Any = 1


@pytest.mark.parametrize("make", [Struct, Data, lambda time, key: {"time": time, "key": key}, lambda time, key: (time, key, 1)])
@pytest.mark.parametrize(
    "time",
    [
        1_767_225_600,
        1_767_225_600.0,
        Decimal("1767225600.0"),
        DAY,
        DAY.replace(tzinfo=None),
        DAY.astimezone(timezone(timedelta(hours=9))),
    ],
)
def test_a_record_of_any_type_with_a_time_of_any_type_finds_its_window(make: Any, time: Any) -> None:
    (row,) = run(define(), batch([make(time, "a")])).rows.tuples()
    assert row == (1_767_225_600 * SECOND, 1_767_225_660 * SECOND, "a", 1, 0)


def test_records_of_several_types_stand_in_one_batch() -> None:
    (row,) = run(define(), batch([Struct(1, "a"), Data(1, "a"), {"time": 1, "key": "a"}, (1, "a", 0)])).rows.tuples()
    assert row[3] == 4


def test_times_before_1970_have_windows_too() -> None:
    (row,) = run(define(), batch([(-1, "a", 0)])).rows.tuples()
    assert row[:2] == (-60 * SECOND, 0)


def test_the_message_s_timestamp_can_be_the_time() -> None:
    emission = run(define(time=MESSAGE_TIME), batch([(0, "a", 0), (0, "b", 0)], stamps=[61_500, -1]))
    assert [row[0] for row in emission.rows.tuples()] == [60 * SECOND]
    assert [letter.reason for letter in emission.rejects] == [
        "the message's timestamp: no time in seconds since 1970, or out of range"
    ]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ((None, "a", 1), "time: null"),
        (("yesterday", "a", 1), "time: no time"),
        ((True, "a", 1), "time: no time"),
        ((math.nan, "a", 1), "time: no time"),
        ((1_767_225_600_000, "a", 1), "time: no time in seconds since 1970, or out of range"),
        ((10**400, "a", 1), "time: no time"),
        ((1, None, 1), "key: null"),
        ((1, 1.5, 1), "key: a float can't be a key"),
        ((1, ["a"], 1), "key: a list can't be a key"),
        ((1, "\ud800", 1), "key: text that is no Unicode"),
        ((1, Decimal("NaN"), 1), "key: not finite"),
        ((1, "a", "7"), "value: a str is no number"),
        ((1, "a", True), "value: a bool is no number"),
        ((1, "a", math.inf), "value: a number of too many digits, or not finite"),
        ((1, "a", Decimal("sNaN")), "value: not finite"),
        ((1, "a", Decimal("1E+60")), "value: a number of too many digits"),
        ((1, "a", Decimal("1E-200")), "value: a number of too many digits"),
        ((1, "a", 10**60), "value: a number of too many digits"),
        ((1, "a"), "value is missing"),
    ],
)
def test_what_is_wrong_with_a_record_rejects_it_alone_wherever_it_stands(record: Any, says: str) -> None:
    good = [(1, "a", 1), (2, "a", 2)]
    definition = define(aggregates={"sum": Sum("value")})
    for place in range(3):
        emission = run(definition, batch([*good[:place], record, *good[place:]]))
        ((*_, total, _),) = emission.rows.tuples()
        assert total == 3
        (letter,) = emission.rejects
        assert letter.reason.startswith(says)
        assert (letter.offset, letter.stage, letter.value, letter.key) == (place, "windows", b"%d" % place, b"k")


def test_a_record_that_is_refused_does_not_move_the_watermark() -> None:
    def refuse(state: int, value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return state + value

    definition = define(aggregates={"sum": Fold("value", int, refuse, int.__add__)})
    records = [(1, "a", 1), (500, "a", -1), (2, "a", 2), (501, "b", -1), (3, "a", 4)]
    for cut in range(1, len(records)):
        emission = run(definition, batch(records[:cut]), batch(records[cut:], cut))
        assert [row[3] for row in emission.rows.tuples()] == [7]
        assert [(letter.offset, letter.reason) for letter in sorted(emission.rejects)] == [(1, "negative"), (3, "negative")]
        assert not emission.late


def test_rejects_of_earlier_steps_and_tombstones_come_along_in_order() -> None:
    records = [(1, "a", 1), (None, "a", 1), (2, "a", 1)]
    one = batch(records, at=[1, 3, 3], rejects=[Reject(2, "parse", "no JSON", 0)], deletes=[Delete(0, b"k")])
    messages = Columns(range(4), [b"k"] * 4, [b""] * 4, [-1] * 4, [()] * 4)
    emission = run(define(), Batch(STREAM, "lane", 0, 4, messages, one.records, one.at, one.rejects, one.deletes))
    assert [(r.offset, r.row, r.stage) for r in emission.rejects] == [(0, 0, "windows"), (2, 0, "parse"), (3, 0, "windows")]
    assert emission.rows.columns[3] == [2]


def test_a_time_far_ahead_of_its_message_is_rejected_and_closes_nothing() -> None:
    records = [(100, "a", 1), (100 + 3_601, "a", 1), (100 + 3_600, "b", 1), (101, "a", 1)]
    emission = run(define(), batch(records, stamps=[100_000] * 4))
    assert [(letter.offset, letter.reason) for letter in emission.rejects] == [(1, "its time is 3,601 s ahead of its message")]
    assert [(late.key, late.letter.offset) for late in emission.late] == [("a", 3)], "a good record an hour ahead does move it"


def test_the_clock_limits_times_where_the_message_s_timestamp_is_missing_or_as_far_ahead() -> None:
    records = [(9_000, "a", 1), (9_000, "a", 1), (9_000, "a", 1)]
    one = batch(records, stamps=[-1, 9_000_000, 8_000_000])
    judged = run(define(), one, clock_us=lambda: 5_000 * SECOND)
    assert [letter.offset for letter in judged.rejects] == [0, 1]
    assert not run(define(), one).rejects, "without a clock, and a timestamp to believe, nothing is known to be ahead"


def test_a_sum_s_type_and_digits_are_those_of_its_own_values_whatever_other_keys_have() -> None:
    records = [(1, "a", 2**53 + 1), (1, "b", 2), (1, "a", 2), (1, "b", 0.5), (1, "c", Decimal("-0.0"))]
    for size in (1, 2, 3, 5):
        batches = [batch(records[first : first + size], first) for first in range(0, len(records), size)]
        rows = run(define(aggregates={"sum": Sum("value")}), *batches).rows
        sums = {row[2]: row[3] for row in rows.tuples()}
        assert {key: repr(total) for key, total in sums.items()} == {"a": repr(2**53 + 3), "b": "2.5", "c": "Decimal('0.0')"}


def test_live_sums_are_exact_beyond_28_digits() -> None:
    values = Decimal("12345678901234.123456789012345678"), Decimal("0.000000000000000001")
    live = Live(define(aggregates={"sum": Sum("value"), "largest": Max("value")}))
    rows, *_ = live.fold(batch([(1, "a", value) for value in values]))
    assert [row[2:5] for row in rows.tuples()] == [("a", Decimal("12345678901234.123456789012345679"), values[0])]


def test_a_fold_that_refuses_half_of_a_batch_is_called_a_few_times_for_each_record() -> None:
    calls = 0

    def add(state: list[int], value: int) -> list[int]:
        nonlocal calls
        calls += 1
        state.append(value)  # what was half done is not kept
        if value % 2:
            raise ValueError("odd")
        return state

    def never(state: int, value: int) -> int:
        if value % 3 == 0:
            raise ValueError("in threes")
        return state

    folds = {"even": Fold("value", list, add, lambda a, b: a + b), "no": Fold("value", int, never, lambda a, b: a + b)}
    emission = run(define(aggregates=folds), batch([(1, "a", n) for n in range(1_000)]))
    assert calls <= 3_000
    assert [(letter.offset, letter.reason) for letter in emission.rejects] == [
        (n, "odd" if n % 2 else "in threes") for n in range(1_000) if n % 2 or n % 3 == 0
    ]
    assert [row[3] for row in emission.rows.tuples()] == [[n for n in range(1_000) if n % 2 == 0 and n % 3]]


def test_a_type_without_the_fields_stops_with_what_it_has() -> None:
    with pytest.raises(ConfigError, match="records of type Struct have no customer") as caught:
        run(define(by=("customer",), fields=None), batch([Struct(1, "a")]))
    assert "key, time, value" in caught.value.hint
    with pytest.raises(ConfigError, match="tuples have no names"):
        run(define(fields=None), batch([(1, "a", 1)]))


NOT_A_TIME, DIGITS, INFINITE = "time: no time in seconds since 1970, or out of range", "a number of too many digits", "not finite"
LONG = Decimal("1." + "1" * 500)


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        ((1e305, "b", 1), NOT_A_TIME),
        ((math.nan, "b", 1), NOT_A_TIME),
        ((LONG, "b", 1), NOT_A_TIME),
        ((Decimal("1e-1000500"), "b", 1), NOT_A_TIME),
        ((Decimal("1e1000"), "b", 1), NOT_A_TIME),
        ((Decimal("sNaN"), "b", 1), NOT_A_TIME),
        ((10**5_000, "b", 1), NOT_A_TIME),
        ((1, Decimal("sNaN"), 1), f"key: {INFINITE}"),
        ((1, LONG, 1), f"key: {DIGITS}"),
        ((1, Decimal("1e-1000500"), 1), f"key: {DIGITS}"),
        ((1, Decimal("1e400"), 1), f"key: {DIGITS}"),
        ((1, 10**5_000, 1), f"key: {DIGITS}"),
        ((1, -(10**309), 1), f"key: {DIGITS}"),
        ((1, datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), 1), "key: out of range in UTC"),
        ((1, "b", Decimal("sNaN")), f"value: {INFINITE}"),
        ((1, "b", math.nan), f"value: {INFINITE}"),
        ((1, "b", -math.inf), f"value: {INFINITE}"),
        ((1, "b", LONG), f"value: {DIGITS}"),
        ((1, "b", 10**5_000), f"value: {DIGITS}"),
        ((1, "b", datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))), "value: out of range in UTC"),
    ],
)
def test_a_poisonous_value_rejects_its_record_whatever_stands_beside_it(poison: tuple[Any, ...], reason: str) -> None:
    definition = define(aggregates={"n": Count(), "largest": Max("value")})
    number = int, float, Decimal
    # Beside a record of other types, and beside one of the same.
    alike = tuple(type(one)(1) if isinstance(one, number) else 1 if isinstance(one, datetime) else one for one in poison)
    for records in ([poison], [(1, "a", 1), poison], [poison, alike]):
        emission = run(definition, batch(records))
        assert [letter.reason for letter in emission.rejects] == [reason]
        assert sum(row[3] for row in emission.rows.tuples()) == len(records) - 1


@pytest.mark.parametrize("least", [-(2**70), 10**300, Decimal("1e300"), Decimal("1e-300"), Decimal("1." + "1" * 300)])
def test_long_numbers_are_kept_and_compared(least: Any) -> None:
    assert run(define(by=("value",)), batch([(1, "a", least)])).rows.columns[2] == [least]
    assert aggregated(Max("value"), [least, None]) == least


def test_moments_in_a_zone_are_moments_in_utc_as_keys_and_as_values() -> None:
    earlier, later = (datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1))
    utc = [moment.astimezone(UTC) for moment in (earlier, later)]
    definition = define(by=("value",), aggregates={"n": Count(), "last": Max("value")})
    records = [(1, "a", earlier), (1, "a", later), (1, "a", later), (1, "a", utc[0])]
    for batches in ([batch(records)], [batch([record], n) for n, record in enumerate(records)]):
        rows = run(definition, *batches).rows
        assert sorted(row[2:5] for row in rows.tuples()) == [(utc[0], 2, utc[0]), (utc[1], 2, utc[1])]
    assert aggregated(Max("value"), [later, earlier]) == aggregated(Max("value"), [earlier, later], [1]) == utc[1]


def test_keys_of_several_fields_none_and_nulls() -> None:
    records = [(1, "a", 1), (1, "a", None), (1, "b", 1), (1, "a", None)]
    rows = run(define(by=("key", "value"), null_keys="group"), batch(records)).rows
    assert rows.names == ("window_start", "window_end", "key", "value", "n", "revision")
    assert sorted(map(str, (row[2:] for row in rows.tuples()))) == ["('a', 1, 1, 0)", "('a', None, 2, 0)", "('b', 1, 1, 0)"]
    assert [row[2:] for row in run(define(by=()), batch(records)).rows.tuples()] == [(4, 0)]
    assert len(run(define(by=("key", "value")), batch(records)).rejects) == 2


def test_what_stands_for_a_null_is_the_key_of_the_record() -> None:
    stands = define(null_keys={"key": ""}, aggregates={"n": Count(), "named": Count("key")})
    records = [(1, None, 1), (1, "", 1), (1, "a", 1), (1, None, 1)]
    emission = run(stands, batch(records[:2]), batch(records[2:], 2))
    assert sorted(row[2:] for row in emission.rows.tuples()) == [("", 3, 1, 0), ("a", 1, 1, 0)], "the field itself is null"
    assert not emission.rejects
    pairs = define(by=("key", "value"), null_keys={"value": 0})
    emission = run(pairs, batch([(1, "a", None), (1, "a", 0), (1, None, 1)]))
    assert [row[2:] for row in emission.rows.tuples()] == [("a", 0, 2, 0)]
    assert [letter.reason for letter in emission.rejects] == ["key: null"]
    assert pairs.text.endswith("null_keys={'value': 0}")
    assert "null_keys" not in define(null_keys="group").text


def test_a_decimal_of_many_digits_has_its_bucket_in_every_context() -> None:
    keys = [Decimal(f"0.{n * 7919 + 10**29:030}") for n in range(1, 30)]
    with localcontext(EXACT):  # as in a lane
        buckets = buckets_of(keys, 1, 997)
    assert buckets_of(keys, 1, 997) == buckets


def test_equal_keys_are_in_one_bucket_and_that_of_a_text_is_that_of_its_bytes() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for equal in (
        [1, True, Decimal("1.0"), Decimal("1.00"), Decimal("1.000")],
        [Decimal("1.5"), Decimal("1.50")],
        [1_000, Decimal("1E+3")],
        [moment, moment.astimezone(timezone(timedelta(hours=5)))],
    ):
        assert len(set(equal)) == 1
        alone = [buckets_of([key], 1, 997)[0] for key in equal]
        pairs = buckets_of([(key, "x") for key in equal], 2, 997)
        assert len(set(alone)) == len(set(pairs)) == 1
    assert buckets_of(["ä", "b"], 1, 997) == buckets_of(["ä".encode(), b"b"], 1, 997)
    assert buckets_of(["customer-1"], 1, 8) == [5], "pinned: state depends on it"
    assert len(set(buckets_of([UUID(int=n) for n in range(99)], 1, 8))) == 8


# -- lanes and buckets ------------------------------------------------------------------------------------


def test_late_records_of_one_message_have_letters_of_their_own_in_all_buckets_and_windows() -> None:
    lane = StreamFold(define(kind=Hopping(20, 10), lateness_s=0), STREAM, 4, Opening(0, 0, NEVER))
    records = [(100, "a", 1), *((1, key, 1) for key in "abcdefgh"), (2, "a", 1)]
    pieces = lane.fold(batch(records, at=[0, *[1] * 8, 2]))
    assert all(piece.late for piece in pieces)
    letters = [late.letter for piece in pieces for late in piece.late]
    assert len(letters) == len({(letter.offset, letter.row) for letter in letters}) == 18
    assert sorted(letter.row for letter in letters if letter.offset == 1) == [1_000_000 + n for n in range(16)]


def test_rows_rejected_by_an_earlier_step_and_by_the_windows_have_letters_of_their_own() -> None:
    # Of three rows of a message an earlier step refused the first, so that here the second looks like the first.
    one = batch([(1, None, 1), (1, "a", 1)], at=[0, 0], rejects=[Reject(0, "check", "bad item", 0)])
    letters = run(define(), one).rejects
    assert [(letter.offset, letter.row, letter.stage) for letter in letters] == [(0, 0, "check"), (0, 1, "windows")]


def test_late_records_bring_their_window_their_message_and_how_late() -> None:
    emission = run(define(kind=Hopping(20, 10)), batch([(100, "a", 1), (80, "a", 2), (96, "a", 3)]))
    assert [(late.start_us // SECOND, late.end_us // SECOND, late.time_us // SECOND, late.key) for late in emission.late] == [
        (70, 90, 80, "a")
    ]
    letter = emission.late[0].letter
    assert (letter.offset, letter.stage, letter.value, letter.headers) == (1, "windows", b"1", (("h", b"1"),))
    assert letter.reason == "late: its time is 15.000 s behind the partition's watermark"
    assert {row[1] // SECOND: row[3] for row in emission.rows.tuples()} == {100: 2, 110: 2, 120: 1}


def test_a_correction_is_one_row_more_when_the_grace_ends_or_at_once_if_eager() -> None:
    records = [(10, "a", 1), (70, "b", 1), (11, "a", 1), (12, "a", 1), (200, "b", 1)]
    for corrections, revisions in (("at_end", [(0, 1), (1, 3)]), ("eager", [(0, 1), (1, 2), (2, 3)])):
        definition = define(grace_s=60, corrections=corrections)
        emission = run(definition, *(batch([record], n) for n, record in enumerate(records)))
        rows = [(row[4], row[3]) for row in emission.rows.tuples() if row[2] == "a"]
        assert sorted(rows) == revisions


def test_a_key_that_only_came_within_the_grace_begins_with_revision_0() -> None:
    emission = run(define(grace_s=60), batch([(10, "a", 1), (70, "b", 1), (11, "c", 1)]))
    assert sorted(row[2:] for row in emission.rows.tuples()) == [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]


def test_a_lane_and_a_bucket_refuse_a_gap() -> None:
    definition = define()
    lane, bucket = StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER)), Bucket(definition, {STREAM: 0})
    with pytest.raises(OffsetGap):
        lane.fold(batch([(1, "a", 1)], 5))
    (first,) = lane.fold(batch([(1, "a", 1)]))
    (second,) = lane.fold(batch([(1, "a", 1)], 1))
    with pytest.raises(OffsetGap):
        bucket.fold(second)
    with pytest.raises(OffsetGap):
        bucket.mark(lane.mark(ended=True))
    assert bucket.fold(first)
    assert bucket.fold(second)
    assert not bucket.fold(first), "taken in before"
    with pytest.raises(OffsetGap, match="new here"):
        Bucket(definition, {}).fold(second)


def test_every_bucket_gets_a_piece_of_every_batch() -> None:
    lane = StreamFold(define(), STREAM, 4, Opening(0, 0, NEVER))
    pieces = lane.fold(batch([(61, "a", 1)]))
    assert [(p.offset_first, p.offset_next, p.watermark_next) for p in pieces] == [(0, 1, 56 * SECOND)] * 4
    assert sum(len(p.groups) for p in pieces) == 1
    assert [p.offset_next for p in lane.fold(Batch(STREAM, "lane", 1, 9, Columns((), (), (), (), ()), (), range(0)))] == [9] * 4


def test_lanes_begin_at_the_lowest_position_with_the_watermark_there() -> None:
    a, b, c = STREAM, STREAM._replace(partition=1), STREAM._replace(partition=2)
    held = [{a: Held(3, 10, 7), b: Held(0, 5, 2)}, {a: Held(3, 20, 9), b: Held(0, 5, 2)}, {a: Held(3, 15, 8)}]
    assert openings(held) == {a: Opening(3, 10, 7, (15, 20)), b: Opening(0, 0, NEVER, (5,))}
    assert c not in openings(held)


@pytest.mark.parametrize(("kind", "closes_s"), [(Tumbling(60), 120), (Hopping(60, 20), 120), (Session(30), 94)])
def test_once_all_partitions_are_idle_the_clock_closes_what_is_open_and_nothing_else(kind: Any, closes_s: int) -> None:
    definition, other = define(kind=kind, idle_after_s=7), STREAM._replace(partition=1)
    bucket, lanes = (
        Bucket(definition, {STREAM: 0, other: 0}),
        {s: StreamFold(definition, s, 1, Opening(0, 0, NEVER)) for s in (STREAM, other)},
    )
    bucket.fold(*lanes[STREAM].fold(batch([(1, "a", 1), (64, "a", 1)])))
    closed = bucket.closed_to

    def idle(stream: Stream, now_s: float, idle_s: float = 7) -> None:
        mark = lanes[stream].mark_of(marked(stream, "lane", lanes[stream].offset, "idle", idle_s), round(now_s * SECOND))
        assert (mark is None) == (idle_s < 7)
        if mark is not None:
            bucket.mark(mark)

    idle(STREAM, 10_000)
    idle(STREAM, 10_000, idle_s=6.9)
    assert bucket.closed_to == closed, "the other one is waited for"
    idle(other, 80)
    assert bucket.closed_to == (80 - 7 - 5) * SECOND
    idle(other, closes_s + 7 + 5 - 0.001)
    assert bucket.open_entries > 0, "not yet"
    idle(other, closes_s + 7 + 5)
    assert bucket.open_entries == 0
    idle(other, 10_000)
    assert bucket.closed_to == closes_s * SECOND, "of what may come the clock says nothing"
    assert sum(row[3] for row in bucket.emission().rows.tuples()) == 2 * (3 if isinstance(kind, Hopping) else 1)
    # What comes later for what was closed is late, and what comes for later windows is not.
    one = batch([(70 if isinstance(kind, Session) else 65, "a", 1), (150, "a", 1)])
    bucket.fold(*lanes[other].fold(Batch(other, "lane", 0, 2, one.messages, one.records, one.at)))
    assert [len(entries.rows) for entries in bucket.emission().late_entries] == [1] * (3 if isinstance(kind, Hopping) else 1)
    assert bucket.open_entries > 0


def test_without_idle_after_s_nothing_is_idle_whatever_other_windows_of_the_flow_ask_for() -> None:
    lane = StreamFold(define(), STREAM, 1, Opening(0, 0, NEVER))
    assert lane.mark_of(marked(STREAM, "lane", 0, "idle", 1e9), 10**18) is None
    assert lane.mark_of(marked(STREAM, "lane", 0, "end"), 0) == Mark(STREAM, 0, 0, True)


def test_an_idle_partition_is_not_waited_for_until_its_next_batch() -> None:
    definition = define()
    other = STREAM._replace(partition=1)
    bucket = Bucket(definition, {STREAM: 0, other: 0})
    lane, idle = (
        StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER)),
        StreamFold(definition, other, 1, Opening(0, 0, NEVER)),
    )
    bucket.fold(*lane.fold(batch([(1, "a", 1), (66, "a", 1)])))
    assert not bucket.emission().rows
    bucket.mark(idle.mark(ended=False))
    assert list(bucket.emission().rows.tuples()) == [(0, 60 * SECOND, "a", 1, 0)]
    one = batch([(2, "a", 1), (3, "a", 1), (70, "b", 1)])
    bucket.fold(*idle.fold(Batch(other, "lane", 0, 3, one.messages, one.records, one.at)))
    emission = bucket.emission()
    assert not emission.rows
    assert [(entries.stream, list(entries.rows.tuples())) for entries in emission.late_entries] == [
        (other, [(0, 60 * SECOND, "a", 2, 0)])
    ]


def test_a_bounded_run_that_ended_goes_on_some_day() -> None:
    definition = define()
    lane, bucket = StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER)), Bucket(definition, {STREAM: 0})
    bucket.fold(*lane.fold(batch([(1, "a", 1)])))
    bucket.mark(lane.mark(ended=True))
    assert len(bucket.emission().rows) == 1
    bucket.fold(*lane.fold(batch([(100, "a", 1), (2, "b", 1)], 1)))
    bucket.mark(lane.mark(ended=True))
    emission = bucket.emission()
    assert list(emission.rows.tuples()) == [(60 * SECOND, 120 * SECOND, "a", 1, 0)]
    assert len(emission.late) + len(emission.late_entries) == 1


def fed(bucket: Bucket, definition: Windows, stream: Stream, records: Sequence[Any]) -> StreamFold:
    """Records of a stream from its start, taken in by the bucket; the lane that read them."""
    lane, one = StreamFold(definition, stream, 1, Opening(0, 0, NEVER)), batch(records)
    bucket.fold(*lane.fold(Batch(stream, "lane", 0, len(records), one.messages, records, one.at)))
    return lane


def test_streams_that_are_no_longer_read_hold_no_window_open() -> None:
    definition, new = define(), STREAM._replace(source_id="made anew")
    before = Bucket(definition, {STREAM: 0})
    fed(before, definition, STREAM, [(1, "a", 1)])
    bucket = Bucket.load(definition, before.pack(), [new])
    lane = fed(bucket, definition, new, [(61, "b", 1), (130, "b", 1)])
    assert [row[2:4] for row in bucket.emission().rows.tuples()] == [("a", 1), ("b", 1)]
    bucket.mark(lane.mark(ended=True))
    assert [row[2:4] for row in bucket.emission().rows.tuples()] == [("b", 1)], (
        "the end of a bounded run, too, is that of what is read"
    )
    assert bucket.held[STREAM].offset_next == 1, "its position stays"


def test_of_a_topic_that_is_new_every_partition_is_waited_for_over_restarts() -> None:
    definition = define()
    first, second = (Stream("flow", "another", "id", number) for number in (0, 1))
    bucket = Bucket.load(definition, Bucket(definition, {STREAM: 0}).pack(), [first, second])
    fed(bucket, definition, first, [(1, "a", 1), (100, "a", 1)])
    assert not bucket.emission().rows
    bucket = Bucket.load(definition, bucket.pack(), [first, second])
    other = fed(bucket, definition, second, [(2, "a", 1)])
    assert not bucket.emission().rows
    bucket.mark(other.mark(ended=False))
    assert [row[2:4] for row in bucket.emission().rows.tuples()] == [("a", 2)]


def test_a_partition_added_to_a_known_topic_counts_from_its_first_record_on() -> None:
    definition, added = define(), STREAM._replace(partition=1)
    bucket = Bucket.load(definition, Bucket(definition, {STREAM: 0}).pack(), [STREAM, added])
    fed(bucket, definition, STREAM, [(1, "a", 1), (66, "a", 1)])
    assert len(bucket.emission().rows) == 1
    fed(bucket, definition, added, [(70, "a", 1)])
    (piece,) = StreamFold(definition, STREAM, 1, Opening(0, 2, 61 * SECOND)).fold(batch([(200, "a", 1)], 2))
    bucket.fold(piece)
    assert not bucket.emission().rows


@pytest.mark.parametrize(("kind", "grace_s"), [(Tumbling(60), 0), (Tumbling(60), 40), (Hopping(60, 20), 0), (Session(30), 0)])
def test_at_the_end_of_a_bounded_run_each_bucket_closes_to_the_end_of_the_topic(kind: Any, grace_s: float) -> None:
    definition = define(kind=kind, grace_s=grace_s)
    lane, buckets = (
        StreamFold(definition, STREAM, 8, Opening(0, 0, NEVER)),
        [Bucket(definition, {STREAM: 0}) for _ in range(8)],
    )
    for bucket, piece in zip(buckets, lane.fold(batch([(1, "a", 1), (2, "b", 1), (61, "a", 1)])), strict=True):
        bucket.fold(piece)
        bucket.mark(lane.mark(ended=True))
        assert not bucket.open_entries
    (closed_to,) = {bucket.closed_to for bucket in buckets}
    assert closed_to == (91 if isinstance(kind, Session) else 120 + grace_s) * SECOND


def test_an_added_partition_of_which_nothing_was_taken_in_may_begin_behind_what_the_log_lost() -> None:
    definition, added = define(), STREAM._replace(partition=1)
    bucket = Bucket(definition, {STREAM: 0})
    bucket.jump(added, 50, 9 * SECOND)
    bucket = Bucket.load(definition, bucket.pack(), [STREAM, added])
    assert openings([bucket.held])[added] == Opening(50, 50, NEVER, (), 9 * SECOND)
    one = batch([(1, "a", 1)], 50)
    (piece,) = StreamFold(definition, added, 1, Opening(50, 50, NEVER)).fold(
        Batch(added, "lane", 50, 51, one.messages, one.records, one.at)
    )
    assert bucket.fold(piece)


def test_a_bucket_whose_place_is_in_the_log_does_not_jump() -> None:
    definition, added = define(), STREAM._replace(partition=1)
    ahead, behind, new = Bucket(definition, {STREAM: 0}), Bucket(definition, {STREAM: 0}), Bucket(definition, {})
    ahead.jump(STREAM, 120, 8)
    for bucket in (ahead, behind, new):  # the log begins at 100
        bucket.jump(STREAM, 100, 9, offset_start=0, stood_at=0)
        bucket.jump(added, 7, 9, offset_start=5, stood_at=5)
    assert [bucket.held[STREAM] for bucket in (ahead, behind, new)] == [
        Held(0, at, NEVER, place) for at, place in ((120, 8), (100, 9), (100, 9))
    ]
    assert [bucket.held[added] for bucket in (ahead, behind, new)] == [Held(5, 7, NEVER, 9)] * 3


def test_windows_in_memory_read_what_this_run_reads_of_each_topic() -> None:
    old, new, other = STREAM, STREAM._replace(source_id="made anew"), Stream("flow", "other", "another id", 0)
    target = MemoryWindows(define())
    target.bind("flow", "totals")
    for stream in (old, other, new):
        target.begin([Start(stream, 0, None)])
    assert target.read_streams().keys() == {new, other}
    assert {position.stream for position in target.positions()} == {old, new, other}, "positions stay"


def test_under_a_longer_grace_a_window_that_was_forgotten_is_not_written_again() -> None:
    old, new = define(), define(grace_s=1_000)
    bucket = Bucket(old, {STREAM: 0})
    fed(bucket, old, STREAM, [(5, "a", 1), (200, "a", 1)])
    assert len(bucket.emission().rows) == 1
    for _ in range(2):  # it is remembered
        bucket = Bucket.load(new, bucket.pack())
    held = bucket.held[STREAM]
    lane = StreamFold(new, STREAM, 1, Opening(0, held.offset_next, held.watermark))
    bucket.fold(*lane.fold(batch([(6, "a", 1), (1_000, "a", 1), (130, "a", 1), (2_500, "a", 1)], held.offset_next)))
    emission = bucket.emission()
    assert [(row[0] // SECOND, row[-1]) for row in emission.rows.tuples()] == [(180, 0), (960, 0)]
    late = sorted(row[0] // SECOND for entries in emission.late_entries for row in entries.rows.tuples())
    assert late == [0, 120], "windows that had ended, whether anything was written of them or not"


# -- packing ----------------------------------------------------------------------------------------------

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.datetimes().map(lambda one: one.replace(fold=0)),
    st.datetimes(timezones=st.just(UTC)).map(lambda one: one.replace(fold=0)),
    st.uuids(),
)
nested = st.recursive(
    values,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(values, inner, max_size=3)),
)


@given(
    st.one_of(
        st.lists(nested, max_size=6),
        st.lists(st.tuples(st.integers(), st.one_of(st.none(), st.decimals(allow_nan=False))), max_size=6),
        st.lists(st.one_of(st.none(), st.decimals(allow_nan=False)), max_size=6),
        st.lists(st.integers(-(2**65), 2**65), max_size=6),
    )
)
@settings(max_examples=200)
def test_a_column_comes_back_as_it_was(column: list[Any]) -> None:
    again = unpack_column(decode(decompress(compress(encode(pack_column(column))))))
    assert repr(again) == repr(column)


def test_a_state_that_can_not_be_kept_is_named() -> None:
    for kind in (Tumbling(60), Session(60)):
        for value, says in ((1j, "a fold's state holds a complex"), ("\ud800", "UnicodeEncodeError"), (10**5_000, "ValueError")):
            fold = Fold("value", lambda: None, lambda _, value: value, lambda _, value: value)
            with pytest.raises(ConfigError, match=f"aggregate odd can't be kept: {says}") as caught:
                run(define(kind=kind, aggregates={"n": Count(), "odd": fold}), batch([(1, "a", value)]))
            assert "lone surrogates" in caught.value.hint


def test_a_merge_that_raises_is_named() -> None:
    def merge(a: list[Any], b: list[Any]) -> list[Any]:
        if len(a) + len(b) > 1:
            raise ValueError("too many")
        return a + b

    for kind in (Tumbling(60), Session(60)):
        aggregates = {"n": Count(), "all": Fold("value", list, lambda state, value: [*state, value], merge)}
        with pytest.raises(
            ConfigError, match=r"aggregate all raised ValueError: too many \(test_windows\.py:\d+ in merge\)\."
        ) as caught:
            run(define(kind=kind, aggregates=aggregates), batch([(1, "a", 1)]), batch([(1, "a", 1)], 1))
        assert isinstance(caught.value.__cause__, ValueError)


def test_a_state_of_another_definition_or_version_is_refused() -> None:
    state = Bucket(define(), {STREAM: 0}).pack()
    with pytest.raises(ConfigError, match="another definition") as caught:
        Bucket.load(define(kind=Tumbling(30)), state)
    assert "length_s=60" in str(caught.value)
    assert "length_s=30" in str(caught.value)
    with pytest.raises(DataError, match="version 9"):
        Bucket.load(define(), b"\x09" + state[1:])
    with pytest.raises(DataError, match="is missing") as missing:
        Bucket.load(define(), b"")
    assert "waxwing step drop" in missing.value.hint
    assert Bucket.positions(state) == {STREAM: Held(0, 0, NEVER)}


def test_a_state_of_the_release_before_goes_on() -> None:
    definition, middle = define(), STREAM._replace(partition=1)
    bucket = Bucket(definition, {STREAM: 0, middle: 7})
    fed(bucket, definition, STREAM, [(5, "a", 1)])
    state = bucket.pack()
    size = int.from_bytes(state[5:9])
    text, closed_to, held, awaited, *_ = decode(state[9 : 9 + size])
    head = encode([text, closed_to, [row[:-1] for row in held], awaited])
    head_crc = zlib.crc32(head, 2)
    body = state[9 + size + 4 :]
    old = bytes([2]) + head_crc.to_bytes(4) + len(head).to_bytes(4) + head + zlib.crc32(body, head_crc).to_bytes(4) + body
    again = Bucket.load(definition, old)
    assert again.held == {STREAM: Held(0, 1, 0), middle: Held(7, 7, NEVER)}, "where it began in the middle nobody knows any more"
    assert (again.bad_runs, again.open_entries, again.place) == (None, 1, NEVER)
    assert Bucket.load(definition, again.pack()).bad_runs == {}


def test_a_partition_is_idle_until_it_brings_a_message_be_it_one_that_is_read_again() -> None:
    definition, other = define(lateness_s=0), STREAM._replace(partition=1)
    bucket, lane = Bucket(definition, {STREAM: 0, other: 0}), StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER))
    again = lane.fold(batch([(1, "a", 1), (2, "a", 1)]))
    bucket.fold(*again)
    bucket.mark(Mark(STREAM, 0, 1, ended=False))  # where a lane stood that reads it again
    bucket.fold(*again)
    fed(bucket, definition, other, [(70, "b", 1)])
    assert bucket.closed_to == 2 * SECOND, "it is waited for"
    bucket.mark(lane.mark(ended=False))
    assert bucket.closed_to == 70 * SECOND
    bucket.fold(*lane.fold(replace(batch([], 2), offset_next=5)))  # a marker of a transaction, no record
    later = StreamFold(definition, other, 1, Opening(0, 1, 70 * SECOND))
    records = batch([(130, "b", 1)], 1)
    bucket.fold(*later.fold(replace(records, stream=other)))
    assert bucket.closed_to == 130 * SECOND, "it is still idle"
    assert bucket.held[STREAM].offset_next == 5


def test_a_bucket_keeps_the_last_token_at_or_below_where_it_stands() -> None:
    definition = define()
    bucket, lane = Bucket(definition, {STREAM: 0}), StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER))
    pieces = [
        *lane.fold(batch([(1, "a", 1), (2, "a", 1)], token=b"two")),
        *lane.fold(batch([(3, "a", 1)], 2)),
        *lane.fold(batch([], 3, token=b"three")),  # a quiet source
        *lane.fold(batch([], 3, token=b"three, later")),
    ]
    seen = []
    for piece in pieces:
        bucket.fold(piece)
        held = bucket.held[STREAM]
        seen.append((held.offset_next, held.token, held.token_offset))
    assert seen == [(2, b"two", 2), (3, b"two", 2), (3, b"three", 3), (3, b"three, later", 3)]
    assert not bucket.fold(pieces[0]), "its place is below"
    assert bucket.held[STREAM].token == b"three, later"
    state = bucket.pack()
    assert (state[0], Bucket.load(definition, state).held) == (4, bucket.held), "the release before says that it can't read it"
    bucket.jump(STREAM, 9, 0, stood_at=3)
    assert bucket.held[STREAM][-2:] == (b"three, later", 3)
    bucket.jump(STREAM, 2, 0, stood_at=9)
    assert bucket.held[STREAM][-2:] == (None, None)
    assert bucket.pack()[0] == 3, "which the release before reads"


@pytest.mark.parametrize("size", [5, 2_000])
def test_a_damaged_state_is_refused_whatever_its_size(size: int) -> None:
    rng, definition = random.Random(size), define(aggregates={"sum": Sum("value"), "first": First("value")})
    bucket = Bucket(definition, {STREAM: 0})
    fed(bucket, definition, STREAM, [(n % 50, f"key-{n}", n) for n in range(size)])
    state = bucket.pack()
    assert Bucket.load(definition, state).open_entries == size
    cuts = {0, 1, 4, 8, 9, len(state) - 1, *(rng.randrange(len(state)) for _ in range(100))}
    damaged = [state[:cut] for cut in cuts]
    for at in {*range(20), *(rng.randrange(len(state)) for _ in range(500))}:
        damaged.append(state[:at] + bytes([state[at] ^ 1 << rng.randrange(8)]) + state[at + 1 :])
        damaged.append(state[:at] + bytes(8) + state[at + 8 :])
    for one in damaged:
        with pytest.raises(DataError, match=r"is damaged|version|is missing"):
            Bucket.load(definition, one)


def test_a_large_state_is_compressed() -> None:
    definition = define()
    bucket = Bucket(definition, {STREAM: 0})
    bucket.fold(
        *StreamFold(definition, STREAM, 1, Opening(0, 0, NEVER)).fold(batch([(1, f"customer-{n}", 1) for n in range(5_000)]))
    )
    state = bucket.pack()
    assert len(state) < 30_000
    assert Bucket.load(definition, state).open_entries == 5_000


@pytest.mark.parametrize("first", [1764201599, 1764201599.5, Decimal(1764201599), DAY])
def test_digits_of_a_time_beyond_the_microsecond_are_cut_and_open_no_other_window(first: Any) -> None:
    # The last ones are no whole microseconds, as a Decimal and as a float: they belong to the second that they began in.
    times = [first, Decimal("1764201599.9999999"), 1764201599.9999998, 1764201599.123457, Decimal("-0.0000009"), -59.9999995]
    read = _times([time for time in times if type(time) is type(first)] if type(first) is not int else times[:4])
    expected = {
        int: [1764201599_000000, 1764201599_999999, 1764201599_999999, 1764201599_123457],
        float: [1764201599_500000, 1764201599_999999, 1764201599_123457, -59_999999],
        Decimal: [1764201599_000000, 1764201599_999999, 0],
        datetime: [1767225600_000000],
    }
    assert read == expected[type(first)]
    emission = run(
        define(kind=Tumbling(1), lateness_s=0), batch([(Decimal("1764201599.9999999"), "a", 1), (1764201599.9999998, "a", 1)])
    )
    assert [(row[0], row[3]) for row in emission.rows.tuples()] == [(1764201599_000000, 2)]
