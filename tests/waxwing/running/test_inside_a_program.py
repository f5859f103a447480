"""`waxwing.run` on a real Kafka: a program runs the orders flow, stops it, runs it again, and is left as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import Kafka


def test_a_program_runs_stops_and_runs_the_flow_again(kafka: Kafka, tmp_path: Path) -> None:
    topic, path = kafka.new_topic(partitions=4), tmp_path / "orders.sqlite"
    program = [sys.executable, "-m", "tests.waxwing.running.inside_a_program", kafka.bootstrap(), topic, str(path)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
