"""The sink protocol under random schedules: the shipped code does nothing wrong, and each planted bug is found."""

from __future__ import annotations

import pytest

from tests.simulation.parts import SHIPPED
from tests.simulation.planted import MET, PLANTED
from tests.simulation.world import play

# Half a minute. After a change of the protocol: python -m tests.simulation --schedules 200000 --processes 8
SCHEDULES = 108
# The planted bugs that hide best are met once in some 200 schedules; each is looked for where it was met last first.
SCHEDULES_TO_FIND = 1_000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_the_shipped_code_keeps_the_protocol(part: int) -> None:
    for seed in range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4):
        told = play(seed, SHIPPED)
        assert not told.violation, f"python -m tests.simulation --replay {seed}: {told.violation}"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    bug = PLANTED[name]
    assert any(play(seed, bug.parts).violation for seed in (MET.get(name, 0), *range(SCHEDULES_TO_FIND))), bug.what


def test_a_seed_makes_the_same_schedule_each_time() -> None:
    for seed in range(10):
        first, again = play(seed, SHIPPED, traced=True), play(seed, SHIPPED, traced=True)
        assert first.trace
        assert first == again


def test_schedules_hold_what_they_are_for() -> None:
    """Each kind of trouble happens, so that "nothing wrong" means something."""
    traces = "\n".join(line for seed in range(60) for line in play(seed, SHIPPED, traced=True).trace)
    for trouble in (
        "is killed before: orders: commit",
        "freezes before: copies: commit",
        "ends: Fenced",
        "a hanging COMMIT of process",
        "is decided: committed",
        "is decided: rolled back",
        "lost in COMMIT: committed",
        "lost in COMMIT: not committed",
        "ends the transaction inside",
        "ends the idle transaction",
        "lock time-out",
        "ends: OffsetGap",
        "ends: TransientError",
        "after close()",
        "dead letters [(",
        "lanes: 1",
        "lanes: 3",
        "split at (",
        "another partition",
        ", 2 above the token b'",
        ".1'; rows",
        "anew, and otherwise",
        "'joins', (",
        "), None)",
        "waxwing:windows[1] to 2 by",
        "the operator divides",
    ):
        assert trouble in traces, trouble
