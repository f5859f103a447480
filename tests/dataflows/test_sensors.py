"""What is a reading and what is not: the decisions of dataflows/sensors_rules.py, one by one; and generated readings."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.sending import Keyed
from dataflows.sensors import RawReading, Reading, reading
from dataflows.sensors_generator import BAD, DISORDER_S, LATE_S, Ts, readings
from waxwing.batch import Batch, Columns, Stream, raw
from waxwing.operators import Message
from waxwing.operators.parse import Parser

parser = Parser(RawReading, "parse", deletes=False, value_bytes_max=1_000_000)
SENT = datetime(2026, 11, 29, 12, tzinfo=UTC)
SENT_MS = round(SENT.timestamp() * 1000)


def parsed(values: list[bytes | None], timestamp_ms: int = SENT_MS) -> Batch[RawReading]:
    size = len(values)
    columns = Columns(range(size), [None] * size, values, [timestamp_ms] * size, [()] * size)
    return parser.parsed(raw(Stream("sensors", "sensors", "id", 0), "lane-000", 0, size, columns))


def made(value: bytes | None, timestamp_ms: int = SENT_MS) -> Reading:
    """The reading of one message. Raises ValueError with the reason where it is refused."""
    batch = parsed([value], timestamp_ms)
    if batch.rejects:
        raise ValueError(batch.rejects[0].reason)
    return reading(batch.records[0], Message(batch, 0))


def a_reading(**changes: Any) -> bytes:
    """That of the README, changed. Text that begins with # is put in as it is, for numbers that Python would spoil."""
    fields = {"sensor": "Sensor 1", "measure1": 37.2, "measure2": 0.51} | changes
    inner = [
        f"{json.dumps(name)}:{v[1:] if isinstance(v, str) and v.startswith('#') else json.dumps(v)}" for name, v in fields.items()
    ]
    return f"{{{','.join(inner)}}}".encode()


def test_a_reading_without_its_time_has_that_of_its_message() -> None:
    assert made(a_reading()) == Reading("Sensor 1", SENT, 37.2, 0.51)
    assert made(a_reading(ts=None, colour="red")) == Reading("Sensor 1", SENT, 37.2, 0.51)
    assert made(a_reading(), SENT_MS + 7).ts == SENT + timedelta(milliseconds=7)


@pytest.mark.parametrize(
    ("ts", "time"),
    [
        (1_767_225_600, "2026-01-01T00:00:00Z"),
        ("#1767225600.25", "2026-01-01T00:00:00.25Z"),
        ("#1767225600.1234569", "2026-01-01T00:00:00.123456Z"),  # cut: a double would make it ...57
        ("#1.7672256e9", "2026-01-01T00:00:00Z"),
        (0, "1970-01-01T00:00:00Z"),
        ("#1e-999999999", "1970-01-01T00:00:00Z"),
        ("2026-01-01T01:00:00+02:00", "2025-12-31T23:00:00Z"),
        ("2026-01-01 00:00:00.5Z", "2026-01-01T00:00:00.5Z"),
        ("20260101T000000.1234569Z", "2026-01-01T00:00:00.123456Z"),
        ("2026-11-29T13:00:00Z", "2026-11-29T13:00:00Z"),  # an hour ahead of its message
    ],
)
def test_the_time_is_said_in_seconds_or_in_a_text_with_its_zone(ts: Any, time: str) -> None:
    assert made(a_reading(ts=ts)).ts == datetime.fromisoformat(time)


@pytest.mark.parametrize("measure", [0, -1, 37, "#-0.0", "#1e-400", "#1e280", "#-1e280", "#9007199254740993"])
def test_a_measure_is_any_number_whole_ones_too(measure: Any) -> None:
    found = made(a_reading(measure1=measure, measure2=measure))
    assert found.measure1 == found.measure2 == float(str(measure).removeprefix("#"))
    assert type(found.measure1) is float


