"""Closed windows in an SQL database."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.sql.place import SqlPlace
from sinks.sql.target import SqlTarget
from sinks.windows.table import WindowTable
from sinks.windows.target import WindowTarget
from waxwing.databases.folding import folding
from waxwing.errors import ConfigError
from waxwing.operators.windows import Windows
from waxwing.settings import SqlWindowSettings
from waxwing.tables.modes import Append, Upsert


class SqlWindows(WindowTarget):
    """A table of closed windows, with their open state beside it.

    With a primary key a corrected window replaces its row; without one the correction is one more row.

    Args:
        settings: where the database is, how often buckets are written, how many there are. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed and names see WindowTable.
        windows: the windows.

    Parallelism: one connection and one writer per bucket; SQLite: one bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one transaction, by compare-and-set
        (tests/faults/storm/test_window_storm.py).

    Raises:
        ConfigError: a table that does not fit the windows.
    """

    def __init__(
        self,
        settings: SqlWindowSettings,
        table: sa.Table,
        windows: Windows,
        *,
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(settings, SqlWindowSettings):
            raise ConfigError(
                f"{type(settings).__name__} lacks the settings of windows.",
                hint="Let it inherit KafkaSettings, SqlWindowSettings.",
            )
        self._window_table = WindowTable(table, windows, fixed, names)
        own = settings.model_copy(update={"database_table": ""})
        self._rows = _WindowRows(own, table, windows, self._window_table)
        super().__init__(
            self._rows, windows, settings, settings.window_buckets, lambda rows: self._window_table.tuples(rows, self.columns)
        )

    @property
    def place(self) -> SqlPlace:
        """The database."""
        return self._rows.place

    @override
    def check_types(self, kind: Any) -> None:
        super().check_types(kind)
        self._rows.check_window_rows(self.windows, kind, self._window_table.fixed)


class _WindowRows(SqlTarget):
    """The table of closed windows: what it needs beside that of a target of rows."""

    def __init__(self, settings: SqlWindowSettings, table: sa.Table, windows: Windows, window_table: WindowTable) -> None:
        keys = window_table.keys
        self._keys = [name for name in windows.by if name in keys]
        super().__init__(settings, table, Upsert(keys=keys) if keys else Append(), columns=window_table.names)

    @override
    def prepare(self) -> None:
        super().prepare()
        ask = partial(folding, table=self.tables.one.table, names=self._keys, dialect=self._dialect)
        if folded := self.place.in_transaction(self.name, ask):
            raise ConfigError(
                f"{self.name} takes keys for equal that differ ({', '.join(folded)}), so that one window would replace another.",
                hint=f"Give the columns an exact collation ({self._dialect.collation_exact}), or take SqlLiveWindows, "
                "which adds such keys up.",
            )
