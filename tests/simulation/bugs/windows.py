"""Bugs of windows: what closes when, and what is kept with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sinks.windows.target
from sinks.windows.admission import WindowAdmission
from sinks.windows.sink import Lanes
from sinks.windows.target import WindowTarget
from tests.simulation.bugs.planted import Planted
from tests.simulation.parts import Parts
from tests.simulation.store import ModelTransaction
from tests.simulation.windows.step import LiveSession, WindowsSession
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import NEVER, Bucket, Emission, Held, Mark, Opening, Piece, StreamFold, Windows, openings
from waxwing.operators.windows.bucket import state
from waxwing.operators.windows.bucket.open_windows import OpenWindows
from waxwing.operators.windows.bucket.rebucket import rebucket
from waxwing.operators.windows.bucket.window import Table, Window
from waxwing.operators.windows.pieces import Group
from waxwing.operators.windows.stream import folding


class StateApart(ModelTransaction):
    """Open windows are kept in a transaction of their own."""

    def keep(self, stream: Stream, state: bytes) -> None:
        if stream.partition in {one.partition for _, one in self.opened.after if self.opened.written or self.opened.letters}:
            own = self.database.begin(self.process, self.step)
            own.states[self._key(stream)] = state
            self.database.commit(own)
        else:
            super().keep(stream, state)


class RowsApart(WindowsSession):
    """Rows that have closed are committed before the position, and what is open."""

    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        with self._store.transaction() as own:
            super().write_rows(own, prepared)
            own.commit()


class StateOfBefore(WindowAdmission):
    """The state that is kept is that of the emission before: open windows of a moment ago."""

    _packed = b""

    def change(self, batches: list[Batch[Any]]) -> Change:
        change = super().change(batches)
        after, self._packed = self._packed, self._state
        stream = self._stream
        change.after[stream] = change.after[stream]._replace(state=after or self._state)
        return change


class EmptyAtTakeOver(WindowAdmission):
    """Who takes a bucket over takes its positions, and not what is open."""

    def open(self, position: Position) -> None:
        super().open(position)
        assert self._bucket is not None
        self._bucket._windows.held.clear()
        self._bucket._sessions = type(self._bucket._sessions)(self._bucket._definition)


class EmittedAgain(WindowAdmission):
    """What was emitted stays, and is emitted once more."""

    def moved(self, change: Change) -> None:
        super().moved(change)
        assert self._bucket is not None
        for batch in change.batches:
            for start, end, key, count, total, revision in batch.records[:1] if self._now_s() % 3 < 1 else ():
                for column, value in zip(self._bucket._rows.columns, (start, end, key, count, total, revision), strict=True):
                    column.append(value)


class EmissionNotCounted(WindowAdmission):
    """An emission has the number of the one before, so that nobody can tell whether it was committed."""

    def _judged(self, before: Position, refused: list[Any], rows: int) -> Position:
        return super()._judged(before, refused, rows)._replace(offset_next=before.offset_next)


class ReadEarly(WindowTarget):
    """What lanes begin with is what was found when the process was made ready: before the targets were its own."""

    def prepare(self) -> None:
        super().prepare()
        self.early = super().positions(), self._openings

    def _opened(self, streams: Any, held: Sequence[Mapping[Stream, Held]]) -> list[Position]:
        found = super()._opened(streams, held)
        if getattr(self, "early", None) and self.early[0]:
            self._openings = {**(self._openings or {}), **(self.early[1] or {})}
            early = {position.stream: position for position in self.early[0]}
            return [early.get(position.stream, position) for position in found]
        return found


def of_first_bucket(definition: Windows, packed: Sequence[bytes], buckets: int) -> list[bytes]:
    """Buckets that are divided anew are made of the first one."""
    return rebucket(definition, packed[:1], buckets)


def any_place(definition: Windows, packed: Sequence[bytes], buckets: int) -> list[bytes]:
    """Buckets are divided anew wherever they stand: at the place of the first."""
    first = state.read_header(packed[0])
    same = [state._joined(state.read_header(one)._replace(held=first.held), _body(one)) for one in packed]
    return rebucket(definition, same, buckets)


def _body(packed: bytes) -> bytes:
    _, _, rest = state._read(packed)
    return rest[4:]


def highest_watermark(buckets: Iterable[Mapping[Stream, Held]]) -> dict[Stream, Opening]:
    held = list(buckets)
    highest = {stream: max(one[stream].watermark for one in held if stream in one) for one in held for stream in one}
    return {stream: one._replace(watermark=highest[stream]) for stream, one in openings(held).items()}


def no_watermark(buckets: Iterable[Mapping[Stream, Held]]) -> dict[Stream, Opening]:
    return {stream: one._replace(watermark=NEVER) for stream, one in openings(buckets).items()}


def of_another_lane(buckets: Iterable[Mapping[Stream, Held]]) -> dict[Stream, Opening]:
    found = openings(buckets)
    streams = sorted(found)
    others = dict(zip(streams, [*streams[1:], *streams[:1]], strict=True))
    return {stream: one._replace(watermark=found[others[stream]].watermark) for stream, one in found.items()}


def highest_bucket(buckets: Iterable[Mapping[Stream, Held]]) -> dict[Stream, Opening]:
    held = list(buckets)
    highest = {stream: max(one[stream].offset_next for one in held if stream in one) for one in held for stream in one}
    return {stream: one._replace(offset=highest[stream], splits=()) for stream, one in openings(held).items()}


def reopened(self: OpenWindows, group: Group, closed_to: int, place: int) -> int:
    """Entries for a closed window open it anew."""
    window = self.held.get(group.end_us)
    if window is None:
        parts = self._definition.parts
        window = self.held[group.end_us] = Window(
            (self._definition.start_of(group.end_us), group.end_us), Table(parts), Table(parts)
        )
    (window.on_time if window.size is None else window.grace).merge(group.keys, group.states)
    return 0


class LateDropped(WindowAdmission):
    """Entries for windows that are closed for good are dropped."""

    def _letters_of(self, emission: Emission) -> list[Any]:
        return super()._letters_of(emission._replace(late_entries=[]))


def never_behind(self: StreamFold, times: Sequence[int]) -> list[int]:
    """Records are judged by the watermark before the batch, not before the record."""
    return [self._watermark + self._definition.lateness_us] * (len(times) + 1)


shipped_load: Callable[..., Bucket] = Bucket.load


def closed_to_forgotten(*args: Any, **more: Any) -> Bucket:
    """Up to where windows are closed is not kept, but found again by the watermarks."""
    loaded = shipped_load(*args, **more)
    loaded._closed_to = min((held.watermark for held in loaded.held.values()), default=NEVER)
    loaded._windows.dropped_to = NEVER
    return loaded


def by_any_key(keys: Sequence[Any], fields: int, buckets: int) -> list[int]:
    """All keys of a batch go to one bucket."""
    return [len(keys) % buckets] * len(keys)


class RejectsEverywhere(Lanes):
    """Rejects travel to all buckets."""

    def __call__(self, batch: Batch[Any]) -> list[tuple[str, Piece | Mark]]:
        out = super().__call__(batch)
        pieces = [item for _, item in out if isinstance(item, Piece)]
        for piece in pieces[1:]:
            piece.rejects, piece.rejects_at = pieces[0].rejects, pieces[0].rejects_at
        return out


class EmptyPiecesLeftOut(Lanes):
    """A bucket that a batch has nothing for is not told of it."""

    def __call__(self, batch: Batch[Any]) -> list[tuple[str, Piece | Mark]]:
        out = super().__call__(batch)
        return [
            (name, one) for name, one in out if isinstance(one, Mark) or one.groups or one.sessions or one.late or one.rejects
        ]


class LiveApart(LiveSession):
    """Live rows are added to in a transaction of their own."""

    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        with self._store.transaction() as own:
            super().write_rows(own, prepared)
            own.commit()


class LiveReplaced(LiveSession):
    """One row is written for each (window, key) of a transaction: that of its last batch."""

    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        last: dict[Any, Any] = {row[:2]: row for batch in prepared.batches for row in batch.records}
        batches = [batch.with_records([row for row in batch.records if last[row[:2]] is row], []) for batch in prepared.batches]
        prepared.parts = [batches]
        super().write_rows(transaction, prepared)


def _openings(function: Any) -> Parts:
    return Parts(replaced=((sinks.windows.target, "openings", function),))


def _divided(function: Any) -> Parts:
    return Parts(replaced=((sinks.windows.target, "rebucket_states", function),))


PLANTED = {
    "divided-of-first": Planted(
        "buckets divided anew are made of the first one",
        _divided(of_first_bucket),
    ),
    "divided-anywhere": Planted(
        "buckets are divided anew though they stand apart",
        _divided(any_place),
    ),
    "state-apart": Planted("open windows are kept in a transaction of their own", Parts(transaction=StateApart)),
    "rows-apart": Planted("rows of closed windows are committed before the bucket's move", Parts(windows=RowsApart)),
    "state-of-before": Planted("a bucket keeps what was open an emission ago", Parts(window_admission=StateOfBefore)),
    "open-lost": Planted("who takes a bucket over loses what is open in it", Parts(window_admission=EmptyAtTakeOver)),
    "emitted-again": Planted("a row that was emitted is emitted once more", Parts(window_admission=EmittedAgain)),
    "emission-not-counted": Planted(
        "emissions are not numbered: a COMMIT of unknown outcome counts as done",
        Parts(window_admission=EmissionNotCounted),
    ),
    "read-early": Planted("lanes begin where buckets stood before the process owned them", Parts(window_target=ReadEarly)),
    "highest-watermark": Planted("a lane begins with the highest watermark of any bucket", _openings(highest_watermark)),
    "no-watermark": Planted("a lane begins without a watermark", _openings(no_watermark)),
    "another-watermark": Planted("a lane begins with the watermark of another one", _openings(of_another_lane)),
    "highest-bucket": Planted("a lane begins where the foremost bucket stands", _openings(highest_bucket)),
    "reopened": Planted("records for a closed window open it once more", Parts(replaced=((OpenWindows, "fold", reopened),))),
    "late-dropped": Planted("what comes for windows that the clock has closed is dropped", Parts(window_admission=LateDropped)),
    "judged-by-batch": Planted(
        "records are late by the watermark before their batch", Parts(replaced=((StreamFold, "_befores", never_behind),))
    ),
    "closed-to-forgotten": Planted(
        "up to where windows are closed is not kept", Parts(replaced=((Bucket, "load", staticmethod(closed_to_forgotten)),))
    ),
    "any-bucket": Planted("a key's records go to a bucket by the batch", Parts(replaced=((folding, "buckets_of", by_any_key),))),
    "rejects-everywhere": Planted("rejects travel to every bucket", Parts(lanes=RejectsEverywhere)),
    "empty-pieces": Planted("a bucket that a batch has nothing for does not hear of it", Parts(lanes=EmptyPiecesLeftOut)),
    "live-apart": Planted("live rows are added to in a transaction of their own", Parts(live=LiveApart)),
    "live-replaced": Planted("of a transaction's rows of one live window the last is added", Parts(live=LiveReplaced)),
}
