"""Live windows in an SQL database: a batch adds to the stored rows in the very transaction that moves its position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks import window_store
from sinks.sql import SqlTarget
from sinks.window_table import WindowTable
from waxwing.batch import Batch
from waxwing.databases import ledger
from waxwing.operators.windows import Windows
from waxwing.operators.windows.live import Live
from waxwing.operators.windows.misfits import check_types
from waxwing.settings import SqlSettings


class SqlLiveWindows(SqlTarget):
    """A table of totals that are up to date with every transaction. It keeps no state beside its rows.

    A record is never late, however late it comes; idle partitions don't matter, and nothing closes. Sums of floats depend on the
    order in which they are added: take Decimals.

    Args:
        settings: where the database is. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed and names see WindowTable. It needs a primary key.
        windows: Tumbling or Hopping ones, of Count, Sum, Min, Max and Mean; lateness_s and grace_s have no say in it.

    Parallelism: one connection and one writer per lane; SQLite: one for all.
    Delivery: exactly once: totals and positions are one transaction, by compare-and-set.

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
        self._window_table = WindowTable(table, windows, fixed, names)
        self._live = Live(windows, takes=self._window_table.compared())
        merge = self._live.merge(self._window_table.keys)
        brought = [name for name in self._window_table.names if name not in merge.mean]
        super().__init__(settings.model_copy(update={"database_table": ""}), table, merge, columns=brought)

    @override
    def _check_kept(self, connection: sa.Connection) -> None:
        super()._check_kept(connection)
        kept = window_store.kept(connection, self.flow, self.step)
        definition = self._live.windows.text
        if kept is None:
            connection.execute(
                ledger.windows.insert().values(flow=self.flow, step=self.step, buckets=0, definition=definition, streams="[]")
            )
        elif not self._live.windows.means_the_same(kept.definition):
            raise self._anew(f"The windows in {self.name} are of another definition: {kept.definition}; now it is {definition}.")
        else:
            window_store.rename(connection, self.flow, self.step, kept, self._live.windows)

    def check_types(self, kind: Any) -> None:
        """Raises ConfigError for a type of records that the windows can't be of."""
        check_types(self._live.windows, kind, self._live.takes)

    def fold(self, batch: Batch[Any]) -> Batch[Any]:
        """The batch with what it adds to each window in place of its records."""
        if batch.mark:
            return batch
        rows, rejects = self._live.fold(batch)
        return self._live.whole(batch, self._window_table.tuples(rows, self.columns), rejects)
