"""What a flow takes that has nothing to do: over an empty topic, and at rest behind its last record; all side by side."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.databases import Place
from benchmarks.shapes import GOOD_ORDERS, PARTITIONS, fill
from benchmarks.spread import Spread
from benchmarks.whole.sending import LOOKS, Watcher, cpu_s, settle
from benchmarks.whole.trees import OURS, Tree
from tests.faults.cluster import Cluster
from tests.servers import Kafka

WINDOW_S = 15.0
SETTLE_S = 3.0
TOPICS = {"an empty topic": 0, "at rest": 1_000}
COLUMNS = ("flow", "of", "own CPU, % of a core")

Idle = Mapping[tuple[str, str], Spread]


def measure(place: Place, kafka: Kafka, folder: Path, trees: Sequence[Tree], repeats: int) -> Idle:
    """By topic and tree, the CPU in % of a core, over windows of WINDOW_S that all have at once."""
    with contextlib.ExitStack() as stack:
        clusters = {
            (what, tree.title): stack.enter_context(_at_rest(place, kafka, folder, tree, records, stack))
            for what, records in TOPICS.items()
            for tree in trees
        }
        settle(SETTLE_S)
        done: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(repeats):
            began_s, before = time.monotonic(), {key: cpu_s(cluster.pids) for key, cluster in clusters.items()}
            settle(WINDOW_S)
            seconds = time.monotonic() - began_s
            for key, cluster in clusters.items():
                done[key].append((cpu_s(cluster.pids) - before[key]) / seconds * 100)
    return {key: Spread(values) for key, values in done.items()}


def _at_rest(place: Place, kafka: Kafka, folder: Path, tree: Tree, records: int, stack: contextlib.ExitStack) -> Cluster:
    name = f"idle-{records}-{tree.title}".replace(" ", "-")
    topic = f"{place.name}-{name}"
    if records:
        fill(kafka, topic, GOOD_ORDERS, records)
    else:
        kafka.create_topic(topic, PARTITIONS)
    url = place.empty(name)
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "SOURCE_TOPIC": topic, "DATABASE_URL": url, "ORDER_TOTALS": "off"}
    cluster = stack.enter_context(Cluster(GOOD_ORDERS.flow, {**env, **tree.env}, folder, root=tree.root, name=name))
    with Watcher(cluster, url, "waxwing_progress", folder) as watcher:
        watcher.until({**kafka.end_offsets(topic), LOOKS: 1})  # of an empty topic: that the flow has begun
    return cluster


def rows(idle: Idle, base: Tree | None) -> list[list[str]]:
    """Of the table; the last column is the ratio to the base's."""
    out = []
    for (what, tree), cpu in idle.items():
        row = [what, tree, cpu.text(".2f")]
        if base is not None:
            row.append(cpu.over(idle[what, base.title]).text(".2f") if tree == OURS.title else "")
        out.append(row)
    return out
