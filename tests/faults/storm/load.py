"""The orders of a storm: sent from a thread as far as the storm allows, through broker restarts, to added partitions too."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import Producer

from dataflows.orders_generator import CHUNK_ORDERS, orders
from dataflows.sending import PRODUCER_CONFIG, Sender

PART_ORDERS = 500
CONFIG = {
    **PRODUCER_CONFIG,
    "topic.metadata.refresh.interval.ms": 1_000,  # it finds added partitions
    "reconnect.backoff.max.ms": 500,
    "log_level": 0,  # its remarks on a broker that is down on purpose
}


class Load:
    """Sends `count` orders, and some of them again: the same ids in other batches, as a producer without care would.

    Attributes:
        total: how many records that makes.
    """

    sender: type[Sender] = Sender

    def __init__(self, bootstrap: str, topic: str, count: int, *, bad: float, seed: int) -> None:
        self._count, self._bad, self._seed = count, bad, seed
        self._topic = topic
        self._producer = Producer({**CONFIG, "bootstrap.servers": bootstrap})
        self._sender = self.sender(self._producer, topic)
        self.total = self._total()
        self._allowed = 0.0
        self._closed = False
        self._error: BaseException | None = None
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        """Records that the broker has."""
        return self._sender.delivered

    def allow(self, records: float) -> int:
        """Send so many records more. Returns how many are allowed altogether."""
        with self._wake:
            self._allowed = min(self._allowed + records, self.total)
            self._wake.notify_all()
            return int(self._allowed)

    def learn_partitions(self) -> None:
        """Ask for the topic's partitions: what is sent from now on goes to added ones too."""
        self._producer.list_topics(self._topic, timeout=30)

    def finish(self) -> None:
        """Send the rest, and see that all of it was acknowledged."""
        self.allow(self.total)
        self._thread.join()
        if self._error is not None:
            raise self._error
        missing = self._sender.finish()
        assert missing == 0, f"{missing:,} orders were not acknowledged: {self._sender.refused}"

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._thread.join()

    def _run(self) -> None:
        try:
            for chunk in self._chunks():
                for first in range(0, len(chunk), PART_ORDERS):
                    part = chunk[first : first + PART_ORDERS]
                    if not self._may_send(len(part)):
                        return
                    self._sender.send(part)
        except BaseException as error:
            self._error = error

    def _total(self) -> int:
        sizes = [min(CHUNK_ORDERS, self._count - first) for first in range(0, self._count, CHUNK_ORDERS)]
        return sum(size * times(number) for number, size in enumerate(sizes))

    def _chunks(self) -> Iterator[Sequence[Any]]:
        """What the sender is given."""
        for number, chunk in enumerate(orders(self._count, bad_ratio=self._bad, seed=self._seed)):
            for _ in range(times(number)):
                yield chunk

    def _may_send(self, records: int) -> bool:
        """Wait for leave to send so many; False when nothing more is to be sent."""
        with self._wake:
            while self._sender.sent + records > self._allowed and not self._closed:
                # Acknowledgements come in while it waits.
                self._wake.wait(0.01)
                self._producer.poll(0)
        return not self._closed


def times(chunk_number: int) -> int:
    """How often a chunk is sent."""
    return 2 if chunk_number % 10 == 5 else 1
