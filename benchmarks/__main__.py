"""The orders flow from a real broker, against the raw limit of the same database measured in the same run.

    python -m benchmarks --orders 1000000

For each database: the raw limit is the bare driver writing the same rows into the same table by the fastest plain way
(PostgreSQL: COPY; SQLite: executemany), in transactions of the same size, with nothing decoded, checked or remembered. The
flow is timed as a user would: the whole process, its start included. CPU is the flow's own processes', without broker and
database. Machines are noisy: look at the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from dataflows.orders import orders
from sinks import SqlTarget, Upsert
from tests.faults.cluster import Cluster
from tests.faults.recompute import Expected, compare, expected
from tests.faults.storm import produce
from tests.servers import Kafka, PostgreSQL
from waxwing.settings import SqlSettings

TRANSACTION_ROWS = 20_000  # FLUSH_ROWS_MAX
COLUMNS = "id, order_id, customer, quantity, unit_price, total_value, processed_at"


def main() -> None:
    """Servers, orders, runs, the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--databases", nargs="*", default=["postgresql", "sqlite"], choices=["postgresql", "sqlite"])
    args = parser.parse_args()
    shown = Table(
        "database", "run", "rows/s", "of the raw limit", "own CPU, us/record", "peak memory, MB", title=f"{args.orders:,} orders"
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        kafka = stack.enter_context(Kafka())
        topic = "raw_orders"
        produce(kafka.bootstrap(), topic, args.orders, bad=0.001, seed=1)
        want = expected(kafka.bootstrap(), topic)
        rows = [(*row, 1_767_225_600) for row in want.rows.values()]
        for database in args.databases:
            postgresql = stack.enter_context(PostgreSQL()) if database == "postgresql" else None

            def new(name: str, server: PostgreSQL | None = postgresql) -> str:
                return server.new_database() if server else f"sqlite:///{folder}/{name}.sqlite"

            raw = {"new rows": _raw(new("raw"), rows)}
            for run, processes in (("new rows", 1), ("new rows, 2 processes", 2)):
                url = new(f"flow{processes}")
                rate, cpu, memory = _flow(kafka.bootstrap(), topic, url, folder, processes, args.orders)
                _check(url, want)
                shown.add_row(database, run, f"{rate:,.0f}", f"{rate / raw['new rows']:.2f}", f"{cpu:.2f}", f"{memory:.0f}")
            _forget(url)
            rate, cpu, memory = _flow(kafka.bootstrap(), topic, url, folder, 1, args.orders)
            _check(url, want)
            shown.add_row(
                database, "existing rows", f"{rate:,.0f}", f"{rate / raw['new rows']:.2f}", f"{cpu:.2f}", f"{memory:.0f}"
            )
            shown.add_row(database, "raw limit, new rows", f"{raw['new rows']:,.0f}", "1.00", "", "")
    Console(width=120).print(shown)


def _check(url: str, want: Expected) -> None:
    if not (difference := compare(url, want)).equal:
        raise SystemExit(f"the flow's table is wrong: {difference}")


def _forget(url: str) -> None:
    """Make the flow read everything again: its positions and dead letters are deleted, its rows stay."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in ("waxwing_progress", "waxwing_dead_letters"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    engine.dispose()


def _flow(bootstrap: str, topic: str, url: str, folder: Path, processes: int, records: int) -> tuple[float, float, float]:
    """Rows a second over the whole run, own CPU in us a record, peak memory of the largest process in MB."""
    env = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "SOURCE_TOPIC": topic, "DATABASE_URL": url, "UNTIL": "end"}
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with Cluster("dataflows.orders", env, folder, processes=processes) as cluster:
        peak_mb = 0.0
        while cluster.running():
            peak_mb = max(peak_mb, cluster.peak_memory_mb())
            time.sleep(0.1)
        if set(cluster.wait(1)) != {0}:
            raise SystemExit(cluster.output())
    seconds = time.perf_counter() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return records / seconds, cpu_s / records * 1e6, peak_mb


def _raw(url: str, rows: Sequence[tuple[Any, ...]]) -> float:
    """Rows a second of the bare driver into an empty table of the same shape."""
    target = SqlTarget(SqlSettings.model_validate({"database_url": url}), orders, Upsert(keys=("id",)))
    target.bind("raw", "raw")
    target.prepare()
    write: Callable[[Sequence[tuple[Any, ...]]], None]
    if url.startswith("sqlite"):
        file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        file.execute("PRAGMA synchronous = NORMAL")
        plain = [tuple(float(v) if isinstance(v, Decimal) else v for v in row) for row in rows]

        def write(part: Sequence[tuple[Any, ...]]) -> None:
            file.execute("BEGIN IMMEDIATE")
            file.executemany(f"INSERT INTO orders ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", part)
            file.execute("COMMIT")

    else:
        connection = psycopg.connect(url)
        plain = list(rows)

        def write(part: Sequence[tuple[Any, ...]]) -> None:
            text = "\n".join("\t".join("\\N" if v is None else str(v) for v in row) for row in part)
            with connection.cursor().copy(f"COPY orders ({COLUMNS}) FROM STDIN".encode()) as copy:
                copy.write(text + "\n")
            connection.commit()

    began_s = time.perf_counter()
    for first in range(0, len(plain), TRANSACTION_ROWS):
        write(plain[first : first + TRANSACTION_ROWS])
    return len(rows) / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
