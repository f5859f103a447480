"""Steps that fold windows: closed ones (the shipped lanes, target, admission and buckets over a model of a store), and live ones.

Bytewax's part is played here: what a lane sends reaches each bucket in order, in whichever process of the mesh that is, whenever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from typing_extensions import override

from sinks.windows.sink import WindowSink
from sinks.windows.table import WindowTable
from sinks.windows.target import WindowTarget
from tests.simulation.steps.fed import Fed, FedByLane
from tests.simulation.steps.stepped import SteppedWriter
from tests.simulation.target import ModelSession, ModelTarget
from waxwing.batch import Batch, Reject
from waxwing.change import Change
from waxwing.errors import RowError, TransientError
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import Count, Hopping, Session, Sum, Windows
from waxwing.operators.windows.live import Live
from waxwing.settings import WindowSettings
from waxwing.tables.dialect import MEMORY
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker

if TYPE_CHECKING:
    from sources.kit.words import Raw
    from tests.simulation.process import Process
    from tests.simulation.store import ModelTransaction
    from tests.simulation.truth import Record
    from tests.simulation.windows.truth import Shape
    from tests.simulation.world import World

SECOND_US = 1_000_000
AGGREGATES = {"n": Count(), "total": Sum("value")}


def windows_of(shape: Shape, *, live: bool = False) -> Windows:
    """The definition that a user would write."""
    kind = Session(shape.gap_s) if shape.gap_s and not live else Hopping(shape.length_s, shape.every_s)
    return Windows(
        by=("key",),
        time="time_s",
        kind=kind,
        aggregates=AGGREGATES,
        lateness_s=shape.lateness_s,
        grace_s=shape.grace_s,
        corrections="eager" if shape.eager else "at_end",
        idle_after_s=1.0 if shape.idles else None,
    )


def events_batch(world: World, read: Raw, found: list[Record]) -> Batch[Any]:
    """What reaches windows of a batch that was read: a dict for each row."""
    partition = read.stream.partition
    rows = [(at, event) for at, record in enumerate(found) for event in world.events[partition][record.offset]]
    rejects = [Reject(at, "parse", "bad") for at, record in enumerate(found) if record.rejected]
    records = [{"time_s": event.time_s, "key": event.key, "value": event.value} for _, event in rows]
    return read.with_records(records, [at for at, _ in rows], rejects)


class WindowsSession(ModelSession):
    """Inserts the rows of windows that have closed."""

    @override
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        opened = cast("ModelTransaction", transaction)
        for part in [prepared.batches] if prepared.parts is None else prepared.parts:
            for batch in part:
                for number, (start, end, key, count, total, revision) in enumerate(batch.records):
                    if number % 3 == 0:
                        opened.statement("insert")
                    if self.world.is_window_bad(end // SECOND_US, key):
                        raise RowError("bad row")
                    opened.opened.written.append((batch.stream.partition, (start, end, key, revision), count, total))


class LiveSession(ModelSession):
    """Adds to the rows of live windows. What of a change is added to which row, the shipped code says."""

    @override
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        opened = cast("ModelTransaction", transaction)
        parts = [prepared.batches] if prepared.parts is None else prepared.parts
        made = [row for part in parts for row in self.world.live_rows().of(replace(prepared, batches=part)).rows]
        for number, (start, key, count, total) in enumerate(made):
            if number % 3 == 0:
                opened.statement("merge")
            if self.world.is_window_bad(start, key):
                raise RowError("bad row")
            opened.opened.written.append((0, (start, key), count, total))


class WindowsModel(ModelTarget):
    """The target behind closed windows."""

    @override
    def connect(self, part: str, token: str) -> WindowsSession:
        return self.world.parts.windows(self, token)


class LiveModel(ModelTarget):
    """The target of live windows."""

    @override
    def connect(self, part: str, token: str) -> LiveSession:
        return self.world.parts.live(self, token)


class FedWindows(Fed):
    """Closed windows in a process: it folds what it reads, and has some of the buckets."""

    windows: WindowTarget

    def __init__(self, process: Process, step: str, settings: WindowSettings) -> None:
        super().__init__(process, step, WindowsModel(process, settings))
        shape = self.world.shape
        kind = self.world.parts.window_target
        self.windows = kind(self.model, windows_of(shape), settings, shape.buckets, lambda rows: list(rows.tuples()))
        self.target = self.windows
        self._lanes = self.world.parts.lanes(self.windows, step)
        # What peers have sent, and when it comes: by sender, in order.
        self.inbox: dict[int, deque[tuple[str, Any]]] = {}

    @override
    def open(self) -> None:
        names = WindowSink.names(self.windows)
        # Bytewax spreads the buckets over the mesh as it likes: the same for all of it.
        for number, name in enumerate(names):
            if number % len(self.process.peers) == self.process.peers.index(self.process):
                admission = self.world.parts.window_admission(
                    self.windows, number, self.windows.window_settings, self.world.now_s
                )
                self.add(name, SteppedWriter(self.process, self.windows, name, admission))

    @override
    def batch(self, read: Raw, found: list[Record]) -> Batch[Any]:
        return events_batch(self.world, read, found)

    @override
    def put(self, batch: Batch[Any]) -> None:
        for name, item in self._lanes(batch):
            number = int(name.rpartition("-")[2]) % len(self.process.peers)
            peer = self.process.peers[number]
            fed = peer.steps[self.step]
            assert isinstance(fed, FedWindows)
            fed.inbox.setdefault(self.process.number, deque()).append((name, item))
        if self.process.number in self.inbox:
            self._receive_from(self.process.number)

    def receive(self) -> None:
        """Take in something of what a peer has sent."""
        self._receive_from(self.world.chance.choice([sender for sender, sent in self.inbox.items() if sent]))

    def _receive_from(self, sender: int) -> None:
        sent = self.inbox[sender]
        while sent:
            name, item = sent.popleft()
            self.partitions[name].write_batch([item])

    @property
    def has_mail(self) -> bool:
        """Has a peer sent anything?"""
        return bool(self.partitions) and any(self.inbox.values())

    @override
    def put_wrongly(self, batch: Batch[Any]) -> None:
        how = self.world.chance.randrange(3)
        batches = self.miswired(batch, how)
        self.world.say(f"{self.process}: {self.step} is fed {batch.stream} wrongly, {len(batches)} times")
        for number, each in enumerate(batches):
            taken = self._takes(each)
            self.put(each)
            if how == 2 and number == 1 and taken:
                self.world.violated(f"{self.step}: {batch.stream} comes in two halves, and the second is passed over")

    def _takes(self, batch: Batch[Any]) -> bool:
        """Is it none that all buckets have?"""
        try:
            return self.windows.opening(batch) is not None
        except TransientError:  # it has gone on since then
            return True


class FedLive(FedByLane):
    """Live windows in a process."""

    def __init__(self, process: Process, step: str, settings: WindowSettings) -> None:
        super().__init__(process, step, LiveModel(process, settings))
        self._live = Live(windows_of(self.world.shape, live=True))
        self._table = WindowTable(_totals(), self._live.windows)

    @override
    def batch(self, read: Raw, found: list[Record]) -> Batch[Any]:
        batch = events_batch(self.world, read, found)
        rows, rejects, _ = self._live.fold(batch)
        return self._live.whole(batch, self._table.tuples(rows, LIVE_COLUMNS), rejects)


LIVE_COLUMNS = ("window_start", "key", "n", "total")


def _totals() -> sa.Table:
    numbers = [
        sa.Column(name, sa.BigInteger, primary_key=name in LIVE_COLUMNS[:2], autoincrement=False) for name in LIVE_COLUMNS[:3]
    ]
    return sa.Table("totals", sa.MetaData(), *numbers, sa.Column("total", sa.Numeric(60, 0)))


def live_rows(shape: Shape) -> RowMaker:
    """The shipped code that makes rows of live windows, merged by their keys."""
    merge = Live(windows_of(shape, live=True)).merge(LIVE_COLUMNS[:2])
    return RowMaker(plan(_totals(), merge, dialect=MEMORY, columns=LIVE_COLUMNS), LIVE_COLUMNS, MEMORY)
