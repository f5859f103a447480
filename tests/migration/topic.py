"""The topic that earlier releases read half-way: its messages as they were sent, partition by partition."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataflows.orders_generator import FIRST_TS_MS, orders

DATA = Path(__file__).parent / "data"
FILE = DATA / "messages.jsonl.gz"
NAME = "earlier-orders"
PARTITIONS = 3
COUNT = 900
# A first run takes in what lies below the first of these and is stopped, a second one what lies below the other and is killed.
FIRST, SECOND = 300, 700

SHARES = (4, 3, 2)  # how many of nine orders a partition gets
STEP_S = 1
DISORDER_S = 30
VERY_LATE_S = (61, 400)
BEHIND_S = 45  # a partition behind the one before it


class Sent(NamedTuple):
    """A message. Its offset is its number within its partition."""

    partition: int
    time_ms: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def made() -> Iterator[Sent]:
    """Orders of a few customers, a twentieth of them bad in every way there is; out of order, and some very late."""
    chance = random.Random(14)
    now_s = FIRST_TS_MS // 1000 + 1_000
    for number, (key, value) in enumerate(next(iter(orders(COUNT, bad_ratio=0.05, seed=14)))):
        now_s += STEP_S
        partition = chance.choices(range(PARTITIONS), SHARES)[0]
        late_s = chance.randint(*VERY_LATE_S) if chance.random() < 0.02 else chance.randrange(DISORDER_S)
        headers = (("trace", b"%d" % number), ("raw", b"\xff\x00"), ("none", None)) if number % 10 == 0 else ()
        time_ms = (now_s - partition * BEHIND_S - late_s) * 1000
        yield Sent(partition, time_ms, _few(key), None if value is None else _few(value), headers)


def _few(text: bytes) -> bytes:
    """The customer as one of a dozen."""
    return re.sub(rb"customer-(\d{4})", lambda found: b"customer-%04d" % (int(found[1]) % 12), text)


def save(messages: Iterator[Sent]) -> None:
    """Keep the messages, one JSON list a line; bytes as the characters of those numbers."""
    text = "".join(json.dumps(_texts(message)) + "\n" for message in messages)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


def stored() -> list[Sent]:
    """The messages, in the order in which they were sent."""
    lines = gzip.decompress(FILE.read_bytes()).decode().splitlines()
    return [
        Sent(partition, time_ms, _bytes(key) or b"", _bytes(value), tuple((name, _bytes(one)) for name, one in headers))
        for partition, time_ms, key, value, headers in map(json.loads, lines)
    ]


def by_partition(messages: list[Sent]) -> dict[int, list[Sent]]:
    """The messages of each partition, which lie at offsets 0, 1, 2, ..."""
    return {number: [one for one in messages if one.partition == number] for number in range(PARTITIONS)}


def _texts(sent: Sent) -> list[object]:
    headers = [[name, _text(value)] for name, value in sent.headers]
    return [sent.partition, sent.time_ms, _text(sent.key), _text(sent.value), headers]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
