"""Where the CPU of a record goes: the flow's own classes, one after the other in one thread, over records fetched before.

What the engine, threads and locks cost between them does not show here; the whole flow's CPU is in the other table.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.databases import Place
from benchmarks.limits.raw import Rows as RowTuples
from benchmarks.shapes import PARTITIONS, Shape
from sinks import SqlTarget, Upsert
from sources.kafka.consumer import lane_config
from sources.kafka.messages import KafkaMessages
from waxwing.batch import Batch, Stream, raw
from waxwing.change import Change
from waxwing.databases import database_for
from waxwing.databases.base import Database
from waxwing.operators import Origin
from waxwing.operators.parse import Parser
from waxwing.operators.records import _applied
from waxwing.settings import KafkaSettings, SqlSettings
from waxwing.tables.plan import Plan
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker

BATCH_RECORDS = 5_000  # BATCH_RECORDS_MAX
STAGES = ("fetch", "decode", "enrich", "rows and checks", "format", "send", "wait for the database")


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wait_s = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        used_s = time.process_time() - cpu_s
        self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + used_s
        if stage == "send":
            self.wait_s += time.perf_counter() - began_s - used_s


def plan_of(shape: Shape, url: str) -> tuple[Database, Plan]:
    """What SqlTarget would write."""
    database = database_for(sa.make_url(url))
    return database, plan(shape.table, Upsert(keys=("id",)), dialect=database.dialect)


def make_tables(shape: Shape, url: str) -> None:
    """The flow's own tables."""
    target = SqlTarget(SqlSettings.model_validate({"database_url": url}), shape.table, Upsert(keys=("id",)))
    target.bind("raw", "raw")
    target.prepare()


def fetched(bootstrap: str, topic: str, clock: Clock, records: int) -> list[Batch[bytes | None]]:
    """The topic's records in batches, as a lane gives them."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_group_id="stages")
    consumer = Consumer(lane_config(settings))
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    batches: list[Batch[bytes | None]] = []
    next_offsets = dict.fromkeys(range(PARTITIONS), 0)
    with clock("fetch"):
        while records > 0:
            runs: dict[int, list[Message]] = {}
            for message in consumer.consume(BATCH_RECORDS, 0.1):
                if message.error() is None:
                    runs.setdefault(message.partition() or 0, []).append(message)
            for partition, run in runs.items():
                first = next_offsets[partition]
                next_offsets[partition] = first + len(run)
                batches.append(
                    raw(Stream("stages", topic, "id", partition), "lane-000", first, first + len(run), KafkaMessages(run))
                )
                records -= len(run)
    consumer.close()
    return batches


def records_of(shape: Shape, batches: Sequence[Batch[bytes | None]], clock: Clock) -> Iterator[Batch[Any]]:
    """What the flow's steps hand to the sink."""
    parser = Parser(shape.record, "parse", False, 1_000_000)
    for batch in batches:
        with clock("decode"):
            made = parser.parsed(batch)
        if shape.enrich is not None:
            with clock("enrich"):
                fn = shape.enrich(Origin(made.stream, made))
                made = _applied("enrich", made, fn, made.records, made.at)
        yield made


def rows_of(
    shape: Shape, url: str, batches: Sequence[Batch[bytes | None]], clock: Clock, transaction_rows: int
) -> Iterator[RowTuples]:
    """The rows of transactions of that size, by the flow's own steps."""
    database, planned = plan_of(shape, url)
    reader = RowMaker(planned, [column.name for column in planned.columns], database.dialect)
    group: list[Batch[Any]] = []
    for number, made in enumerate(records_of(shape, batches, clock), 1):
        group.append(made)
        if sum(len(each.records) for each in group) >= transaction_rows or number == len(batches):
            with clock("rows and checks"):
                written = reader.of(Change(group, {}, {}))
            yield written.rows
            group = []


def profile(place: Place, shape: Shape, bootstrap: str, topic: str, records: int, transaction_rows: int) -> dict[str, float]:
    """CPU by stage, and the wait for the database, in us a record."""
    gc.collect()
    gc.freeze()
    clock = Clock()
    url = place.empty("stages")
    make_tables(shape, url)
    bare = place.kind.raw(url, plan_of(shape, url)[1])
    for rows in rows_of(shape, url, fetched(bootstrap, topic, clock, records), clock, transaction_rows):
        with clock("format"):
            payload = bare.payload(rows)
        with clock("send"):
            bare.insert(payload)
    bare.close()
    gc.unfreeze()
    seconds = {**clock.cpu_s, "wait for the database": clock.wait_s}
    return {stage: seconds.get(stage, 0.0) / records * 1e6 for stage in STAGES}
