"""What a run shows while it goes on and when it ends: a line that renews itself on a terminal, JSON events otherwise."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from waxwing import log, runtime
from waxwing.metrics import counters
from waxwing.metrics.shared import dead_letters_of_steps

TERMINAL_INTERVAL_S = 0.5


_started = threading.Lock()


def start(interval_s: float) -> None:
    """Show progress every `interval_s` (on a terminal twice a second), and a summary when the run ends well.

    Once per process, and only in a run: every sink partition calls it.
    """
    if not runtime.is_run() or not _started.acquire(blocking=False):
        return
    reporter = _Reporter(TERMINAL_INTERVAL_S if log.terminal else interval_s)
    threading.Thread(target=reporter.run, name="progress", daemon=True).start()
    runtime.at_end(reporter.summary)


class _Reporter:
    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._terminal = log.terminal
        self._started_s = self._last_s = time.monotonic()
        self._records = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._interval_s):
            records = counters.tally.records
            if records != self._records:
                self._show(records)

    def _show(self, records: int) -> None:
        now_s = time.monotonic()
        rate = (records - self._records) / (now_s - self._last_s)
        self._records, self._last_s = records, now_s
        tally = counters.tally
        text = f"{records:,} records, {tally.rows:,} rows, {tally.dead_letters:,} dead letters, {rate:,.0f} records/s"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
        else:
            log.info("progress", text, **self._counts(), records_per_s=round(rate))

    @staticmethod
    def _counts() -> dict[str, Any]:
        tally = counters.tally
        return {
            "records": tally.records,
            "records_of": dict(tally.records_of),
            "rows": tally.rows,
            "dead_letters": tally.dead_letters,
            "dead_letters_of": dict(tally.dead_letters_of),
            "late": tally.late,
            "left_out": tally.left_out,
            "transactions": tally.transactions,
            "retries": tally.retries,
        }

    def summary(self) -> None:
        self._ended.set()
        seconds = time.monotonic() - self._started_s
        tally = counters.tally
        if self._terminal and self._records:
            sys.stderr.write("\r\x1b[2K")
        of_steps = dead_letters_of_steps(tally.dead_letters_of)
        late = f"{tally.late:,} times too late for a window, " if tally.late else ""
        late += f"{tally.left_out:,} rows of windows left out, " if tally.left_out else ""
        text = (
            f"Done: {tally.records:,} records taken in, {tally.rows:,} rows written, "
            f"{tally.dead_letters:,} dead letters{of_steps}, {late}"
            f"{tally.transactions:,} transactions, {tally.retries:,} retries; it ran for {seconds:.1f} s."
        )
        log.info("summary", text, **self._counts(), seconds=round(seconds, 1), positions=tally.positions)
