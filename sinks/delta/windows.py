"""Closed windows into a Delta table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.delta.target import DeltaTarget
from sinks.misfits import check_window_rows
from sinks.windows.table import WindowTable
from sinks.windows.target import WindowTarget
from waxwing.operators.windows import Windows
from waxwing.settings import DeltaWindowSettings
from waxwing.tables.files.arrow import FILES
from waxwing.tables.files.keys import PartitionKey


class DeltaWindows(WindowTarget):
    """A row for each closed window, and one more for a correction, with a higher revision; open windows lie beside the table.

    Args:
        settings: how large and how old commits get, how many buckets there are.
        path: of the table, or its URL. It is made where there is none.
        table: the columns; for fixed and names see WindowTable.
        windows: the windows.
        partition_by: as DeltaTarget has it.

    Parallelism: one writer per bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one commit
        (tests/conformance/targets/test_targets.py).

    Raises:
        ConfigError: a table that does not fit the windows, or can't be kept in files.
    """

    def __init__(
        self,
        settings: DeltaWindowSettings,
        path: str | os.PathLike[str],
        table: sa.Table,
        windows: Windows,
        *,
        partition_by: str | PartitionKey | Sequence[str | PartitionKey] = (),
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._window_table = window_table = WindowTable(table, windows, fixed, names)
        rows = DeltaTarget(settings, path, table, partition_by=partition_by, columns=window_table.names)
        super().__init__(rows, windows, settings, settings.window_buckets, lambda found: window_table.tuples(found, rows.columns))
        rows.writers = self.window_buckets
        self._rows = rows

    @override
    def check_types(self, kind: Any) -> None:
        super().check_types(kind)
        columns, fixed = self._rows.plan.columns, self._window_table.fixed
        check_window_rows(self.windows, kind, columns, fixed, FILES, self._rows.name)
