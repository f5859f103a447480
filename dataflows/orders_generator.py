"""Generated orders, good and bad, the same for the same seed: for `waxwing produce orders` and the embedded demonstration."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Iterator, Sequence

from confluent_kafka import KafkaError, Message, Producer

CHUNK_ORDERS = 10_000
CUSTOMERS = 1_000
FIRST_TS_MS = 1_767_225_600_000  # 2026-01-01; an order a millisecond
# Orders differ in their tails; there are this many, made beforehand. Chance by the order would take longer than Kafka does.
TAILS = 4_096
# The part of an order's 32 random bits that its tail does not use decides whether it is bad.
BAD_STEPS = 2**32 // TAILS
# Longer than librdkafka's message.timeout.ms (300 s): by then each message is acknowledged or refused with a reason.
FLUSH_TIMEOUT_S = 330.0

# For fast delivery that is complete: acknowledged by all replicas, and without doubles when a request is sent again.
PRODUCER_CONFIG = {
    "enable.idempotence": True,
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "batch.num.messages": 50_000,
    "queue.buffering.max.messages": 500_000,
}

Order = tuple[bytes, bytes | None]  # a message's key (the customer) and value


def _json(text: str) -> Callable[[int], bytes]:
    """A value with the order's number in place of #."""
    before, _, after = text.partition("#")
    return lambda n: f"{before}{n:09}{after}".encode()


# Every way in which an order can be bad: taken in turn, so that a few dozen bad orders show them all.
BAD: dict[str, Callable[[int], bytes | None]] = {
    "cut off": _json('{"order_id":"ORD-#","quantity":3,"unit_'),
    "wrong encoding": lambda n: b'{"order_id":"ORD-%09d","customer":"Ren\xe9","quantity":3,"unit_price":25.50}' % n,
    "order_id missing": lambda n: b'{"quantity":3,"unit_price":25.50,"ts":%d}' % n,
    "unit_price missing": _json('{"order_id":"ORD-#","quantity":3}'),
    "quantity is a word": _json('{"order_id":"ORD-#","quantity":"three","unit_price":25.50}'),
    "quantity is a fraction": _json('{"order_id":"ORD-#","quantity":2.5,"unit_price":25.50}'),
    "quantity is true": _json('{"order_id":"ORD-#","quantity":true,"unit_price":25.50}'),
    "quantity negative": _json('{"order_id":"ORD-#","quantity":-2,"unit_price":25.50}'),
    "quantity zero": _json('{"order_id":"ORD-#","quantity":0,"unit_price":25.50}'),
    "quantity too large": _json('{"order_id":"ORD-#","quantity":2147483648,"unit_price":0.01}'),
    "price negative": _json('{"order_id":"ORD-#","quantity":3,"unit_price":-25.50}'),
    "price with three decimals": _json('{"order_id":"ORD-#","quantity":3,"unit_price":19.995}'),
    "price is not a number": _json('{"order_id":"ORD-#","quantity":3,"unit_price":NaN}'),
    "price too large": _json('{"order_id":"ORD-#","quantity":3,"unit_price":1e30}'),
    "total too large": _json('{"order_id":"ORD-#","quantity":2000000,"unit_price":99999.99}'),
    "total wrong": _json('{"order_id":"ORD-#","quantity":3,"unit_price":25.50,"total_value":80.00}'),
    "id too long": _json('{"id":"' + "x" * 37 + '","order_id":"ORD-#","quantity":3,"unit_price":25.50}'),
    "order_id empty": lambda n: b'{"order_id":"","quantity":3,"unit_price":25.50,"ts":%d}' % n,
    "customer too long": _json('{"order_id":"ORD-#","customer":"' + "x" * 256 + '","quantity":3,"unit_price":25.50}'),
    "processed_at in milliseconds": _json('{"order_id":"ORD-#","quantity":3,"unit_price":25.50,"processed_at":1767225600000}'),
    "an array": _json('[{"order_id":"ORD-#","quantity":3,"unit_price":25.50}]'),
    "empty value": lambda _: b"",
    "null value": lambda _: None,
}


def orders(count: int, *, bad_ratio: float, seed: int) -> Iterator[list[Order]]:
    """Orders in chunks. Half of them bring an id; about `bad_ratio` of them are bad."""
    chance = random.Random(seed)
    tails = [_tail(chance) for _ in range(TAILS)]
    ways = list(BAD.values())
    bad_below = round(bad_ratio * BAD_STEPS)
    bad = 0
    for first in range(0, count, CHUNK_ORDERS):
        size = min(CHUNK_ORDERS, count - first)
        chunk: list[Order] = []
        for n, bits in enumerate(array("I", chance.randbytes(4 * size)), first):
            key, tail = tails[bits % TAILS]
            if bits // TAILS < bad_below:
                chunk.append((key, ways[bad % len(ways)](n)))
                bad += 1
            elif n % 2:
                chunk.append((key, b'{"id":"%08x-%023x","order_id":"ORD-%09d",%b,"ts":%d}' % (seed, n, n, tail, FIRST_TS_MS + n)))
            else:
                chunk.append((key, b'{"order_id":"ORD-%09d",%b,"ts":%d}' % (n, tail, FIRST_TS_MS + n)))
        yield chunk


def _tail(chance: random.Random) -> tuple[bytes, bytes]:
    """A customer, and the fields that don't depend on the order's number."""
    customer = f"customer-{chance.randrange(CUSTOMERS):04}"
    quantity, cents = chance.randint(1, 20), chance.randint(50, 20_000)
    fields = f'"customer":"{customer}","quantity":{quantity},"unit_price":{cents // 100}.{cents % 100:02}'
    if chance.random() < 0.1:  # already enriched
        total = quantity * cents
        fields += f',"total_value":{total // 100}.{total % 100:02},"processed_at":{FIRST_TS_MS // 1_000}'
    return customer.encode(), fields.encode()


class Sender:
    """Sends orders, and counts what the brokers have acknowledged.

    Attributes:
        sent: orders handed to the producer.
        delivered: orders acknowledged.
        refused: why others were not, with how many.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self.sent = self.delivered = 0
        self.refused: dict[str, int] = {}

    def send(self, chunk: Sequence[Order]) -> None:
        """Hand over a chunk; waits while the producer's queue is full."""
        produce, topic = self._producer.produce, self._topic
        for key, value in chunk:
            while True:
                try:
                    produce(topic, value, key, on_delivery=self._on_delivery)
                except BufferError:
                    self._producer.poll(0.1)
                    continue
                break
        self.sent += len(chunk)
        self._producer.poll(0)

    def finish(self) -> int:
        """Wait for the last acknowledgement. Returns how many are missing."""
        deadline_s = time.monotonic() + FLUSH_TIMEOUT_S
        while self._producer.flush(1.0) and time.monotonic() < deadline_s:
            pass
        return self.sent - self.delivered

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.refused[error.str()] = self.refused.get(error.str(), 0) + 1
