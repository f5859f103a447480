"""The `waxwing` command and the flow sensors."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyarrow.dataset import dataset

from tests.faults.recompute import records
from tests.servers import Kafka
from tests.waxwing.cli.test_cli import events, waxwing


def test_produced_readings_are_all_there_by_the_sensors_names(kafka: Kafka) -> None:
    command = ["produce", "sensors", "--count", "2000", "--bad", "0.05", "--late", "0.01", "--ts", "mixed", "--sensors", "7"]
    done = waxwing(*command, "--topic", "readings-made", values={"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap()})
    assert done.returncode == 0, done.stderr
    assert "2,000 readings acknowledged in topic readings-made" in events(done.stderr)[-1]["message"]
    messages = [message for _, _, message in records(kafka.bootstrap(), "readings-made")]
    assert len(messages) == 2_000
    assert {(message.key() or b"").decode() for message in messages} == {f"Sensor {number}" for number in range(1, 8)}
    refused = waxwing("produce", "sensors", "--ts", "yesterday")
    assert refused.returncode == 2
    assert "'mixed'" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["topic,table", "topic"])
def test_the_embedded_demonstration_runs_shows_and_ends_by_itself(outputs: str, tmp_path: Path) -> None:
    for _ in range(2 if "table" in outputs else 1):  # the second run finds the file of the first
        done = waxwing("run", "sensors", cwd=tmp_path, values={"SENSOR_OUTPUTS": outputs})
        assert done.returncode == 0, done.stderr
        said = {event["event"]: event for event in events(done.stderr)}
        begins, ends = said["demonstration"]["message"], said["demonstration_done"]
        assert "KAFKA_BOOTSTRAP_SERVERS=" in begins
        assert ("DATABASE_URL=" in begins) is ("table" in outputs)
        assert "KAFKA_TRANSACTIONS=no" in begins
        assert said["run_summary"]["records"] == 50_000
        assert len(ends["dead_letters"]) >= 25
        steps = outputs.count(",") + 1
        assert said["run_summary"]["dead_letters"] == steps * sum(ends["dead_letters"].values())
        rows = said["run_summary"]["rows"] // steps
        assert f"{rows:,} messages in sensor_stats" in ends["message"]
        assert list(ends["rows"][0])[:3] == ["sensor", "window_start", "ts"]
    if "table" in outputs:
        with contextlib.closing(sqlite3.connect(tmp_path / "var/demonstration-sensors.sqlite")) as file:
            assert file.execute("SELECT count(*) FROM sensor_data_stats").fetchone() == (rows,)
    else:
        assert not (tmp_path / "var").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "delta"])
def test_files_alone_are_counted_with_what_was_refused_and_the_lines_read_them(form: str, tmp_path: Path) -> None:
    path = tmp_path / "readings"
    told = {"SENSORS_FORMAT": form, "SENSORS_PATH": str(path), "SENSOR_OUTPUTS": "files"}
    done = waxwing("run", "sensors", cwd=tmp_path, values=told)
    assert done.returncode == 0, done.stderr
    said = {event["event"]: event for event in events(done.stderr)}
    summary, shown = said["run_summary"], said["demonstration_done"]
    assert sum(shown["dead_letters"].values()) == summary["dead_letters"]
    assert shown["dead_letters"]["Expected `object`, got `array`"] == 4
    lines = [f"python -c {line.strip()}" for line in shown["message"].split("python -c ")[1:]]
    assert len(lines) == 2
    number = summary["rows"] - _readings(path / "sensor_data", form)
    assert number > 500
    for line in lines:
        command = shlex.split(line)
        read = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=True, cwd=tmp_path)
        found = read.stdout.replace("_", "")
        assert f"{number} rows" in found or f"({number}, " in found, read.stdout


def _readings(folder: Path, form: str) -> int:
    """How many there are."""
    found = DeltaTable(folder).to_pyarrow_dataset() if form == "delta" else dataset(folder, partitioning="hive")
    return int(found.count_rows())


def test_the_settings_of_the_flow_are_listed(tmp_path: Path) -> None:
    done = waxwing("settings", "sensors", cwd=tmp_path, values={"SENSORS_IDLE_AFTER_S": "30"})
    assert done.returncode == 0, done.stderr
    listed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert listed["SENSORS_IDLE_AFTER_S"] == "30\tenvironment"
    assert listed["SOURCE_TOPIC"] == "sensors\tdefault"
