"""Two deployments of the orders flow, of which one freezes while it writes: the other goes on, and nothing is lost or doubled.

    python -m tests.faults.frozen --times 10 [--processes 2] [--database mariadb] [--freeze-s 90] [--totals live]

Each time: a topic of orders, a first deployment that takes them in; one of its processes is frozen (SIGSTOP) inside a transaction
(PostgreSQL: inside a COPY), a second deployment goes on, and later the first one is thawed. Every second time the second one
stands by already. Printed are how long nothing went on, the exit codes, and how the tables compare with the topic.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tests.faults.cluster import Cluster
from tests.faults.recompute import Difference, compare, expected, plain_engine
from tests.faults.storm.databases import DATABASES, file_not_locked
from tests.faults.storm.window_totals import WindowDifference, accepted, compare_totals
from tests.faults.watch import produce, taken_in
from tests.servers import Kafka
from tests.servers.process import until

FLOW = "dataflows.orders"
ORDERS, PARTITIONS = 300_000, 4
# Small transactions, so that there is much to freeze in, and to do for the second one.
SETTINGS = {"FLUSH_ROWS_MAX": "2000", "BATCH_RECORDS_MAX": "500", "UNTIL": "end"}
TRIES_MAX = 600
END_MAX_S = 180.0
FENCED, DONE, PEER_GONE = 76, 0, 75

# A session that holds a lock on a position and waits for its client.
_INSIDE = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity a WHERE a.state = 'active' AND a.query LIKE 'COPY%' "
    "AND a.wait_event = 'ClientRead' AND a.datname = current_database() AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid "
    "AND l.relation = 'waxwing_progress'::regclass AND l.mode = 'RowExclusiveLock')",
    "mariadb": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0",
    "sqlserver": "SELECT count(*) FROM sys.dm_exec_sessions WHERE program_name = 'waxwing' AND open_transaction_count > 0 "
    "AND database_id = DB_ID() AND status IN ('sleeping', 'idle in transaction')",
}


@dataclass(frozen=True)
class Told:
    """How it went once.

    Attributes:
        still_s: from the freeze until the second deployment had written something.
        first, second: the exit codes of their processes.
        rows, totals: how the tables compare with the topic.
    """

    still_s: float
    standing_by: bool
    first: list[int]
    second: list[int]
    rows: Difference
    totals: WindowDifference | None

    @property
    def right(self) -> bool:
        """Did the frozen one end with 76 (its peers with 75), the other with 0, and is all exact?"""
        lost = FENCED in self.first and set(self.first) <= {FENCED, PEER_GONE}
        return lost and set(self.second) == {DONE} and self.rows.equal and (self.totals is None or self.totals.equal)

    def __str__(self) -> str:
        second = "standing by" if self.standing_by else "started then"
        totals = f"; totals {self.totals}" if self.totals is not None else ""
        return (
            f"{self.still_s:.1f} s without progress (the second {second}), exit codes {self.first} and {self.second}, "
            f"{self.rows}{totals}"
        )


def frozen(
    kafka: Kafka,
    database: str,
    url: str,
    folder: Path,
    *,
    processes: int = 1,
    freeze_s: float = 90.0,
    orders: int = ORDERS,
    totals: str = "off",
    standing_by: bool = False,
    settings: Mapping[str, str] | None = None,
    seed: int = 1,
) -> Told:
    """Freeze a deployment that works, beside a second one."""
    topic = kafka.new_topic(PARTITIONS)
    orders *= 3 if standing_by else 1  # the first one is still at work when the second stands by
    produce(kafka.bootstrap(), topic, orders, bad=0.001, seed=seed, partitions=PARTITIONS)
    env = {
        **SETTINGS,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(),
        "DATABASE_URL": url,
        "SOURCE_TOPIC": topic,
        "ORDER_TOTALS": totals,
        **(settings or {}),
    }
    with contextlib.ExitStack() as stack:

        def deploy(name: str) -> Cluster:
            return stack.enter_context(Cluster(FLOW, env, folder, processes=processes, name=name))

        first = deploy("first")
        until(lambda: taken_in(url) >= orders / 20, timeout_s=120, what="the first one's progress")
        if standing_by:
            second = deploy("second")
            until(lambda: '"event": "standing_by"' in second.output(), timeout_s=180, what="the second one stands by")
        freeze(first.pids[0], _inside(database, url))
        began_s = time.monotonic()
        if not standing_by:
            second = deploy("second")
        # What the first one's other processes still write is no progress of the second's.
        until(lambda: '"event": "reading"' in second.output(), timeout_s=END_MAX_S, what="the second one owns the flow")
        reached = taken_in(url)
        until(lambda: taken_in(url) > reached or second.codes()[0] is not None, timeout_s=END_MAX_S, what="progress")
        still_s = time.monotonic() - began_s
        time.sleep(max(freeze_s - still_s, 0.0))  # the frozen one is to find that all is long done
        os.kill(first.pids[0], signal.SIGCONT)
        codes = first.wait(END_MAX_S), second.wait(END_MAX_S)
        output = first.output() + second.output()
    rows = compare(url, expected(kafka.bootstrap(), topic))
    made = None if totals == "off" else compare_totals(url, accepted(kafka.bootstrap(), topic), totals)  # type: ignore[arg-type]  # a form
    told = Told(still_s, standing_by, *codes, rows, made)
    if not told.right:
        sys.stdout.write(output[-8_000:] + "\n")
    return told


def freeze(pid: int, inside: Callable[[], bool]) -> None:
    """Stop a process, again and again until it is met inside a transaction."""
    for _ in range(TRIES_MAX):
        os.kill(pid, signal.SIGSTOP)
        if inside():
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.003)
    raise AssertionError("it was never met inside a transaction")


def _inside(database: str, url: str) -> Callable[[], bool]:
    if database == "sqlite":  # nobody could end its transaction
        return lambda: file_not_locked(url)
    engine = plain_engine(url)

    def inside() -> bool:
        time.sleep(0.15 if database == "mariadb" else 0.02)  # innodb_trx is a copy; other servers take note of a wait, too
        with engine.connect() as connection:
            return bool(connection.scalar(sa.text(_INSIDE[database])))

    return inside


def main() -> None:
    """Servers, and as many times as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.frozen", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="of each deployment; one of the first is frozen")
    parser.add_argument("--database", choices=DATABASES, default="postgresql")
    parser.add_argument("--freeze-s", type=float, default=90.0)
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--totals", choices=("off", "on_close", "live"), default="off")
    args = parser.parse_args()
    kind = DATABASES[args.database]
    with contextlib.ExitStack() as stack:
        server = kind.server() if kind.server else None
        if server is not None:
            stack.callback(server.close)
            server.start()
        kafka = stack.enter_context(Kafka())
        wrong = 0
        for number in range(args.times):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waxwing-frozen-")))
            told = frozen(
                kafka,
                args.database,
                server.new_database() if server else f"sqlite:///{folder}/orders.sqlite",
                folder,
                processes=args.processes,
                freeze_s=args.freeze_s,
                orders=args.orders,
                totals=args.totals,
                standing_by=number % 2 == 1,
                settings=kind.settings,
                seed=number + 1,
            )
            wrong += not told.right
            print(f"{number + 1}: {'right' if told.right else 'WRONG'}: {told}", flush=True)
        print(f"{args.times - wrong} of {args.times} times right", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
