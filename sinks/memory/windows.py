"""Windows in memory: the protocol of windows in a database, for tests and embedded use."""

from __future__ import annotations

from typing import Any

from sinks.memory.target import MEMORY_SETTINGS, MemoryTarget
from sinks.windows.target import WindowTarget
from waxwing.change import DeadLetter
from waxwing.operators.windows import Windows
from waxwing.settings import WindowSettings


class MemoryWindows(WindowTarget):
    """Closed windows in a list, held in this process with their open state.

    Args:
        windows: the windows.
        settings: as for a database.
        buckets: how many parts the keys are divided into.

    Attributes:
        rows: dicts by column name, in the order in which windows closed; corrections are rows with a higher revision.

    Parallelism: one writer per bucket, one lock for all.
    Delivery: exactly once, over any number of runs in this process (tests/waxwing/operators/windows/test_windows.py).
    """

    def __init__(self, windows: Windows, settings: WindowSettings | None = None, *, buckets: int = 2) -> None:
        own = settings or WindowSettings(**{**MEMORY_SETTINGS.model_dump(), "window_snapshot_interval_s": 0.0})
        self._memory = MemoryTarget(settings=own)
        super().__init__(
            self._memory, windows, own, buckets, lambda rows: [dict(zip(rows.names, row, strict=True)) for row in rows.tuples()]
        )

    @property
    def rows(self) -> list[Any]:
        """What was written."""
        return self._memory.rows

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Rejects and late records."""
        return self._memory.dead_letters
