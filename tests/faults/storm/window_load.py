"""Orders with event times of their own: out of order, some of them very late, and partitions far apart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from dataflows.orders_generator import FIRST_TS_MS
from dataflows.sending import Sender
from tests.faults.storm.load import Load

DISORDER_MS = 30_000
VERY_LATE_MS = (61_000, 1_800_000)
# By partition, how many of every ten orders it gets. One that is added gets as many as the last.
SHARES = (4, 3, 2, 1)
# A partition stands so far behind the one before, as if it were read more slowly.
BEHIND_MS = 100_000

Timed = tuple[int, int, bytes, bytes | None]  # partition, time in ms, key, value


class TimedSender(Sender):
    """Sends each order to its partition, with its time."""

    def send(self, chunk: Sequence[Any]) -> None:
        produce, topic = self._producer.produce, self._topic
        for partition, time_ms, key, value in chunk:
            while True:
                try:
                    produce(topic, value, key, partition, self._on_delivery, timestamp=time_ms)
                except BufferError:
                    self._producer.poll(0.1)
                    continue
                break
        self.sent += len(chunk)
        self._producer.poll(0)


class TimedLoad(Load):
    """The orders of a storm over windows."""

    sender = TimedSender
    step_ms = 5  # from one order to the next: 2,000,000 orders are nearly three hours
    very_late = 0.01
    _shares: tuple[int, ...] = SHARES

    def learn_partitions(self) -> None:
        super().learn_partitions()
        self._shares = (*self._shares, self._shares[-1])

    def _chunks(self) -> Iterator[Sequence[Timed]]:
        chance = random.Random(self._seed)
        now_ms = FIRST_TS_MS
        for chunk in super()._chunks():
            timed: list[Timed] = []
            shares = self._shares
            for (key, value), partition in zip(chunk, chance.choices(range(len(shares)), shares, k=len(chunk)), strict=True):
                now_ms += self.step_ms
                late_ms = chance.randint(*VERY_LATE_MS) if chance.random() < self.very_late else chance.randrange(DISORDER_MS)
                timed.append((partition, max(now_ms - partition * BEHIND_MS - late_ms, FIRST_TS_MS), key, value))
            yield timed
