"""Targets of every kind, each with the same table: what the cases ask of them."""

from __future__ import annotations

import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import duckdb
import msgspec
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaError, TopicPartition
from deltalake import DeltaTable
from pydantic import SecretStr

from sinks import Append, SqlTarget, SqlWindows
from sinks.delta import DeltaTarget, DeltaWindows
from sinks.delta.log import DeltaLog, Unknown
from sinks.kafka import KafkaTarget, KafkaWindows
from sinks.kafka.producers import Sender
from sinks.parquet import ParquetTarget, ParquetWindows, day
from sinks.parquet.session import Lane
from tests.conformance.place import Place, around_commits
from tests.conformance.writing.test_windows import DEFINITION
from tests.servers.kafka import Kafka
from waxwing.databases.ledger import schema
from waxwing.errors import TransientError
from waxwing.operators.windows import Windows
from waxwing.settings import DeltaWindowSettings, KafkaWindowSettings, ParquetWindowSettings, SqlWindowSettings
from waxwing.target import Target

_numbers = count(1)
# A commit is quick, an owner is soon stale, and each bucket writes at once.
QUICK: dict[str, Any] = {
    "lanes": 2,
    "window_buckets": 2,
    "owner_stale_s": 1.0,
    "window_snapshot_interval_s": 0.0,
    "retry_max_s": 30.0,
}


class Letter(NamedTuple):
    """A dead letter, as a reader finds it."""

    stage: str
    partition: int
    offset: int
    value: bytes


class Kind(ABC):
    """A target of one kind, with a place of its own."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.flow = f"{self.name}-{self.number}"

    @abstractmethod
    def target(self, **settings: Any) -> Target:
        """Of rows (id, name of ten characters, amount of two decimals)."""

    @abstractmethod
    def windows(self, definition: Windows = DEFINITION, **settings: Any) -> Target:
        """Of the closed windows of sales."""

    @abstractmethod
    def rows(self) -> list[tuple[Any, ...]]:
        """What a reader finds, by id."""

    @abstractmethod
    def totals(self) -> list[tuple[str, int, int, Decimal, Decimal, Decimal]]:
        """Key, start in seconds, number, total, largest, mean: the last one of each window."""

    @abstractmethod
    def letters(self) -> list[Letter]:
        """All of them, by their places."""

    def forget(self) -> None:
        """Somebody loses what it remembers, and not what it holds."""
        raise NotImplementedError

    @abstractmethod
    def around_commits(self, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
        """Each commit of a writer is given to `around`, which makes it or not."""


ITEMS = (
    sa.Column("id", sa.Integer, nullable=False),
    sa.Column("name", sa.String(10)),
    sa.Column("amount", sa.Numeric(10, 2)),
)
TOTALS = (
    sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
    sa.Column("scope", sa.String(8)),
    sa.Column("key", sa.String(70)),
    sa.Column("n", sa.BigInteger),
    sa.Column("total", sa.Numeric(12, 2)),
    sa.Column("largest", sa.Numeric(12, 2)),
    sa.Column("mean", sa.Numeric(12, 2)),
)


def table(name: str, columns: tuple[sa.Column[Any], ...]) -> sa.Table:
    return sa.Table(name, sa.MetaData(), *(column._copy() for column in columns))


def last(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of each window the last row: a correction replaces what it corrects."""
    return sorted({row[:2]: row for row in found}.values())


