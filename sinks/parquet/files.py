"""Files that grow in staging: rows are put into row groups, and a file for each folder is open until it is full, or committed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinks.parquet.records import File
from waxwing.tables.files.arrow import GROUP_BYTES_MAX, GROUP_ROWS_MAX, WAITING_BYTES_MAX, load

# So many are open at once; a row for another folder closes the one that was longest without.
OPEN_MAX = 32


class RawFile:
    """A new file that pyarrow writes into. Closed without a word where its lane is given up."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.closed = path, 0, False
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, packed: Any) -> int:
        """All of it."""
        left = memoryview(packed).cast("B")
        size = len(left)
        while left:
            left = left[os.write(self._file, left) :]
        self.size += size
        return size

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.size

    def flush(self) -> None:
        """Nothing waits."""

    def readable(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """No."""
        return False

    def finish(self) -> None:
        """Make it durable."""
        os.fsync(self._file)
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if not self.closed:
            self.closed = True
            os.close(self._file)

    def __del__(self) -> None:
        """What a process that goes on leaves open was never committed."""
        self.close()


class Growing:
    """One file of rows.

    Args:
        path: in staging.
        schema: of its columns.
        level: of zstd.
    """

    def __init__(self, path: Path, schema: Any, level: int) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - see waxwing.tables.files.arrow

        self._raw = RawFile(path)
        self._writer = pq.ParquetWriter(self._raw, schema, compression="zstd", compression_level=level)
        self._waiting: list[Any] = []
        self._rows_waiting = 0
        self.bytes_waiting = self.rows = 0

    @property
    def size(self) -> int:
        """Bytes that it has in staging."""
        return self._raw.size

    def add(self, batch: Any) -> None:
        """A record batch behind the others; in memory so far."""
        self._waiting.append(batch)
        self._rows_waiting += batch.num_rows
        self.bytes_waiting += batch.nbytes
        self.rows += batch.num_rows

    @property
    def is_due(self) -> bool:
        """Are there enough for a row group?"""
        return self._rows_waiting >= GROUP_ROWS_MAX or self.bytes_waiting >= GROUP_BYTES_MAX

    def write(self) -> None:
        """What waits as a row group."""
        if self._waiting:
            table = load().Table.from_batches(self._waiting)
            self._waiting, self._rows_waiting, self.bytes_waiting = [], 0, 0
            self._writer.write_table(table, row_group_size=GROUP_ROWS_MAX)

    def finish(self) -> None:
        """Whole, and durable."""
        self.write()
        self._writer.close()
        self._raw.finish()


class Files:
    """The files of rows of one lane, between two commits.

    Args:
        schema: of their columns.
        level: of zstd.
        bytes_max: of one file.
        new: a path in staging, and the name of the file that it is to be in a folder below that of the rows.
    """

    def __init__(self, schema: Any, level: int, bytes_max: int, new: Callable[[str], tuple[Path, str]]) -> None:
        self._schema, self._level, self._bytes_max, self._new = schema, level, bytes_max, new
        self._open: dict[str, tuple[Growing, File]] = {}  # by the folder; the one that was used last stands last
        self._whole: list[File] = []

    def add(self, batches: Sequence[tuple[str, Any]]) -> None:
        """Record batches, each with its folder."""
        for folder, batch in batches:
            growing, file = self._open.pop(folder) if folder in self._open else self._made(folder)
            self._open[folder] = growing, file
            growing.add(batch)
        for folder, (growing, _) in list(self._open.items()):
            if growing.is_due:
                growing.write()
            if growing.size >= self._bytes_max:
                self._finish(folder)
        while sum(growing.bytes_waiting for growing, _ in self._open.values()) > WAITING_BYTES_MAX:
            max((growing for growing, _ in self._open.values()), key=lambda one: one.bytes_waiting).write()

    def _made(self, folder: str) -> tuple[Growing, File]:
        while len(self._open) >= OPEN_MAX:
            self._finish(next(iter(self._open)))
        path, to = self._new(folder)
        return Growing(path, self._schema, self._level), File(path.name, False, to)

    def _finish(self, folder: str) -> None:
        growing, file = self._open.pop(folder)
        growing.finish()
        self._whole.append(file)

    def finished(self) -> tuple[File, ...]:
        """All that were begun since `clear`, whole and durable but for their names."""
        for folder in list(self._open):
            self._finish(folder)
        return tuple(self._whole)

    def clear(self) -> None:
        """They are committed."""
        self._whole = []
