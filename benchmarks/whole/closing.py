"""How soon a closed window is visible: a trickle into windows of a second, from the record that closes one to its rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.databases import Place
from benchmarks.flows.windows import windows
from benchmarks.shapes import PARTITIONS
from benchmarks.spread import Spread
from benchmarks.whole.runs import turns
from benchmarks.whole.sending import cpu_s, percentile, settle
from benchmarks.whole.trees import Tree
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine
from tests.servers import Kafka

FLOW = "benchmarks.flows.windows"
RATE, CUSTOMERS = 200, 20
LENGTH_S = 1
WARM_UP_S = 8.0  # windows close so much later, and the flow has to start
LOOK_S = 0.003
COLUMNS = ("of", "windows", "p50, ms", "p90, ms", "max, ms", "own CPU, % of a core")
_numbers = count(1)


@dataclass
class Trickle:
    """Sends orders of now, evenly spaced, each partition in turn; remembers when what closes a window went to each of them."""

    producer: Producer
    topic: str
    closing_s: dict[int, dict[int, float]] = field(default_factory=dict)  # by the window's end, by partition
    stopped: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        """Until it is stopped."""
        lateness_s = windows(LENGTH_S).lateness_s
        began_s = time.monotonic()
        for number in count():
            if self.stopped.wait(max(began_s + number / RATE - time.monotonic(), 0)):
                return
            now_s, partition = time.time(), number % PARTITIONS
            customer = f"customer-{number % CUSTOMERS:05}"
            value = f'{{"customer":"{customer}","quantity":1,"total_value":1.50}}'.encode()
            timestamp_ms = int(now_s * 1000)
            self.producer.produce(self.topic, value, customer.encode(), partition, timestamp=timestamp_ms)
            self.producer.poll(0)
            closes = int(timestamp_ms / 1000 - lateness_s) // LENGTH_S * LENGTH_S
            self.closing_s.setdefault(closes, {}).setdefault(partition, now_s)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """One trickle."""

    windows: float
    p50_ms: float
    p90_ms: float
    max_ms: float
    cpu_percent: float


def measure(
    place: Place, kafka: Kafka, folder: Path, trees: Sequence[Tree], repeats: int, seconds: float
) -> Mapping[str, list[Closing]]:
    """By tree, the repeats."""
    done: dict[str, list[Closing]] = {tree.title: [] for tree in trees}
    for repeat in range(repeats):
        for tree in turns(trees, repeat):
            done[tree.title].append(_one(place, kafka, folder, tree, seconds))
    return done


def _one(place: Place, kafka: Kafka, folder: Path, tree: Tree, seconds: float) -> Closing:
    topic = f"closing-{next(_numbers)}"
    kafka.create_topic(topic, PARTITIONS)
    url = place.empty("closing")
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "SOURCE_TOPIC": topic, "DATABASE_URL": url}
    env |= {"TOTALS": "on_close", "TOTALS_LENGTH_S": str(LENGTH_S), **tree.env}
    trickle = Trickle(Producer({"bootstrap.servers": kafka.bootstrap(), "linger.ms": 0, "log_level": 0}), topic)
    with Cluster(FLOW, env, folder, root=tree.root) as cluster:
        sending = threading.Thread(target=trickle)
        sending.start()
        try:
            settle(WARM_UP_S)
            used_s, began_s = cpu_s(cluster.pids), time.monotonic()
            seen_s = _seen(url, cluster, seconds)
            cpu_percent = (cpu_s(cluster.pids) - used_s) / (time.monotonic() - began_s) * 100
        finally:
            trickle.stopped.set()
            sending.join()
            trickle.producer.flush(10)
    closed = {start + LENGTH_S: at_s for start, at_s in seen_s.items()}
    waited = sorted(
        (at_s - max(trickle.closing_s[end].values())) * 1000
        for end, at_s in closed.items()
        if len(trickle.closing_s.get(end, ())) == PARTITIONS
    )
    if not waited:
        raise SystemExit(f"{FLOW} closed no window: {cluster.output()[-3_000:]}")
    p50_ms, p90_ms = percentile(waited, 0.5), percentile(waited, 0.9)
    return Closing(windows=len(waited), p50_ms=p50_ms, p90_ms=p90_ms, max_ms=waited[-1], cpu_percent=cpu_percent)


def _seen(url: str, cluster: Cluster, seconds: float) -> dict[int, float]:
    """When all rows of each window were there that another connection did not see before; by the window's start."""
    query = sa.text(
        "SELECT CAST(extract(epoch FROM window_start) AS bigint), count(*) FROM window_totals "
        f"GROUP BY 1 HAVING count(*) = {CUSTOMERS}"
    )
    engine = plain_engine(url)
    seen_s: dict[int, float] = {}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        before = {int(start) for start, _ in connection.execute(query)}
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and cluster.running():
            found = connection.execute(query).all()
            now_s = time.time()
            for start, _ in found:
                if int(start) not in before:
                    seen_s.setdefault(int(start), now_s)
            time.sleep(LOOK_S)
    engine.dispose()
    return seen_s


def cells(done: Mapping[str, list[Closing]]) -> list[list[str]]:
    """The rows of the table (COLUMNS)."""
    out = []
    for title, found in done.items():
        spreads = [Spread([getattr(each, name) for each in found]).text(".0f") for name in Closing.__annotations__]
        out.append([title, *spreads])
    return out
