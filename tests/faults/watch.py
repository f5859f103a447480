"""Orders into a topic, and how far the flow got with them: what tests of running flows wait for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from tests.faults.cluster import ROOT, Cluster
from tests.faults.recompute import plain_engine

POSITIONS = sa.text("SELECT step, source, source_partition, offset_next, owner FROM waxwing_progress")
BUCKETS = "waxwing:windows"


def produce(bootstrap: str, topic: str, count: int, *, bad: float, seed: int, partitions: int = 4, rate: float = 0) -> None:
    """Orders into a topic, by the project's own command."""
    command = [
        sys.executable,
        "-c",
        "from waxwing.cli import main; main()",
        "produce",
        "orders",
        "--count",
        str(count),
        "--bad",
        str(bad),
        "--seed",
        str(seed),
    ]
    command += ["--topic", topic, "--partitions", str(partitions)] + (["--rate", str(rate)] if rate else [])
    subprocess.run(
        command, check=True, cwd=ROOT, env={"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "PATH": ""}, stdout=subprocess.DEVNULL
    )


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """The log's end of every partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "watch"})
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in numbers}
    finally:
        consumer.close()


class Positions:
    """The stored positions of a flow that is alone in its database, looked at often: one connection, as long as it lasts.

    Attributes:
        taken_in: records behind the positions when they were seen last.
        owners: by step, the generations that owned them then.
    """

    def __init__(self, url: str) -> None:
        self._engine = plain_engine(url).execution_options(isolation_level="AUTOCOMMIT")  # each look sees what is there now
        self._connection: sa.Connection | None = None
        self.taken_in = 0
        self.owners: dict[str, set[int]] = {}

    def look(self) -> int:
        """Look now; what was seen last while the database is away, or has no positions yet."""
        try:
            self._connection = self._connection or self._engine.connect()
            rows = self._connection.execute(POSITIONS).all()
            self.taken_in = sum(_lowest(rows).values())
            self.owners = {step: {row.owner for row in rows if row.step == step} for step in {row.step for row in rows}}
        except sa.exc.DBAPIError:
            self.close()
        return self.taken_in

    def close(self) -> None:
        """Leave the database alone."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def positions(url: str) -> dict[int, int]:
    """The stored position of every partition: the lowest of all steps, but for buckets of windows, which keep theirs inside."""
    with plain_engine(url).connect() as connection:
        return _lowest(connection.execute(POSITIONS).all())


def _lowest(rows: Sequence[sa.Row[Any]]) -> dict[int, int]:
    out: dict[int, int] = {}
    for row in rows:
        if row.source != BUCKETS:
            out[row.source_partition] = min(row.offset_next, out.get(row.source_partition, row.offset_next))
    return out


def taken_in(url: str) -> int:
    """Records behind the stored positions; 0 before there are any."""
    try:
        return sum(positions(url).values())
    except sa.exc.DBAPIError:  # no such table yet
        return 0


def await_progress(url: str, cluster: Cluster, records: float, timeout_s: float = 300.0) -> None:
    """Wait until so many more records were taken in, or the flow has ended."""
    goal, deadline_s = taken_in(url) + records, time.monotonic() + timeout_s
    while cluster.running() and taken_in(url) < goal:
        if time.monotonic() > deadline_s:
            raise AssertionError(f"no progress in {timeout_s} s: {cluster.output()[-3_000:]}")
        time.sleep(0.02)
