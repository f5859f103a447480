"""The bench: `python -m benchmarks --help`."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.databases import DATABASES, Place
from benchmarks.inside import folds, nexmark
from benchmarks.inside.sinks import COLUMNS as SINK_COLUMNS
from benchmarks.inside.sinks import against_peers
from benchmarks.limits.stages import STAGES, profile
from benchmarks.options import READINGS, Options, options
from benchmarks.outputs import whole as outputs
from benchmarks.report import Report
from benchmarks.shapes import GOOD_ORDERS, SHAPES, Topic, filled
from benchmarks.whole import backlog, bursts, closing, idle, latency, peer, windows
from benchmarks.whole.rows import against_raw, first_row, in_memory, warm_up
from benchmarks.whole.trees import OURS, Tree, checked_out, compiled, other_packages
from tests.faults.recompute import Expected, expected
from tests.servers import Kafka, Unavailable

PROFILE_RECORDS = 200_000
OUTPUTS_FACTOR = 4  # readings are as much less work
MEMORY_FACTOR = 4  # as much faster it is without a database


class Bench:
    """What the parts share: the broker, the trees that are measured, where results go."""

    def __init__(self, asked: Options, report: Report, kafka: Kafka, folder: Path, base: Tree | None) -> None:
        self._asked, self._report, self._kafka, self._folder, self._base = asked, report, kafka, folder, base
        self._trees: Sequence[Tree] = [OURS] if base is None else [OURS, base]

    def run(self) -> None:
        """Every part that is asked for."""
        asked, report = self._asked, self._report
        if "processes" in asked.parts:
            self._processes()
            report.write()
        if asked.with_databases:
            shapes = [*dict.fromkeys([*asked.shapes, *(["orders"] if "start" in asked.parts else [])])]
            topics = {name: filled(self._kafka, SHAPES[name], int(asked.orders * SHAPES[name].share)) for name in shapes}
            want = expected(self._kafka.bootstrap(), topics["orders"].name) if "orders" in asked.shapes else None
            for name in asked.databases:
                try:
                    with Place(name, self._folder) as place:
                        self._database(place, topics, want)
                except Unavailable as reason:
                    report.say(f"{DATABASES[name].title}: {reason}")
                report.write()
        if "windows" in asked.parts:
            report.section("windows")
            windows.measure(report, self._kafka, self._folder, asked.orders, asked.less, self._trees)
            report.write()
        if "closing" in asked.parts:
            self._closing()
            report.write()
        if "outputs" in asked.parts:
            report.section("outputs")
            outputs.measure(report, self._kafka, self._folder, OUTPUTS_FACTOR * asked.orders, asked.less)
            report.write()
        if "peer" in asked.parts:
            self._peer()
            report.write()

    def only_bursts(self, minutes: float) -> None:
        """`--bursts`."""
        self._report.section("bursts")
        for name in self._asked.databases:
            with Place(name, self._folder) as place:
                bursts.measure(self._report, place, self._kafka, self._folder, minutes)

    def only_memory(self, shape: str) -> None:
        """`--memory`: peak memory at each tenth of a backlog."""
        self._report.section(f"a backlog of {shape}")
        if shape == READINGS:
            outputs.measure_memory(self._report, self._kafka, self._folder, self._asked.orders)
            return
        topic = backlog.backlog(self._kafka, shape, self._asked.orders)
        for name in self._asked.databases:
            with Place(name, self._folder) as place:
                backlog.measure(self._report, place, topic, self._folder)

    def _processes(self) -> None:
        self._report.section("memory")
        topic = filled(self._kafka, SHAPES["orders"], MEMORY_FACTOR * self._asked.orders, "memory")
        results = in_memory(topic, self._folder, self._asked.repeats, self._trees)
        self._report.results(f"Memory target, {topic.records:,} orders", results, "of one process")

    def _database(self, place: Place, topics: dict[str, Topic], want: Expected | None) -> None:
        """Everything about one database; `want` is what its table of orders should hold."""
        asked, report, base, title = self._asked, self._report, self._base, place.kind.title
        if "start" in asked.parts:
            report.section("start")
            seconds = first_row(place, topics["orders"], self._folder, asked.repeats, self._trees)
            rows = [[name, each.text(".2f")] for name, each in seconds.items()]
            if base is not None:
                rows.append([f"times {base.title}'s", seconds[OURS.title].over(seconds[base.title]).text(".2f")])
            report.table(f"{title}, first row", ["of", "seconds from process start"], rows)
        report.section(place.name)
        profiles = [self._shape(place, topics[name], want if name == "orders" else None) for name in asked.shapes]
        if profiles:
            report.table(f"{title}, stages, us/record in one thread", ["records", *STAGES, "CPU together"], profiles)
        if "latency" in asked.parts:
            report.section("latency")
            done = latency.measure(place, self._kafka, self._folder, self._trees, asked.less, asked.seconds)
            report.table(f"{title}, latency", latency.COLUMNS, latency.cells(done))
            if base is not None:
                report.table(f"{title}, latency: times {base.title}'s", latency.BASE_COLUMNS, latency.base_cells(done, base))
        if "idle" in asked.parts:
            report.section("idle")
            found = idle.measure(place, self._kafka, self._folder, self._trees, asked.less)
            columns = [*idle.COLUMNS, *([] if base is None else [f"times {base.title}'s"])]
            report.table(f"{title}, idle", columns, idle.rows(found, base))

    def _shape(self, place: Place, topic: Topic, want: Expected | None) -> list[str]:
        """Rows of one shape beside the raw limit; the row of stages."""
        asked, report, title, shape = self._asked, self._report, place.kind.title, topic.shape.name
        rows = warm_up(place, topic, self._folder, want)
        times = asked.repeats if shape == "orders" else asked.less
        results = against_raw(place, topic, self._folder, times, rows, self._trees)
        report.results(f"{title}, {topic.records:,} {shape}, {rows:,} a transaction", results)
        us = profile(place, topic.shape, topic.bootstrap, topic.name, min(topic.records, PROFILE_RECORDS), rows)
        if shape == "orders" and place.kind.peers:
            cells = against_peers(place, topic, asked.repeats)
            report.table(f"{title}, the sink and its peers, one connection each", SINK_COLUMNS, cells)
        own = sum(us.values()) - us["wait for the database"]
        return [shape, *(f"{us[stage]:.2f}" for stage in STAGES), f"{own:.2f}"]

    def _closing(self) -> None:
        self._report.section("closing")
        with Place("postgresql", self._folder) as place:
            done = closing.measure(place, self._kafka, self._folder, self._trees, self._asked.less, self._asked.seconds)
        self._report.table("PostgreSQL, windows of 1 s at 200 orders/s", closing.COLUMNS, closing.cells(done))

    def _peer(self) -> None:
        """Pathway, where a Python that has it was named."""
        python = self._asked.peer
        if not (version := peer.version(python)):
            why = f"{python} has no Pathway" if python else "PEER= names no Python that has Pathway"
            self._report.say(f"Beside a peer: not measured, {why}.")
            return
        self._report.section("peer")
        topic = filled(self._kafka, GOOD_ORDERS, self._asked.orders, "peer")
        with Place("postgresql", self._folder) as place:
            done = peer.measure(place, topic, self._folder, self._trees, python, self._asked.repeats)
        title = f"PostgreSQL, {topic.records:,} orders, whole processes beside Pathway {version}"
        self._report.table(title, [*peer.COLUMNS, *peer.RATIOS], peer.cells(done))


def main(words: Sequence[str] | None = None) -> None:
    """Servers, records, runs, tables."""
    asked = options(words)
    # As in a run (waxwing/runtime.py): the stages are measured in this process.
    gc.set_threshold(100_000, 50, 100)
    report = Report(page=asked.write)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        compiled(OURS)
        base = compiled(stack.enter_context(checked_out(asked.base, folder))) if asked.base else None
        if base is not None and other_packages(base):
            report.say(f"{base.title} locks other packages than those it is run with here.")
        bench = Bench(asked, report, stack.enter_context(Kafka()), folder, base)
        if asked.memory:
            bench.only_memory(asked.memory)
        elif asked.bursts:
            bench.only_bursts(asked.bursts)
        else:
            bench.run()
            inside(report, asked)
        report.write()


def inside(report: Report, asked: Options) -> None:
    """Parts without a broker."""
    if "folds" in asked.parts:
        report.section("folds")
        folds.measure(report, asked.repeats)
    if "nexmark" in asked.parts:
        report.section("nexmark")
        nexmark.measure(report, asked.repeats)


if __name__ == "__main__":
    main()
