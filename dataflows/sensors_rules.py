"""What a reading is, and the record that it becomes.

Each refusal is a dead letter with its reason:

- sensor has 1 to 255 characters, not only blanks, and no U+0000 (which some databases can't hold).
- measure1 and measure2 are both there, and are JSON numbers, whole ones too, up to 1e280 either way: sums of them are exact
  in every order. JSON has no NaN and no infinity; a text ("37.2") is no number, and 1e400 is none that a double holds.
- ts, where there is one, is in seconds since 1970, whole or with a fraction, or a text in ISO 8601 with its zone. Digits beyond
  the microsecond are cut. Where it is missing or null, the time is the message's timestamp.
- ts is no more than an hour ahead of the message's timestamp: one reading from the future would close all windows before it. A
  message tells of the past, so whatever the clock says, the answer is the same when it is read again. (Where the message has no
  timestamp, or one that is itself an hour ahead of the clock, the windows ask the clock.)
- ts in milliseconds is told as such. Before 1970 there is no ts.
- However old a reading is, it is one: windows that are closed call it late, and sensor_data keeps it.
- Other fields are left alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

import msgspec

from waxwing.operators import Message


class RawReading(msgspec.Struct, frozen=True, gc=False):
    """A reading as it arrives."""

    sensor: str
    measure1: float
    measure2: float
    ts: Any = None  # a number with a fraction is a Decimal here: exact


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A reading as it is kept: the columns of sensor_data, in order."""

    sensor: str
    ts: datetime
    measure1: float
    measure2: float


SENSOR_CHARACTERS_MAX = 255
MEASURE_MAX = 1e280  # as windows sum it
AHEAD_MAX_S = 3_600
SECONDS_MAX = 99_999_999_999  # in the year 5138; what lies above was meant in milliseconds
SECOND_US = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Far more digits than a time has, and those beyond the microsecond are cut.
CUT = Context(prec=60, rounding=ROUND_DOWN)


def reading(raw: RawReading, message: Message) -> Reading:
    """The reading of a message, or a ValueError that says why it is none."""
    if not raw.sensor.strip():
        raise ValueError("sensor is blank: it must name the sensor")
    if len(raw.sensor) > SENSOR_CHARACTERS_MAX:
        raise ValueError(f"sensor has {len(raw.sensor):,} characters: {SENSOR_CHARACTERS_MAX} are the most")
    if "\x00" in raw.sensor:
        raise ValueError("sensor holds U+0000")
    if not (abs(raw.measure1) <= MEASURE_MAX and abs(raw.measure2) <= MEASURE_MAX):  # nor is what is not a number
        name = "measure2" if abs(raw.measure1) <= MEASURE_MAX else "measure1"
        raise ValueError(f"{name} is {getattr(raw, name)}: it must be a number within 1e280 either way")
    return Reading(raw.sensor, EPOCH + time_us(raw.ts, message.timestamp_ms) * MICROSECOND, raw.measure1, raw.measure2)


def time_us(ts: Any, timestamp_ms: int) -> int:
    """When it was read, in microseconds since 1970. Raises ValueError with the reason."""
    if ts is None:
        if not 0 <= timestamp_ms <= SECONDS_MAX * 1000:
            raise ValueError("there is no ts, nor has the message a timestamp")
        return timestamp_ms * 1000
    if type(ts) is str:
        found_us = _of_text(ts)
    elif type(ts) in (int, Decimal):
        found_us = _of_seconds(ts)
    else:
        raise ValueError(f"ts is a {type(ts).__name__}: it must be seconds since 1970, or a text in ISO 8601 with its zone")
    if timestamp_ms >= 0 and found_us > timestamp_ms * 1000 + AHEAD_MAX_S * SECOND_US:
        ahead_s = found_us // SECOND_US - timestamp_ms // 1000
        raise ValueError(f"ts is {ahead_s:,} s ahead of its message: {AHEAD_MAX_S:,} are the most")
    return found_us


def _of_seconds(ts: int | Decimal) -> int:
    if ts > SECONDS_MAX:
        raise ValueError(f"ts is {ts!s:.40}: it must be seconds since 1970, not milliseconds")
    if ts < 0:
        raise ValueError(f"ts is {ts!s:.40}: it must be seconds since 1970")
    return int(CUT.multiply(Decimal(ts), SECOND_US))


def _of_text(ts: str) -> int:
    try:
        found = datetime.fromisoformat(ts)
    except ValueError:
        raise ValueError(f"ts is {ts[:60]!r}: it must be ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"ts is {ts!r}: it needs its zone, such as 2026-01-31T12:00:00Z")
    found_us = (found - EPOCH) // MICROSECOND
    if not 0 <= found_us <= SECONDS_MAX * SECOND_US:
        raise ValueError(f"ts is {ts!r}: it must be in the years 1970 to 5138")
    return found_us
