"""Results as tables: on the screen, and in docs/benchmarks.md between two marks."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count, getloadavg
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
COLUMNS = (
    "run",
    "records/s",
    "of the raw limit",
    "(repeats)",
    "running: records/s",
    "of the raw limit",
    "own CPU, us/record",
    "running",
    "peak memory, MB",
)


class Report:
    """Collects tables, prints each as it comes."""

    def __init__(self) -> None:
        self._console = Console(width=140)
        self._lines: list[str] = []

    def say(self, text: str) -> None:
        """A line on the screen only."""
        self._console.print(text, highlight=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table under a title."""
        shown = Table(*columns, title=title, title_justify="left")
        for row in rows:
            shown.add_row(*row)
        self._console.print(shown)
        self._lines += [f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        self._lines += [f"| {' | '.join(row)} |" for row in rows] + [""]

    def results(self, title: str, results: Sequence[Result], ratio: str = "of the raw limit") -> None:
        """Results of one database, or of the memory target."""
        columns = [ratio if name == "of the raw limit" else name for name in COLUMNS]
        self.table(title, columns, [_cells(result) for result in results])

    def write(self, section: str) -> None:
        """Put the tables since the last time into the page, in place of what stood in that section."""
        text = PAGE.read_text()
        first, last = f"<!-- {section} -->\n", f"<!-- end of {section} -->\n"
        head, rest = text.split(first)
        _, tail = rest.split(last)
        PAGE.write_text("\n".join([f"{head}{first}", machine(), "", *self._lines, f"{last}{tail}"]))
        self._lines.clear()


def _cells(result: Result) -> list[str]:
    spread = f"{min(result.ratios):.2f}-{max(result.ratios):.2f}" if len(result.ratios) > 1 else ""
    return [
        result.what,
        f"{result.rate:,.0f}",
        f"{result.ratio:.2f}",
        spread,
        _number(result.rate_running, ",.0f"),
        _number(result.ratio_running, ".2f"),
        _number(result.cpu_us, ".2f"),
        _number(result.cpu_running_us, ".2f"),
        _number(result.peak_mb, ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def machine() -> str:
    """Where and when this was measured."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, a shared virtual machine with {cpu_count()} cores ({models[0] if models else '?'}), "
        f"Python {platform.python_version()}, Bytewax {version('bytewax')}, confluent-kafka {version('confluent-kafka')}; "
        f"load average at the end {getloadavg()[1]:.1f}."
    )
