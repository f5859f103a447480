"""Orders through a topic into a table, by two flows, each killed, frozen and restarted; then everything compared."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicCollection

from dataflows.orders_rules import Order
from tests.conformance.targets.kinds import read_committed
from tests.faults.flows.storm import PARTITIONS, Events, FlowStorm, StormError
from tests.faults.recompute import compare, expected, messages, row_of
from tests.faults.storm.load import Load
from tests.servers import Kafka


class OrdersStorm(FlowStorm):
    """Raw orders -> enriched ones in a topic -> a table."""

    module = "dataflows.orders"

    def __init__(
        self, kafka: Kafka, url: str, folder: Path, *, orders: int, events: Events, say: Callable[[str], None] = print
    ) -> None:
        self._raw = kafka.new_topic(PARTITIONS)
        self._between, self._url = f"{self._raw}-enriched", url
        load = Load(kafka.bootstrap(), self._raw, orders, bad=0.001, seed=events.seed)
        super().__init__(kafka, folder, load, events, say)
        told = {"DATABASE_URL": url, "SOURCE_TOPIC": self._raw, "ENRICHED_TOPIC": self._between, "ORDER_TOTALS": "off"}
        self.parts = {part: {**told, "ORDERS_PART": part} for part in ("enrich", "store")}

    def compare(self) -> str:
        wanted = expected(self._kafka.bootstrap(), self._raw)
        rows: Counter[tuple[Any, ...]] = Counter()
        for key, value, _ in read_committed(self._kafka, self._between):
            one = msgspec.json.decode(value, type=Order)
            if key != one.id.encode():
                raise StormError(f"message of {one.id} has the key {key!r}")
            rows[one.id, one.order_id, one.customer, one.quantity, one.unit_price, one.total_value] += 1
        good = self._good()
        if rows != good:
            lost, more = good - rows, rows - good
            some = lost.most_common(3), more.most_common(3)
            raise StormError(f"{sum(lost.values())} messages are missing, {sum(more.values())} too many: {some}")
        letters = Counter(
            (int(headers["waxwing.partition"]), int(headers["waxwing.offset"]))
            for _, _, headers in read_committed(self._kafka, f"{self._between}.dead_letters")
        )
        if letters != Counter(dict.fromkeys(wanted.bad, 1)):
            raise StormError(f"{sum(letters.values())} dead letters for {len(wanted.bad)} bad records")
        wanted.bad.clear()  # they never came into the topic between
        difference = compare(self._url, wanted)
        if not difference.equal:
            raise StormError(f"the table differs: {difference}")
        return (
            f"equal: {sum(rows.values()):,} messages, each once; {len(wanted.rows):,} rows; {sum(letters.values()):,} dead "
            f"letters, exactly the bad records"
        )

    def _good(self) -> Counter[tuple[Any, ...]]:
        """Each good record as a message, as often as it came."""
        topic_id = str(self._kafka.admin.describe_topics(TopicCollection([self._raw]))[self._raw].result().topic_id)
        out: Counter[tuple[Any, ...]] = Counter()
        for partition, offset, value in messages(self._kafka.bootstrap(), self._raw):
            place = hashlib.blake2b(f"{topic_id}/{partition}".encode(), digest_size=10).hexdigest()
            if (row := row_of(value, f"{place}{offset:016x}")) is not None:
                out[row[:4] + tuple(Decimal(money) for money in row[4:])] += 1
        return out
