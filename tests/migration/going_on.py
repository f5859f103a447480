"""Let the present release go on from a dump, and say what is wrong with what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from dataflows import orders as orders_flow
from sinks import SqlTarget, Upsert
from sources.memory import MemorySource, Message
from tests.faults.recompute import Difference, Expected, compare, plain_engine, row_of
from tests.faults.storm.window_totals import SCHEMA, WindowDifference, compare_totals
from tests.migration import dump, topic, visits
from tests.migration.dump import Facts

MESSAGES = topic.stored()
DATA = {
    number: [Message(one.value, one.key, one.headers, one.time_ms) for one in sent]
    for number, sent in topic.by_partition(MESSAGES).items()
}
# Nothing waits for a clock: neither rows nor windows.
QUICKLY: Mapping[str, Any] = {"flush_interval_s": 0.0, "lanes": 1, "window_snapshot_interval_s": 0.0, "retry_max_s": 5.0}
PATIENTLY: Mapping[str, Any] = {"retry_max_s": 120.0, "database_statement_timeout_s": 120.0}  # of SQL Server's test server


def _limits(facts: Facts) -> Mapping[str, Any]:
    return {**QUICKLY, **(PATIENTLY if facts.database == "sqlserver" else {}), "window_buckets": dump.buckets_of(facts.database)}


def source(facts: Facts, **more: Any) -> MemorySource:
    """All that the topic held by the end, under the name and id that it had when the dump was made."""
    return MemorySource(DATA, topic=facts.topic, source_id=facts.topic_id, batch_records=50, **more)


def orders(facts: Facts, url: str, **more: Any) -> Dataflow:
    """The orders flow over the whole topic."""
    given = {**_limits(facts), "order_totals": facts.totals, **more}
    settings = orders_flow.OrdersSettings(database_url=SecretStr(url), **given)
    target = SqlTarget(settings, orders_flow.orders, Upsert(keys=("id",)))
    return orders_flow.build(source(facts), target, orders_flow.totals_of(settings))


def other(facts: Facts, url: str) -> Dataflow:
    """The flow of sessions and overlapping windows over the whole topic."""
    settings = visits.Settings(database_url=SecretStr(url), **_limits(facts))
    return visits.build(settings, lambda targets: source(facts))


def go_on(facts: Facts, url: str) -> None:
    """Take in the rest, with every flow that the dump has."""
    run_main(orders(facts, url))
    if facts.totals == "on_close":
        run_main(other(facts, url))


def expected(facts: Facts) -> Expected:
    """What the table `orders` and its dead letters should hold at the end."""
    out = Expected()
    for number, sent in topic.by_partition(MESSAGES).items():
        place = hashlib.blake2b(f"{facts.topic_id}/{number}".encode(), digest_size=10).hexdigest()
        for offset, one in enumerate(sent):
            out.records += 1
            row = row_of(one.value, f"{place}{offset:016x}")
            if row is None:
                out.bad[number, offset] = one.value
            else:
                out.rows[row[0]] = row
    return out


def accepted() -> pl.DataFrame:
    """Every good order, in the order of each partition."""
    rows: list[tuple[Any, ...]] = []
    for number, sent in topic.by_partition(MESSAGES).items():
        for offset, one in enumerate(sent):
            row = row_of(one.value, "made")
            if row is not None:
                rows.append((number, offset, one.time_ms, row[2] or "", row[3], int(row[5] * 100)))
    return pl.DataFrame(rows, SCHEMA, orient="row")


def taken_in(url: str) -> int:
    """How many orders there are."""
    engine = plain_engine(url)
    with engine.connect() as connection:
        found = int(connection.exec_driver_sql("SELECT COUNT(*) FROM orders").scalar() or 0)
    engine.dispose()
    return found


def compare_orders(facts: Facts, url: str) -> Difference:
    """The orders and their dead letters, held against a recount."""
    return compare(url, expected(facts), flow="orders")


def differences(facts: Facts, url: str) -> tuple[Difference, WindowDifference]:
    """The orders and their dead letters, the totals and the late records, held against a recount."""
    return compare_orders(facts, url), compare_totals(url, accepted(), facts.totals)


VISITED = {
    "visits": "SELECT customer, window_start, window_end, orders, quantity, first_order, last_order, bits FROM visits",
    "prices": "SELECT quantity, window_start, orders, least, most, mean_price FROM prices",
    "letters": "SELECT * FROM waxwing_dead_letters WHERE flow = 'visits'",
}
# Of dead letters, what does not tell one run or one topic from the next.
LETTER = (
    *("step", "source_partition", "source_offset", "row_index", "stage", "reason"),
    *("message_key", "message_value", "message_headers", "message_timestamp_ms"),
)


def visited(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """What the flow of sessions and overlapping windows wrote: both tables, and its dead letters."""
    engine = plain_engine(url)
    out: dict[str, list[tuple[Any, ...]]] = {}
    with engine.connect() as connection:
        for name, query in VISITED.items():
            rows = [row._mapping for row in connection.execute(sa.text(query))]
            found = [[row[column] for column in (LETTER if name == "letters" else row)] for row in rows]
            out[name] = sorted(map(_alike, found), key=repr)
    engine.dispose()
    return out


def _alike(row: Sequence[Any]) -> tuple[Any, ...]:
    """As text, however a database gives times and decimals."""
    return tuple(_text(value) for value in row)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value)
    text = str(value)
    if text.count(":") == 2:
        return text.partition(".")[0]
    return text.rstrip("0").rstrip(".") if "." in text and text.replace(".", "").isdigit() else text
