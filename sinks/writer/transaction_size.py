"""How large transactions are: they choose it themselves, by how long they take."""

from __future__ import annotations

import math
from typing import Any

from waxwing.batch import Batch
from waxwing.change import Size

# So many records go into the first transaction.
TRANSACTION_ROWS_FIRST = 5_000
TRANSACTION_ROWS_MIN = 1_000
# Where others are in the way it may be one; and it grows again only once so many in succession have got through.
GROWS_AFTER = 8
# A message above this size counts as several of those that may wait. As Python objects a record takes some five times as much.
RECORD_BYTES = 256


class TransactionSize:
    """How many records the next transaction takes.

    Args:
        size: of the target's changes.
    """

    def __init__(self, size: Size) -> None:
        self._most, self._aim_s = size.rows_max, math.inf if size.commit_s is None else size.commit_s
        self.rows_max = self._most if size.commit_s is None else min(TRANSACTION_ROWS_FIRST, self._most)
        self._wait = 0  # transactions that have to get through before it grows again

    @property
    def contended(self) -> bool:
        """Is it smaller than time alone would have it, since others are in the way?"""
        return self.rows_max < min(TRANSACTION_ROWS_MIN, self._most)

    def learn(self, records: int, took_s: float) -> None:
        """More records in the next transaction where a full one was quick, fewer where it was slow."""
        if took_s > 2 * self._aim_s:
            self.rows_max = max(self.rows_max // 2, min(TRANSACTION_ROWS_MIN, self._most, self.rows_max))
        elif self._wait:
            self._wait -= 1
        elif took_s < self._aim_s / 2 and records >= (
            self.rows_max // 2 if self.contended else self.rows_max
        ):  # a half may be full
            self.rows_max = min(self.rows_max * 2, self._most)
            self._wait = GROWS_AFTER if self.contended else 0

    def give_way(self, records: int) -> None:
        """Others were in the way of a transaction of so many."""
        self.rows_max = max(1, min(records, self.rows_max) // 2)
        self._wait = GROWS_AFTER


def weight(batch: Batch[Any]) -> int:
    """Records, counted by what they hold in memory: by the size of a few of their messages."""
    some = batch.messages.values[:: len(batch.messages) // 8 or 1]
    mean_bytes = sum(len(value or b"") for value in some) / (len(some) or 1)
    return round(len(batch.records) * max(1.0, mean_bytes / RECORD_BYTES)) or 1
