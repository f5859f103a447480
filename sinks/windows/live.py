"""Live windows over a target that adds rows up: a batch adds to the stored rows in the very change that moves its position."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from sinks.ledger.target import Form, LedgerTarget
from sinks.windows.admission import say_left_out
from sinks.windows.definition import check_definition
from sinks.windows.live_places import LivePlaces, with_starts
from sinks.windows.table import WindowTable
from waxwing.batch import Batch, Stream
from waxwing.change import Position, Start
from waxwing.ledger.store import Transaction
from waxwing.ledger.windows import NEVER, UNKNOWN, Defined, Known, Streams
from waxwing.operators.windows import first_held
from waxwing.operators.windows.definition.misfits import check_types
from waxwing.operators.windows.live import Live

# A stream that begins in the middle of its log and brings nothing for so long has no say in where windows begin.
PLACE_WAIT_S = 1.0


class LiveTarget(LedgerTarget):
    """What live windows need beside a target whose rows are merged, which a class derives from, too.

    Attributes:
        live: folds batches.
        window_table: makes rows of what they add.
    """

    form: Form = "live"

    def folds(self, live: Live, window_table: WindowTable) -> None:
        """Called first of all by who is made."""
        self.live, self.window_table = live, window_table
        self._places = LivePlaces(self._update_streams, live.place_of)

    @property
    @override
    def folds_windows(self) -> bool:
        return True

    @override
    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        super().beginning(transaction, starts)
        windows, kept = self.live.windows, transaction.defined(lock=True)
        if kept is not None:
            check_definition(windows, kept, self)
        if kept is None or kept.text != windows.text:
            transaction.define(Defined(0, windows.text, {} if kept is None else kept.streams))

    def check_types(self, kind: Any) -> None:
        """Raises ConfigError for a type of records that the windows can't be of, or whose rows the table takes none of."""
        check_types(self.live.windows, kind, self.live.takes)

    def fold(self, batch: Batch[Any]) -> list[Batch[Any]]:
        """The batch with what it adds to each window in place of its records, behind those that were held back so far."""
        return [one if one.mark else self._folded(one) for one in self._places.pass_on(batch)]

    def _folded(self, batch: Batch[Any]) -> Batch[Any]:
        place = self._places.place
        rows, rejects, left_out = self.live.fold(batch, place)
        if left_out:
            say_left_out(self, left_out, place)
        return self.live.whole(batch, self.window_table.tuples(rows, self.columns), rejects)

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
