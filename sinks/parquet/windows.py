"""Closed windows as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.misfits import check_window_rows
from sinks.parquet.target import ParquetTarget
from sinks.windows.table import WindowTable
from sinks.windows.target import WindowTarget
from waxwing.operators.exchange import bucket_name
from waxwing.operators.windows import Windows
from waxwing.settings import ParquetWindowSettings
from waxwing.tables.files.arrow import FILES
from waxwing.tables.files.keys import PartitionKey


class ParquetWindows(WindowTarget):
    """A row for each closed window, and one more, with a higher revision, for a correction; open windows lie in a file beside.

    Args:
        settings: how large and how old files get, how many buckets there are. Buckets are written as often as files.
        folder: as ParquetTarget has it.
        table: the columns of the files; for fixed and names see WindowTable.
        windows: the windows.
        partition_by: as ParquetTarget has it.

    Parallelism: a writer with files of its own a bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one commit
        (tests/conformance/targets/test_targets.py).

    Raises:
        ConfigError: a table that does not fit, and what ParquetTarget raises.
    """

    def __init__(
        self,
        settings: ParquetWindowSettings,
        folder: Path | str,
        table: sa.Table,
        windows: Windows,
        *,
        partition_by: Sequence[str | PartitionKey] = (),
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._window_table = WindowTable(table, windows, fixed, names)
        self._rows = rows = ParquetTarget(settings, folder, table, partition_by=partition_by, columns=self._window_table.names)
        super().__init__(
            rows, windows, settings, settings.window_buckets, lambda found: self._window_table.tuples(found, rows.columns)
        )
        rows.parts = tuple(bucket_name(number) for number in range(self.window_buckets))

    @override
    def check_types(self, kind: Any) -> None:
        super().check_types(kind)
        columns, fixed = self._rows.rows.plan.columns, self._window_table.fixed
        check_window_rows(self.windows, kind, columns, fixed, FILES, f"of files in {self._rows.folder}")
