"""The kinds of steps that a flow has here: for each how a process feeds it, and who judges what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.steps.fed import Fed, FedByLane
from tests.simulation.steps.judge import Judge
from tests.simulation.steps.rows import RowsJudge
from tests.simulation.target import ModelTarget

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


def fed_of(process: Process, step: str) -> Fed:
    """A step in a process."""
    settings = process.world.settings(process.lanes)
    return FedByLane(process, step, ModelTarget(process, settings))


def judge_of(world: World, step: str) -> Judge:
    """Who judges a step."""
    return RowsJudge(world, world.database, step)
