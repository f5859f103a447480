"""What `waxwing run` shows: on a terminal one line that renews itself, with messages above it; else the processes' JSON lines."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from waxwing import log
from waxwing.metrics.shared import SharedCounts, dead_letters_of_steps

REFRESH_PER_S = 4
RATE_WINDOW_S = 5.0
_MESH_FORMS = re.compile(rb"^worker \d+:\s+error connecting to worker \d+: .*retrying$")
_STYLES = {"warning": "yellow", "error": "red"}


class Display:
    """Collects the JSON lines that the processes write to stderr."""

    def __init__(self, flow: str, processes: int) -> None:
        self._flow, self._processes = flow, processes
        self._now: list[SharedCounts] = []  # of each process, since its start
        self._before: Counter[Any] = Counter()  # of runs that have ended
        self._restarts = 0
        self._errors: set[str] = set()  # of this run: what all processes meet is told once
        self._started_s = time.monotonic()
        self._samples: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._console = Console(stderr=True)
        self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=REFRESH_PER_S, transient=True)

    def __enter__(self) -> Self:
        if log.terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def read(self, process: int, lines: IO[bytes]) -> None:
        """Take in what a process writes, to its end. Called by one thread per process."""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\n")
            try:
                event = json.loads(text)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                self._pass_on(process, text)
                continue
            if event.get("level") == "error" and self._is_told(str(event.get("message"))):
                continue
            if log.terminal and event.get("event") in ("progress", "summary"):
                continue  # the line that renews itself says as much
            if log.terminal:
                self._print(event.get("level", ""), event.get("message", text), process)
            else:
                sys.stderr.write(json.dumps({**event, "process": process}, ensure_ascii=False) + "\n")
                sys.stderr.flush()

    def pass_through(self, lines: IO[bytes]) -> None:
        """Hand on what a process writes to stdout, to its end; without Bytewax's remarks while the mesh is being formed."""
        for line in lines:
            if not _MESH_FORMS.match(line):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def say(self, level: str, event: str, message: str, **fields: Any) -> None:
        """Say something of the supervisor's own."""
        if log.terminal:
            self._print(level, message)
        else:
            (log.warning if level == "warning" else log.info)(event, message, **fields)

    def run_begins(self, counts: Sequence[SharedCounts]) -> None:
        """Processes are about to be started that count here, from zero."""
        with self._lock:
            self._now = list(counts)
            self._errors.clear()

    def run_ended(self) -> None:
        """All processes have ended."""
        with self._lock:
            for counts in self._now:
                self._before += counts.read()
                counts.close()
            self._now = []

    def restarting(self, message: str, **fields: Any) -> None:
        """All processes are about to be started again."""
        self._restarts += 1
        self.say("warning", "restarting", message, **fields)

    def summary(self, exit_code: int) -> None:
        """The last words."""
        counts = self._counts()
        seconds = time.monotonic() - self._started_s
        self._live.stop()
        text = (
            f"{self._flow}: {counts['records']:,} records taken in, {counts['rows']:,} rows written, "
            f"{counts['dead_letters']:,} dead letters{dead_letters_of_steps(counts['dead_letters_of'])}, "
            f"by {_number(self._processes, 'process', 'processes')} in {seconds:.1f} s, {_number(self._restarts, 'restart')}."
        )
        self.say("info", "run_summary", text, **counts, seconds=round(seconds, 1), restarts=self._restarts, exit_code=exit_code)

    def _counts(self) -> dict[str, Any]:
        with self._lock:
            total = sum((counts.read() for counts in self._now), Counter(self._before))
        # Each step takes in all records, not all of them in the same process: this is how far the first of them is.
        records = max((count for name, count in total.items() if name[0] == "records_of"), default=0)
        letters = {name[1]: count for name, count in total.items() if name[0] == "dead_letters_of"}
        return {
            "records": records,
            "rows": total["rows"],
            "dead_letters": sum(letters.values()),
            "dead_letters_of": letters,
            "retries": total["retries"],
        }

    def _line(self) -> Text:
        counts = self._counts()
        now_s = time.monotonic()
        self._samples = [sample for sample in self._samples if sample[0] > now_s - RATE_WINDOW_S] + [(now_s, counts["records"])]
        first_s, first = self._samples[0]
        rate = (counts["records"] - first) / (now_s - first_s) if now_s > first_s else 0.0
        text = f"{self._flow}  {counts['records']:,} records  {counts['rows']:,} rows  {counts['dead_letters']:,} dead letters"
        text += f"  {rate:,.0f} records/s"
        if self._processes > 1:
            text += f"  {self._processes} processes"
        return Text(text + (f"  {_number(self._restarts, 'restart')}" if self._restarts else ""), style="bold")

    def _is_told(self, error: str) -> bool:
        with self._lock:
            told = error in self._errors
            self._errors.add(error)
            return told

    def _pass_on(self, process: int, text: str) -> None:
        """A line that is not ours: of a library, or Bytewax."""
        if not text:
            return
        if log.terminal:
            self._print("", text, process)
        else:
            log.warning("output", text, process=process)

    def _print(self, level: str, message: str, process: int | None = None) -> None:
        where = f"[{process}] " if process is not None and self._processes > 1 else ""
        kind = f"{level}: " if level in _STYLES else ""
        self._console.print(Text(f"{where}{kind}{message}", style=_STYLES.get(level, "")))


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
