"""When a transaction begins: a trickle is written as it comes, a flood in large ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sinks.writer.crew import LITTLE

# What the worker hands over in one turn comes within so long of the first.
TURN_S = 0.001
# In a flood a transaction waits for more to come, so long at most, and no longer than nothing has come for a while; so many come
# in that while.
FILLING_S, PAUSE_S = 0.5, 0.1
FLOOD_MIN = LITTLE * PAUSE_S / FILLING_S


class Pace:
    """Of one writer.

    Args:
        age_s: how long the first record of a transaction waits at least.
    """

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self._in_flood = False  # was the last transaction a large one, and has something come since?

    def wrote(self, records: int) -> None:
        """A transaction of so many records has been written."""
        self._in_flood = records >= LITTLE

    def due_s(self, began_s: float, first_s: float, given_s: float, batches: Iterable[Any] | None) -> float:
        """When a transaction is to begin for these batches.

        Args:
            began_s: since when they have been gathered.
            first_s: since when the first of them has been waiting; infinite: there are none.
            given_s: when something came last.
            batches: they are looked at in a flood only; None: what comes is folded, and few may stand for many.
        """
        if began_s + PAUSE_S < first_s < math.inf:
            self._in_flood = False
        if not self._in_flood:
            return first_s + max(self._age_s, TURN_S)
        if batches is not None and sum(len(batch.messages) for batch in batches) < FLOOD_MIN:
            return first_s + max(self._age_s, PAUSE_S)
        return min(first_s + max(self._age_s, FILLING_S), max(first_s + self._age_s, given_s + PAUSE_S))
