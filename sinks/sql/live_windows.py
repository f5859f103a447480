"""Live windows in an SQL database: a batch adds to the stored rows in the very transaction that moves its position."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import Form
from sinks.sql.target import SqlTarget
from sinks.windows.admission import say_left_out
from sinks.windows.definition import check_definition
from sinks.windows.live_places import LivePlaces, with_starts
from sinks.windows.table import WindowTable
from waxwing.batch import Batch, Stream
from waxwing.change import Position, Start
from waxwing.ledger.store import Transaction
from waxwing.ledger.windows import NEVER, UNKNOWN, Defined, Known, Streams
from waxwing.operators.windows import Windows, first_held
from waxwing.operators.windows.definition.misfits import check_types
from waxwing.operators.windows.live import Live
from waxwing.settings import SqlSettings

# A stream that begins in the middle of its log and brings nothing for so long has no say in where windows begin.
PLACE_WAIT_S = 1.0


class SqlLiveWindows(SqlTarget):
    """A table of totals that are up to date with every transaction. It keeps no state beside its rows.

    A record is never late, however late it comes; idle partitions don't matter, and nothing closes. Sums of floats depend on the
    order in which they are added: take Decimals.

    Args:
        settings: where the database is. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed and names see WindowTable. It needs a primary key.
        windows: Tumbling or Hopping ones, of Count, Sum, Min, Max and Mean; lateness_s and grace_s have no say in it.

    Parallelism: one connection and one writer per lane; SQLite: one for all.
    Delivery: exactly once: totals and positions are one transaction, by compare-and-set (tests/faults/test_windows_of_kafka.py).

    Raises:
        ConfigError: windows that can't be merged row by row, a table that does not fit them.
    """

    form: Form = "live"

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
        self._places = LivePlaces(self._update_streams, self._live.place_of)
        merge = self._live.merge(self._window_table.keys)
        brought = [name for name in self._window_table.names if name not in merge.mean]
        super().__init__(settings.model_copy(update={"database_table": ""}), table, merge, columns=brought)

    @property
    @override
    def folds_windows(self) -> bool:
        return True

    @override
    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        super().beginning(transaction, starts)
        windows, kept = self._live.windows, transaction.defined(lock=True)
        if kept is not None:
            check_definition(windows, kept, self)
        if kept is None or kept.text != windows.text:
            transaction.define(Defined(0, windows.text, {} if kept is None else kept.streams))

    def check_types(self, kind: Any) -> None:
        """Raises ConfigError for a type of records that the windows can't be of, or whose rows the table takes none of."""
        check_types(self._live.windows, kind, self._live.takes)
        self.check_window_rows(self._live.windows, kind, self._window_table.fixed)

    def fold(self, batch: Batch[Any]) -> list[Batch[Any]]:
        """The batch with what it adds to each window in place of its records, behind those that were held back so far."""
        return [one if one.mark else self._folded(one) for one in self._places.pass_on(batch)]

    def _folded(self, batch: Batch[Any]) -> Batch[Any]:
        place = self._places.place
        rows, rejects, left_out = self._live.fold(batch, place)
        if left_out:
            say_left_out(self, left_out, place)
        return self._live.whole(batch, self._window_table.tuples(rows, self.columns), rejects)

    # -- where streams begin in event time ---------------------------------------------------------

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        positions = super().begin(starts)
        self._places.begin({start.stream for start in starts})
        return positions

    @override
    def begun(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        places = {start.stream: first_held(start.offset_start, self.moments_us.get(start.stream)).place for start in starts}
        offsets = {start.stream: start.offset_start for start in starts}
        if any(place != NEVER for place in places.values()):
            _change(transaction, lambda streams: with_starts(streams, offsets, places))

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        super().jump(stream, stood_at, offset)
        if offset > stood_at:
            known = Known(-1, None, place=time.time_ns() // 1_000, seen=UNKNOWN)
            self._update_streams(lambda streams: {**streams, stream: known})
            self._places.begin({stream})

    def _update_streams(self, change: Callable[[Streams], Streams]) -> Streams:
        return self.in_transaction(lambda transaction: _change(transaction, change))

    @override
    def held_back(self) -> tuple[bool, frozenset[Stream]]:
        return self._places.held_back()

    @property
    @override
    def idle_after_s(self) -> float | None:
        return None if self._places.settled else PLACE_WAIT_S


def _change(transaction: Transaction, change: Callable[[Streams], Streams]) -> Streams:
    """Change the streams that are kept; what is kept then."""
    defined = transaction.defined(lock=True)
    streams = change({} if defined is None else defined.streams)
    if defined is not None and streams != defined.streams:
        transaction.define(defined._replace(streams=streams))
    return streams
