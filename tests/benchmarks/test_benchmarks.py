"""The bench measures what it says: figures, the page's sections, and one latency from end to end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.databases import DATABASES, Place
from benchmarks.options import PARTS, READINGS, options
from benchmarks.report import PAGE
from benchmarks.shapes import SHAPES
from benchmarks.spread import Spread
from benchmarks.whole import latency
from benchmarks.whole.sending import percentile
from benchmarks.whole.trees import OURS, checked_out, compiled, other_packages
from tests.faults.cluster import ROOT
from tests.servers import Kafka


def test_a_ratio_is_made_within_a_repeat() -> None:
    ratio = Spread([10.0, 40.0, 90.0]).over(Spread([10.0, 20.0, 30.0]))
    assert ratio.text(".2f") == "2.00 (1.00-3.00)"


def test_figures_that_do_not_differ_have_no_spread() -> None:
    assert Spread([1.001, 1.002]).text(".2f") == "1.00"


def test_a_percentile_of_few_figures_is_one_of_them() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]


def test_backlogs_and_bursts_are_measured_on_one_database_unless_more_are_named() -> None:
    assert options(["--bursts"]).databases == ["postgresql"]
    assert options(["--memory", "wide", "--databases", "sqlite", "mariadb"]).databases == ["sqlite", "mariadb"]
    assert options([]).databases == list(DATABASES)


def test_each_part_has_its_section_of_the_page() -> None:
    sections = set(re.findall(r"<!-- (?!end of)(.+) -->", PAGE.read_text()))
    of_parts = (set(PARTS) - set(SHAPES) - {"processes"}) | {"memory"}
    assert of_parts | set(DATABASES) | {"bursts", *(f"a backlog of {name}" for name in ("narrow", "wide", READINGS))} == sections


def test_a_base_runs_its_own_code_and_is_removed(tmp_path: Path) -> None:
    with checked_out("HEAD", tmp_path) as checked:
        tree = compiled(checked)  # fails where it would run other code
        assert tree.root != OURS.root
        assert (tree.root / "waxwing/__init__.py").is_file()
        assert not other_packages(tree)
    assert not tree.root.exists()
    assert str(tree.root) not in subprocess.check_output(["git", "worktree", "list"], cwd=ROOT, text=True)


def test_a_base_that_is_no_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere"), checked_out("nowhere", tmp_path):
        pass


def test_the_latency_of_the_hand_written_loop_is_measured_from_end_to_end(kafka: Kafka, tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path)
    with latency.running(place, kafka, tmp_path, None) as watched:
        found = latency.one_rate(watched, kafka, tmp_path, 200, 0.5)
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms < 10_000
    assert found.cpu_percent > 0
