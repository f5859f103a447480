"""Data files that grow as records come, and are added to the table by the next commit."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sinks.delta.files import Files
from sinks.delta.library import load
from sinks.delta.rows.schema import Divided, RowsSchema, folder_name
from sinks.delta.rows.stats import stats_of
from waxwing.errors import TransientError, TryLater
from waxwing.tables.files.arrow import GROUP_BYTES_MAX, GROUP_ROWS_MAX, WAITING_BYTES_MAX

# So many files are open at once, each of another partition; the one that was written longest ago is closed for the next.
OPEN_MAX = 64


class _Growing:
    """A file of one partition."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: list[Any] = []
        self.batches: list[Any] = []
        self.rows = self.bytes = 0
        self.file: Any = None
        self.writer: Any = None
        self.with_nan: set[str] = set()


class Staging:
    """The files of one writer. Whatever can't be written stops the flow: what was taken in goes with the process.

    Args:
        files: of the table.
        schema: how rows become columns.
        where: the table, for messages.
    """

    def __init__(self, files: Files, schema: RowsSchema, where: str) -> None:
        self._files, self._schema, self._where = files, schema, where
        self._growing: OrderedDict[tuple[str | None, ...], _Growing] = OrderedDict()
        self._done: list[Any] = []

    def add(self, batches: Sequence[Divided]) -> None:
        """Take in rows.

        Raises:
            TryLater: a file can't be written.
        """
        with self._writing():
            for values, batch in batches:
                growing = self._of(values)
                growing.batches.append(batch)
                growing.rows += batch.num_rows
                growing.bytes += batch.nbytes
                growing.with_nan |= self._schema.nan_in(batch)
                if growing.rows >= GROUP_ROWS_MAX or growing.bytes >= GROUP_BYTES_MAX:
                    self._write(growing)
            while sum(one.bytes for one in self._growing.values()) > WAITING_BYTES_MAX:
                self._write(max(self._growing.values(), key=lambda one: one.bytes))

    def _of(self, values: tuple[str | None, ...]) -> _Growing:
        growing = self._growing.get(values)
        if growing is None:
            if len(self._growing) >= OPEN_MAX:
                self._close(*self._growing.popitem(last=False))
            folders = [f"{folder_name(name, value)}/" for name, value in zip(self._schema.by, values, strict=True)]
            growing = self._growing[values] = _Growing(f"{''.join(folders)}part-{secrets.token_hex(16)}.zstd.parquet")
        self._growing.move_to_end(values)
        return growing

    def _write(self, growing: _Growing) -> None:
        """What waits in memory, as a row group."""
        if not growing.batches:
            return
        library, schema = load(), self._schema.written
        if growing.writer is None:
            growing.file = self._files.open_new(growing.path)
            growing.writer = library.parquet.ParquetWriter(
                growing.file, schema, compression="zstd", metadata_collector=growing.metadata
            )
        growing.writer.write_table(library.pyarrow.Table.from_batches(growing.batches, schema))
        growing.batches, growing.rows, growing.bytes = [], 0, 0

    def _close(self, values: tuple[str | None, ...], growing: _Growing) -> None:
        self._write(growing)
        if growing.writer is None:
            return
        with growing.file:
            growing.writer.close()
            size = self._files.finish(growing.path, growing.file)
        stats = stats_of(growing.metadata[0], self._schema.indexed, growing.with_nan)
        by = dict(zip(self._schema.by, values, strict=True))
        added = load().AddAction(growing.path, size, by, time.time_ns() // 1_000_000, data_change=True, stats=stats)
        self._done.append(added)

    def finish(self) -> list[Any]:
        """All files, closed and durable, as AddActions; the next rows go into others.

        Raises:
            TryLater: a file can't be written.
        """
        with self._writing():
            while self._growing:
                self._close(*self._growing.popitem())
        done, self._done = self._done, []
        return done

    def demand_there(self, added: Sequence[Any]) -> None:
        """Raises TryLater where files that are to be added are gone: a vacuum that keeps nothing takes them for nobody's."""
        if gone := [one.path for one in added if not self._files.exists(one.path)]:
            raise TryLater(
                f"{self._where}: {gone[0]} is gone before it was committed.",
                hint="Let a vacuum keep young files (7 days is its default). Nothing of it was written; start again.",
            )

    def discard(self) -> None:
        """Let go of files that nobody will add. Those that were written stay where they are, until the table is vacuumed."""
        for growing in self._growing.values():
            if growing.writer is not None:
                with contextlib.suppress(Exception):
                    growing.writer.close()
                with contextlib.suppress(Exception):
                    growing.file.close()
                with contextlib.suppress(Exception):
                    self._files.remove(growing.path)
        self._growing.clear()

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            yield
        except (OSError, TransientError) as error:
            raise TryLater(
                f"{self._where}: a data file can't be written: {error}.",
                hint="What came since the last commit is taken in again: the next start goes on from the stored positions.",
            ) from error
