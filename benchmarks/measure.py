"""What is measured, in interleaved repeats, so that what else the machine does meets all alike."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.databases import Place
from benchmarks.runs import Run, check, first_row_s, forget, run, transaction_records
from benchmarks.shapes import Shape
from benchmarks.stages import Clock, fetched, make_tables, plan_of, rows_of
from tests.faults.recompute import Expected, compare

START_RECORDS = 1_000
# Running rates are shown where the rest of a run takes at least this share of its start.
TOLD_ABOVE = 0.5


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A filled topic, and beside it one of START_RECORDS records, whose run is the start."""

    shape: Shape
    bootstrap: str
    name: str
    start_name: str
    records: int

    def env(self, url: str = "", *, start: bool = False) -> dict[str, str]:
        """The flow's settings."""
        env = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "SOURCE_TOPIC": self.start_name if start else self.name}
        env["ORDER_TOTALS"] = "off"  # rows beside the raw limit of rows; windows are measured by --windows
        return {**env, "DATABASE_URL": url} if url else env


@dataclass(frozen=True)
class Result:
    """The middle of some repeats. Ratios are made within each repeat, then their middle is taken."""

    what: str
    rate: float
    ratio: float
    ratios: Sequence[float] = ()
    rate_running: float | None = None  # without the start, as those below
    ratio_running: float | None = None
    cpu_us: float | None = None
    cpu_running_us: float | None = None
    peak_mb: float | None = None


@dataclass
class Repeats:
    """Runs by what they were, one a repeat, the raw limit that stood beside each, and the starts by the number of processes."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))
    limits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def result(self, what: str, processes: int) -> Result:
        """The middle of the repeats."""
        runs, starts, limits = self.runs[what], self.starts[processes], self.limits[what]
        start = Run(
            starts[0].records,
            median(each.seconds for each in starts),
            median(each.cpu_s for each in starts),
            median(each.peak_mb for each in starts),
        )
        running = [each.without(start) for each in runs]
        told = median(each.seconds for each in running) > start.seconds * TOLD_ABOVE
        ratios = [each.rate / limit for each, limit in zip(runs, limits, strict=True)]
        return Result(
            what,
            median(each.rate for each in runs),
            median(ratios),
            sorted(ratios),
            # Where the start is most of a run, what is left of the difference is noise.
            median(each.rate for each in running) if told else None,
            median(each.rate / limit for each, limit in zip(running, limits, strict=True)) if told else None,
            median(each.cpu_us for each in runs),
            median(each.cpu_us for each in running) if told else None,
            max(each.peak_mb for each in runs),
        )


def warm_up(place: Place, topic: Topic, folder: Path, want: Expected | None) -> int:
    """One run, compared row by row where it is known what it should make. Returns how many records a transaction took."""
    url = place.empty("flow")
    run(topic.shape.flow, topic.env(url), folder, topic.records)
    check(topic.shape, url, topic.records)
    if want is not None and not (difference := compare(url, want)).equal:
        raise SystemExit(f"the flow's table is wrong: {difference}")
    database, _ = plan_of(topic.shape, url)
    return transaction_records(url, database.dialect.writers_max)


def against_raw(place: Place, topic: Topic, folder: Path, repeats: int, transaction_rows: int) -> list[Result]:
    """The raw limit and the flow, over new and existing rows; the raw limit in transactions of so many rows."""
    shape, records = topic.shape, topic.records
    payloads, rows_total = _payloads(place, topic, transaction_rows)
    done = Repeats()
    raw: dict[str, list[float]] = defaultdict(list)

    def flow(what: str, raw_what: str, url: str, processes: int = 1) -> None:
        done.runs[what].append(run(shape.flow, topic.env(url), folder, records, processes=processes))
        check(shape, url, records)
        done.limits[what].append(raw[raw_what][-1])

    for _ in range(repeats):
        url = place.empty("raw")
        make_tables(shape, url)
        bare = place.kind.raw(url, plan_of(shape, url)[1])
        raw["new rows"].append(rows_total / _timed(bare.insert, payloads))
        flow("new rows", "new rows", url := place.empty("flow"))
        raw["existing rows"].append(rows_total / _timed(bare.upsert, payloads))
        bare.close()
        forget(url)
        flow("existing rows", "existing rows", url)
        flow("new rows, 2 processes", "new rows", place.empty("flow"), 2)
        place.empty("flow")
        for processes in (1, 2):
            start = run(shape.flow, topic.env(place.empty("start"), start=True), folder, START_RECORDS, processes=processes)
            done.starts[processes].append(start)
    limits = [Result(f"raw limit, {what}", median(rates), 1.0) for what, rates in raw.items()]
    return [*limits, *(done.result(what, 2 if "2 processes" in what else 1) for what in done.runs)]


def _payloads(place: Place, topic: Topic, transaction_rows: int) -> tuple[list[Any], int]:
    """What the bare driver is given, transaction by transaction."""
    url = place.empty("raw")
    make_tables(topic.shape, url)
    bare = place.kind.raw(url, plan_of(topic.shape, url)[1])
    clock, total, payloads = Clock(), 0, []
    batches = fetched(topic.bootstrap, topic.name, clock, topic.records)
    for rows in rows_of(topic.shape, url, batches, clock, transaction_rows):
        payloads.append(bare.payload(rows))
        total += len(rows)
    bare.close()
    return payloads, total


def _timed(write: Callable[[Any], None], payloads: Sequence[Any]) -> float:
    began_s = time.perf_counter()
    for payload in payloads:
        write(payload)
    return time.perf_counter() - began_s


def in_memory(topic: Topic, folder: Path, repeats: int) -> list[Result]:
    """One process and two into the memory target; the ratio is to one process of the same repeat."""
    done = Repeats()
    for _ in range(repeats):
        for what, processes in (("1 process", 1), ("2 processes", 2)):
            flow = "benchmarks.flows.memory"
            done.runs[what].append(run(flow, topic.env(), folder, topic.records, processes=processes))
            done.limits[what].append(done.runs["1 process"][-1].rate)
            done.starts[processes].append(run(flow, topic.env(start=True), folder, START_RECORDS, processes=processes))
    one, two = done.result("1 process", 1), done.result("2 processes", 2)
    # Without the start, each against the other of its own kind.
    ratio = two.rate_running / one.rate_running if one.rate_running and two.rate_running else None
    return [
        Result(one.what, one.rate, 1.0, (), one.rate_running, 1.0, one.cpu_us, one.cpu_running_us, one.peak_mb),
        Result(two.what, two.rate, two.ratio, two.ratios, two.rate_running, ratio, two.cpu_us, two.cpu_running_us, two.peak_mb),
    ]


def first_row(place: Place, topic: Topic, folder: Path, repeats: int) -> list[float]:
    """Seconds to the first row, of each repeat, sorted."""
    return sorted(first_row_s(topic.shape, topic.env(place.empty("first")), folder) for _ in range(repeats))
