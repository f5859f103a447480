"""A storm: the orders flow killed, frozen, stalled and restarted while it works off a topic; then everything compared.

    python -m tests.faults.storm --database postgresql --orders 1000000 --kills 20 --seed 1

The schedule is made of the seed. It starts the servers that it needs, and ends them.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from tests.faults.cluster import ROOT, Cluster
from tests.faults.recompute import Difference, compare, expected

OWNER_STALE_S = 2


@dataclass
class Told:
    """What a storm did and what came out."""

    kills: int
    frozen: int
    stalls: int
    processes: list[int]
    fenced: int
    seconds: float
    difference: Difference

    def __str__(self) -> str:
        return (
            f"{self.kills} kill -9, {self.frozen} frozen and thawed ({self.fenced} of their processes ended with 76), "
            f"{self.stalls} stalls, "
            f"process counts {self.processes}, {self.seconds:.0f} s: {self.difference}"
        )


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


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold a lock that blocks every write of the flow."""
    if url.startswith("sqlite"):
        blocker = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        blocker.execute("PRAGMA busy_timeout = 20000")
        blocker.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            blocker.close()
        return
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE waxwing_progress IN EXCLUSIVE MODE")
        yield
        connection.rollback()


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """The log's end of every partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "storm"})
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in numbers}
    finally:
        consumer.close()


def taken_in(url: str) -> int:
    """Records behind the stored positions; 0 before there are any."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT sum(offset_next) FROM waxwing_progress")) or 0)
    except sa.exc.DBAPIError:  # no such table yet
        return 0


def await_progress(url: str, cluster: Cluster, records: float, timeout_s: float = 60.0) -> None:
    """Wait until so many more records were taken in, or the flow has ended."""
    goal, deadline_s = taken_in(url) + records, time.monotonic() + timeout_s
    while cluster.running() and taken_in(url) < goal:
        if time.monotonic() > deadline_s:
            raise AssertionError(f"no progress in {timeout_s} s: {cluster.output()[-3_000:]}")
        time.sleep(0.02)


def freeze(cluster: Cluster, url: str) -> None:
    """SIGSTOP. With SQLite not while it holds the file's lock: no server ends that transaction, so no successor could begin."""
    cluster.signal(signal.SIGSTOP)
    while url.startswith("sqlite") and cluster.running():
        probe = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            cluster.signal(signal.SIGCONT)
            time.sleep(0.005)
            cluster.signal(signal.SIGSTOP)
        else:
            return
        finally:
            probe.close()


def storm(
    bootstrap: str,
    url: str,
    topic: str,
    folder: Path,
    *,
    kills: int,
    freezes: int = 1,
    stall_s: float = 3.0,
    seed: int = 1,
    say: bool = False,
) -> Told:
    """Run the flow over the topic through `kills` kills at random moments; process counts 1, 2, 3 in turn."""
    chance = random.Random(seed)
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "DATABASE_URL": url,
        "SOURCE_TOPIC": topic,
        "UNTIL": "end",
        "OWNER_STALE_S": str(OWNER_STALE_S),
        # Small transactions, so that a kill finds something under way.
        "FLUSH_ROWS_MAX": "5000",
        "BATCH_RECORDS_MAX": "1000",
    }
    flow = "dataflows.orders"
    began_s = time.monotonic()
    counts, fenced, number = [], 0, 0
    frozen_at = set(chance.sample(range(kills), min(freezes, kills)))
    stalled_at = chance.randrange(kills) if stall_s else -1
    total = sum(end for end in end_offsets(bootstrap, topic).values())
    while number < kills:
        processes = number % 3 + 1
        counts.append(processes)
        with Cluster(flow, env, folder, processes=processes, name=f"run-{number}") as cluster:
            if number not in frozen_at and chance.random() < 0.2:
                time.sleep(chance.uniform(0.3, 3.0))  # while it starts, takes over, begins
            else:
                await_progress(url, cluster, chance.uniform(0.2, 1.5) * (total - taken_in(url)) / (kills - number + 1))
            if number in frozen_at:
                freeze(cluster, url)
                with Cluster(flow, env, folder, name=f"run-{number}-successor") as successor:
                    time.sleep(OWNER_STALE_S + chance.uniform(1, 4))
                    cluster.signal(signal.SIGCONT)
                    codes = cluster.wait(30)
                    fenced += codes.count(76)
                    if say:
                        print(f"kill {number}: frozen, thawed: exit codes {codes}", flush=True)
                    successor.kill()
            elif number == stalled_at:
                with locked(url):
                    time.sleep(stall_s)
                    cluster.kill()
            elif processes > 1 and chance.random() < 0.5:
                cluster.kill_one(chance.randrange(processes))
            else:
                cluster.kill()
        number += 1
        if say:
            print(f"kill {number} of {kills} done ({processes} processes)", flush=True)
    with Cluster(flow, env, folder, name="last") as cluster:
        codes = cluster.wait(600)
        if codes != [0]:
            raise AssertionError(f"the last run ended with {codes}: {cluster.output()[-3_000:]}")
    difference = compare(url, expected(bootstrap, topic))
    return Told(number, len(frozen_at), int(stall_s > 0), counts, fenced, time.monotonic() - began_s, difference)


def main() -> None:
    """Servers, orders, a storm, the result."""
    from tests.servers import Kafka, PostgreSQL

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], required=True)
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--freezes", type=int, default=1)
    parser.add_argument("--stall", type=float, default=15.0, help="seconds for which writes are blocked before a kill")
    parser.add_argument("--bad", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    with contextlib.ExitStack() as stack:
        kafka = stack.enter_context(Kafka())
        url = f"sqlite:///{folder}/orders.sqlite"
        if args.database == "postgresql":
            url = stack.enter_context(PostgreSQL()).new_database()
        topic = "raw_orders"
        produce(kafka.bootstrap(), topic, args.orders, bad=args.bad, seed=args.seed)
        print(f"{args.orders:,} orders in {topic}; logs in {folder}", flush=True)
        told = storm(
            kafka.bootstrap(),
            url,
            topic,
            folder,
            kills=args.kills,
            freezes=args.freezes,
            stall_s=args.stall,
            seed=args.seed,
            say=True,
        )
        print(told)
        sys.exit(0 if told.difference.equal else 1)


if __name__ == "__main__":
    main()
