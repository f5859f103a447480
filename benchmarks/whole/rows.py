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
TWO = "2 processes"


@dataclass(frozen=True)
class Result:
    """Figures of some repeats. Ratios are made within each repeat; what is running is without the start."""

    what: str
    rate: Spread
    ratio: Spread | None = None  # to the raw limit, as the next
    rate_running: Spread | None = None
    ratio_running: Spread | None = None
    cpu_us: Spread | None = None
    cpu_running_us: Spread | None = None
    peak_mb: Spread | None = None

    def over(self, base: Result) -> Sequence[str]:
        """The ratios to the base's, as BASE_COLUMNS name them."""
        pairs = [(getattr(self, name), getattr(base, name)) for name in BASE_COLUMNS]
        return [mine.over(theirs).text(".2f") if mine is not None and theirs is not None else "" for mine, theirs in pairs]


BASE_COLUMNS = {
    "rate": "records/s",
    "rate_running": "running",
    "cpu_us": "own CPU",
    "cpu_running_us": "running",
    "peak_mb": "memory",
}


@dataclass
class Repeats:
    """Runs by what they were, one a repeat, the raw limit that stood beside each, and the starts of their kind."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    limits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def result(self, what: str, start: str) -> Result:
        """What a table shows of it."""
        runs, starts, limits = self.runs[what], self.starts[start], Spread(self.limits[what])
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
            rate,
            rate.over(limits),
            rate_running if told else None,
            rate_running.over(limits) if told else None,
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
    done = Repeats()
    raw: dict[str, list[float]] = defaultdict(list)
    of_kind: dict[str, str] = {}

    def flow(tree: Tree, rows: str, url: str, processes: int = 1) -> None:
        what = tree.called(f"{rows} rows" if processes == 1 else f"{rows} rows, {TWO}")
        done.runs[what].append(run(shape.flow, topic.env(url), folder, records, processes=processes, tree=tree))
        check(shape, url, records)
        done.limits[what].append(raw[rows][-1])
        of_kind[what] = f"{tree.title} {processes}"

    for repeat in range(repeats):
        order = turns(trees, repeat)
        urls = {tree.title: place.empty(f"flow-{tree.title}") for tree in order}
        url = place.empty("raw")
        make_tables(shape, url)
        bare = place.kind.raw(url, plan_of(shape, url)[1])
        raw["new"].append(rows_total / _timed(bare.insert, payloads))
        for tree in order:
            flow(tree, "new", urls[tree.title])
        raw["existing"].append(rows_total / _timed(bare.upsert, payloads))
        bare.close()
        for tree in order:
            forget(urls[tree.title])
            flow(tree, "existing", urls[tree.title])
        flow(OURS, "new", place.empty(f"flow-{OURS.title}"), 2)
        for tree, processes in [*((tree, 1) for tree in order), (OURS, 2)]:
            env = topic.env(place.empty("start"), start=True)
            start = run(shape.flow, env, folder, START_RECORDS, processes=processes, tree=tree)
            done.starts[f"{tree.title} {processes}"].append(start)
        for tree in order:
            place.empty(f"flow-{tree.title}")
    limits = [Result(f"raw limit, {rows} rows", Spread(rates)) for rows, rates in raw.items()]
    return [*limits, *(done.result(what, of_kind[what]) for what in done.runs)]


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
    flow, kinds = "benchmarks.flows.memory", {1: "1 process", 2: TWO}
    done = Repeats()
    for repeat in range(repeats):
        for processes, name in kinds.items():
            for tree in turns(trees, repeat):
                what = tree.called(name)
                done.runs[what].append(run(flow, topic.env(), folder, topic.records, processes=processes, tree=tree))
                done.limits[what].append(done.runs[tree.called(kinds[1])][-1].rate)
                done.starts[what].append(run(flow, topic.env(start=True), folder, START_RECORDS, processes=processes, tree=tree))
    out = []
    for tree in trees:
        one = done.result(tree.called(kinds[1]), tree.called(kinds[1]))
        for name in kinds.values():
            each = done.result(tree.called(name), tree.called(name))
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
