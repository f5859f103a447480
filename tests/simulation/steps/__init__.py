"""The kinds of steps that a flow has here: for each how a process feeds it, and who judges what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.steps.fed import Fed, FedByLane
from tests.simulation.steps.judge import Judge
from tests.simulation.steps.rows import RowsJudge
from tests.simulation.steps.tables import FedTables, TablesJudge, TablesTarget
from tests.simulation.target import ModelTarget
from tests.simulation.windows.judges import LiveJudge, WindowsJudge
from tests.simulation.windows.step import FedLive, FedWindows

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


def fed_of(process: Process, step: str) -> Fed:
    """A step in a process."""
    if step in ("windows", "live"):
        kept = process.world.window_settings(process.lanes)
        return (FedWindows if step == "windows" else FedLive)(process, step, kept)
    settings = process.world.settings(process.lanes)
    if step == "tables":
        return FedTables(process, step, TablesTarget(process, settings))
    return FedByLane(process, step, ModelTarget(process, settings))


def judge_of(world: World, step: str) -> Judge:
    """Who judges a step."""
    kinds: dict[str, type[Judge]] = {"tables": TablesJudge, "windows": WindowsJudge, "live": LiveJudge}
    return kinds.get(step, RowsJudge)(world, world.database, step)
