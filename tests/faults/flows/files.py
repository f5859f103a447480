"""What a reader of the files of the flow sensors finds, at the end and all the while."""

from __future__ import annotations

import threading
import time
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

# No two readings are the same in all of these.
READING = "sensor, epoch_us(ts) AS us, measure1, measure2"


class Format(ABC):
    """How rows lie in a folder."""

    @abstractmethod
    def load(self, into: duckdb.DuckDBPyConnection, name: str, folder: Path, columns: str) -> bool:
        """Make a table of all rows of a folder, as a reader finds them now. False: there is nothing yet."""

    def read(self, folder: Path, columns: str) -> list[tuple[Any, ...]]:
        """The same rows; empty where there is nothing yet."""
        with duckdb.connect() as connection:
            there = self.load(connection, "found", folder, columns)
            return connection.execute("FROM found").fetchall() if there else []

    @abstractmethod
    def strange(self, folder: Path) -> list[str]:
        """What must not lie below it at the end."""


class Parquet(Format):
    """By DuckDB."""

    def load(self, into: duckdb.DuckDBPyConnection, name: str, folder: Path, columns: str) -> bool:
        if not any(folder.rglob("*.parquet")):
            return False
        into.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM '{folder}/**/*.parquet'")
        return True

    def strange(self, folder: Path) -> list[str]:
        kept = folder.with_name(f".{folder.name}.waxwing")
        staged = [str(file) for file in kept.rglob("*.parquet")]
        return staged + [str(file) for file in folder.rglob("*") if file.is_file() and file.suffix != ".parquet"]


class Delta(Format):
    """By the package deltalake and DuckDB."""

    def load(self, into: duckdb.DuckDBPyConnection, name: str, folder: Path, columns: str) -> bool:
        try:
            rows = DeltaTable(str(folder)).to_pyarrow_table()
        except TableNotFoundError:
            return False
        into.register("arrow", rows).execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM arrow")
        return True

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
        self._wrong, self._readings = "", folder / "sensor_data"

    def watch(self, stop: threading.Event) -> None:
        """Read the readings again and again: none is ever there twice, and none that was there is gone."""
        try:
            self._watch(stop)
        except Exception as error:
            self._wrong = f"a reader ended with {error!r}"

    def _watch(self, stop: threading.Event) -> None:
        with duckdb.connect() as reader:
            seen = False
            took_s = 0.0
            while not stop.wait(max(0.3, 3 * took_s)) and not self._wrong:
                began_s = time.monotonic()
                if not self._form.load(reader, "now", self._readings, READING):
                    continue
                self.looks += 1
                twice = reader.execute("SELECT count(*) FROM (FROM now GROUP BY ALL HAVING count(*) > 1)").fetchone()
                gone = reader.execute("SELECT count(*) FROM (FROM seen EXCEPT FROM now)").fetchone() if seen else (0,)
                if (twice, gone) != ((0,), (0,)):
                    self._wrong = f"a reader saw {twice} rows twice, and {gone} no more"
                reader.execute("CREATE OR REPLACE TABLE seen AS FROM now")
                seen, took_s = True, time.monotonic() - began_s

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
        rows = self._form.read(self.folder / f"{name}_dead_letters", '"partition", "offset"')
        return Counter((int(partition), int(offset)) for partition, offset in rows)

    def _rows(self) -> list[tuple[Any, ...]]:
        return self._form.read(self._readings, READING)


def _time(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
