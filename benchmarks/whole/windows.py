"""Windows as a whole flow: JSON orders from a real broker into PostgreSQL, timed from outside as the other flows are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.databases import Place
from benchmarks.flows.windows import orders
from benchmarks.report import Report
from benchmarks.shapes import PARTITIONS, START_RECORDS
from benchmarks.spread import cell
from benchmarks.whole.rows import Repeats, Result
from benchmarks.whole.runs import run, turns
from benchmarks.whole.trees import Tree
from dataflows.sending import FLUSH_TIMEOUT_S, PRODUCER_CONFIG
from tests.faults.recompute import plain_engine
from tests.servers import Kafka

FLOW = "benchmarks.flows.windows"
QUEUE_MAX = 200_000
COLUMNS = ("windows", "rows", "orders/s", "running", "own CPU, us/order", "running", "peak memory, MB")

Totals = dict[tuple[datetime, str], tuple[int, int, int, int]]  # orders, quantity, value and largest, in cents


@dataclass(frozen=True)
class Case:
    """Windows of a length over so many customers, written when they close or with every batch."""

    customers: int
    length_s: int
    totals: str = "on_close"

    def __str__(self) -> str:
        return f"{self.length_s} s, {self.customers:,} customers, {self.totals}"


CASES = (Case(10_000, 10), Case(1_000, 60), Case(1_000, 60, "live"), Case(10_000, 10, "live"))


def measure(report: Report, kafka: Kafka, folder: Path, records: int, repeats: int, trees: Sequence[Tree]) -> None:
    """Each case, its rows held against a plain recomputation."""
    for customers in dict.fromkeys(case.customers for case in CASES):
        _fill(kafka, f"windows-{customers}", records, customers)
    _fill(kafka, "windows-start", START_RECORDS, 10)
    results, rows = [], []
    with Place("postgresql", folder) as place:
        for case in CASES:
            found, count = _case(case, kafka, place, folder, records, repeats, trees)
            results += found
            rows.append([str(case), f"{count:,}", *_cells(found[0])])
    title = f"PostgreSQL, {records:,} orders as JSON from the broker, one a millisecond"
    report.table(title, COLUMNS, rows)
    report.beside(title, results)


def _case(
    case: Case, kafka: Kafka, place: Place, folder: Path, records: int, repeats: int, trees: Sequence[Tree]
) -> tuple[list[Result], int]:
    """By tree, ours first; and how many rows it makes."""
    want, what = _expected(records, case), str(case)
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "TOTALS": case.totals, "TOTALS_LENGTH_S": str(case.length_s)}
    done = Repeats()
    for repeat in range(repeats):
        for tree in turns(trees, repeat):
            url = place.empty("windows")
            start_env = {**env, "SOURCE_TOPIC": "windows-start", "DATABASE_URL": url}
            done.starts[what, tree].append(run(FLOW, start_env, folder, START_RECORDS, tree=tree))
            url = place.empty("windows")
            flow_env = {**env, "SOURCE_TOPIC": f"windows-{case.customers}", "DATABASE_URL": url}
            done.runs[what, tree].append(run(FLOW, flow_env, folder, records, tree=tree))
            if (found := _found(url)) != want:
                raise SystemExit(f"{case}: {len(found):,} rows instead of {len(want):,}, or others than a recomputation gives")
    return [done.result(what, tree, what) for tree in trees], len(want)


def _cells(result: Result) -> list[str]:
    return [
        cell(result.rate, ",.0f"),
        cell(result.rate_running, ",.0f"),
        cell(result.cpu_us, ".2f"),
        cell(result.cpu_running_us, ".2f"),
        cell(result.peak_mb, ".0f"),
    ]


def _fill(kafka: Kafka, topic: str, records: int, customers: int) -> None:
    kafka.create_topic(topic, PARTITIONS)
    producer = Producer({**PRODUCER_CONFIG, "bootstrap.servers": kafka.bootstrap()})
    for chunk in orders(records, customers):
        for customer, _, _, value, ts_ms in chunk:
            producer.produce(topic, value, customer.encode(), timestamp=ts_ms)
        while len(producer) > QUEUE_MAX:
            producer.poll(0.1)
    if missing := producer.flush(FLUSH_TIMEOUT_S):
        raise SystemExit(f"{missing:,} records were not acknowledged")
    if (sent := sum(kafka.end_offsets(topic).values())) != records:
        raise SystemExit(f"{topic}: {sent:,} records instead of {records:,}")


def _expected(records: int, case: Case) -> Totals:
    """By plain loops over what was generated."""
    out: Totals = defaultdict(lambda: (0, 0, 0, 0))
    starts: dict[int, datetime] = {}
    for chunk in orders(records, case.customers):
        for customer, quantity, cents, _, ts_ms in chunk:
            start_s = ts_ms // 1_000 // case.length_s * case.length_s
            start = starts.get(start_s) or starts.setdefault(start_s, datetime.fromtimestamp(start_s, UTC).replace(tzinfo=None))
            count, total, value, largest = out[start, customer]
            out[start, customer] = count + 1, total + quantity, value + cents, max(largest, cents)
    return dict(out)


def _found(url: str) -> Totals:
    engine = plain_engine(url)
    with engine.connect() as connection:
        query = sa.text("SELECT window_start, customer, orders, quantity, value, largest FROM window_totals")
        rows: Any = connection.execute(query)
        out = {(row[0], row[1]): (row[2], row[3], int(row[4] * 100), int(row[5] * 100)) for row in rows}
    engine.dispose()
    return out
