"""How soon a trickle is visible, at several rates: the flow, the base's, and a hand-written loop, in turns."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from benchmarks.databases import Place
from benchmarks.limits.stages import make_tables
from benchmarks.programs.loop import POSITIONS as LOOP_POSITIONS
from benchmarks.shapes import GOOD_ORDERS, PARTITIONS, fill
from benchmarks.spread import Spread
from benchmarks.whole.runs import turns
from benchmarks.whole.sending import Pacer, Watcher, cpu_s, percentile, settle
from benchmarks.whole.trees import OURS, Tree
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine
from tests.servers import Kafka

RATES = (200, 2_000, 20_000)
WARM_UP_ORDERS = 1_000
SETTLE_S = 1.0
# The producer's process makes its orders first.
PRODUCER_START_S = 1.0
FLOW_POSITIONS = "waxwing_progress"
LOOP = "hand-written loop"
COLUMNS = ("orders/s", "of", "p50, ms", "p99, ms", "max, ms", "own CPU, % of a core", "looks each, ms")
_numbers = count(1)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One rate, once."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_percent: float
    looks_ms: float


@dataclass(frozen=True)
class Watched:
    """A flow (or the loop) that has taken in the first orders of its topic, and the watcher beside it."""

    topic: str
    cluster: Cluster
    watcher: Watcher


Done = Mapping[tuple[int, str], Sequence[Latency]]


def measure(place: Place, kafka: Kafka, folder: Path, trees: Sequence[Tree], repeats: int, seconds: float) -> Done:
    """By rate and what was measured, the repeats."""
    done: dict[tuple[int, str], list[Latency]] = defaultdict(list)
    for repeat in range(repeats):
        for tree in [*turns(trees, repeat), None]:
            with contextlib.ExitStack() as stack:
                watched = stack.enter_context(running(place, kafka, folder, tree))
                for rate in RATES:
                    found = one_rate(watched, kafka, folder, rate, seconds)
                    done[rate, LOOP if tree is None else tree.title].append(found)
    return done


@contextlib.contextmanager
def running(place: Place, kafka: Kafka, folder: Path, tree: Tree | None) -> Iterator[Watched]:
    """A tree's orders flow over a topic of its own, into an emptied database; None: the loop."""
    topic = f"latency-{next(_numbers)}"
    fill(kafka, topic, GOOD_ORDERS, WARM_UP_ORDERS)
    url = place.empty("latency")
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "SOURCE_TOPIC": topic, "DATABASE_URL": url, "ORDER_TOTALS": "off"}
    if tree is None:
        make_tables(GOOD_ORDERS, url)
        _make_positions(url)
        started, table = Cluster(place.name, env, folder, runner="benchmarks.programs.loop"), LOOP_POSITIONS
    else:
        started, table = Cluster(GOOD_ORDERS.flow, {**env, **tree.env}, folder, root=tree.root), FLOW_POSITIONS
    with started as cluster, Watcher(cluster, url, table, folder) as watcher:
        watcher.until(kafka.end_offsets(topic))
        settle(SETTLE_S)
        yield Watched(topic, cluster, watcher)


def _make_positions(url: str) -> None:
    """The loop's own, which stand there before it moves them."""
    engine = plain_engine(url)
    with engine.begin() as connection:
        make = f"CREATE TABLE {LOOP_POSITIONS} (source_partition int PRIMARY KEY, offset_next bigint NOT NULL)"
        connection.execute(sa.text(make))
        for number in range(PARTITIONS):
            connection.execute(sa.text(f"INSERT INTO {LOOP_POSITIONS} VALUES ({number}, 0)"))
    engine.dispose()


def one_rate(watched: Watched, kafka: Kafka, folder: Path, rate: int, seconds: float) -> Latency:
    """So many a second for so long."""
    begin_s = time.monotonic() + PRODUCER_START_S
    pacer = Pacer(kafka.bootstrap(), watched.topic, rate, seconds, folder, begin_s=begin_s)
    settle(max(begin_s - time.monotonic(), 0))
    used_s, began_s = cpu_s(watched.cluster.pids), time.monotonic()
    sent = pacer.sent()
    watched.watcher.until(sent.ends())
    used_s, seconds = cpu_s(watched.cluster.pids) - used_s, time.monotonic() - began_s
    ordered = sorted(watched.watcher.latencies_ms(sent))
    return Latency(
        p50_ms=percentile(ordered, 0.5),
        p99_ms=percentile(ordered, 0.99),
        max_ms=ordered[-1],
        cpu_percent=used_s / seconds * 100,
        looks_ms=watched.watcher.interval_ms(),
    )


def columns(base: Tree | None) -> Sequence[str]:
    """Of the table."""
    ratios = ["p50, times the loop's"]
    if base is not None:
        ratios += [f"{name}, times {base.title}'s" for name in ("p50", "p99", "CPU")]
    return [*COLUMNS, *ratios]


def cells(done: Done, base: Tree | None) -> list[list[str]]:
    """The rows of the table."""
    out = []
    for (rate, who), found in done.items():
        p50, p99, cpu = _spreads(found)
        row = [
            f"{rate:,}",
            who,
            p50.text(".0f"),
            p99.text(".0f"),
            f"{max(each.max_ms for each in found):.0f}",
            cpu.text(".0f"),
            Spread([each.looks_ms for each in found]).text(".1f"),
            "" if who == LOOP else p50.over(_spreads(done[rate, LOOP])[0]).text(".1f"),
        ]
        if base is not None:
            ours = who == OURS.title
            row += [
                mine.over(theirs).text(".2f") if ours else ""
                for mine, theirs in zip((p50, p99, cpu), _spreads(done[rate, base.title]), strict=True)
            ]
        out.append(row)
    return sorted(out, key=lambda row: int(row[0].replace(",", "")))


def _spreads(found: Sequence[Latency]) -> tuple[Spread, Spread, Spread]:
    cpu = Spread([max(each.cpu_percent, 0.01) for each in found])
    return Spread([each.p50_ms for each in found]), Spread([each.p99_ms for each in found]), cpu
