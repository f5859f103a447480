"""The memory target: rows in a list or dict, with the same protocol as a database. For tests and embedded use."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import LedgerSession, LedgerTarget
from sinks.memory.rows import ByName, InTable, KeptRows
from waxwing.change import Change, DeadLetter
from waxwing.ledger.contents import Contents
from waxwing.ledger.store import Transaction
from waxwing.ledger.whole import Whole, WholeStore
from waxwing.settings import SinkSettings
from waxwing.tables.modes import Append, Mode

# In memory there is nothing to group for: a test sees each record at once.
MEMORY_SETTINGS = SinkSettings(flush_interval_s=0.0)


class MemoryLedger(Whole):
    """An object of this process."""

    def __init__(self) -> None:
        self.contents, self._lock = Contents(), threading.RLock()

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            yield

    @override
    def load(self) -> Contents:
        return self.contents.copy()

    @override
    def save(self, contents: Contents) -> None:
        self.contents = contents


class MemoryTarget(LedgerTarget):
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
    Delivery: exactly once, over any number of runs in this process (tests/sinks/test_writer.py).
    """

    owned = False  # memory dies with its owner

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
        self.table_given = table
        self._kept: KeptRows = ByName(mode) if table is None else InTable(table, mode, columns)
        self._memory = MemoryLedger()

    @property
    @override
    def name(self) -> str:
        return "memory"

    @property
    @override
    def store(self) -> Hashable:
        return id(self._memory)

    @property
    def rows(self) -> list[Any]:
        """What was written."""
        return self._kept.rows

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Those of all steps that it has served."""
        return [letter for _, letter in self._memory.contents.letters.all()]

    @override
    def check_records(self, kind: Any) -> None:
        self._kept.check_records(kind)

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        return self._kept.misfits(records)

    @override
    def check_keys(self, kind: Any) -> None:
        self._kept.check_keys(kind)

    @override
    def prepare(self) -> None:
        """Nothing to make."""

    @override
    def open_store(self, *, briefly: bool = False) -> WholeStore:
        return WholeStore(self._memory, self.own_step)

    @override
    def connect(self, part: str, token: str) -> MemorySession:
        return MemorySession(self, self.open_store(), token)

    def write_rows(self, change: Change, *, dry_run: bool = False) -> None:
        """Write them, or see whether they could be."""
        self._kept.write(change, dry_run=dry_run)


class MemorySession(LedgerSession):
    """A session of the memory target."""

    takes_deletes = True

    def __init__(self, target: MemoryTarget, store: WholeStore, token: str) -> None:
        super().__init__(target, store, token)
        self._target = target

    @override
    def prepared(self, change: Change) -> Change:
        return change

    @override
    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        # Nothing behind it fails: what is written is as good as committed.
        self._target.write_rows(prepared)

    @override
    def attempt(self, change: Change) -> None:
        with self._store.transaction() as transaction:
            self._ledger.move(transaction, change, self._owner)
            self._target.write_rows(change, dry_run=True)
