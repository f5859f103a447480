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
from benchmarks.spread import Spread, cell
from benchmarks.whole.runs import Run, run, turns
from benchmarks.whole.trees import Tree
from dataflows.orders_generator import FLUSH_TIMEOUT_S, PRODUCER_CONFIG
from tests.faults.recompute import plain_engine
from tests.servers import Kafka

FLOW = "benchmarks.flows.windows"
QUEUE_MAX = 200_000
COLUMNS = ("windows", "rows", "orders/s", "running", "own CPU, us/order", "running", "peak memory, MB")
BASE_COLUMNS = ("orders/s", "running", "own CPU", "running", "memory")

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
    with Place("postgresql", folder) as place:
        rows = [row for case in CASES for row in _case(case, kafka, place, folder, records, repeats, trees)]
    columns = [*COLUMNS, *(f"{name}, times {tree.title}'s" for tree in trees[1:] for name in BASE_COLUMNS)]
    report.table(f"PostgreSQL, {records:,} orders as JSON from the broker, one a millisecond", columns, rows)


def _case(
    case: Case, kafka: Kafka, place: Place, folder: Path, records: int, repeats: int, trees: Sequence[Tree]
) -> list[list[str]]:
    want = _expected(records, case)
    env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "TOTALS": case.totals, "TOTALS_LENGTH_S": str(case.length_s)}
    runs: dict[str, list[Run]] = defaultdict(list)
    running: dict[str, list[Run]] = defaultdict(list)
    for repeat in range(repeats):
        for tree in turns(trees, repeat):
            url = place.empty("windows")
            start_env = {**env, "SOURCE_TOPIC": "windows-start", "DATABASE_URL": url}
            start = run(FLOW, start_env, folder, START_RECORDS, tree=tree)
            url = place.empty("windows")
            flow_env = {**env, "SOURCE_TOPIC": f"windows-{case.customers}", "DATABASE_URL": url}
            runs[tree.title].append(run(FLOW, flow_env, folder, records, tree=tree))
            running[tree.title].append(runs[tree.title][-1].without(start))
            if (found := _found(url)) != want:
                raise SystemExit(f"{case}: {len(found):,} rows instead of {len(want):,}, or others than a recomputation gives")
    figures = {tree.title: _figures(runs[tree.title], running[tree.title]) for tree in trees}
    rows = []
    for tree in trees:
        forms = zip(figures[tree.title], (",.0f", ",.0f", ".2f", ".2f", ".0f"), strict=True)
        row = [tree.called(str(case)), f"{len(want):,}", *(cell(spread, form) for spread, form in forms)]
        for base in trees[1:]:
            pairs = zip(figures[tree.title], figures[base.title], strict=True)
            row += ["" if tree is base else mine.over(theirs).text(".2f") for mine, theirs in pairs]
        rows.append(row)
    return rows


def _figures(runs: Sequence[Run], running: Sequence[Run]) -> list[Spread]:
    return [
        Spread([each.rate for each in runs]),
        Spread([each.rate for each in running]),
        Spread([each.cpu_us for each in runs]),
        Spread([each.cpu_us for each in running]),
        Spread([each.peak_mb for each in runs]),
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
