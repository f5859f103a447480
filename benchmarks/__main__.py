"""Waxwing from a real broker, against the raw limit of the same database measured in the same run.

    python -m benchmarks                                    # everything, some ten minutes
    python -m benchmarks --orders 100000 --databases sqlite --shapes orders
    python -m benchmarks --memory narrow --databases postgresql --orders 10000000

The raw limit is the bare driver over one connection, given the same rows in a form made ready beforehand, in transactions of
20,000. The flow is timed as a user would: the whole process; "running" is without a run over 1,000 records, so without the
start. CPU is the flow's own processes', without broker and database. Repeats are interleaved (raw, flow, raw, flow), figures
are their middles, ratios are made within a repeat. Machines are noisy: look at the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.backlog import own_cpu_s, tenths
from benchmarks.databases import DATABASES, Place
from benchmarks.measure import START_RECORDS, Topic, against_raw, first_row, in_memory
from benchmarks.report import Report, machine
from benchmarks.runs import run
from benchmarks.shapes import SHAPES, fill
from benchmarks.stages import STAGES, profile
from tests.faults.recompute import compare, expected
from tests.servers import Kafka, Unavailable

TRANSACTION_ROWS = 20_000  # FLUSH_ROWS_MAX
PROFILE_RECORDS = 200_000


def main() -> None:
    """Servers, records, runs, tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=500_000, help="orders, and as many of other records as are as much work")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--databases", nargs="*", default=list(DATABASES), choices=DATABASES)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--memory", choices=SHAPES, help="only this: a backlog of --orders such records, and the memory it takes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    args = parser.parse_args()
    # As in a run (waxwing/runtime.py): the stages are measured in this process.
    gc.set_threshold(100_000, 50, 100)
    report = Report()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        kafka = stack.enter_context(Kafka())
        if args.memory:
            topic = filled(kafka, args.memory, args.orders)
            for name in args.databases:
                backlog(report, stack, name, topic, folder)
        else:
            topics = {name: filled(kafka, name, int(args.orders * SHAPES[name].share)) for name in args.shapes}
            if "orders" in topics:
                memory(report, topics["orders"], folder, args.repeats)
            for name in args.databases:
                with contextlib.ExitStack() as servers:
                    database(report, servers, name, topics, folder, args.repeats)
    if args.write:
        report.write("memory" if args.memory else "results", machine())


def filled(kafka: Kafka, name: str, records: int) -> Topic:
    """A topic of that shape, and the small one beside it."""
    for topic, count in ((name, records), (f"{name}-start", START_RECORDS)):
        fill(kafka, topic, SHAPES[name], count)
    return Topic(shape=SHAPES[name], bootstrap=kafka.bootstrap(), name=name, start_name=f"{name}-start", records=records)


def memory(report: Report, topic: Topic, folder: Path, repeats: int) -> None:
    """The memory target."""
    results = in_memory(topic, folder, repeats)
    report.results(f"Memory target, {topic.records:,} orders", results, "of one process")


def database(
    report: Report, stack: contextlib.ExitStack, name: str, topics: dict[str, Topic], folder: Path, repeats: int
) -> None:
    """Everything about one database."""
    title = DATABASES[name].title
    try:
        place = stack.enter_context(Place(name, folder))
    except Unavailable as reason:
        report.say(f"{title}: {reason}")
        return
    profiles = []
    for shape, topic in topics.items():
        if shape == "orders":
            correct(place, topic, folder)
            seconds = first_row(place, topic, folder, repeats)
            spread = f"{seconds[0]:.2f}-{seconds[-1]:.2f}"
            report.table(f"{title}, first row", ["seconds from process start", "(repeats)"], [[f"{median(seconds):.2f}", spread]])
        results = against_raw(place, topic, folder, repeats, TRANSACTION_ROWS)
        report.results(f"{title}, {topic.records:,} {shape}", results)
        us = profile(place, topic.shape, topic.bootstrap, topic.name, min(topic.records, PROFILE_RECORDS), TRANSACTION_ROWS)
        own = sum(us.values()) - us["wait for the database"]
        profiles.append([shape, *(f"{us[stage]:.2f}" for stage in STAGES), f"{own:.2f}"])
    report.table(f"{title}, stages, us/record in one thread", ["records", *STAGES, "CPU together"], profiles)


def correct(place: Place, topic: Topic, folder: Path) -> None:
    """One run whose table is compared, row by row, with an independent recomputation."""
    url = place.empty("flow")
    run(topic.shape.flow, topic.env(url, start=True), folder, START_RECORDS)
    difference = compare(url, expected(topic.bootstrap, topic.start_name))
    if not difference.equal:
        raise SystemExit(f"the flow's table is wrong: {difference}")


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
