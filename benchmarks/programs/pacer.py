"""Sends orders evenly spaced, and says when each was sent and where it came to lie.

    python -m benchmarks.programs.pacer BOOTSTRAP TOPIC RATE SECONDS SEED BEGIN_S FILE

The first goes out at BEGIN_S of the machine's monotonic clock, which all processes share; what is due goes out every 5 ms. All
are made beforehand, so that making them delays none. FILE takes three arrays as one pickle: time of sending, partition, offset.
"""

from __future__ import annotations

import gc
import pickle
import sys
import time
from array import array
from functools import partial
from itertools import chain, islice
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from dataflows.orders_generator import orders
from dataflows.sending import FLUSH_TIMEOUT_S

SLICE_S = 0.005


def main() -> None:
    """As the arguments say."""
    bootstrap, topic, rate, seconds, seed, begin, file = sys.argv[1:]
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "queue.buffering.max.messages": 1_000_000})
    producer.list_topics(topic, timeout=30)
    count = round(float(rate) * float(seconds))
    values = iter(list(chain.from_iterable(orders(count, bad_ratio=0, seed=int(seed)))))
    sent_s, partitions, offsets = array("d"), array("i"), array("q")

    def delivered(at_s: float, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise SystemExit(f"an order was not acknowledged: {error.str()}")
        sent_s.append(at_s)
        partitions.append(message.partition() or 0)
        offsets.append(message.offset() or 0)

    gc.disable()  # a collection would be a pause
    begin_s = max(float(begin), time.monotonic())
    done = slices = 0
    while done < count:
        time.sleep(max(begin_s + slices * SLICE_S - time.monotonic(), 0))
        slices = int((time.monotonic() - begin_s) / SLICE_S) + 1
        due = min(int(slices * SLICE_S * float(rate) + 1e-6), count)
        for key, value in islice(values, due - done):
            producer.produce(topic, value, key, on_delivery=partial(delivered, time.monotonic()))
        done = due
        producer.poll(0)
    if missing := producer.flush(FLUSH_TIMEOUT_S):
        raise SystemExit(f"{missing:,} orders were not acknowledged")
    Path(file).write_bytes(pickle.dumps((sent_s, partitions, offsets)))


if __name__ == "__main__":
    main()
