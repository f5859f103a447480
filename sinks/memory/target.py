"""The memory target: rows in a list or dict, with the same protocol as a database. For tests and embedded use."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.memory.rows import ByName, InTable, Kept
from waxwing.batch import Stream
from waxwing.errors import ConfigError, Fenced, TargetError
from waxwing.settings import SinkSettings
from waxwing.tables.modes import Append, Mode
from waxwing.target import UNFED_HINT, Change, DeadLetter, Position, Session, Start, Target, sources_of

# In memory there is nothing to group for: a test sees each record at once.
MEMORY_SETTINGS = SinkSettings(flush_interval_s=0.0)


class MemoryTarget(Target):
    """Rows, positions and dead letters held in this process.

    It refuses, folds, deletes and merges as an SQL target does. (It knows no unique key but the primary one and the mode's.)

    Args:
        mode: Append() keeps every record; Upsert(keys=...) the last of each key; Merge(keys=..., add=...) a dict of each key.
        settings: as for a database.
        table: the table that the rows are for. With it, columns are checked and keys are typed as in a database, and rows may
            be plain tuples; without, records are kept as they come, and have names where the mode has keys.
        columns: with a table, which columns records bring: as for SqlTarget.

    Attributes:
        rows: the records, in the order they were taken in (append), or one per key (upsert, merge); with a table tuples of all
            its columns, None where only a database would know.
        dead_letters: the rejects.

    Parallelism: one writer per lane, one lock for all.
    Delivery: exactly once, over any number of runs in this process (tests/unit/test_writer.py).
    """

    def __init__(
        self,
        mode: Mode | None = None,
        settings: SinkSettings = MEMORY_SETTINGS,
        *,
        table: sa.Table | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings)
        mode = mode or Append()
        self._kept: Kept = ByName(mode) if table is None else InTable(table, mode, columns)
        self._positions: dict[tuple[str, Stream], Position] = {}
        self._owners: dict[tuple[str, Stream], str] = {}
        self._lock = threading.Lock()
        self.dead_letters: list[DeadLetter] = []

    @property
    @override
    def name(self) -> str:
        return "memory"

    @property
    @override
    def store(self) -> Hashable:
        return id(self._positions)

    @property
    def rows(self) -> list[Any]:
        """What was written."""
        return self._kept.rows

    @override
    def check_records(self, kind: Any) -> None:
        self._kept.check_records(kind)

    @override
    def check_keys(self, kind: Any) -> None:
        self._kept.check_keys(kind)

    @override
    def prepare(self) -> None:
        """Nothing to make."""

    @override
    def steps(self) -> Mapping[str, int]:
        names = [step for step, stream in self._positions if stream.flow == self.flow]
        return {name: names.count(name) for name in names}

    @override
    def positions(self) -> Sequence[Position]:
        with self._lock:
            return [p for (step, stream), p in self._positions.items() if (stream.flow, step) == (self.flow, self.step)]

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        with self._lock:
            for stream, offset_start, offset_end, token in starts:
                first = Position(stream, offset_start, offset_start)
                if token is not None:
                    first = first._replace(token=token, token_offset=offset_start)
                held = self._positions.get((self.step, stream), first)
                if offset_end is None or held.offset_end is None or held.offset_next >= held.offset_end:
                    held = held._replace(offset_end=offset_end)
                self._positions[self.step, stream] = held
        return [position for position in self.positions() if position.stream.source in sources_of(starts)]

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        with self._lock:
            self._positions[self.step, stream] = self._positions[self.step, stream]._replace(offset_next=offset)

    @override
    def records(self) -> None:
        """Memory dies with its owner."""

    @override
    def connect(self, part: str, token: str) -> MemorySession:
        return MemorySession(self, token)

    def _take_over(self, stream: Stream, token: str) -> Position:
        with self._lock:
            if (self.step, stream) not in self._positions:
                raise ConfigError(
                    f"Step {self.step} has no position for {stream}.",
                    hint=UNFED_HINT,
                )
            self._owners[self.step, stream] = token
            return self._positions[self.step, stream]

    def _write(self, change: Change, token: str, dry_run: bool) -> None:
        with self._lock:
            for stream, before in change.before.items():
                if self._owners.get((self.step, stream)) != token:
                    raise Fenced(f"{stream}: another partition has taken over its position in memory.")
                if self._positions[self.step, stream].offset_next != before.offset_next:
                    raise TargetError(f"{stream}: the position in memory was changed by somebody else.")
            self._kept.write(change, dry_run=dry_run)
            if dry_run:
                return
            for stream, after in change.after.items():
                held = self._positions[self.step, stream]
                self._positions[self.step, stream] = after._replace(offset_end=held.offset_end)
            self.dead_letters += change.dead_letters


class MemorySession(Session):
    """A session of the memory target."""

    def __init__(self, target: MemoryTarget, token: str) -> None:
        self._target, self._token = target, token

    @override
    def take_over(self, stream: Stream) -> Position:
        return self._target._take_over(stream, self._token)

    @override
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        self._target._write(change, self._token, dry_run)

    @override
    def close(self) -> None:
        """Nothing is open."""
