"""What SQL Server is asked, counted on the wire; a connection that is cut at any moment; two flows on the same keys."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import SqlTarget, Upsert
from sinks.writer.writer import Writer
from tests.servers import SQLServer
from tests.servers.relay import Relay
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Start
from waxwing.metrics import counters
from waxwing.settings import SqlSettings

STREAM = Stream("flow", "topic", "topic-id", 0)
ROWS = 10_000  # a transaction of a flow under load has at least about so many


@pytest.fixture
def relay(sqlserver: SQLServer) -> Iterator[Relay]:
    with Relay(sqlserver.address) as made:
        yield made


def target(url: sa.URL, flow: str = "flow") -> SqlTarget:
    table = sa.Table(
        "orders",
        sa.MetaData(),
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("customer", sa.String(255)),
        sa.Column("quantity", sa.Integer),
        sa.Column("total", sa.Numeric(12, 2)),
    )
    text = SecretStr(url.render_as_string(hide_password=False))
    made = SqlTarget(SqlSettings(database_url=text, flush_interval_s=0.0, owner_stale_s=60.0), table, Upsert(keys=("id",)))
    made.bind(flow, f"{flow}.out")
    made.prepare()
    made.begin([Start(STREAM._replace(flow=flow), 0, None)])
    return made


def batch(first: int, size: int) -> Batch[Any]:
    offsets = list(range(first, first + size))
    records = [(f"{n:036}", f"customer {n % 100}", n, Decimal(n).scaleb(-2)) for n in offsets]
    messages = Columns(offsets, [None] * size, [b""] * size, [0] * size, [()] * size)
    return Batch(STREAM, "lane-000", first, first + size, messages, records, list(range(size)), [], [])


def through(sqlserver: SQLServer, relay: Relay) -> sa.URL:
    return sa.make_url(sqlserver.new_database()).set(host="127.0.0.1", port=relay.port)


def test_ten_thousand_rows_take_at_most_seven_requests(sqlserver: SQLServer, relay: Relay) -> None:
    writer = Writer(target(through(sqlserver, relay)), "lane-000")
    try:
        writer.put(batch(0, ROWS))
        writer.flush()  # the first time, connections are made and the table's columns looked up
        counts = []
        for number in (1, 2):
            before = relay.requests
            writer.put(batch(number * ROWS, ROWS))
            writer.flush()
            counts.append(relay.requests - before)
    finally:
        writer.close()
    assert min(counts) / ROWS * 10_000 <= 7  # a heartbeat may fall into one of them


def test_a_connection_cut_at_any_moment_loses_and_doubles_nothing(sqlserver: SQLServer, relay: Relay) -> None:
    url = through(sqlserver, relay)
    writer = Writer(target(url), "lane-000")
    try:
        for number in range(9):
            writer.put(batch(number * 500, 500))
            if number % 3 == 1:
                relay.cut()
        writer.flush()
    finally:
        writer.close()
    engine = sa.create_engine(url.set(drivername="mssql+pyodbc"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT count(*), sum(quantity), max(quantity) FROM orders")).one()
        assert tuple(found) == (4_500, 4_500 * 4_499 // 2, 4_499)
        assert connection.scalar(sa.text("SELECT offset_next FROM waxwing_progress")) == 4_500


def test_two_flows_that_upsert_the_same_keys_at_once_lose_no_update(sqlserver: SQLServer) -> None:
    two_flows(sa.make_url(sqlserver.new_database()), seconds=4.0)


def two_flows(url: sa.URL, seconds: float) -> tuple[int, int]:
    """Two flows write the same 1,500 keys in opposite orders; each key must hold what one wrote last. Records, retries."""
    last: list[dict[str, int]] = [{}, {}]
    errors: list[BaseException] = []
    flows = [f"flow{number}" for number in (1, 2)]
    targets = [target(url, flow=flow) for flow in flows]
    retries, end_s = counters.tally.retries, time.monotonic() + seconds

    def run(to: SqlTarget, written: dict[str, int]) -> None:
        writer, number = Writer(to, "lane-000"), 0
        try:
            while time.monotonic() < end_s or not number:
                each = batch(number * 1_000, 1_000)
                order = each.records if to.flow == "flow1" else each.records[::-1]
                records = [(f"{int(row[0]) % 1_500:036}", to.flow, row[2], row[3]) for row in order]
                writer.put(dataclasses.replace(each, stream=STREAM._replace(flow=to.flow), records=records))
                written.update((row[0], row[2]) for row in records)
                number += 1
                writer.flush()
        except BaseException as error:
            errors.append(error)
        finally:
            writer.close()

    threads = [threading.Thread(target=run, args=each) for each in zip(targets, last, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    engine = sa.create_engine(url.set(drivername="mssql+pyodbc"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, customer, quantity FROM orders")).all()
        records = connection.scalar(sa.text("SELECT sum(offset_next) FROM waxwing_progress"))
    assert {row.id for row in rows} == last[0].keys() | last[1].keys()
    assert [row for row in rows if last[flows.index(row.customer)].get(row.id) != row.quantity] == []
    return int(records), counters.tally.retries - retries
