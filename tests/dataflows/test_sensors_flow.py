"""The flow sensors as a whole, over memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import cluster_main, run_main
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from dataflows import sensors
from dataflows.sensors import SensorsSettings, flow, per_15_s, statistics
from dataflows.sensors_generator import readings
from sinks import MemoryWindows, SqlWindows
from sources.memory import MemorySource, Message
from tests.dataflows.recompute_sensors import COLUMNS, EPOCH, expected
from waxwing.operators.windows import Windows
from waxwing.settings import WindowSettings

SENT_MS = 1_767_225_600_000  # 2026-01-01: before the clock of any machine that runs this
DATA: dict[int, list[Any]] = {0: [], 1: [], 2: []}
GENERATED = readings(3_000, bad_ratio=0.05, late_ratio=0.02, seed=3, ts="mixed", first_s=SENT_MS / 1000 - 300, step_s=0.1)
for number, (key, value) in enumerate(one for chunk in GENERATED for one in chunk):
    # Half of the sensors' readings are spread over partitions, and some have their message's time.
    DATA[number % 3 if number % 2 else len(key) % 3].append(
        Message(value, key=key, timestamp_ms=SENT_MS - 300_000 + number * 100)
    )
WANTED = expected(
    (partition, offset, message.value, message.timestamp_ms)
    for partition, messages in DATA.items()
    for offset, message in enumerate(messages)
)
BOTH = SensorsSettings(sensor_outputs="topic,table")


def source(**options: Any) -> MemorySource:
    return MemorySource(DATA, topic="sensors", **options)


def rows_of(target: MemoryWindows) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """As Expected has them."""
    out = {}
    for row in target.rows:
        start, end = (EPOCH + timedelta(microseconds=row[name]) for name in ("window_start", "window_end"))
        assert (row["sensor"], start) not in out
        out[row["sensor"], start] = (end, *(row[name] for name in COLUMNS))
    return out


def check(target: MemoryWindows) -> None:
    """Is all there that should be, once?"""
    assert rows_of(target) == WANTED.rows
    places = [((letter.stream.partition, letter.offset), letter.stage) for letter in target.dead_letters]
    assert sorted(place for place, stage in places if stage != "late") == sorted(WANTED.bad)
    assert sorted(place for place, stage in places if stage == "late") == sorted(WANTED.late)


def test_statistics_of_a_sensor_are_those_of_its_15_seconds() -> None:
    assert len(WANTED.rows) > 100
    assert len(WANTED.late) > 20
    assert len(WANTED.bad) > 100
    topic, table = MemoryWindows(per_15_s), MemoryWindows(per_15_s)
    run_main(flow(BOTH, kafka=source(batch_records=100, lanes=2), stats_topic=topic, stats_table=table))
    check(topic)
    check(table)


def test_the_readings_of_the_readme() -> None:
    target = MemoryWindows(per_15_s)
    messages: list[Mapping[str, Any] | bytes] = [
        {"sensor": "Sensor 1", "measure1": 37.2, "measure2": 0.51, "ts": 1_767_225_600},
        {"sensor": "Sensor 1", "measure1": 36, "measure2": 0.5, "ts": "2026-01-01T00:00:14.9+00:00"},
        {"sensor": "Sensor 2", "measure1": 36, "measure2": 0.5, "ts": 1_767_225_625},
        {"sensor": "Sensor 1", "measure1": 30, "measure2": 0.5, "ts": 1_767_225_601},
        b'{"sensor":"Sensor 1","measure1":NaN,"measure2":0.5}',
    ]
    run_main(flow(SensorsSettings(sensor_outputs="topic"), kafka=MemorySource(messages), stats_topic=target))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert rows_of(target)["Sensor 1", start] == (start + timedelta(seconds=15), 36.6, 0.505, 2, 36.0, 37.2, 0.5, 0.51)
    assert [(letter.stage, letter.offset) for letter in target.dead_letters] == [("parse", 4), ("late", 3)]


@given(sizes=st.lists(st.integers(0, 400), min_size=3, max_size=6))
@settings(max_examples=10)
def test_batch_boundaries_change_nothing(sizes: list[int]) -> None:
    target = MemoryWindows(per_15_s)
    cut = source(batch_records={0: sizes, 1: sizes[1:], 2: sizes[2:]}, lanes=3)
    run_main(flow(SensorsSettings(sensor_outputs="table"), kafka=cut, stats_table=target))
    check(target)


def test_two_workers_change_nothing() -> None:
    own = WindowSettings(flush_interval_s=0.0, window_snapshot_interval_s=0.0, lanes=3)
    target = MemoryWindows(per_15_s, own, buckets=3)
    built = flow(SensorsSettings(sensor_outputs="table", lanes=3), kafka=source(batch_records=37, lanes=3), stats_table=target)
    cluster_main(built, [], 0, worker_count_per_proc=2)
    check(target)


def test_the_table_has_times_in_utc_and_doubles(tmp_path: Path) -> None:
    file = tmp_path / "sensors.sqlite"
    into = SensorsSettings(
        sensor_outputs="table", database_url=SecretStr(f"sqlite:///{file}"), kafka_bootstrap_servers="127.0.0.1:9"
    )
    run_main(flow(into, kafka=source()))
    with closing(sqlite3.connect(file)) as database:
        query = f"SELECT sensor, window_start, ts, {', '.join(COLUMNS)} FROM sensor_data_stats"
        found = {(row[0], _utc(row[1])): (_utc(row[2]), *row[3:]) for row in database.execute(query)}
        letters = database.execute("SELECT source_partition, source_offset FROM waxwing_dead_letters").fetchall()
    assert found == WANTED.rows
    assert sorted(letters) == sorted([*WANTED.bad, *WANTED.late])


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_outputs_are_those_that_are_asked_for_and_idle_partitions_are_waited_for_unless_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Windows] = []

    def made_of(_: SensorsSettings, table: Any, windows: Windows, **more: Any) -> SqlWindows:
        made.append(windows)
        return SqlWindows(own, table, windows, **more)

    monkeypatch.setattr(sensors, "SqlWindows", made_of)
    own = SensorsSettings(sensor_outputs="table", database_url=SecretStr(f"sqlite:///{tmp_path}/sensors.sqlite"))
    for idle_after_s in (None, 2.5):
        built = flow(own.model_copy(update={"sensors_idle_after_s": idle_after_s}), kafka=source())
        assert _outputs(built) == ["stats_table"]
    assert [windows.idle_after_s for windows in made] == [None, 2.5]
    assert _outputs(flow(BOTH, kafka=source(), stats_topic=MemoryWindows(per_15_s), stats_table=MemoryWindows(per_15_s))) == [
        "stats_topic",
        "stats_table",
    ]


def _outputs(built: Dataflow) -> list[str]:
    return [step.step_name for step in built.substeps if type(step).__name__ == "output"]


def test_the_columns_are_those_that_are_promised() -> None:
    assert [column.name for column in statistics(zoned=True).c] == ["sensor", "window_start", "ts", *COLUMNS]
    assert [column.name for column in sensors.sensor_data.c] == list(sensors.Reading.__struct_fields__)
