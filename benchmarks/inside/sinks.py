"""The sink alone beside what else writes to SQL Server from Python: rows a second, own CPU, requests at the wire.

All write the same orders into the same table over one connection each, past the relay; what they are given is made ready before,
and so are connections. The peers only INSERT, or only UPDATE, which is less than an upsert. They are given fewer rows.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any, Protocol

import sqlalchemy as sa
from pydantic import SecretStr

from benchmarks.databases import Place
from benchmarks.limits.stages import Clock, fetched, make_tables, records_of
from benchmarks.shapes import Topic
from benchmarks.whole.runs import forget
from sinks import SqlTarget, Upsert
from sinks.writer.writer import Writer
from tests.faults.recompute import plain_engine
from tests.servers.relay import Relay
from waxwing.batch import Batch, Columns
from waxwing.change import Start
from waxwing.settings import SqlSettings

PEER_ROWS = 5_000
ROWS_COUNTED = 10_000
KEY = "id"
COLUMNS = ("way", "rows", "rows/s", "the sink is faster, times", "(repeats)", "own CPU, us/row", "requests per 10,000 rows")
Batches = Sequence[Batch[Any]]


class Way(Protocol):
    """A way to write, connected. `rows` is how many `write` writes."""

    rows: int

    def ready(self) -> None: ...
    def write(self, *, existing: bool) -> None: ...
    def close(self) -> None: ...


class Sink:
    """SqlTarget and its writer: everything that a flow does behind its last step. The first batch is not counted: it connects."""

    def __init__(self, url: str, table: sa.Table, batches: Batches) -> None:
        self._url, self._first, self._rest = url, batches[0], batches[1:]
        self.rows = sum(len(batch.records) for batch in self._rest)
        self._target = SqlTarget(SqlSettings(database_url=SecretStr(url)), table, Upsert(keys=(KEY,)))
        self._target.bind(batches[0].stream.flow, "sink")
        self._target.prepare()
        self._writer: Writer | None = None

    def ready(self) -> None:
        self.close()
        forget(self._url)
        self._target.begin([Start(self._first.stream, 0, None)])
        self._writer = Writer(self._target, self._first.lane)
        self._writer.put(self._first)
        self._writer.flush()

    def write(self, *, existing: bool) -> None:  # noqa: ARG002 - an upsert either way
        assert self._writer is not None
        for batch in self._rest:
            self._writer.put(batch)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Executemany:
    """pyodbc's executemany as it comes: row by row."""

    rows = PEER_ROWS

    def __init__(self, url: str, table: sa.Table, batches: Batches) -> None:
        self._engine = plain_engine(url)
        self._connection: Any = self._engine.raw_connection()
        names, self._tuples = _rows(table, batches)
        marks, sets = ", ".join("?" * len(names)), ", ".join(f"{name} = ?" for name in names[1:])
        self._insert = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"
        self._update = f"UPDATE {table.name} SET {sets} WHERE {KEY} = ?"
        self._changes = [(*rest, key) for key, *rest in self._tuples]

    def ready(self) -> None:
        """Nothing to do."""

    def write(self, *, existing: bool) -> None:
        cursor = self._connection.cursor()
        cursor.executemany(self._update if existing else self._insert, self._changes if existing else self._tuples)
        cursor.close()
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


class Core:
    """SQLAlchemy's core as it comes: insertmanyvalues, statements of many rows; updates row by row."""

    rows = PEER_ROWS

    def __init__(self, url: str, table: sa.Table, batches: Batches) -> None:
        self._connection = plain_engine(url).connect()
        names, tuples = _rows(table, batches)
        self._dicts = [dict(zip(names, row, strict=True)) for row in tuples]
        self._changes = [{"key": row[KEY], **{name: row[name] for name in names if name != KEY}} for row in self._dicts]
        self._insert = table.insert()
        self._update = table.update().where(table.c[KEY] == sa.bindparam("key"))

    def ready(self) -> None:
        """Nothing to do."""

    def write(self, *, existing: bool) -> None:
        with self._connection.begin():
            if existing:
                self._connection.execute(self._update, self._changes)
            else:
                self._connection.execute(self._insert, self._dicts)

    def close(self) -> None:
        self._connection.close()


