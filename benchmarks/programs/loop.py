"""The hand-written loop that a flow's latency stands beside: read what is there, decode, upsert by the bare driver, commit.

    python -m benchmarks.programs.loop DATABASE

The rest it takes as a flow does, by KAFKA_BOOTSTRAP_SERVERS, SOURCE_TOPIC and DATABASE_URL. Positions go along in each
transaction, since whoever wants exactly once needs that much. Nothing else is checked, retried or owned.
"""

from __future__ import annotations

import os
import sys
import time
from decimal import Decimal
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.databases import DATABASES
from benchmarks.limits.stages import plan_of
from benchmarks.shapes import GOOD_ORDERS, PARTITIONS

POSITIONS = "loop_progress"
RECORDS_MAX = 10_000


class Order(msgspec.Struct):
    """What is read of an order."""

    order_id: str
    quantity: int
    unit_price: Decimal
    id: str | None = None
    customer: str | None = None
    processed_at: int | None = None


def main() -> None:
    """Until it is killed."""
    topic, url = os.environ["SOURCE_TOPIC"], os.environ["DATABASE_URL"]
    bare = DATABASES[sys.argv[1]].raw(url, plan_of(GOOD_ORDERS, url)[1])
    decode = msgspec.json.Decoder(Order).decode
    brokers = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "loop", "enable.auto.commit": False}
    # As a flow's: without, a consumer that was given much stands still for a second.
    consumer = Consumer({**brokers, "fetch.queue.backoff.ms": 5})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    while True:
        first = consumer.poll(1.0)
        if first is None:
            continue
        messages = [first, *consumer.consume(RECORDS_MAX - 1, 0)]
        now_s = int(time.time())
        payload = bare.payload([_row(decode(message.value() or b""), message, now_s) for message in messages])
        positions = {message.partition(): (message.offset() or 0) + 1 for message in messages}
        move = f"UPDATE {POSITIONS} SET offset_next = {{1}} WHERE source_partition = {{0}}"
        bare.upsert(payload, [move.format(*position) for position in positions.items()])


def _row(order: Order, message: Message, now_s: int) -> tuple[Any, ...]:
    total = order.unit_price * order.quantity
    row_id = order.id or f"{message.partition()}-{message.offset()}"
    return row_id, order.order_id, order.customer, order.quantity, order.unit_price, total, order.processed_at or now_s


if __name__ == "__main__":
    main()