class Sql(Kind):
    """A database."""

    name = "sql"

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._items = table(f"items_{self.number}", ITEMS)
        # SQLite keeps no zones.
        self._totals = table(f"sums_{self.number}", (sa.Column("window_start", sa.DateTime, nullable=False), *TOTALS[1:]))

    def _settings(self, **settings: Any) -> SqlWindowSettings:
        url = SecretStr(self._place.url.render_as_string(hide_password=False))
        return SqlWindowSettings(database_url=url, **(QUICK | settings))

    def _at_place(self, made: Any) -> Any:
        made.place.database, made.place.engine = self._place.database, self._place.engine
        return made

    def target(self, **settings: Any) -> Target:
        made: Target = self._at_place(SqlTarget(self._settings(**settings), self._items, Append()))
        return made

    def windows(self, definition: Windows = DEFINITION, **settings: Any) -> Target:
        made: Target = self._at_place(SqlWindows(self._settings(**settings), self._totals, definition, fixed={"scope": "key"}))
        return made

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(
            (id_, name, Decimal(str(amount)).quantize(Decimal("0.01"))) for id_, name, amount in self._place.read(self._items)
        )

    def totals(self) -> list[Any]:
        cent = Decimal("0.01")
        found = self._place.read(self._totals)
        return last(
            [
                (key, round(start.replace(tzinfo=UTC).timestamp()), n, *(Decimal(str(one)).quantize(cent) for one in money))
                for start, _, key, n, *money in found
            ]
        )

    def letters(self) -> list[Letter]:
        c = schema.dead_letters.c
        query = sa.select(c.stage, c.source_partition, c.source_offset, c.message_value).where(c.flow == self.flow)
        with self._place.engine.connect() as connection:
            return sorted(Letter(*row) for row in connection.execute(query))

    def around_commits(self, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
        around_commits(self._place.engine, monkeypatch, around)


class Topic(Kind):
    """A topic of Kafka."""

    name = "kafka"

    def __init__(self, kafka: Kafka) -> None:
        super().__init__()
        self._kafka = kafka
        self._topic = f"items-{self.number}"

    def _settings(self, **settings: Any) -> KafkaWindowSettings:
        return KafkaWindowSettings(
            kafka_bootstrap_servers=self._kafka.bootstrap(), kafka_topic_partitions=3, **(QUICK | settings)
        )

    def target(self, **settings: Any) -> KafkaTarget:
        return KafkaTarget(self._settings(**settings), self._topic, table("items", ITEMS), key="name")

    def windows(self, definition: Windows = DEFINITION, **settings: Any) -> KafkaWindows:
        return KafkaWindows(
            self._settings(**settings), self._topic, table("sums", TOTALS), definition, key="key", fixed={"scope": "key"}
        )

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(
            (one.id, one.name, one.amount) for one in (msgspec.json.decode(value, type=Item) for _, value, _ in self._read())
        )

    def totals(self) -> list[Any]:
        found = [msgspec.json.decode(value, type=Total) for _, value, _ in self._read()]
        return last([(one.key, round(one.window_start.timestamp()), one.n, one.total, one.largest, one.mean) for one in found])

    def letters(self) -> list[Letter]:
        def of(value: bytes, headers: dict[str, bytes]) -> Letter:
            place = int(headers["waxwing.partition"]), int(headers["waxwing.offset"])
            return Letter(headers["waxwing.stage"].decode(), *place, value)

        return sorted(of(value, headers) for _, value, headers in self._read(f"{self._topic}.dead_letters"))

    def forget(self) -> None:
        self._kafka.delete_topic(f"waxwing.{self.flow}.out.positions")

    def _read(self, topic: str = "") -> list[tuple[bytes | None, bytes, dict[str, bytes]]]:
        return read_committed(self._kafka, topic or self._topic)

    def around_commits(self, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
        real = Sender.commit
        done: set[Sender] = set()

        def make(sender: Sender) -> None:
            real(sender)
            done.add(sender)

        def commit(sender: Sender) -> None:
            if threading.current_thread().name == "group-offsets":  # it looks at positions, for lag tools; nothing hangs on it
                real(sender)
                return
            done_before = sender.in_doubt and sender in done
            done.discard(sender)
            if done_before:  # as librdkafka does: it knows by then that it was done
                sender.in_doubt = False
                return
            try:
                around(lambda: make(sender))
            except TransientError as error:
                error.committing = sender.in_doubt = True  # as when no answer comes
                raise

        monkeypatch.setattr(Sender, "commit", commit)


class Folder(Kind):
    """A folder of Parquet files."""

    name = "parquet"

    def __init__(self, parent: Path) -> None:
        super().__init__()
        self._folder = parent / "items"

    def _settings(self, **settings: Any) -> ParquetWindowSettings:
        return ParquetWindowSettings(parquet_file_age_s=0.0, **(QUICK | settings))

    def target(self, **settings: Any) -> ParquetTarget:
        return ParquetTarget(self._settings(**settings), self._folder, table("items", ITEMS))

    def windows(self, definition: Windows = DEFINITION, **settings: Any) -> ParquetWindows:
        made = self._settings(**settings)
        key = day("window_start", "day")
        return ParquetWindows(made, self._folder, table("sums", TOTALS), definition, partition_by=[key], fixed={"scope": "key"})

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(self._read("id, name, amount", self._folder))

    def totals(self) -> list[Any]:
        found = self._read("key, epoch(window_start)::bigint, n, total, largest, mean", self._folder)
        return last(sorted(found, key=lambda row: row[2]))  # a correction counts more

    def letters(self) -> list[Letter]:
        return sorted(
            Letter(*row) for row in self._read('stage, "partition", "offset", value', Path(f"{self._folder}_dead_letters"))
        )

    def forget(self) -> None:
        shutil.rmtree(self._folder.with_name(".items.waxwing"))

    def _read(self, columns: str, folder: Path) -> list[tuple[Any, ...]]:
        if not any(folder.glob("**/*.parquet")):
            return []
        with duckdb.connect() as connection:
            return connection.execute(
                f"SELECT {columns} FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true)"
            ).fetchall()

    def around_commits(self, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
        real = Lane.commit
        monkeypatch.setattr(Lane, "commit", lambda lane, change: around(lambda: real(lane, change)))


class Delta(Kind):
    """A Delta table in a folder."""

    name = "delta"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._path = folder / f"items {self.number}"

    def _settings(self, **settings: Any) -> DeltaWindowSettings:
        return DeltaWindowSettings(**(QUICK | {"delta_commit_age_s": 0.0} | settings))

    def target(self, **settings: Any) -> DeltaTarget:
        return DeltaTarget(self._settings(**settings), self._path, table("items", ITEMS))

    def windows(self, definition: Windows = DEFINITION, **settings: Any) -> DeltaWindows:
        return DeltaWindows(self._settings(**settings), self._path, table("sums", TOTALS), definition, fixed={"scope": "key"})

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted((row["id"], row["name"], row["amount"]) for row in self._read())

    def totals(self) -> list[Any]:
        found = sorted(self._read(), key=lambda row: row["n"])  # a correction brings more
        return last(
            [
                (one["key"], round(one["window_start"].timestamp()), one["n"], one["total"], one["largest"], one["mean"])
                for one in found
            ]
        )

    def letters(self) -> list[Letter]:
        return sorted(Letter(one["stage"], one["partition"], one["offset"], one["value"]) for one in self._read("_dead_letters"))

    def forget(self) -> None:
        shutil.rmtree(self._folder / f".{self._path.name}.waxwing")

    def _read(self, suffix: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = DeltaTable(f"{self._path}{suffix}").to_pyarrow_table().to_pylist()
        return found

    def around_commits(self, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
        real = DeltaLog.append

        def append(log: DeltaLog, numbers: dict[str, int], files: Any = ()) -> None:
            if log.folder.path.endswith(".dead_letters"):
                real(log, numbers, files)
                return
            try:
                around(lambda: real(log, numbers, files))
            except TransientError as error:  # as when no answer comes
                raise Unknown(str(error)) from error

        monkeypatch.setattr(DeltaLog, "append", append)


class Item(msgspec.Struct):
    """A row as JSON."""

    id: int
    name: str | None
    amount: Decimal


class Total(msgspec.Struct):
    """A closed window as JSON."""

    window_start: datetime
    key: str
    n: int
    total: Decimal
    largest: Decimal
    mean: Decimal


def read_committed(kafka: Kafka, topic: str) -> list[tuple[bytes | None, bytes, dict[str, bytes]]]:
    """What another client finds in a topic: key, value, headers, in the order of each partition."""
    config = {**kafka.client(), "group.id": "reader", "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer(config)
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        out: list[Any] = []
        ended: set[int | None] = set()
        while len(ended) < len(partitions):
            for message in consumer.consume(10_000, 1.0):
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(message.partition())
                    continue
                out.append((message.key(), message.value(), dict(message.headers() or ())))
        return out
    finally:
        consumer.close()
