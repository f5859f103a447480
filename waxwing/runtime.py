"""The run, as sources, sinks, targets and flows see it. (What it is made of stands in waxwing/running.)

`starting()` goes around the body of a flow's `flow()`, where `waxwing.flow` does not; it makes this process a run. Without it
(tests, notebooks) errors are raised to the caller, and nothing of the process is touched.
"""

from waxwing.running.process import starting
from waxwing.running.state import (
    at_end,
    before_failing,
    fail,
    in_cluster,
    is_run,
    keeps_snapshots,
    met,
    no_longer,
    stopping,
    words,
    working,
)

__all__ = [
    "at_end",
    "before_failing",
    "fail",
    "in_cluster",
    "is_run",
    "keeps_snapshots",
    "met",
    "no_longer",
    "starting",
    "stopping",
    "words",
    "working",
]
