"""The bare writers of files, Delta tables and topics, given ready rows; and what comes before them, in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer
from deltalake import write_deltalake

from benchmarks.limits.stages import Clock, fetched
from dataflows.sending import PRODUCER_CONFIG
from dataflows.sensors import RawReading, Reading, reading
from waxwing.operators.parse import Parser
from waxwing.operators.records import _applied, _messages

ROWS_AT_ONCE = 65_536  # a row group
COMMIT_ROWS = 1_000_000  # as PARQUET_FILE_ROWS_MAX and DELTA_COMMIT_ROWS_MAX
SCHEMA = pa.schema(
    [("sensor", pa.string()), ("ts", pa.timestamp("us", tz="UTC")), ("measure1", pa.float64()), ("measure2", pa.float64())]
)
Rows = Sequence[Reading]
OUTPUTS = ("parquet", "delta", "kafka")


def decoded(bootstrap: str, topic: str, records: int) -> tuple[list[Reading], float]:
    """The readings of a topic, as the flow makes them; and how many seconds that took, from the fetch on."""
    began_s = time.perf_counter()
    parser, rows = Parser(RawReading, "parse", False, 1_000_000), list[Reading]()
    for batch in fetched(bootstrap, topic, Clock(), records):
        made = parser.parsed(batch)
        rows += _applied("reading", made, reading, made.records, *_messages(made, True)).records
    return rows, time.perf_counter() - began_s


def _parts(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _batch(rows: Rows) -> pa.RecordBatch:
    columns = zip(*[(one.sensor, one.ts, one.measure1, one.measure2) for one in rows], strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def parquet(rows: Rows, place: str) -> None:
    """One file after the other, by pyarrow."""
    Path(place).mkdir(parents=True)
    for number, part in enumerate(_parts(rows, COMMIT_ROWS)):
        with pq.ParquetWriter(f"{place}/{number}.parquet", SCHEMA, compression="zstd") as writer:
            for few in _parts(part, ROWS_AT_ONCE):
                writer.write_batch(_batch(few))


def delta(rows: Rows, place: str) -> None:
    """One commit after the other, by the package deltalake."""
    for part in _parts(rows, COMMIT_ROWS):
        table = pa.Table.from_batches([_batch(few) for few in _parts(part, ROWS_AT_ONCE)])
        write_deltalake(place, table, mode="append")


def kafka(bootstrap: str) -> Callable[[Rows, str], None]:
    """Messages of a plain producer, which waits for them all."""

    def write(rows: Rows, place: str) -> None:
        config: dict[str, Any] = {**PRODUCER_CONFIG, "compression.type": "lz4", "bootstrap.servers": bootstrap}
        producer, encode = Producer(config), msgspec.json.Encoder().encode
        for number, row in enumerate(rows):
            while True:
                try:
                    producer.produce(place, encode(row), row.sensor)
                    break
                except BufferError:
                    producer.poll(0.1)
            if number % 5_000 == 0:
                producer.poll(0)
        producer.flush()

    return write


def writers(bootstrap: str) -> Mapping[str, Callable[[Rows, str], None]]:
    """By the name of the output."""
    return dict(zip(OUTPUTS, (parquet, delta, kafka(bootstrap)), strict=True))
