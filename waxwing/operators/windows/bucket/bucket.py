"""A bucket: the windows of a part of all keys, fed by the folds of all streams. A sink keeps both in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from decimal import localcontext
from traceback import walk_tb
from types import MappingProxyType
from typing import NamedTuple

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.errors import ConfigError
from waxwing.ledger.windows import NEVER
from waxwing.operators.reasons import RAISED, reason_of
from waxwing.operators.windows.aggregates.parts import EXACT, Folded, Part
from waxwing.operators.windows.bucket import packing, state
from waxwing.operators.windows.bucket.open_windows import OpenWindows
from waxwing.operators.windows.bucket.progress import Progress
from waxwing.operators.windows.bucket.sessions import OpenSessions
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Held, Late, Mark, Piece, first_held
from waxwing.operators.windows.rows import LateEntries, Rows, no_rows, rows_of_window


class Emission(NamedTuple):
    """What became of the pieces since the last emission: written with `Bucket.pack()`, in one transaction or not at all.

    `left_out`: rows of windows that are not whole (see `Bucket.place`).
    """

    rows: Rows
    late: list[Late]
    late_entries: list[LateEntries]
    rejects: list[DeadLetter]
    held: dict[Stream, Held]
    messages: int
    left_out: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether only the state has moved."""
        return not (len(self.rows) or self.late or self.late_entries or self.rejects)


