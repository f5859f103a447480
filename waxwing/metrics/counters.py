"""Counters of this process, for Prometheus and for the progress line."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from waxwing.change import Change
from waxwing.metrics.shared import SharedCounts

RECORDS = Counter("waxwing_records", "Records taken in, durable.", ["step"])
ROWS = Counter("waxwing_rows", "Rows written (before upserts fold the same key), durable.", ["step"])
DEAD_LETTERS = Counter("waxwing_dead_letters", "Dead letters written, durable.", ["step"])
TRANSACTIONS = Counter("waxwing_transactions", "Transactions committed.", ["step", "part"])
TRANSACTION_SECONDS = Histogram("waxwing_transaction_seconds", "Duration of a transaction with its retries.", ["step"])
LATE = Counter("waxwing_late_records", "Records that came too late for a window, one for each window.", ["step"])
LEFT_OUT = Counter(
    "waxwing_windows_left_out",
    "Rows of windows that are not whole, for reading began in the middle of them: not written.",
    ["step"],
)
RETRIES = Counter("waxwing_retries", "Attempts that failed and were tried again.", ["step", "part"])
OFFSET_NEXT = Gauge("waxwing_offset_next", "Stored position: the first offset not taken in.", ["step", "source", "partition"])


@dataclass
class Tally:
    """Sums over this process since its start, for the progress line and the summary."""

    records_of: dict[str, int] = field(default_factory=dict)  # by step
    rows: int = 0
    dead_letters_of: dict[str, int] = field(default_factory=dict)  # by step: two may refuse one record
    late: int = 0
    left_out: int = 0
    transactions: int = 0
    retries: int = 0
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Records taken in. Each step of a flow takes in all of them: this is how far the first of them is."""
        return max(self.records_of.values(), default=0)

    @property
    def dead_letters(self) -> int:
        """Dead letters written, of all steps."""
        return sum(self.dead_letters_of.values())


_lock = threading.Lock()
tally = Tally()
# Read by `waxwing run`, which adds up what processes did that were killed.
_shared = SharedCounts.given()


def _share() -> None:
    if _shared is not None:
        of_steps = {"records_of": tally.records_of, "dead_letters_of": tally.dead_letters_of}
        _shared.write({**of_steps, "rows": tally.rows, "retries": tally.retries})


@cache
def _of(metric: Any, *labels: str | int) -> Any:
    """Of these labels; finding it anew costs some microseconds, at each transaction."""
    return metric.labels(*labels)


def transaction(step: str, part: str, change: Change, seconds: float) -> None:
    """A transaction is durable."""
    records = sum(len(batch.messages) for batch in change.batches) if change.messages is None else change.messages
    rows = sum(len(batch.records) + len(batch.deletes) for batch in change.batches) if change.rows is None else change.rows
    _of(RECORDS, step).inc(records)
    _of(ROWS, step).inc(rows)
    _of(DEAD_LETTERS, step).inc(len(change.dead_letters))
    _of(TRANSACTIONS, step, part).inc()
    _of(TRANSACTION_SECONDS, step).observe(seconds)
    with _lock:
        tally.records_of[step] = tally.records_of.get(step, 0) + records
        tally.rows += rows
        tally.dead_letters_of[step] = tally.dead_letters_of.get(step, 0) + len(change.dead_letters)
        tally.transactions += 1
        for stream, position in change.after.items():
            if position.state is not None:  # a bucket of windows counts its emissions
                continue
            _of(OFFSET_NEXT, step, stream.source, stream.partition).set(position.offset_next)
            tally.positions[f"{step}:{stream}"] = position.offset_next
        _share()


def late(step: str, records: int) -> None:
    """Records were late, and are about to be written as such."""
    if records:
        LATE.labels(step).inc(records)
        with _lock:
            tally.late += records


def left_out(step: str, rows: int) -> None:
    """Rows of windows that are not whole were left out."""
    LEFT_OUT.labels(step).inc(rows)
    with _lock:
        tally.left_out += rows


def retry(step: str, part: str) -> None:
    """An attempt failed and will be tried again."""
    RETRIES.labels(step, part).inc()
    with _lock:
        tally.retries += 1
        _share()
