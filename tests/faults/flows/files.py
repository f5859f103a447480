"""What a reader of the files of the flow sensors finds, at the end and all the while."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from tests.dataflows.recompute_sensors import COLUMNS
from tests.faults.flows.storm import StormError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Format(ABC):
    """How rows lie in a folder.

    Attributes:
        place: the columns of a dead letter that say where its record stands.
    """

    place = '"partition", "offset"'

    @abstractmethod
    def read(self, folder: Path, columns: str) -> list[tuple[Any, ...]]:
        """All rows of a folder as a reader finds them now; empty where there is nothing yet. Times are microseconds."""

    @abstractmethod
    def letters(self, folder: Path) -> Path:
        """Where its dead letters lie."""

    @abstractmethod
    def strange(self, folder: Path) -> list[str]:
        """What must not lie below it at the end."""


class Parquet(Format):
    """By DuckDB."""

    def read(self, folder: Path, columns: str) -> list[tuple[Any, ...]]:
        if not any(folder.rglob("*.parquet")):
            return []
        return duckdb.connect().execute(f"SELECT {columns} FROM '{folder}/**/*.parquet'").fetchall()

    def letters(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}_dead_letters")

    def strange(self, folder: Path) -> list[str]:
        kept = folder.with_name(f".{folder.name}.waxwing")
        staged = [str(file) for file in kept.rglob("*.parquet")]
        return staged + [str(file) for file in folder.rglob("*") if file.is_file() and file.suffix != ".parquet"]


class Delta(Format):
    """By the package deltalake and DuckDB."""

    place = "source_partition, source_offset"

    def read(self, folder: Path, columns: str) -> list[tuple[Any, ...]]:
        try:
            rows = DeltaTable(str(folder)).to_pyarrow_table()
        except TableNotFoundError:
            return []
        return duckdb.connect().register("found", rows).execute(f"SELECT {columns} FROM found").fetchall()

    def letters(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.dead_letters")

    def strange(self, folder: Path) -> list[str]:
        # Files that no version names are what a killed commit leaves; readers do not see them, and a vacuum removes them.
        return []


FORMATS: Mapping[str, Format] = {"parquet": Parquet(), "delta": Delta()}


class Files:
    """The folders of one flow.

    Attributes:
        looks: how often they were read while the flow ran.
    """

    def __init__(self, form: Format, folder: Path) -> None:
        self._form, self.folder, self.looks = form, folder, 0
        self._wrong = ""

    def watch(self, stop: threading.Event) -> None:
        """Read the readings again and again: none is ever there twice, and none that was there is gone."""
        seen: set[tuple[Any, ...]] = set()
        while not stop.wait(0.3) and not self._wrong:
            rows = Counter(self._rows())
            if twice := [row for row, times in rows.items() if times > 1]:
                self._wrong = f"a reader saw {len(twice)} rows twice: {twice[:3]}"
            elif gone := seen - rows.keys():
                self._wrong = f"a reader missed {len(gone)} rows that had been there: {list(gone)[:3]}"
            seen = set(rows)
            self.looks += bool(seen)

    def told(self) -> str:
        """What the reader saw.

        Raises:
            StormError: a row twice, or gone, or what lies where nothing should.
        """
        if self._wrong:
            raise StormError(self._wrong)
        for name in ("sensor_data", "sensor_data_stats"):
            if strange := self._form.strange(self.folder / name):
                raise StormError(f"{len(strange)} files lie where none should: {strange[:3]}")
        return f"read {self.looks} times meanwhile, nothing twice, nothing gone"

    def readings(self) -> Counter[tuple[Any, ...]]:
        """As another computation has them: sensor, microseconds since 1970, measures."""
        return Counter(self._rows())

    def statistics(self) -> Counter[tuple[Any, ...]]:
        """As another computation has them."""
        times = ", ".join(f"epoch_us({name})" for name in ("window_start", "ts"))
        rows = self._form.read(self.folder / "sensor_data_stats", f"sensor, {times}, {', '.join(COLUMNS)}")
        return Counter((row[0], _time(row[1]), _time(row[2]), *row[3:]) for row in rows)

    def letters(self, name: str) -> Counter[tuple[int, int]]:
        """Partition and offset of each dead letter."""
        rows = self._form.read(self._form.letters(self.folder / name), self._form.place)
        return Counter((int(partition), int(offset)) for partition, offset in rows)

    def _rows(self) -> list[tuple[Any, ...]]:
        return self._form.read(self.folder / "sensor_data", "sensor, epoch_us(ts), measure1, measure2")


def _time(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