def test_a_name_of_255_characters_of_any_script_is_taken() -> None:
    for name in ("x" * 255, "Fühler 温度 🌡", " a "):
        assert made(a_reading(sensor=name)).sensor == name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sensor": ""}, "sensor is blank: it must name the sensor"),
        ({"sensor": " \t"}, "sensor is blank: it must name the sensor"),
        ({"sensor": "x" * 256}, "sensor has 256 characters: 255 are the most"),
        ({"sensor": None}, "Expected `str`, got `null` - at `$.sensor`"),
        ({"sensor": 7}, "Expected `str`, got `int` - at `$.sensor`"),
        ({"sensor": "a\x00"}, "sensor holds U+0000"),
        ({"measure1": None}, "Expected `float`, got `null` - at `$.measure1`"),
        ({"measure1": "37.2"}, "Expected `float`, got `str` - at `$.measure1`"),
        ({"measure2": "NaN"}, "Expected `float`, got `str` - at `$.measure2`"),
        ({"measure2": True}, "Expected `float`, got `bool` - at `$.measure2`"),
        ({"measure1": "#1e400"}, "Number out of range - at `$.measure1`"),
        ({"measure1": f"#1{'0' * 400}"}, "Number out of range - at `$.measure1`"),
        ({"measure1": "#1e281"}, "measure1 is 1e+281: it must be a number within 1e280 either way"),
        ({"measure2": "#-1e300"}, "measure2 is -1e+300: it must be a number within 1e280 either way"),
        ({"ts": 1_767_225_600_000}, "ts is 1767225600000: it must be seconds since 1970, not milliseconds"),
        ({"ts": "#1e999999999"}, "ts is 1E+999999999: it must be seconds since 1970, not milliseconds"),
        ({"ts": f"#{'1' * 4_299}"}, f"ts is {'1' * 40}: it must be seconds since 1970, not milliseconds"),
        ({"ts": "#-0.001"}, "ts is -0.001: it must be seconds since 1970"),
        ({"ts": 4_102_444_800}, "ts is 2,306,491,200 s ahead of its message: 3,600 are the most"),
        ({"ts": "2026-11-29T13:00:01Z"}, "ts is 3,601 s ahead of its message: 3,600 are the most"),
        ({"ts": ""}, "ts is '': it must be ISO 8601, such as 2026-01-31T12:00:00Z"),
        ({"ts": "1767225600"}, "ts is '1767225600': it must be ISO 8601, such as 2026-01-31T12:00:00Z"),
        ({"ts": "2026-01-01T00:00:00"}, "ts is '2026-01-01T00:00:00': it needs its zone, such as 2026-01-31T12:00:00Z"),
        ({"ts": "1969-12-31T23:59:59Z"}, "ts is '1969-12-31T23:59:59Z': it must be in the years 1970 to 5138"),
        ({"ts": "9999-12-31T23:59:59-14:00"}, "ts is '9999-12-31T23:59:59-14:00': it must be in the years 1970 to 5138"),
        ({"ts": True}, "ts is a bool: it must be seconds since 1970, or a text in ISO 8601 with its zone"),
        ({"ts": [1]}, "ts is a list: it must be seconds since 1970, or a text in ISO 8601 with its zone"),
    ],
)
def test_what_is_no_reading_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole text is compared
        made(a_reading(**changes))
    assert str(refused.value) == reason


@pytest.mark.parametrize("name", ["sensor", "measure1", "measure2"])
def test_what_is_missing_is_named(name: str) -> None:
    value = json.loads(a_reading())
    del value[name]
    with pytest.raises(ValueError, match=f"missing required field `{name}`"):
        made(json.dumps(value).encode())


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_numbers_but_finite_ones(literal: str) -> None:
    with pytest.raises(ValueError, match="JSON is malformed"):
        made(a_reading(measure1=f"#{literal}"))


@pytest.mark.parametrize("timestamp_ms", [-1, 2**62])
def test_where_the_message_tells_no_time_the_reading_has_to(timestamp_ms: int) -> None:
    with pytest.raises(ValueError, match="there is no ts, nor has the message a timestamp"):
        made(a_reading(), timestamp_ms)
    assert made(a_reading(ts=4_102_444_800), timestamp_ms).ts.year == 2100


@given(st.integers(0, 99_999_999_999_000_000))
def test_every_microsecond_comes_out_as_it_went_in_however_it_is_said(time_us: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    for ts in (f"#{time_us // 1_000_000}.{time_us % 1_000_000:06}", moment.isoformat()):
        assert made(a_reading(ts=ts), -1).ts == moment


# -- generated readings ----------------------------------------------------------------------------


def generated(count: int, **more: Any) -> list[Keyed]:
    return [one for chunk in readings(count, **{"bad_ratio": 0.0, "seed": 1, **more}) for one in chunk]


@pytest.mark.parametrize("way", BAD)
def test_every_bad_reading_is_refused(way: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        made(BAD[way](123))


def test_generated_readings_are_the_same_for_the_same_seed() -> None:
    assert generated(3_000, bad_ratio=0.01, ts="mixed") == generated(3_000, bad_ratio=0.01, ts="mixed")
    assert generated(100) != generated(100, seed=2)


def test_good_generated_readings_are_good_and_spread_as_said() -> None:
    found = [(key, made(value)) for key, value in generated(5_000, sensors=7)]
    assert {key.decode() for key, _ in found} == {f"Sensor {number}" for number in range(1, 8)}
    assert all(key.decode() == one.sensor and one.ts == SENT for key, one in found)
    mean = sum(one.measure1 for _, one in found) / 5_000
    assert 36 < mean < 38
    assert 6 < (sum((one.measure1 - mean) ** 2 for _, one in found) / 5_000) ** 0.5 < 8
    assert all(0 <= one.measure2 < 1 for _, one in found)


@pytest.mark.parametrize("ts", ["seconds", "fraction", "iso", "mixed"])
def test_readings_that_tell_their_time_are_a_little_out_of_order_and_some_come_very_late(ts: Ts) -> None:
    first_s, step_s = SENT.timestamp() - 100, 0.1
    values = generated(1_000, late_ratio=0.1, ts=ts, first_s=first_s, step_s=step_s)
    behind_s = [first_s + n * step_s - made(value).ts.timestamp() for n, (_, value) in enumerate(values)]
    late = [one for one in behind_s if one >= LATE_S - 1]
    assert 50 < len(late) < 150
    assert all(-0.001 <= one < DISORDER_S + 1 for one in behind_s if one < LATE_S - 1)


def test_bad_readings_come_in_every_way_and_about_as_often_as_asked() -> None:
    values = [value for _, value in generated(30_000, bad_ratio=0.02)]
    bad = [value for value in values if not _is_good(value)]
    assert 450 < len(bad) < 750
    assert bad.count(None) == pytest.approx(len(bad) / len(BAD), abs=1)


def _is_good(value: bytes | None) -> bool:
    try:
        made(value)
    except ValueError:
        return False
    return True
