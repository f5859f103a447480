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

from benchmarks.spread import cell
from benchmarks.whole.rows import BASE_COLUMNS, Result
from benchmarks.whole.trees import OURS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
COLUMNS = (
    "run",
    "records/s",
    "of the raw limit",
    "running: records/s",
    "of the raw limit",
    "own CPU, us/record",
    "running",
    "peak memory, MB",
)


class Report:
    """Prints each table as it comes, and keeps it for its section of the page."""

    def __init__(self, *, page: bool) -> None:
        self._console = Console(width=170)
        self._page = page
        self._sections: dict[str, list[str]] = {}
        self._lines: list[str] = []
        self.section("")

    def section(self, name: str) -> None:
        """Where the next tables belong."""
        self._lines = self._sections.setdefault(name, [])

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
        """Results of one database, or of the memory target; the base's in a second table, as ratios."""
        columns = [ratio if name == "of the raw limit" else name for name in COLUMNS]
        self.table(title, columns, [_cells(result) for result in results if result.tree is OURS])
        self.beside(title, results)

    def beside(self, title: str, results: Sequence[Result]) -> None:
        """Ours over the base's, where there is one."""
        ours = {result.what: result for result in results if result.tree is OURS}
        base = [result for result in results if result.tree is not OURS]
        if base:
            rows = [[each.what, *ours[each.what].over(each)] for each in base]
            self.table(f"{title}: times {base[0].tree.title}'s", ["run", *BASE_COLUMNS.values()], rows)

    def write(self) -> None:
        """Put the tables so far into the page, if that was asked for, each in place of what stood in its section."""
        if not self._page:
            return
        text = PAGE.read_text()
        for name, lines in self._sections.items():
            first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
            if lines and first not in text:
                self.say(f"{PAGE.name} has no section for {name}.")
            elif lines:
                head, rest = text.split(first)
                _, tail = rest.split(last)
                text = "\n".join([f"{head}{first}", machine(), "", *lines, f"{last}{tail}"])
        PAGE.write_text(text)


def _cells(result: Result) -> list[str]:
    return [
        result.what,
        cell(result.rate, ",.0f"),
        cell(result.ratio, ".2f"),
        cell(result.rate_running, ",.0f"),
        cell(result.ratio_running, ".2f"),
        cell(result.cpu_us, ".2f"),
        cell(result.cpu_running_us, ".2f"),
        cell(result.peak_mb, ".0f"),
    ]


def machine() -> str:
    """Where and when this was measured."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, a shared virtual machine with {cpu_count()} cores ({models[0] if models else '?'}), "
        f"Python {platform.python_version()}, Bytewax {version('bytewax')}, confluent-kafka {version('confluent-kafka')}; "
        f"load average at the end {getloadavg()[1]:.1f}."
    )