class SinkInLarge(Sink):
    """The same in transactions of at least ROWS_COUNTED rows: a batch is not cut."""

    def __init__(self, url: str, table: sa.Table, batches: Batches) -> None:
        super().__init__(url, table, [batches[0], *_joined(batches[1:])])


WAYS: dict[str, Callable[[str, sa.Table, Batches], Way]] = {
    "the sink alone": Sink,
    f"the sink alone in transactions of {ROWS_COUNTED:,}": SinkInLarge,
    "pyodbc executemany": Executemany,
    "SQLAlchemy core": Core,
}


def _rows(table: sa.Table, batches: Batches) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The names of the columns that rows bring, the key first, and the first PEER_ROWS rows."""
    rows = [row for batch in batches for row in batch.records][:PEER_ROWS]
    return [column.name for column in table.c][: len(rows[0])], rows


def _joined(batches: Batches) -> list[Batch[Any]]:
    """Batches of ROWS_COUNTED rows and a few more; what is left at the end is left out."""
    out, group = [], []
    for batch in batches:
        group.append(batch)
        if sum(len(each.records) for each in group) >= ROWS_COUNTED:
            fields = ("offsets", "keys", "values", "timestamps_ms", "headers")
            lists = [list(chain.from_iterable(getattr(each.messages, field) for each in group)) for field in fields]
            records = [record for each in group for record in each.records]
            made = replace(group[0], offset_next=batch.offset_next, messages=Columns(*lists), records=records)
            # Which message made which row matters to dead letters only, and there are none.
            out.append(replace(made, at=range(len(records))))
            group = []
    return out


@dataclass(frozen=True)
class Written:
    """What one way needed for so many rows."""

    rows: int
    seconds: float
    cpu_s: float
    requests: int = 0

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def against_peers(place: Place, topic: Topic, repeats: int) -> list[list[str]]:
    """The rows of the table (COLUMNS)."""
    made = records_of(topic.shape, fetched(topic.bootstrap, topic.name, Clock(), topic.records), Clock())
    # One partition, as a lane has it; without the rejected records, which are dead letters and not rows.
    batches = [batch.with_records(batch.records, batch.at, rejects=[]) for batch in made if batch.stream.partition == 0]
    done: dict[str, list[Written]] = defaultdict(list)
    for _ in range(repeats):
        for way in WAYS:
            for what, written in _one(place, topic, way, batches):
                done[what].append(written)
    requests: dict[str, int] = {}
    address = sa.make_url(place.direct(place.empty("peers")))
    with Relay((address.host or "", address.port or 1433)) as relay:
        for way in WAYS:
            requests |= {what: written.requests for what, written in _one(place, topic, way, batches, relay)}
    sink = next(iter(WAYS))
    return [_cells(what, runs, done[f"{sink}, {what.rpartition(', ')[2]}"], requests[what]) for what, runs in done.items()]


def _one(place: Place, topic: Topic, name: str, batches: Batches, relay: Relay | None = None) -> list[tuple[str, Written]]:
    """One way into an empty table, and the same rows once more; by the relay only where requests are counted."""
    url = place.direct(place.empty("peers"))
    make_tables(topic.shape, url)
    if relay is not None:
        url = sa.make_url(url).set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    way = WAYS[name](url, topic.shape.table, batches)
    out = []
    for existing in (False, True):
        way.ready()
        gc.collect()
        before = relay.requests if relay is not None else 0
        began_s, cpu_s = time.perf_counter(), time.process_time()
        way.write(existing=existing)
        written = Written(
            way.rows,
            time.perf_counter() - began_s,
            time.process_time() - cpu_s,
            relay.requests - before if relay is not None else 0,
        )
        out.append((f"{name}, {'existing' if existing else 'new'} rows", written))
    way.close()
    return out


def _cells(what: str, runs: Sequence[Written], sink: Sequence[Written], requests: int) -> list[str]:
    times = sorted(ours.rate / each.rate for ours, each in zip(sink, runs, strict=True))
    return [
        what,
        f"{runs[0].rows:,}",
        f"{median(each.rate for each in runs):,.0f}",
        f"{median(times):.1f}",
        f"{times[0]:.1f}-{times[-1]:.1f}" if len(times) > 1 and times[0] != times[-1] else "",
        f"{median(each.cpu_s / each.rows for each in runs) * 1e6:.2f}",
        f"{requests / runs[0].rows * 10_000:,.1f}",
    ]
