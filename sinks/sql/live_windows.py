"""Live windows in an SQL database: a batch adds to the stored rows in the very transaction that moves its position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.sql.target import SqlTarget
from sinks.windows.live import LiveTarget
from sinks.windows.table import WindowTable
from waxwing.operators.windows import Windows
from waxwing.operators.windows.live import Live
from waxwing.settings import SqlSettings


class SqlLiveWindows(LiveTarget, SqlTarget):
    """A table of totals that are up to date with every transaction. It keeps no state beside its rows.

    A record is never late, however late it comes; idle partitions don't matter, and nothing closes. Sums of floats depend on the
    order in which they are added: take Decimals.

    Args:
        settings: where the database is. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed and names see WindowTable. It needs a primary key.
        windows: Tumbling, Hopping or Calendar ones, of Count, Sum, Min, Max and Mean; lateness_s and grace_s have no say in it.

    Parallelism: one connection and one writer per lane; SQLite: one for all.
    Delivery: exactly once: totals and positions are one transaction, by compare-and-set (tests/faults/test_windows_of_kafka.py).

    Raises:
        ConfigError: windows that can't be merged row by row, a table that does not fit them.
    """

    def __init__(
        self,
        settings: SqlSettings,
        table: sa.Table,
        windows: Windows,
        *,
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        window_table = WindowTable(table, windows, fixed, names)
        live = Live(windows, takes=window_table.compared())
        self.folds(live, window_table)
        merge = live.merge(window_table.keys)
        brought = [name for name in window_table.names if name not in merge.mean]
        super().__init__(settings.model_copy(update={"database_table": ""}), table, merge, columns=brought)

    @override
    def check_types(self, kind: Any) -> None:
        super().check_types(kind)
        self.check_window_rows(self.live.windows, kind, self.window_table.fixed)
