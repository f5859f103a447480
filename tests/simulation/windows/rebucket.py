"""The operator divides buckets anew, while the flow does not run, as `waxwing rebucket` does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.simulation.database import Crash
from tests.simulation.process import Process
from tests.simulation.windows.step import FedWindows
from waxwing.errors import ConfigError, TransientError

if TYPE_CHECKING:
    from tests.simulation.world import World

BUCKETS_MAX = 4


def rebucket(world: World) -> None:
    """Stop what runs, cleanly if that can be; then divide, which is refused where buckets stand apart or somebody is alive."""
    if any(process.working or any(writer.busy for writer in process.writers) for process in world.processes):
        return
    world.say("the operator stops the flow")
    for process in [process for process in world.processes if process.opened and not process.frozen]:
        process.take_all_in()
    for process in [process for process in world.processes if not process.frozen]:
        process.stop()
    world.started += 1
    operator = Process(world, world.started, 1, set(), "operator")
    fed = operator.steps["windows"]
    assert isinstance(fed, FedWindows)
    fed.windows.window_buckets = world.chance.randint(1, BUCKETS_MAX)
    try:
        with contextlib.suppress(Crash):
            before = fed.windows.rebucket()
            world.say(f"the operator divides {before} buckets into {fed.windows.window_buckets}")
    except (ConfigError, TransientError) as error:
        world.say(f"buckets are not divided: {error}")
    operator.kill("at its end")
