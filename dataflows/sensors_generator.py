"""Generated readings, good and bad, the same for the same seed: for `waxwing produce sensors` and the embedded demonstration."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

from dataflows.sending import Keyed, numbered

CHUNK_READINGS = 1_000
SENSORS = 10
# A reading that brings its time may come so much behind others.
DISORDER_S = 5.0
LATE_S = 1_800.0

Ts = Literal["none", "seconds", "fraction", "iso", "mixed"]

_MEASURES = '"measure1":37.2,"measure2":0.51'

# Every way in which a reading can be bad: taken in turn, so that a few dozen bad readings show them all.
BAD: dict[str, Callable[[int], bytes | None]] = {
    "cut off": numbered('{"sensor":"Sensor #","measure1":37.2,"meas'),
    "wrong encoding": lambda n: b'{"sensor":"Sensor \xe9 %09d","measure1":37.2,"measure2":0.51}' % n,
    "half a surrogate": numbered('{"sensor":"Sensor \\ud800 #",' + _MEASURES + "}"),
    "an array": numbered('[{"sensor":"Sensor #",' + _MEASURES + "}]"),
    "empty value": lambda _: b"",
    "null value": lambda _: None,
    "sensor missing": numbered("{" + _MEASURES + ',"number":"#"}'),
    "sensor null": numbered('{"sensor":null,' + _MEASURES + ',"number":"#"}'),
    "sensor empty": numbered('{"sensor":"",' + _MEASURES + ',"number":"#"}'),
    "sensor blank": numbered('{"sensor":"   ",' + _MEASURES + ',"number":"#"}'),
    "sensor too long": numbered('{"sensor":"' + "x" * 291 + '#",' + _MEASURES + "}"),
    "sensor with U+0000": numbered('{"sensor":"Sensor \\u0000 #",' + _MEASURES + "}"),
    "sensor is a number": numbered('{"sensor":7,' + _MEASURES + ',"number":"#"}'),
    "measure1 missing": numbered('{"sensor":"Sensor #","measure2":0.51}'),
    "measure2 missing": numbered('{"sensor":"Sensor #","measure1":37.2}'),
    "measure1 null": numbered('{"sensor":"Sensor #","measure1":null,"measure2":0.51}'),
    "measure1 is a text": numbered('{"sensor":"Sensor #","measure1":"37.2","measure2":0.51}'),
    "measure2 is true": numbered('{"sensor":"Sensor #","measure1":37.2,"measure2":true}'),
    "measure1 is NaN": numbered('{"sensor":"Sensor #","measure1":NaN,"measure2":0.51}'),
    "measure2 is infinite": numbered('{"sensor":"Sensor #","measure1":37.2,"measure2":-Infinity}'),
    "measure1 is NaN as a text": numbered('{"sensor":"Sensor #","measure1":"NaN","measure2":0.51}'),
    "measure1 beyond doubles": numbered('{"sensor":"Sensor #","measure1":1e400,"measure2":0.51}'),
    "measure2 too large": numbered('{"sensor":"Sensor #","measure1":37.2,"measure2":-1e300}'),
    "ts in milliseconds": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":1767225600000}'),
    "ts in the year 2100": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":4102444800}'),
    "ts in the year 2100, as a text": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":"2100-01-01T00:00:00Z"}'),
    "ts before 1970": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":-1.5}'),
    "ts without zone": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":"2026-01-01T00:00:00"}'),
    "ts is no time": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":"yesterday"}'),
    "ts is true": numbered('{"sensor":"Sensor #",' + _MEASURES + ',"ts":true}'),
}


def readings(
    count: int,
    *,
    bad_ratio: float,
    late_ratio: float = 0.0,
    seed: int,
    sensors: int = SENSORS,
    ts: Ts = "none",
    first_s: float = 0.0,
    step_s: float = 0.001,
) -> Iterator[list[Keyed]]:
    """Readings in chunks; a message's key is the sensor's name.

    Args:
        count: how many.
        bad_ratio: about which share of them is bad.
        late_ratio: about which share comes half an hour behind the others.
        seed: of chance.
        sensors: how many there are: Sensor 1, Sensor 2, ...
        ts: how they tell their time; none: by their messages; mixed: each way in turn.
        first_s: when the first one is read, seconds since 1970, where they tell their time.
        step_s: from one to the next.
    """
    chance = random.Random(seed)
    ways, styles = list(BAD.values()), _STYLES[ts]
    bad = 0
    for first in range(0, count, CHUNK_READINGS):
        chunk: list[Keyed] = []
        for n in range(first, min(first + CHUNK_READINGS, count)):
            sensor, what = f"Sensor {chance.randint(1, sensors)}", chance.random()
            measures = f'"measure1":{chance.gauss(37, 7)!r},"measure2":{chance.random()!r}'
            if what < bad_ratio:
                chunk.append((sensor.encode(), ways[bad % len(ways)](n)))
                bad += 1
                continue
            is_late = what < bad_ratio + late_ratio
            at_s = first_s + n * step_s - (LATE_S if is_late else chance.random() * DISORDER_S)
            style = _fraction if is_late and ts == "none" else styles[n % len(styles)]
            chunk.append((sensor.encode(), f'{{"sensor":"{sensor}",{measures}{style(at_s)}}}'.encode()))
        yield chunk


def _seconds(at_s: float) -> str:
    return f',"ts":{int(at_s)}'


def _fraction(at_s: float) -> str:
    return f',"ts":{at_s:.3f}'


def _iso(at_s: float) -> str:
    return f',"ts":"{datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")}"'


_STYLES: dict[Ts, list[Callable[[float], str]]] = {
    "none": [lambda _: ""],
    "seconds": [_seconds],
    "fraction": [_fraction],
    "iso": [_iso],
    "mixed": [_seconds, _fraction, _iso],
}
