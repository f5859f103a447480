"""Where windows that have a length begin and end: at even distances, or as a calendar says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Protocol

from waxwing.operators.windows.definition.kinds import DAY_US, EPOCH_DAY


class Grid(Protocol):
    """Times are whole microseconds since 1970. All records of a slot are in the same windows, so that a batch is folded by slot,
    not by window."""

    slot_us: int  # a slot's length; of those that differ, that of the shortest ordinary one

    def slot(self, time_us: int) -> int:
        """The beginning of the slot of a time."""
        ...

    def slots(self, times: Sequence[int]) -> list[int]:
        """The slot of each time."""
        ...

    def behind(self, slot: int) -> int:
        """The next slot."""
        ...

    def ends(self, slot: int) -> list[int]:
        """The ends of the windows that a slot is in, rising."""
        ...

    def start_of(self, end: int) -> int:
        """The start of the window that ends there."""
        ...

    def day(self, time_us: int) -> date:
        """The day that a start or an end stands for, where windows are of whole days."""
        ...


class EvenGrid:
    """Windows of one length that begin at even distances, counted from 1970."""

    def __init__(self, length_us: int, every_us: int) -> None:
        self._length_us, self._every_us = length_us, every_us
        self.slot_us = math.gcd(length_us, every_us)

    def slot(self, time_us: int) -> int:
        return time_us - time_us % self.slot_us

    def slots(self, times: Sequence[int]) -> list[int]:
        slot_us = self.slot_us
        return [t - t % slot_us for t in times]

    def behind(self, slot: int) -> int:
        return slot + self.slot_us

    def ends(self, slot: int) -> list[int]:
        last = slot - slot % self._every_us + self._length_us
        return [*range(last, slot, -self._every_us)][::-1]

    def start_of(self, end: int) -> int:
        return end - self._length_us

    def day(self, time_us: int) -> date:
        return date.fromordinal(EPOCH_DAY + time_us // DAY_US)
