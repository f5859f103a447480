"""Processes of one folder, in any order of their calls: each record becomes visible once, and stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sinks.parquet.world import World, held_up


@pytest.mark.parametrize("seed", range(16))
def test_processes_that_open_die_freeze_and_come_back_write_each_record_once(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path / "out", seed)
    with held_up(world):
        world.play(random.Random(seed).choice((200, 600, 1500)))
