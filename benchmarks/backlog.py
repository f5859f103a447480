"""A backlog of millions of records read through to its end: is memory flat?"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from benchmarks.databases import Place
from benchmarks.measure import Topic
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine

POLL_S = 0.25


def tenths(place: Place, topic: Topic, folder: Path) -> Iterator[tuple[int, float, float]]:
    """Per tenth of the backlog that is written: records so far, seconds so far, peak memory of the process so far in MB."""
    url = place.empty("backlog")
    engine = plain_engine(url)
    query = sa.text("SELECT sum(offset_next - offset_start) FROM waxwing_progress")
    began_s, tenth = time.perf_counter(), 1
    peak_mb = 0.0
    with Cluster(topic.shape.flow, {**topic.env(url), "UNTIL": "end"}, folder) as cluster:
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


def own_cpu_s() -> float:
    """CPU of the children that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
