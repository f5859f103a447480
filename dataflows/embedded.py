"""The embedded demonstration: with no settings at all, a flow runs against a Kafka inside this process and a SQLite file.

The code path is the one of production; only the addresses differ.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from confluent_kafka import Producer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from dataflows.orders_generator import orders
from dataflows.sending import PRODUCER_CONFIG, Sender
from waxwing import log, runtime
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError, TransientError
from waxwing.metrics import counters
from waxwing.settings import KafkaSettings

ORDERS = 50_000
BAD_RATIO = 0.001
ROWS_SHOWN = 5
# A new one each time: the topic is a new one, too, and positions of an earlier one would not fit it.
FILE = Path("var/demonstration.sqlite")
START_TIMEOUT_S = 10.0

REAL_SERVERS = """To run against real servers, give both addresses (in the environment or in .env):
  KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092
  DATABASE_URL=postgresql://user:password@127.0.0.1:5432/shop      (or sqlite:////path/to/orders.sqlite)
All settings: `waxwing settings`."""


_held: list[Producer] = []  # the cluster lives as long as the client that it was made with
S = TypeVar("S", bound=KafkaSettings)


def start(settings: S, table: sa.Table, *more: sa.Table) -> S:
    """Start the demonstration's Kafka and fill it; return the settings with its addresses.

    At the end of the run it says what was done: in the flow's table, and in those that it fills beside it.

    Raises:
        ConfigError: with several processes, which could not reach a Kafka inside one of them.
    """
    if runtime.in_cluster():
        raise ConfigError(
            "The embedded demonstration is one process, and this flow was started with -i/-a.",
            hint="Give KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL, or start it without (-w works).",
        )
    log.warning(
        "demonstration", f"DEMONSTRATION: no settings were given, so the Kafka and the orders are made up.\n{REAL_SERVERS}"
    )
    url = _new_file()
    topic = settings.source_topic.partition(",")[0]
    servers = _fill(topic)
    log.info(
        "demonstration_filled",
        f"{ORDERS:,} generated orders lie in topic {topic} of a Kafka inside this process.",
    )
    started_s = time.monotonic()
    runtime.at_end(lambda: _report(url, table, more, time.monotonic() - started_s))
    read = {"kafka_bootstrap_servers": servers, "source_topic": topic, "source_topic_pattern": "", "until": "end"}
    return settings.model_copy(update={**read, "database_url": SecretStr(url.render_as_string())})


def _new_file() -> sa.URL:
    try:
        FILE.parent.mkdir(exist_ok=True)
        for old in FILE.parent.glob(f"{FILE.name}*"):  # with its write-ahead log
            old.unlink()
    except OSError as error:
        raise ConfigError(
            f"The demonstration can't make {FILE}: {error.strerror}.", hint="Run it in a folder that you may write to."
        ) from error
    return sa.URL.create("sqlite", database=str(FILE.absolute()))


def _fill(topic: str) -> str:
    """Start the cluster and send the orders; returns its address. Its topics have 4 partitions."""
    producer = Producer({**PRODUCER_CONFIG, "test.mock.num.brokers": 1, "log_level": 0})
    _held.append(producer)
    sender = Sender(producer, topic)
    for chunk in orders(ORDERS, bad_ratio=BAD_RATIO, seed=1):
        sender.send(chunk)
    if missing := sender.finish():
        raise TransientError(f"The Kafka inside this process did not take {missing:,} of {ORDERS:,} orders.", hint="Try again.")
    brokers = producer.list_topics(timeout=START_TIMEOUT_S).brokers.values()
    return ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def _report(url: sa.URL, table: sa.Table, more: Sequence[sa.Table], seconds: float) -> None:
    """What the run did, read from the database file itself."""
    if not counters.tally.transactions:  # only drawn, or stopped before it began
        return
    letters = schema.dead_letters.c
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(table))
        some = {
            one.name: [row._asdict() for row in connection.execute(sa.select(*_shown(one)).limit(ROWS_SHOWN))]
            for one in (table, *more)
        }
        number = sa.func.count().label("number")
        reasons = connection.execute(
            sa.select(letters.reason, number).group_by(letters.reason).order_by(number.desc(), letters.reason)
        ).all()
    read = counters.tally.records
    summary = f"{read:,} orders read, {rows:,} rows in {table.name}, {sum(row.number for row in reasons):,} dead letters"
    summary += f", in {seconds:.1f} s ({read / seconds:,.0f} orders/s)"
    if not log.terminal:
        found = {row.reason: row.number for row in reasons}
        log.info("demonstration_done", f"{summary}. The rows lie in {FILE}.", rows=some[table.name], dead_letters=found)
        return
    _show(summary, (table, *more), some, [(row.reason, row.number) for row in reasons])


def _shown(table: sa.Table) -> list[sa.Column[Any]]:
    """The columns that the flow fills."""
    return [column for column in table.columns if column.server_default is None]


def _show(
    summary: str, tables: Sequence[sa.Table], rows: Mapping[str, list[dict[str, Any]]], reasons: list[tuple[str, int]]
) -> None:
    console = Console(stderr=True)
    for table in tables:
        console.print(_rows_of(table, rows[table.name]), highlight=False, markup=False)
    refused = Table("dead letters", "reason", title="waxwing_dead_letters: what was refused, and why", title_justify="left")
    for reason, number in reasons:
        refused.add_row(str(number), reason)
    for part in (refused, f"\n{summary}.\nThe rows lie in {FILE}.\n\n{REAL_SERVERS}"):
        console.print(part, highlight=False, markup=False)


def _rows_of(table: sa.Table, rows: list[dict[str, Any]]) -> Table:
    shown = Table(title=f"{table.name}: the first {len(rows)} rows", title_justify="left")
    for column in _shown(table):
        shown.add_column(
            column.name, justify="right" if column.type.python_type in (int, Decimal) else "left", no_wrap=True, max_width=16
        )
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown
