"""`waxwing produce orders`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dataflows.orders import OrdersSettings
from dataflows.orders_generator import PRODUCER_CONFIG, Order, Sender, orders
from waxwing import log
from waxwing.errors import ConfigError, TransientError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings
from waxwing.settings.checking import load

PARTITIONS = 4
ADMIN_TIMEOUT_S = 15.0
LOG_INTERVAL_S = 10.0
# With a rate, orders go out in slices of this much time.
SLICE_S = 0.05


def produce(count: int, *, rate: float | None, bad: float, seed: int, topic: str | None, partitions: int | None) -> None:
    """Make the topic if it is missing, send the orders, and check that each was acknowledged.

    Raises:
        ConfigError: Kafka refuses, the topic has another number of partitions, or nobody said which of several topics.
        TransientError: Kafka is away, or did not acknowledge everything.
    """
    settings = load(OrdersSettings, partial=True)  # by default where the flow reads
    if not topic and ("," in settings.source_topic or settings.source_topic_pattern):
        raise ConfigError(
            f"The flow reads several topics: {settings.source_topic_pattern or settings.source_topic}.",
            hint="Say where the orders are to go: --topic NAME.",
        )
    topic = topic or settings.source_topic
    _ensure_topic(settings, topic, partitions)
    # KAFKA_CONFIG wins over our choices for speed.
    sender = Sender(make_client(Producer, {**PRODUCER_CONFIG, **client_config(settings)}, settings), topic)
    started_s = time.monotonic()
    with _progress() as progress:
        task = progress.add_task(f"orders into {topic}", total=count, rate="")
        logged_s = started_s
        for part in _paced(orders(count, bad_ratio=bad, seed=seed), rate):
            sender.send(part)
            progress.update(task, completed=sender.delivered, rate=_rate(sender.delivered, started_s))
            if not log.terminal and time.monotonic() - logged_s > LOG_INTERVAL_S:
                logged_s = time.monotonic()
                log.info("progress", f"{sender.delivered:,} of {count:,} orders acknowledged.", delivered=sender.delivered)
        missing = sender.finish()
        progress.update(task, completed=sender.delivered)
    if missing:
        why = "; ".join(f"{reason} ({number:,})" for reason, number in sender.refused.items()) or "no answer in time"
        raise TransientError(
            f"{missing:,} of {sender.sent:,} orders were not acknowledged by Kafka: {why}.",
            hint="They may be missing, or be there.",
        )
    seconds = time.monotonic() - started_s
    log.info(
        "produced",
        f"{sender.delivered:,} orders acknowledged in topic {topic}, in {seconds:.1f} s ({_rate(sender.delivered, started_s)}).",
        delivered=sender.delivered,
        topic=topic,
        seconds=round(seconds, 2),
    )


def _ensure_topic(settings: KafkaSettings, topic: str, partitions: int | None) -> None:
    refused: list[ConfigError] = []

    def on_error(error: KafkaError) -> None:
        if problem := refusal(error, settings):
            refused.append(problem)

    admin = make_client(AdminClient, {**client_config(settings), "error_cb": on_error}, settings)
    try:
        # All topics: to ask for one by name could make it, with the broker's number of partitions.
        found = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics.get(topic)
        if found is None:
            new = NewTopic(topic, partitions or PARTITIONS, -1)
            admin.create_topics([new], operation_timeout=ADMIN_TIMEOUT_S)[topic].result(ADMIN_TIMEOUT_S)
            log.info("topic_made", f"Topic {topic} made, with {partitions or PARTITIONS} partitions.")
        elif partitions is not None and len(found.partitions) != partitions:
            raise ConfigError(
                f"Topic {topic} has {len(found.partitions)} partitions, not {partitions}.", hint="Leave --partitions out."
            )
    except KafkaException as error:
        problem = refused[0] if refused else refusal(error.args[0], settings)
        if problem:
            raise problem from error
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster
            raise TransientError(
                f"Kafka at {settings.kafka_bootstrap_servers}: {reason_of(error.args[0])}.",
                hint="Does it run, and is KAFKA_BOOTSTRAP_SERVERS right?",
            ) from error


def _paced(chunks: Iterator[list[Order]], rate: float | None) -> Iterator[list[Order]]:
    """The orders, no faster than the rate."""
    if rate is None:
        yield from chunks
        return
    size = max(1, int(rate * SLICE_S))
    due_s = time.monotonic()
    for chunk in chunks:
        for first in range(0, len(chunk), size):
            time.sleep(max(0.0, due_s - time.monotonic()))
            part = chunk[first : first + size]
            due_s += len(part) / rate
            yield part


def _rate(delivered: int, started_s: float) -> str:
    return f"{delivered / max(time.monotonic() - started_s, 0.001):,.0f}/s"


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not log.terminal, transient=True)
