"""What is measured, in interleaved repeats, so that what else the machine does meets all alike."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.databases import Place
from benchmarks.limits.stages import Clock, fetched, make_tables, plan_of, rows_of
from benchmarks.shapes import START_RECORDS, Topic
from benchmarks.spread import Spread
from benchmarks.whole.runs import Run, check, first_row_s, forget, run, transaction_records, turns
from benchmarks.whole.trees import OURS, Tree
from tests.faults.recompute import Expected, compare

# Running rates are shown where the rest of a run takes at least this share of its start.
TOLD_ABOVE = 0.5
ONE, TWO = "1 process", "2 processes"
Key = tuple[str, Tree]


@dataclass(frozen=True)
class Result:
    """Figures of some repeats. Ratios are made within each repeat; what is running is without the start."""

    what: str
    tree: Tree
    rate: Spread
    ratio: Spread | None = None  # to the raw limit, as the next
    rate_running: Spread | None = None
    ratio_running: Spread | None = None
    cpu_us: Spread | None = None
    cpu_running_us: Spread | None = None
    peak_mb: Spread | None = None

    def over(self, base: Result) -> list[str]:
        """The ratios to the base's, as BASE_COLUMNS name them."""
        pairs = [(getattr(self, name), getattr(base, name)) for name in BASE_COLUMNS]
        return [mine.over(theirs).text(".2f") if mine is not None and theirs is not None else "" for mine, theirs in pairs]


BASE_COLUMNS = {
    "rate": "records/s",
    "rate_running": "running",
    "cpu_us": "own CPU",
    "cpu_running_us": "running",
    "peak_mb": "peak memory",
}


@dataclass
class Repeats:
    """Runs by what they were and whose, one a repeat; the raw limits that stood beside them, and the starts of their kind."""

    runs: dict[Key, list[Run]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[Key, list[Run]] = field(default_factory=lambda: defaultdict(list))
    limits: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))

    def result(self, what: str, tree: Tree, start: str) -> Result:
        """What a table shows of it."""
        runs, starts = self.runs[what, tree], self.starts[start, tree]
        limits = Spread(self.limits[what, tree]) if (what, tree) in self.limits else None
        middle = Run(
            starts[0].records,
            median(each.seconds for each in starts),
            median(each.cpu_s for each in starts),
            median(each.peak_mb for each in starts),
        )
        rate = Spread([each.rate for each in runs])
        running = [each.without(middle) for each in runs]
        rate_running = Spread([each.rate for each in running])
        # Where the start is most of a run, what is left of the difference is noise.
        told = median(each.seconds for each in running) > middle.seconds * TOLD_ABOVE
        return Result(
            what,
            tree,
            rate,
            limits and rate.over(limits),
            rate_running if told else None,
            limits and rate_running.over(limits) if told else None,
            Spread([each.cpu_us for each in runs]),
            Spread([each.cpu_us for each in running]) if told else None,
            Spread([each.peak_mb for each in runs]),
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


def against_raw(
    place: Place, topic: Topic, folder: Path, repeats: int, transaction_rows: int, trees: Sequence[Tree]
) -> list[Result]:
    """The raw limit and the flow, over new and existing rows; the raw limit in transactions of so many rows."""
    shape, records = topic.shape, topic.records
    payloads, rows_total = _payloads(place, topic, transaction_rows)
    # As the flow has them when it reads the topic once more: with other values where a record says none (processed_at).
    time.sleep(1.0)
    later, _ = _payloads(place, topic, transaction_rows)
    done = Repeats()
    raw: dict[str, list[float]] = defaultdict(list)

    def flow(tree: Tree, rows: str, url: str, processes: int = 1) -> None:
        what = f"{rows} rows" if processes == 1 else f"{rows} rows, {TWO}"
        done.runs[what, tree].append(run(shape.flow, topic.env(url), folder, records, processes=processes, tree=tree))
        check(shape, url, records)
        done.limits[what, tree].append(raw[rows][-1])

    for repeat in range(repeats):
        order = turns(trees, repeat)
        urls = {tree.title: place.empty(f"flow-{tree.title}") for tree in order}
        url = place.empty("raw")
        make_tables(shape, url)
        bare = place.kind.raw(url, plan_of(shape, url)[1])
        raw["new"].append(rows_total / _timed(bare.insert, payloads))
        for tree in order:
            flow(tree, "new", urls[tree.title])
        raw["existing"].append(rows_total / _timed(bare.upsert, later))
        bare.close()
        for tree in order:
            forget(urls[tree.title])
            flow(tree, "existing", urls[tree.title])
        flow(OURS, "new", place.empty(f"flow-{OURS.title}"), 2)
        for tree, processes in [*((tree, 1) for tree in order), (OURS, 2)]:
            env = topic.env(place.empty("start"), start=True)
            start = run(shape.flow, env, folder, START_RECORDS, processes=processes, tree=tree)
            done.starts[TWO if processes == 2 else ONE, tree].append(start)
        for tree in order:
            place.empty(f"flow-{tree.title}")
    limits = [Result(f"raw limit, {rows} rows", OURS, Spread(rates)) for rows, rates in raw.items()]
    return [*limits, *(done.result(what, tree, TWO if TWO in what else ONE) for what, tree in done.runs)]


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


def in_memory(topic: Topic, folder: Path, repeats: int, trees: Sequence[Tree]) -> list[Result]:
    """One process and two into the memory target; the ratio is to one process of the same repeat and tree."""
    flow, kinds = "benchmarks.flows.memory", {1: ONE, 2: TWO}
    done = Repeats()
    for repeat in range(repeats):
        for processes, what in kinds.items():
            for tree in turns(trees, repeat):
                made = run(flow, topic.env(), folder, topic.records, processes=processes, tree=tree)
                done.runs[what, tree].append(made)
                done.limits[what, tree].append(done.runs[ONE, tree][-1].rate)
                start = run(flow, topic.env(start=True), folder, START_RECORDS, processes=processes, tree=tree)
                done.starts[what, tree].append(start)
    out = []
    for tree in trees:
        one = done.result(ONE, tree, ONE)
        for what in kinds.values():
            each = done.result(what, tree, what)
            # Without the start, each against the other of its own kind.
            running = each.rate_running and one.rate_running and each.rate_running.over(one.rate_running)
            out.append(replace(each, ratio_running=running))
    return out


def first_row(place: Place, topic: Topic, folder: Path, repeats: int, trees: Sequence[Tree]) -> dict[str, Spread]:
    """Seconds from process start to the first row, by tree."""
    done: dict[str, list[float]] = {tree.title: [] for tree in trees}
    for repeat in range(repeats):
        for tree in turns(trees, repeat):
            done[tree.title].append(first_row_s(topic.shape, topic.env(place.empty("first")), folder, tree))
    return {title: Spread(seconds) for title, seconds in done.items()}
