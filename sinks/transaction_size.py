"""How large transactions are: they choose it themselves, by how long they take."""

from __future__ import annotations

from typing import Any

from waxwing.batch import Batch

# A transaction takes about this long: below it the round trips and the commit show, above it nothing is gained, and more rows
# wait in memory. So many records go into the first one.
TRANSACTION_S = 0.1
TRANSACTION_ROWS_FIRST = 5_000
TRANSACTION_ROWS_MIN = 1_000
# A message above this size counts as several of those that may wait. As Python objects a record takes some five times as much.
RECORD_BYTES = 256


class TransactionSize:
    """How many records the next transaction takes; `most` is FLUSH_ROWS_MAX."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows_max = min(TRANSACTION_ROWS_FIRST, most)

    def learn(self, records: int, took_s: float) -> None:
        """More records in the next transaction where a full one was quick, fewer where it was slow."""
        if took_s > 2 * TRANSACTION_S:
            self.rows_max = max(self.rows_max // 2, min(TRANSACTION_ROWS_MIN, self._most))
        elif took_s < TRANSACTION_S / 2 and records >= self.rows_max:
            self.rows_max = min(self.rows_max * 2, self._most)


def weight(batch: Batch[Any]) -> int:
    """Records, counted by what they hold in memory: by the size of a few of their messages."""
    some = batch.messages.values[:: len(batch.messages) // 8 or 1]
    mean_bytes = sum(len(value or b"") for value in some) / (len(some) or 1)
    return round(len(batch.records) * max(1.0, mean_bytes / RECORD_BYTES)) or 1
