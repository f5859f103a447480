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
TICK_S = 0.01  # what the kernel counts in; less is not nothing
# The producer's process makes its orders first.
PRODUCER_START_S = 1.0
FLOW_POSITIONS = "waxwing_progress"
LOOP = "hand-written loop"
COLUMNS = ("orders/s", "of", "p50, ms", "p99, ms", "max, ms", "p50, times the loop's", "own CPU, % of a core", "looks each, ms")
BASE_COLUMNS = ("orders/s", "p50", "p99", "max", "own CPU")
BASE_COLUMNS_OF = ("p50_ms", "p99_ms", "max_ms", "cpu_percent")
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
        cpu_percent=max(used_s, TICK_S) / seconds * 100,
        looks_ms=watched.watcher.interval_ms(),
    )


def cells(done: Done) -> list[list[str]]:
    """The rows of the table (COLUMNS)."""
    out = []
    for rate, who in sorted(done, key=lambda key: key[0]):
        p50, p99, most, cpu, looks = (spread(done[rate, who], name) for name in Latency.__annotations__)
        times = "" if who == LOOP else p50.over(spread(done[rate, LOOP], "p50_ms")).text(".1f")
        row = [f"{rate:,}", who, p50.text(".1f"), p99.text(".0f"), most.text(".0f"), times, cpu.text(".0f"), looks.text(".1f")]
        out.append(row)
    return out


def base_cells(done: Done, base: Tree) -> list[list[str]]:
    """The rows of the table (BASE_COLUMNS): ours over the base's."""
    pairs = [(rate, done[rate, OURS.title], done[rate, base.title]) for rate in RATES]
    return [
        [f"{rate:,}", *(spread(ours, name).over(spread(theirs, name)).text(".2f") for name in BASE_COLUMNS_OF)]
        for rate, ours, theirs in pairs
    ]


def spread(found: Sequence[Latency], name: str) -> Spread:
    """One figure of all repeats."""
    return Spread([getattr(each, name) for each in found])
