"""Generated orders, good and bad, the same for the same seed: for `waxwing produce orders` and the embedded demonstration."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator

from dataflows.sending import Keyed, numbered

CHUNK_ORDERS = 10_000
CUSTOMERS = 1_000
FIRST_TS_MS = 1_767_225_600_000  # 2026-01-01; an order a millisecond
# Orders differ in their tails; there are this many, made beforehand. Chance by the order would take longer than Kafka does.
TAILS = 4_096
# The part of an order's 32 random bits that its tail does not use decides whether it is bad.
BAD_STEPS = 2**32 // TAILS

# Every way in which an order can be bad: taken in turn, so that a few dozen bad orders show them all.
BAD: dict[str, Callable[[int], bytes | None]] = {
    "cut off": numbered('{"order_id":"ORD-#","quantity":3,"unit_'),
    "wrong encoding": lambda n: b'{"order_id":"ORD-%09d","customer":"Ren\xe9","quantity":3,"unit_price":25.50}' % n,
    "order_id missing": lambda n: b'{"quantity":3,"unit_price":25.50,"ts":%d}' % n,
    "unit_price missing": numbered('{"order_id":"ORD-#","quantity":3}'),
    "quantity is a word": numbered('{"order_id":"ORD-#","quantity":"three","unit_price":25.50}'),
    "quantity is a fraction": numbered('{"order_id":"ORD-#","quantity":2.5,"unit_price":25.50}'),
    "quantity is true": numbered('{"order_id":"ORD-#","quantity":true,"unit_price":25.50}'),
    "quantity negative": numbered('{"order_id":"ORD-#","quantity":-2,"unit_price":25.50}'),
    "quantity zero": numbered('{"order_id":"ORD-#","quantity":0,"unit_price":25.50}'),
    "quantity too large": numbered('{"order_id":"ORD-#","quantity":2147483648,"unit_price":0.01}'),
    "price negative": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":-25.50}'),
    "price with three decimals": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":19.995}'),
    "price is not a number": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":NaN}'),
    "price too large": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":1e30}'),
    "total too large": numbered('{"order_id":"ORD-#","quantity":2000000,"unit_price":99999.99}'),
    "total wrong": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":25.50,"total_value":80.00}'),
    "id too long": numbered('{"id":"' + "x" * 37 + '","order_id":"ORD-#","quantity":3,"unit_price":25.50}'),
    "order_id empty": lambda n: b'{"order_id":"","quantity":3,"unit_price":25.50,"ts":%d}' % n,
    "customer too long": numbered('{"order_id":"ORD-#","customer":"' + "x" * 256 + '","quantity":3,"unit_price":25.50}'),
    "processed_at in milliseconds": numbered('{"order_id":"ORD-#","quantity":3,"unit_price":25.50,"processed_at":1767225600000}'),
    "an array": numbered('[{"order_id":"ORD-#","quantity":3,"unit_price":25.50}]'),
    "empty value": lambda _: b"",
    "null value": lambda _: None,
}


def orders(count: int, *, bad_ratio: float, seed: int) -> Iterator[list[Keyed]]:
    """Orders in chunks. Half of them bring an id; about `bad_ratio` of them are bad."""
    chance = random.Random(seed)
    tails = [_tail(chance) for _ in range(TAILS)]
    ways = list(BAD.values())
    bad_below = round(bad_ratio * BAD_STEPS)
    bad = 0
    for first in range(0, count, CHUNK_ORDERS):
        size = min(CHUNK_ORDERS, count - first)
        chunk: list[Keyed] = []
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
