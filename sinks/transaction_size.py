"""How large transactions are: they choose it themselves, by how long they take."""

from __future__ import annotations

from typing import Any

from waxwing.batch import Batch

# So many records go into the first transaction.
TRANSACTION_ROWS_FIRST = 5_000
TRANSACTION_ROWS_MIN = 1_000
# A message above this size counts as several of those that may wait. As Python objects a record takes some five times as much.
RECORD_BYTES = 256


class TransactionSize:
    """How many records the next transaction takes.

    Args:
        most: FLUSH_ROWS_MAX.
        aim_s: about how long a transaction should take (Target.transaction_s).
    """

    def __init__(self, most: int, aim_s: float) -> None:
        self._most, self._aim_s = most, aim_s
        self.rows_max = min(TRANSACTION_ROWS_FIRST, most)

    def learn(self, records: int, took_s: float) -> None:
        """More records in the next transaction where a full one was quick, fewer where it was slow."""
        if took_s > 2 * self._aim_s:
            self.rows_max = max(self.rows_max // 2, min(TRANSACTION_ROWS_MIN, self._most))
        elif took_s < self._aim_s / 2 and records >= self.rows_max:
            self.rows_max = min(self.rows_max * 2, self._most)


def weight(batch: Batch[Any]) -> int:
    """Records, counted by what they hold in memory: by the size of a few of their messages."""
    some = batch.messages.values[:: len(batch.messages) // 8 or 1]
    mean_bytes = sum(len(value or b"") for value in some) / (len(some) or 1)
    return round(len(batch.records) * max(1.0, mean_bytes / RECORD_BYTES)) or 1
