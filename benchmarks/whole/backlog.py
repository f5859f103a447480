"""A backlog of millions of records read through to its end: is memory flat?"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from benchmarks.databases import Place
from benchmarks.flows import wide
from benchmarks.report import Report
from benchmarks.shapes import SHAPES, Shape, Topic, fill
from benchmarks.whole.trees import OURS
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine
from tests.servers import Kafka

POLL_S = 0.25
# Ten million wide records would be 20 GB in the topic and as much in the table.
WIDE_IDS = 100_000
COMPRESSION = "lz4"


def backlog(kafka: Kafka, name: str, records: int) -> Topic:
    """The topic. Wide records come to WIDE_IDS rows, written again and again, so that the table stays of a size."""
    shape: Shape = SHAPES[name]
    if name == "wide":
        shape = replace(shape, values=lambda count: wide.values(count, WIDE_IDS))
    fill(kafka, "backlog", shape, records, COMPRESSION)
    return Topic(shape=shape, bootstrap=kafka.bootstrap(), name="backlog", start_name="", records=records)


def tenths(place: Place, topic: Topic, folder: Path) -> Iterator[tuple[int, float, float]]:
    """Per tenth of the backlog that is written: records so far, seconds so far, peak memory of the process so far in MB."""
    url = place.empty("backlog")
    engine = plain_engine(url)
    query = sa.text("SELECT sum(offset_next - offset_start) FROM waxwing_progress")
    began_s, tenth = time.perf_counter(), 1
    peak_mb = 0.0
    with Cluster(topic.shape.flow, {**topic.env(url), **OURS.env, "UNTIL": "end"}, folder) as cluster:
        while cluster.running():
            peak_mb = max(peak_mb, cluster.peak_memory_mb())
            try:
                with engine.connect() as connection:
                    taken_in = int(connection.scalar(query) or 0)
            except sa.exc.DBAPIError:  # not made yet
                taken_in = 0
            while tenth < 10 and taken_in >= topic.records * tenth / 10:
                yield topic.records * tenth // 10, time.perf_counter() - began_s, peak_mb
                tenth += 1
            time.sleep(POLL_S)
        if set(cluster.wait(1)) != {0}:
            raise SystemExit(f"{topic.shape.flow} failed: {cluster.output()[-3_000:]}")
    yield topic.records, time.perf_counter() - began_s, peak_mb
    engine.dispose()
    place.empty("backlog")


def measure(report: Report, place: Place, topic: Topic, folder: Path) -> None:
    """The table, told as it comes."""
    rows, cpu_s = [], own_cpu_s()
    for records, seconds, peak_mb in tenths(place, topic, folder):
        report.say(f"{records:,} records after {seconds:.0f} s: peak {peak_mb:.0f} MB")
        rows.append([f"{records:,}", f"{seconds:.0f}", f"{peak_mb:.0f}"])
    us = (own_cpu_s() - cpu_s) / topic.records * 1e6
    what = f"{topic.shape.name} records" + (f" into {WIDE_IDS:,} rows" if topic.shape.name == "wide" else "")
    title = f"{place.kind.title}, a backlog of {topic.records:,} {what}, {us:.2f} us of own CPU a record"
    report.table(title, ["records", "seconds", "peak memory, MB"], rows)


def own_cpu_s() -> float:
    """CPU of the children that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
