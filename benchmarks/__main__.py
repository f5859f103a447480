"""Waxwing from a real broker, against the raw limit of the same database measured in the same run.

    python -m benchmarks                                    # everything, some ten minutes
    python -m benchmarks --orders 100000 --databases memory sqlite --shapes orders
    python -m benchmarks --memory narrow --databases postgresql --orders 10000000
    python -m benchmarks --windows                          # only windows: in memory, then from the broker into PostgreSQL
    python -m benchmarks --nexmark                          # only Nexmark's queries 5 and 7, in memory

The raw limit is the bare driver over one connection, given the same rows in a form made ready beforehand, in transactions as
large as the flow's were in a run before. The flow is timed as a user would: the whole process; "running" is without a run over
1,000 records, so without the start. CPU is the flow's own processes', without broker and database. Repeats are interleaved (raw,
flow, raw, flow), figures are their middles, ratios are made within a repeat. Machines are noisy: look at the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import nexmark, window_flows, windows
from benchmarks.backlog import own_cpu_s, tenths
from benchmarks.databases import DATABASES, Place
from benchmarks.measure import START_RECORDS, Topic, against_raw, first_row, in_memory, warm_up
from benchmarks.peers import COLUMNS, against_peers
from benchmarks.report import Report
from benchmarks.shapes import SHAPES, fill
from benchmarks.stages import STAGES, profile
from tests.faults.recompute import Expected, expected
from tests.servers import Kafka, Unavailable

MEMORY = "memory"
PROFILE_RECORDS = 200_000
MEMORY_FACTOR = 4  # as much faster it is without a database


def main() -> None:
    """Servers, records, runs, tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=250_000, help="orders, and as many of other records as are as much work")
    parser.add_argument("--repeats", type=int, default=3, help="of orders; other shapes are measured once less")
    parser.add_argument("--databases", nargs="*", default=[MEMORY, *DATABASES], choices=[MEMORY, *DATABASES])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--memory", choices=SHAPES, help="only this: a backlog of --orders such records, and the memory it takes")
    parser.add_argument("--windows", action="store_true", help="only this: windows in memory, and as whole flows of --orders")
    parser.add_argument("--nexmark", action="store_true", help="only this: Nexmark's queries of windows")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md, each in its section")
    args = parser.parse_args()
    # As in a run (waxwing/runtime.py): the stages are measured in this process.
    gc.set_threshold(100_000, 50, 100)
    report = Report()
    if args.nexmark:
        nexmark.measure(report, args.repeats)
        into_page(report, args.write, "nexmark")
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        if args.windows:
            windows.measure(report, args.repeats)
        kafka = stack.enter_context(Kafka())
        if args.windows:
            window_flows.measure(report, kafka, folder, args.orders, args.repeats)
            into_page(report, args.write, "windows")
            return
        databases = [name for name in args.databases if name != MEMORY]
        if args.memory:
            topic = filled(kafka, args.memory, args.orders)
            for name in databases:
                with contextlib.ExitStack() as servers:
                    backlog(report, servers, name, topic, folder)
            into_page(report, args.write, "a backlog")
            return
        if MEMORY in args.databases:
            memory(report, filled(kafka, "orders", MEMORY_FACTOR * args.orders, MEMORY), folder, args.repeats)
            into_page(report, args.write, MEMORY)
        topics = {name: filled(kafka, name, int(args.orders * SHAPES[name].share)) for name in args.shapes if databases}
        want = expected(kafka.bootstrap(), topics["orders"].name) if "orders" in topics and databases else None
        for name in databases:
            with contextlib.ExitStack() as servers:
                if database(report, servers, name, topics, folder, args.repeats, want):
                    into_page(report, args.write, name)


def into_page(report: Report, write: bool, name: str) -> None:
    """Put what was measured into the page, if that is asked for."""
    if write:
        report.write(name)


def filled(kafka: Kafka, shape: str, records: int, name: str = "") -> Topic:
    """A topic of that shape, and the small one beside it."""
    name = name or shape
    for topic, count in ((name, records), (f"{name}-start", START_RECORDS)):
        fill(kafka, topic, SHAPES[shape], count)
    return Topic(shape=SHAPES[shape], bootstrap=kafka.bootstrap(), name=name, start_name=f"{name}-start", records=records)


def memory(report: Report, topic: Topic, folder: Path, repeats: int) -> None:
    """The memory target."""
    results = in_memory(topic, folder, repeats)
    report.results(f"Memory target, {topic.records:,} orders", results, "of one process")


def database(
    report: Report,
    stack: contextlib.ExitStack,
    name: str,
    topics: dict[str, Topic],
    folder: Path,
    repeats: int,
    want: Expected | None,
) -> bool:
    """Everything about one database; `want` is what its table of orders should hold. False where it can't be had."""
    title = DATABASES[name].title
    try:
        place = stack.enter_context(Place(name, folder))
    except Unavailable as reason:
        report.say(f"{title}: {reason}")
        return False
    profiles = []
    for shape, topic in topics.items():
        rows = warm_up(place, topic, folder, want if shape == "orders" else None)
        if shape == "orders":
            seconds = first_row(place, topic, folder, repeats)
            spread = f"{seconds[0]:.2f}-{seconds[-1]:.2f}"
            report.table(f"{title}, first row", ["seconds from process start", "(repeats)"], [[f"{median(seconds):.2f}", spread]])
        times = repeats if shape == "orders" else max(repeats - 1, 1)
        results = against_raw(place, topic, folder, times, rows)
        report.results(f"{title}, {topic.records:,} {shape}, {rows:,} a transaction", results)
        us = profile(place, topic.shape, topic.bootstrap, topic.name, min(topic.records, PROFILE_RECORDS), rows)
        own = sum(us.values()) - us["wait for the database"]
        profiles.append([shape, *(f"{us[stage]:.2f}" for stage in STAGES), f"{own:.2f}"])
        if shape == "orders" and place.kind.peers:
            report.table(f"{title}, the sink and its peers, one connection each", COLUMNS, against_peers(place, topic, repeats))
    report.table(f"{title}, stages, us/record in one thread", ["records", *STAGES, "CPU together"], profiles)
    return True


def backlog(report: Report, stack: contextlib.ExitStack, name: str, topic: Topic, folder: Path) -> None:
    """Peak memory at each tenth of a backlog."""
    place, rows = stack.enter_context(Place(name, folder)), []
    cpu_s = own_cpu_s()
    for records, seconds, peak_mb in tenths(place, topic, folder):
        report.say(f"{records:,} records after {seconds:.0f} s: peak {peak_mb:.0f} MB")
        rows.append([f"{records:,}", f"{seconds:.0f}", f"{peak_mb:.0f}"])
    us = (own_cpu_s() - cpu_s) / topic.records * 1e6
    title = f"{DATABASES[name].title}, a backlog of {topic.records:,} {topic.shape.name} records, {us:.2f} us of own CPU a record"
    report.table(title, ["records", "seconds", "peak memory, MB"], rows)


if __name__ == "__main__":
    main()
