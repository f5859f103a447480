"""What an embedded demonstration shows at its end: the first rows of tables and topics, and what was refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from rich.console import Console
from rich.table import Table

from waxwing.databases.ledger import schema
from waxwing.errors import TransientError

ROWS_SHOWN = 5
WIDTH_MAX = 20  # of a column: a time fits
ANSWER_S = 10.0
LATE = "late: its window was closed"  # each says how late it is, and no two say the same


class Shown(NamedTuple):
    """A table or a topic that was filled."""

    name: str
    unit: str  # what it holds: rows, messages
    total: int
    rows: list[dict[str, Any]]  # the first of them


def of_database(url: sa.URL, tables: Sequence[sa.Table]) -> tuple[list[Shown], dict[str, int]]:
    """The tables, and the dead letters by reason."""
    letters = schema.dead_letters.c
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = []
        for table in tables:
            count = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            filled = [column for column in table.columns if column.server_default is None]
            rows = [row._asdict() for row in connection.execute(sa.select(*filled).limit(ROWS_SHOWN))]
            found.append(Shown(table.name, "rows", count, rows))
        reasons = connection.execute(sa.select(letters.stage, letters.reason)).all()
    return found, by_reason((stage, reason) for stage, reason in reasons)


def of_topic(servers: str, topic: str) -> Shown:
    """A topic of the Kafka inside this process."""
    values = [message.value() for message in _messages(servers, topic)]
    return Shown(topic, "messages", len(values), [json.loads(value) for value in values[:ROWS_SHOWN] if value])


def letters_of_topic(servers: str, topic: str) -> dict[str, int]:
    """The dead letters in a topic by reason."""
    headers: list[dict[str, Any]] = [dict(message.headers() or ()) for message in _messages(servers, topic)]
    return by_reason((one["waxwing.stage"].decode(), one["waxwing.error"].decode()) for one in headers)


def by_reason(letters: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many of these, each a stage and a reason, there are of each kind."""
    found = Counter(LATE if stage == "late" else reason for stage, reason in letters)
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _messages(servers: str, topic: str) -> Iterator[Message]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "shown", "enable.partition.eof": True, "log_level": 0})
    try:
        left = set(consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        while left:
            message = consumer.poll(ANSWER_S)
            if message is None:
                raise TransientError("The Kafka inside this process does not answer.")
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
    finally:
        consumer.close()


def show(found: Sequence[Shown], letters: Mapping[str, int], text: str) -> None:
    """On the terminal."""
    console = Console(stderr=True)
    for one in found:
        console.print(_table_of(one), highlight=False, markup=False)
    refused = Table("dead letters", "reason", title="dead letters: what was refused, and why", title_justify="left")
    for reason, number in letters.items():
        refused.add_row(str(number), reason)
    console.print(refused, highlight=False, markup=False)
    console.print(text, highlight=False, markup=False, soft_wrap=True)  # commands in it are to be copied


def _table_of(one: Shown) -> Table:
    shown = Table(title=f"{one.name}: the first {len(one.rows)} {one.unit}", title_justify="left")
    for name, value in one.rows[0].items() if one.rows else ():
        is_text = isinstance(value, str) or value is None
        shown.add_column(name, justify="left" if is_text else "right", no_wrap=True, max_width=WIDTH_MAX)
    for row in one.rows:
        shown.add_row(*(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()))
    return shown
