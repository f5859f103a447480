"""Whole flows as a user would start them, timed from outside."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.shapes import Shape
from benchmarks.whole.trees import OURS, Tree
from tests.faults.cluster import Cluster
from tests.faults.recompute import plain_engine

POLL_S = 0.02
FLOW_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Run:
    """One run of a flow to the end of its topic; CPU of its own processes, without broker and database."""

    records: int
    seconds: float
    cpu_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Records a second, start included."""
        return self.records / self.seconds

    @property
    def cpu_us(self) -> float:
        """Own CPU a record, start included."""
        return self.cpu_s / self.records * 1e6

    def without(self, start: Run) -> Run:
        """The same without a run over hardly any records: what the start costs is gone."""
        seconds = max(self.seconds - start.seconds, 1e-3)
        return Run(self.records - start.records, seconds, self.cpu_s - start.cpu_s, self.peak_mb)


def turns(trees: Sequence[Tree], repeat: int) -> Sequence[Tree]:
    """The trees in the order of this repeat: each is first in turn, so that none has the better place."""
    first = repeat % len(trees)
    return [*trees[first:], *trees[:first]]


def run(flow: str, env: Mapping[str, str], folder: Path, records: int, *, processes: int = 1, tree: Tree = OURS) -> Run:
    """Start the flow, and wait for its end."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with Cluster(flow, {**env, **tree.env, "UNTIL": "end"}, folder, processes=processes, root=tree.root) as cluster:
        peak_mb = 0.0
        while cluster.running():
            peak_mb = max(peak_mb, cluster.peak_memory_mb())
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began_s
        if set(cluster.wait(1)) != {0}:
            raise SystemExit(f"{flow} failed: {cluster.output()[-3_000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(records, seconds, cpu_s, peak_mb)


def first_row_s(shape: Shape, env: Mapping[str, str], folder: Path, tree: Tree = OURS) -> float:
    """Seconds from the start of the process to the first row that another connection sees; the table is not there yet."""
    url = env["DATABASE_URL"]
    file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else None
    query = sa.text(f"SELECT count(*) FROM (SELECT 1 AS one FROM {shape.table.name} LIMIT 1) AS seen")
    if url.startswith("mssql"):
        query = sa.text(f"SELECT count(*) FROM (SELECT TOP 1 1 AS one FROM {shape.table.name}) AS seen")
    engine = plain_engine(url)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(engine.connect()) if file is None else None
        began_s = time.perf_counter()
        cluster = stack.enter_context(Cluster(shape.flow, {**env, **tree.env}, folder, root=tree.root))
        while cluster.running() and time.perf_counter() - began_s < FLOW_TIMEOUT_S:
            with contextlib.suppress(sa.exc.DBAPIError):
                if connection is None and file is not None and file.exists() and file.stat().st_size:
                    connection = stack.enter_context(engine.connect())
                if connection is not None and connection.scalar(query):
                    return time.perf_counter() - began_s
            if connection is not None:
                connection.rollback()  # each look begins anew
            time.sleep(0.005)
        raise SystemExit(f"{shape.flow} wrote no row: {cluster.output()[-3_000:]}")


def forget(url: str) -> None:
    """Make a flow read everything again: its positions and dead letters are deleted, its rows stay."""
    engine = plain_engine(url)
    with engine.begin() as connection:
        for table in ("waxwing_progress", "waxwing_dead_letters"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    engine.dispose()


def transaction_records(url: str, writers_max: int | None) -> int:
    """Records in a transaction, on average, of the flow that has filled this database."""
    engine = plain_engine(url)
    query = sa.text("SELECT sum(offset_next), sum(version), max(version) FROM waxwing_progress")
    with engine.connect() as connection:
        records, moves, moves_of_one = connection.execute(query).one()
    engine.dispose()
    # A lane has one partition here, so a move is a transaction; where one writer serves all, it moves them together.
    return int(records) // int(moves_of_one if writers_max == 1 else moves)


def check(shape: Shape, url: str, records: int) -> None:
    """Each record must be a row or a dead letter."""
    engine = plain_engine(url)
    with engine.connect() as connection:
        counts = [
            connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) for table in (shape.table.name, "waxwing_dead_letters")
        ]
    engine.dispose()
    if sum(int(count or 0) for count in counts) != records:
        raise SystemExit(f"{shape.name}: {counts[0]} rows and {counts[1]} dead letters of {records:,} records in {url}")