class Bucket:
    """Folds pieces, in the order of each stream and any interleaving of streams.

    A window closes when the watermarks of all streams that are waited for have passed it; one that began before `place` is then
    left out.

    Args:
        definition: the windows.
        starts: where each stream begins, at the very first opening; a stream added later is taken in from its start only.
        moments_us: when all records before these starts were written, where that is known (see `first_held`).
        streams_min: before it knows so many streams it closes nothing.
    """

    def __init__(
        self,
        definition: Windows,
        starts: Mapping[Stream, int],
        moments_us: Mapping[Stream, int] = MappingProxyType({}),
        *,
        streams_min: int = 0,
    ) -> None:
        held = {stream: first_held(start, moments_us.get(stream)) for stream, start in starts.items()}
        self._definition = definition
        self._progress = Progress(definition, held, streams_min=streams_min)
        self._closed_to = NEVER
        # Should something have closed? Of the buckets of which one was made anew, one may have been further than another.
        self._overdue = False
        self._windows = OpenWindows(definition, {})
        self._sessions = OpenSessions(definition)
        # Bad records in a row, up to where each stream stands; None: an earlier release did not keep them. A sink counts them.
        self.bad_runs: dict[Stream, int] | None = {}
        self._clear()

    def _clear(self) -> None:
        self._rows = no_rows(self._definition)
        self._late: list[Late] = []
        self._late_entries: list[LateEntries] = []
        self._rejects: list[DeadLetter] = []
        self._messages = 0
        self._left_out = 0

    @property
    def held(self) -> Mapping[Stream, Held]:
        """How far it has come in each stream."""
        return self._progress.held

    @property
    def closed_to(self) -> int:
        """Windows that end here or before are closed."""
        return self._closed_to

    @property
    def place(self) -> int:
        """Where reading began, in event time: windows that began before it lack records that were never read."""
        return self._progress.place

    @property
    def open_entries(self) -> int:
        """How many (window, key) pairs it holds."""
        return len(self._sessions) + len(self._windows)

    @property
    def has_closed(self) -> bool:
        """Whether the next emission brings rows of windows."""
        return len(self._rows) > 0

    @property
    def rows_waiting(self) -> int:
        """Rows that the next emission brings, late ones and rejects among them."""
        return len(self._rows) + len(self._late) + len(self._late_entries) + len(self._rejects)

    # -- what folds send ----------------------------------------------------------------------------

    def fold(self, piece: Piece) -> bool:
        """Take a piece in; False when it was taken in before.

        Raises:
            OffsetGap: it does not begin where the stream's last one ended.
            ConfigError: a fold's function failed.
        """
        if not self._progress.is_next(piece):
            return False
        self._late += piece.late
        self._rejects += piece.rejects
        self._messages += piece.messages
        with self._computing():
            if piece.groups:
                place = self._progress.place
                for group in piece.groups:
                    if self._windows.is_given_up(group.end_us, self._closed_to):
                        span = self._definition.start_of(group.end_us), group.end_us
                        rows = rows_of_window(self._definition, span, group.keys, group.states)
                        self._late_entries.append(LateEntries(piece.stream, rows))
                    else:
                        self._left_out += self._windows.fold(group, self._closed_to, place)
            if piece.sessions is not None and (late := self._sessions.fold(piece.sessions, self._closed_to)) is not None:
                self._late_entries.append(LateEntries(piece.stream, late))
            self._progress.take(piece)
            self._close()
        return True

    def mark(self, mark: Mark) -> None:
        """A partition is idle or has ended: it is not waited for until its next batch.

        Raises:
            OffsetGap: the mark stands behind records that never came here.
        """
        self._progress.mark(mark)
        with self._computing():
            self._close()

    def ends(self) -> tuple[Mark, ...]:
        """The partitions that have ended: no part of the state, since a source of ours says it again at every start."""
        return self._progress.ends()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Exact decimals, and a name for what a user's function raises."""
        try:
            with localcontext(EXACT):
                yield
        except RAISED as error:
            for frame, _ in walk_tb(error.__traceback__):
                if frame.f_code is Folded.merge.__code__:
                    raise ConfigError(
                        f"Windows: the merge of aggregate {self._name_of(frame.f_locals['self'])} raised "
                        f"{reason_of(error, placed=True)}.",
                        hint="A Fold's make and merge must take whatever add made: none can be refused later.",
                    ) from error
            raise

    def _name_of(self, part: Part) -> str:
        return next(name for name, aggregate in self._definition.aggregates.items() if part in aggregate.parts)

    def _close(self) -> None:
        closed_to = self._progress.closes_to()
        if closed_to > self._closed_to or (self._overdue and closed_to > NEVER):
            self._overdue = False
            self._closed_to, place = max(closed_to, self._closed_to), self._progress.place
            self._left_out += self._windows.close(self._closed_to, place, self._rows)
            self._left_out += self._sessions.close(self._closed_to, place, self._rows)

    def jump(
        self, stream: Stream, offset: int, moment_us: int, *, offset_start: int | None = None, stood_at: int | None = None
    ) -> None:
        """Go on from another offset: records between are gone from the log.

        Args:
            stream: it may be one of which nothing was taken in yet.
            offset: the nearest one that the log has.
            moment_us: all records that it passes over were written before.
            offset_start: where the stream begins, for a bucket that does not know it; None: at that offset.
            stood_at: only a bucket that stands here jumps. Another one's place may be in the log: it would take records in
                twice, or not at all. None: it jumps wherever it stands.
        """
        self._progress.jump(stream, offset, moment_us, offset_start, stood_at)

    # -- what a sink takes --------------------------------------------------------------------------

    def emission(self) -> Emission:
        """What closed, came late or was rejected since the last one. Its state is `pack()`, called before the next piece."""
        if self._definition.corrections == "eager":
            with localcontext(EXACT):
                self._windows.correct(self._rows)
        held = dict(self._progress.held)
        out = Emission(self._rows, self._late, self._late_entries, self._rejects, held, self._messages, self._left_out)
        self._clear()
        return out

    def pack(self) -> bytes:
        """The state. Rows that no emission brought yet are no part of it.

        Raises:
            ConfigError: a fold's state can't be kept.
        """
        header = state.Header(
            self._definition.text,
            self._closed_to,
            self._progress.held,
            sorted(self._progress.awaited),
            self.bad_runs,
            self._windows.dropped_to,
            self._windows.passed,
        )
        try:
            return state.pack(self._definition, header, self._windows.held, self._sessions.pack())
        except Exception:
            self._check_columns()
            raise

    def _check_columns(self) -> None:
        """Find what can't be packed."""
        for columns in (*(table.columns for table in self._windows.tables()), self._sessions.columns):
            for part, column in zip(self._definition.parts, columns, strict=True):
                try:
                    packing.encode(packing.pack_column(column))
                except Exception as error:
                    reason = error.message if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}."
                    raise ConfigError(
                        f"Windows: the state of aggregate {self._name_of(part)} can't be kept: {reason}", hint=packing.KEPT
                    ) from error

    @staticmethod
    def load(definition: Windows, packed: bytes, live: Collection[Stream] | None = None, *, streams_min: int = 0) -> Bucket:
        """The bucket that was packed.

        `live` are the streams that this run reads (None: all that it knows). Those of a topic that is new here are all waited
        for, as at the first opening; a partition that was added to a known topic counts from its first piece or mark on.

        Raises:
            ConfigError: it was packed under another definition.
            DataError: these are not the bytes of a bucket, or those of a later version.
        """
        bucket = Bucket(definition, {})
        header, windows, sessions = state.unpack(definition, packed)
        bucket._progress = Progress(definition, header.held, header.awaited, streams_min=streams_min)
        bucket._closed_to, bucket.bad_runs = header.closed_to, header.bad_runs
        bucket._overdue = True
        bucket._windows = OpenWindows(definition, windows, state.forgotten_to(definition, header), header.passed)
        bucket._sessions.load(sessions)
        if live is not None:
            bucket.reads(live)
        return bucket

    def reads(self, live: Collection[Stream]) -> None:
        """These are the streams that this run reads: at its start, and once more when another topic has begun (see `load`)."""
        self._progress.reads(live)

    @property
    def waits(self) -> bool:
        """Whether nothing closes, since a topic of which nothing is known yet is to come."""
        return self._progress.waits

    @waits.setter
    def waits(self, waits: bool) -> None:
        self._progress.waits = waits

    @staticmethod
    def has_positions(head: bytes) -> bool:
        """Is this beginning of a packed bucket long enough for `positions`?"""
        return state.has_header(head)

    @staticmethod
    def positions(packed: bytes) -> dict[Stream, Held]:
        """How far a packed bucket has come, without loading it: for `openings`."""
        return state.read_header(packed).held
