"""What the flow sensors should make of a topic, computed again by other means: json, fractions, plain loops.

It shares nothing with the flow but the description of what a reading is (dataflows/sensors_rules.py, at the top).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

LENGTH_US, LATENESS_US, AHEAD_US = 15_000_000, 10_000_000, 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Record = tuple[int, int, bytes | None, int]  # partition, offset, value, timestamp in ms
Place = tuple[int, int]
COLUMNS = ("measure1_avg", "measure2_avg", "count_sensor", "measure1_min", "measure1_max", "measure2_min", "measure2_max")


@dataclass
class Expected:
    """Statistics by sensor and window's start, with the window's end and the values of COLUMNS; the places of what is in none."""

    rows: dict[tuple[str, datetime], tuple[Any, ...]] = field(default_factory=dict)
    bad: set[Place] = field(default_factory=set)
    late: set[Place] = field(default_factory=set)


def expected(records: Iterable[Record]) -> Expected:
    """Of all records of a topic, in the order of each partition."""
    out = Expected()
    highest_us: dict[int, int] = {}
    windows: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for partition, offset, value, timestamp_ms in records:
        found = reading_of(value, timestamp_ms)
        if found is None:
            out.bad.add((partition, offset))
            continue
        sensor, time_us, measure1, measure2 = found
        start_us = time_us - time_us % LENGTH_US
        if highest_us.get(partition, -1) >= start_us + LENGTH_US + LATENESS_US:
            out.late.add((partition, offset))
        else:
            windows[sensor, start_us].append((measure1, measure2))
        highest_us[partition] = max(time_us, highest_us.get(partition, time_us))
    for (sensor, start_us), measures in windows.items():
        ones, twos = ([pair[n] for pair in measures] for n in (0, 1))
        means = (float(sum(map(Fraction, some)) / len(some)) for some in (ones, twos))
        end = EPOCH + timedelta(microseconds=start_us + LENGTH_US)
        values = (*means, len(measures), min(ones), max(ones), min(twos), max(twos))
        out.rows[sensor, EPOCH + timedelta(microseconds=start_us)] = (end, *values)
    return out


def reading_of(value: bytes | None, timestamp_ms: int) -> tuple[str, int, float, float] | None:
    """Sensor, time and measures of a record; None if it is bad."""
    if not value:
        return None
    try:
        text = value.decode()
        found = json.loads(text, parse_float=Decimal, parse_constant=_refused)
        json.dumps(found, default=str, ensure_ascii=False).encode()  # half a surrogate is no text
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    sensor, measures = found.get("sensor"), [found.get("measure1"), found.get("measure2")]
    if not isinstance(sensor, str) or not 1 <= len(sensor) <= 255 or not sensor.strip() or "\0" in sensor:
        return None
    if any(type(one) not in (int, Decimal) for one in measures):
        return None
    numbers = [float(one) for one in measures if one is not None]
    if not all(math.isfinite(one) and abs(one) <= 1e280 for one in numbers):
        return None
    time_us = _time_us(found.get("ts"), timestamp_ms)
    if time_us is None or time_us > timestamp_ms * 1000 + AHEAD_US:
        return None
    return sensor, time_us, numbers[0], numbers[1]


def _time_us(ts: Any, timestamp_ms: int) -> int | None:
    if ts is None:
        return timestamp_ms * 1000
    if type(ts) in (int, Decimal):
        return math.floor(Fraction(ts) * 1_000_000) if 0 <= ts <= 99_999_999_999 else None
    if not isinstance(ts, str):
        return None
    try:
        moment = datetime.fromisoformat(ts)
    except ValueError:
        return None
    return None if moment.tzinfo is None or moment < EPOCH else (moment - EPOCH) // timedelta(microseconds=1)


def _refused(name: str) -> None:
    raise ValueError(name)
