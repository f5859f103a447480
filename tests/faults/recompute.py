"""What the orders flow should have made of a topic, computed again by other means: a plain consumer, json, plain loops.

It shares nothing with the flow but the description of what an order is (dataflows/orders.py, at the top).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Consumer, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from waxwing.databases import database_for

COLUMNS = ("id", "order_id", "customer", "quantity", "unit_price", "total_value")
Place = tuple[int, int]  # partition, offset


@dataclass
class Expected:
    """The table by id, and the bad records: place and value."""

    rows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bad: dict[Place, bytes | None] = field(default_factory=dict)
    records: int = 0


def expected(bootstrap: str, topic: str) -> Expected:
    """Read the whole topic and say what the table and the dead letters should hold."""
    out = Expected()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic_id = str(admin.describe_topics(TopicCollection([topic]))[topic].result().topic_id)
    for partition, offset, value in messages(bootstrap, topic):
        out.records += 1
        place = hashlib.blake2b(f"{topic_id}/{partition}".encode(), digest_size=10).hexdigest()
        row = row_of(value, f"{place}{offset:016x}")
        if row is None:
            out.bad[partition, offset] = value
        else:
            out.rows[row[0]] = row
    return out


def messages(bootstrap: str, topic: str) -> Iterator[tuple[int, int, bytes | None]]:
    """Every record of a topic: partition, offset, value."""
    for partition, offset, message in records(bootstrap, topic):
        yield partition, offset, message.value()


def records(bootstrap: str, topic: str) -> Iterator[tuple[int, int, Message]]:
    """Every record of a topic: partition, offset, and all of it; in the order of each partition."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "recompute", "enable.auto.commit": False, "fetch.queue.backoff.ms": 5}
    )
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10) for n in numbers}
        left = {n for n, (low, high) in ends.items() if low < high}
        consumer.assign([TopicPartition(topic, n, ends[n][0]) for n in left])
        while left:
            for message in consumer.consume(10_000, 5.0):
                error = message.error()
                if error is not None:
                    raise RuntimeError(str(error))
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                yield partition, offset, message
                if offset + 1 >= ends[partition][1]:
                    left.discard(partition)
    finally:
        consumer.close()


def row_of(value: bytes | None, made_id: str) -> tuple[Any, ...] | None:
    """The row of a record; None if it is bad."""
    if not value:
        return None
    try:
        order = json.loads(value.decode("utf-8"), parse_float=Decimal, parse_constant=_refused)
    except ValueError:
        return None
    if not isinstance(order, dict):
        return None
    quantity, price = order.get("quantity"), order.get("unit_price")
    if type(quantity) is not int or not 1 <= quantity <= 2**31 - 1:
        return None
    if type(price) not in (int, Decimal):
        return None
    price = Decimal(str(price))
    if not 0 <= price <= Decimal("99999999.99") or price * 100 != int(price * 100):
        return None
    total = price * quantity
    if total > Decimal("9999999999.99") or ("total_value" in order and Decimal(order["total_value"]) != total):
        return None
    texts = [order.get("order_id"), order.get("customer"), order.get("id")]
    if not isinstance(texts[0], str) or not texts[0].strip() or any(text is not None and len(text) > 255 for text in texts):
        return None
    if texts[2] is not None and not 1 <= len(texts[2]) <= 36:
        return None
    if order.get("processed_at", 0) > 99_999_999_999:
        return None
    return texts[2] or made_id, texts[0], texts[1], quantity, price, total


def _refused(name: str) -> None:
    raise ValueError(name)


def plain_engine(url: str) -> sa.Engine:
    """An engine of SQLAlchemy's own for a URL as Waxwing takes it, with nothing of Waxwing's but the driver's name."""
    parsed = sa.make_url(url)
    # PyMySQL would read the system's certificates for each connection.
    arguments = {"ssl_disabled": True} if parsed.get_backend_name() in {"mysql", "mariadb"} else {}
    drivername = database_for(parsed).dialect.drivername
    return sa.create_engine(parsed.set(drivername=drivername), poolclass=sa.NullPool, connect_args=arguments)


def checksum(rows: Iterator[tuple[Any, ...]] | list[tuple[Any, ...]]) -> str:
    """Of rows sorted by id; money with two decimals, so that 25.5 and 25.50 are the same."""
    digest = hashlib.sha256()
    for row in sorted(rows):
        plain = [*row[:4], *(None if money is None else format(money, ".2f") for money in row[4:])]
        digest.update(repr(plain).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Difference:
    """What is wrong with a database; all empty when it is equal.

    A dead letter is extra when its record is not bad, stands twice, or has not the record's value or no reason.
    """

    missing: list[str]
    extra: list[str]
    different: list[tuple[Any, Any]]
    dead_missing: list[Place]
    dead_extra: list[Place]
    checksums: tuple[str, str]
    rows: int
    dead_letters: int

    @property
    def equal(self) -> bool:
        wrong = self.missing or self.extra or self.different or self.dead_missing or self.dead_extra
        return self.checksums[0] == self.checksums[1] and not wrong

    def __str__(self) -> str:
        if self.equal:
            rows = f"equal: {self.rows:,} rows, checksum {self.checksums[0][:16]}"
            return f"{rows}; {self.dead_letters:,} dead letters, exactly the bad records"
        return (
            f"DIFFERENT: rows missing {len(self.missing)} {self.missing[:3]}, extra {len(self.extra)} {self.extra[:3]}, "
            f"different {len(self.different)} {self.different[:2]}; dead letters missing {len(self.dead_missing)} "
            f"{self.dead_missing[:3]}, extra {len(self.dead_extra)} {self.dead_extra[:3]}; checksums {self.checksums}"
        )


def compare(url: str, want: Expected, table: str = "orders", *, flow: str = "%") -> Difference:
    """Hold a database against what was expected, row by row and by a checksum over sorted rows; the dead letters of this flow."""
    engine = plain_engine(url)
    letters_query = (
        "SELECT source_partition, source_offset, reason, message_value FROM waxwing_dead_letters WHERE stage <> 'late'"
    )
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(sa.text(f"SELECT {', '.join(COLUMNS)} FROM {table}"))]
        letters = connection.execute(sa.text(f"{letters_query} AND flow LIKE :flow"), {"flow": flow}).all()
    engine.dispose()
    have = {row[0]: (*row[:4], *(round(Decimal(str(money)), 2) for money in row[4:])) for row in found}
    nowhere = object()
    dead = {
        (partition, offset)
        for partition, offset, reason, value in letters
        if reason and want.bad.get((partition, offset), nowhere) == value
    }
    found_dead = Counter((letter[0], letter[1]) for letter in letters)
    return Difference(
        sorted(want.rows.keys() - have.keys()),
        sorted(have.keys() - want.rows.keys()),
        [(row, want.rows[key]) for key, row in have.items() if key in want.rows and row != want.rows[key]],
        sorted(want.bad.keys() - dead),
        sorted((found_dead - Counter(dead)).elements()),
        (checksum(list(want.rows.values())), checksum(found)),
        len(found),
        len(letters),
    )
