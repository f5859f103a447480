"""`waxwing produce orders` and `waxwing produce sensors`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dataflows.orders import OrdersSettings
from dataflows.orders_generator import orders
from dataflows.sending import PRODUCER_CONFIG, Keyed, Sender
from dataflows.sensors import SensorsSettings
from dataflows.sensors_generator import Ts, readings
from waxwing import log
from waxwing.errors import ConfigError, TransientError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings
from waxwing.settings.checking import load

PARTITIONS = 4
ADMIN_TIMEOUT_S = 15.0
LOG_INTERVAL_S = 10.0
# With a rate, records go out in slices of this much time.
SLICE_S = 0.05
# Without one, a reading that tells its time is so much younger than the one before.
READING_STEP_S = 0.001


class Where(NamedTuple):
    """Where records go, and how fast.

    Attributes:
        topic: None: where the flow reads.
        partitions: of a topic that has to be made; one that is there must have as many.
        rate: records a second at most; None: as fast as it goes.
    """

    topic: str | None = None
    partitions: int | None = None
    rate: float | None = None


def produce_orders(where: Where, count: int, *, bad: float, seed: int) -> None:
    """Orders into the topic that the flow orders reads. Raises as `produce` does."""
    produce("orders", where, OrdersSettings, count, orders(count, bad_ratio=bad, seed=seed))


def produce_sensors(where: Where, count: int, *, bad: float, late: float, seed: int, sensors: int, ts: Ts) -> None:
    """Readings into the topic that the flow sensors reads. Raises as `produce` does."""
    step_s = 1 / where.rate if where.rate else READING_STEP_S
    # Those that tell their time are of now: with a rate from now on, else the last of them is of now.
    first_s = time.time() - (0.0 if where.rate else count * step_s)
    chunks = readings(count, bad_ratio=bad, late_ratio=late, seed=seed, sensors=sensors, ts=ts, first_s=first_s, step_s=step_s)
    produce("readings", where, SensorsSettings, count, chunks)


def produce(called: str, where: Where, flow: type[KafkaSettings], count: int, chunks: Iterator[list[Keyed]]) -> None:
    """Make the topic if it is missing, send the records, and check that each was acknowledged.

    Args:
        called: what the records are.
        where: they go.
        flow: the settings of the flow that reads them.
        count: how many they are.
        chunks: the records.

    Raises:
        ConfigError: Kafka refuses, the topic has another number of partitions, or nobody said which of several topics.
        TransientError: Kafka is away, or did not acknowledge everything.
    """
    settings = load(flow, partial=True)  # by default where the flow reads
    if not where.topic and ("," in settings.source_topic or settings.source_topic_pattern):
        raise ConfigError(
            f"The flow reads several topics: {settings.source_topic_pattern or settings.source_topic}.",
            hint=f"Say where the {called} are to go: --topic NAME.",
        )
    topic = where.topic or settings.source_topic
    _ensure_topic(settings, topic, where.partitions)
    # KAFKA_CONFIG wins over our choices for speed.
    sender = Sender(make_client(Producer, {**PRODUCER_CONFIG, **client_config(settings)}, settings), topic)
    started_s = time.monotonic()
    with _progress() as progress:
        task = progress.add_task(f"{called} into {topic}", total=count, rate="")
        logged_s = started_s
        for part in _paced(chunks, where.rate):
            sender.send(part)
            progress.update(task, completed=sender.delivered, rate=_rate(sender.delivered, started_s))
            if not log.terminal and time.monotonic() - logged_s > LOG_INTERVAL_S:
                logged_s = time.monotonic()
                log.info("progress", f"{sender.delivered:,} of {count:,} {called} acknowledged.", delivered=sender.delivered)
        missing = sender.finish()
        progress.update(task, completed=sender.delivered)
    if missing:
        why = "; ".join(f"{reason} ({number:,})" for reason, number in sender.refused.items()) or "no answer in time"
        raise TransientError(
            f"{missing:,} of {sender.sent:,} {called} were not acknowledged by Kafka: {why}.",
            hint="They may be missing, or be there.",
        )
    seconds = time.monotonic() - started_s
    log.info(
        "produced",
        f"{count:,} {called} acknowledged in topic {topic}, in {seconds:.1f} s ({_rate(sender.delivered, started_s)}).",
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


def _paced(chunks: Iterator[list[Keyed]], rate: float | None) -> Iterator[list[Keyed]]:
    """The records, no faster than the rate."""
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
