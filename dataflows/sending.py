"""Sending generated records: for `waxwing produce` and the embedded demonstration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, Message, Producer

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

Keyed = tuple[bytes, bytes | None]  # a message's key and value


def numbered(text: str) -> Callable[[int], bytes]:
    """A value with the record's number in place of #."""
    before, _, after = text.partition("#")
    return lambda n: f"{before}{n:09}{after}".encode()


class Sender:
    """Sends messages, and counts what the brokers have acknowledged.

    Attributes:
        sent: messages handed to the producer.
        delivered: messages acknowledged.
        refused: why others were not, with how many.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self.sent = self.delivered = 0
        self.refused: dict[str, int] = {}

    def send(self, chunk: Sequence[Keyed]) -> None:
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
