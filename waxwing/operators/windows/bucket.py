"""A bucket: the windows of a part of all keys, fed by every lane; a sink keeps its rows and its state in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from decimal import localcontext
from traceback import walk_tb
from types import MappingProxyType
from typing import Any, NamedTuple

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.errors import ConfigError, OffsetGap
from waxwing.ledger.windows import NEVER
from waxwing.operators.reasons import RAISED, reason_of
from waxwing.operators.windows import packing, state
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.parts import EXACT, Folded, Part
from waxwing.operators.windows.pieces import Group, Held, Late, Mark, Piece, Sessions, first_held
from waxwing.operators.windows.rows import LateEntries, Rows, Table, Window, make_rows
from waxwing.operators.windows.sessions import OpenSessions


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
    left out. Streams that are no longer read (of another topic, or of one that was made anew) are history: nobody waits for them.

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
        self._definition, self._streams_min = definition, streams_min
        self._held = {stream: first_held(start, moments_us.get(stream)) for stream, start in starts.items()}
        self._closed_to = self._dropped_to = NEVER
        self._windows: dict[int, Window] = {}
        self._sessions = OpenSessions(definition)
        self._gone: set[Stream] = set()  # not read in this run
        # Bad records in a row, up to where each stream stands; None: an earlier release did not keep them. A sink counts them.
        self.bad_runs: dict[Stream, int] | None = {}
        self._awaited: set[Stream] = set()  # of a topic that is new here, and not heard of yet: nothing closes without them
        self.waits = False  # for a topic of which nothing is known: nothing closes
        # Decided in memory only: what was not committed never happened.
        self._idle: set[Stream] = set()
        self._ended: set[Stream] = set()
        self._clocks: dict[Stream, int] = {}  # until when it was idle, at least
        self._clear()

    def _clear(self) -> None:
        self._rows = make_rows(self._definition, [], [], [], [[] for _ in self._definition.parts], [])
        self._late: list[Late] = []
        self._late_entries: list[LateEntries] = []
        self._rejects: list[DeadLetter] = []
        self._messages = 0
        self._left_out = 0

    @property
    def held(self) -> Mapping[Stream, Held]:
        """How far it has come in each stream."""
        return self._held

    @property
    def closed_to(self) -> int:
        """Windows that end here or before are closed."""
        return self._closed_to

    @property
    def place(self) -> int:
        """Where reading began, in event time: windows that began before it lack records that were never read. A stream of which
        nothing was read has no say: it is waited for, or idle."""
        return max((held.place for held in self._held.values() if held.watermark > NEVER), default=NEVER)

    @property
    def open_entries(self) -> int:
        """How many (window, key) pairs it holds."""
        return len(self._sessions) + sum(len(w.on_time.ids) + len(w.grace.ids) for w in self._windows.values())

    @property
    def rows_waiting(self) -> int:
        """Rows that the next emission brings, late ones and rejects among them."""
        return len(self._rows) + len(self._late) + len(self._late_entries) + len(self._rejects)

    # -- what lanes send ----------------------------------------------------------------------------

    def fold(self, piece: Piece) -> bool:
        """Take a piece in; False when it was taken in before.

        Raises:
            OffsetGap: it does not begin where the stream's last one ended.
            ConfigError: a fold's function failed.
        """
        held = self._known(piece.stream, piece.offset_start, piece.offset_first)
        if piece.offset_next <= held.offset_next:
            return False
        if piece.offset_first != held.offset_next:
            raise OffsetGap(
                f"Windows: a piece of {piece.stream} covers offsets {piece.offset_first:,} to {piece.offset_next:,}, "
                f"the bucket stands at {held.offset_next:,}.",
                hint="Batches must end at every position that a bucket holds, and reach it in order.",
            )
        self._idle.discard(piece.stream)
        self._ended.discard(piece.stream)
        self._clocks.pop(piece.stream, None)
        self._late += piece.late
        self._rejects += piece.rejects
        self._messages += piece.messages
        with self._computing():
            for group in piece.groups:
                self._fold_group(piece.stream, group)
            if piece.sessions is not None:
                self._fold_sessions(piece.stream, piece.sessions)
            watermark, place = max(held.watermark, piece.watermark_next), min(held.place, piece.place)
            self._held[piece.stream] = Held(held.offset_start, piece.offset_next, watermark, place)
            self._close()
        return True

    def mark(self, mark: Mark) -> None:
        """A partition is idle or has ended: it is not waited for until its next batch.

        Raises:
            OffsetGap: the mark stands behind records that never came here.
        """
        held = self._known(mark.stream, mark.offset_start, mark.offset)
        if mark.offset > held.offset_next:
            raise OffsetGap(
                f"Windows: {mark.stream} is said to end at {mark.offset:,}, the bucket stands at {held.offset_next:,}."
            )
        self._idle.add(mark.stream)
        self._clocks[mark.stream] = max(mark.clock_us, self._clocks.get(mark.stream, NEVER))
        if mark.ended:
            self._ended.add(mark.stream)
        with self._computing():
            self._close()

    def ends(self) -> tuple[Mark, ...]:
        """The partitions that have ended: no part of the state, since a source of ours says it again at every start."""
        held = self._held
        return tuple(Mark(one, held[one].offset_start, held[one].offset_next, True) for one in sorted(self._ended))

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

    def _known(self, stream: Stream, offset_start: int, offset: int) -> Held:
        self._gone.discard(stream)
        if stream not in self._held:
            if offset != offset_start:
                raise OffsetGap(
                    f"Windows: {stream} is new here, and begins at offset {offset:,} instead of its start, {offset_start:,}.",
                    hint="A partition that was added is read from its start by every bucket.",
                )
            self._held[stream] = first_held(offset_start)
            self._awaited.discard(stream)
        return self._held[stream]

    def _fold_group(self, stream: Stream, group: Group) -> None:
        end = group.end_us
        if end <= max(self._closed_to - self._definition.grace_us, self._dropped_to):
            return self._add_late(stream, [end] * len(group.keys), group)
        window = self._windows.get(end)
        if window is None:
            if end <= self._closed_to and end - self._definition.length_us < self.place:
                self._left_out += len(group.keys)
                return None
            window = self._windows[end] = Window(Table(self._definition.parts), Table(self._definition.parts))
            if end <= self._closed_to:
                window.close()
        if window.size is not None:
            window.correct(group.keys, group.states)
        else:
            (window.grace if group.grace else window.on_time).merge(group.keys, group.states)
        return None

    def _add_late(self, stream: Stream, ends: list[int], entries: Group | Sessions, starts: list[int] | None = None) -> None:
        starts = [end - self._definition.length_us for end in ends] if starts is None else starts
        rows = make_rows(self._definition, starts, ends, entries.keys, entries.states, [0] * len(ends))
        self._late_entries.append(LateEntries(stream, rows))

    def _fold_sessions(self, stream: Stream, sessions: Sessions) -> None:
        late = [n for n, first in enumerate(sessions.firsts) if first < self._closed_to]
        if late:  # only behind a decision of the clock; a session that begins below could touch one that is written
            gone, rest = _divided(sessions, set(late))
            gap = self._definition.gap_us or 0
            self._add_late(stream, [last + gap for last in gone.lasts], gone, list(gone.firsts))
            sessions = rest
        self._sessions.merge(sessions)

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
        start = offset if offset_start is None else offset_start
        held = self._held.get(stream) or first_held(start)
        if stood_at is None or held.offset_next == stood_at:
            # Back onto a log that was cut, nothing is passed over.
            place = moment_us if offset > held.offset_next else min(held.place, moment_us)
            self._held[stream] = held._replace(offset_next=offset, place=place)
            self._awaited.discard(stream)

    # -- closing ------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self.waits or self._awaited or len(self._held) < self._streams_min:
            return
        read = {stream: one.watermark for stream, one in self._held.items() if stream not in self._gone}
        waited_for = [watermark for stream, watermark in read.items() if stream not in self._idle]
        if waited_for:
            closed_to = min(waited_for)
        elif len(self._ended) == len(read):
            closed_to = self._end_of_all()
        else:
            closed_to = max(*read.values(), self._by_clock(read))
        if closed_to > self._closed_to:
            self._closed_to = closed_to
            self._close_windows()
            keys, starts, ends, columns = self._sessions.close(closed_to)
            if keys:
                self._add_sessions(starts, ends, keys, columns)

    def _add_sessions(self, starts: list[int], ends: list[int], keys: list[Any], columns: list[list[Any]]) -> None:
        # One that began within the gap behind the place may be the rest of another.
        whole_from = self.place + (self._definition.gap_us or 0)
        whole = [n for n, start in enumerate(starts) if start >= whole_from]
        self._left_out += len(starts) - len(whole)
        if len(whole) < len(starts):
            starts, ends, keys = ([some[n] for n in whole] for some in (starts, ends, keys))
            columns = [[column[n] for n in whole] for column in columns]
        self._add_rows(starts, ends, keys, columns, [0] * len(keys))

    def _by_clock(self, read: Collection[Stream]) -> int:
        """All are idle: as if each brought a record at the time of the day until which it was idle. Not behind the last window
        that a record is in: the clock closes what is open, and says nothing of what may come.
        """
        idle = [self._clocks.get(stream, NEVER) for stream in read if stream not in self._ended]
        return max(NEVER, min(min(idle, default=NEVER) - self._definition.lateness_us, self._end_of_all()))

    def _end_of_all(self) -> int:
        """Behind every window that a record so far may be in, its grace too: the same for all buckets, whatever keys they have.

        Not "for ever": the flow may go on some day, with later windows.
        """
        definition, watermark = self._definition, max(one.watermark for one in self._held.values())
        if watermark == NEVER:
            return NEVER
        highest = watermark + definition.lateness_us
        if definition.gap_us is not None:
            return highest + definition.gap_us
        return definition.ends(highest - highest % definition.slot_us)[-1] + definition.grace_us

    def _close_windows(self) -> None:
        final_to = self._closed_to - self._definition.grace_us
        place = self.place
        for end in sorted(end for end in self._windows if end <= self._closed_to):
            window = self._windows[end]
            if window.size is None and end - self._definition.length_us < place:
                self._left_out += len(window.on_time.ids.keys() | window.grace.ids.keys())
                del self._windows[end]
                continue
            if window.size is None:
                size = len(window.on_time.ids)
                self._add_window(end, list(window.on_time.ids), window.on_time.columns, [0] * size)
                window.close()
            if end <= final_to:
                self._correct(end, window)
                del self._windows[end]

    def _correct(self, end: int, window: Window) -> None:
        numbers, revisions = window.corrections()
        if numbers:
            keys = list(window.on_time.ids)
            columns = [[column[n] for n in numbers] for column in window.on_time.columns]
            self._add_window(end, [keys[n] for n in numbers], columns, revisions)

    def _add_window(self, end: int, keys: list[Any], columns: list[list[Any]], revisions: list[int]) -> None:
        size = len(keys)
        self._add_rows([end - self._definition.length_us] * size, [end] * size, keys, columns, revisions)

    def _add_rows(
        self, starts: list[int], ends: list[int], keys: list[Any], columns: list[list[Any]], revisions: list[int]
    ) -> None:
        self._rows.extend(make_rows(self._definition, starts, ends, keys, columns, revisions))

    # -- what a sink takes --------------------------------------------------------------------------

    def emission(self) -> Emission:
        """What closed, came late or was rejected since the last one. Its state is `pack()`, called before the next piece."""
        if self._definition.corrections == "eager":
            with localcontext(EXACT):
                for end, window in sorted(self._windows.items()):
                    if window.changed:
                        self._correct(end, window)
        out = Emission(
            self._rows, self._late, self._late_entries, self._rejects, dict(self._held), self._messages, self._left_out
        )
        self._clear()
        return out

    def pack(self) -> bytes:
        """The state. Rows that no emission brought yet are no part of it.

        Raises:
            ConfigError: a fold's state can't be kept.
        """
        header = state.Header(
            self._definition.text, self._closed_to, self._held, sorted(self._awaited), self.bad_runs, self._dropped_to
        )
        try:
            return state.pack(header, self._windows, self._sessions.pack())
        except Exception:
            self._check_columns()
            raise

    def _check_columns(self) -> None:
        """Find what can't be packed."""
        tables = [table.columns for window in self._windows.values() for table in (window.on_time, window.grace)]
        for columns in (*tables, self._sessions.columns):
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
        bucket = Bucket(definition, {}, streams_min=streams_min)
        header, bucket._windows, sessions = state.unpack(definition, packed)
        bucket._held, bucket._closed_to, bucket.bad_runs = header.held, header.closed_to, header.bad_runs
        # Under a longer grace than before, what was written and forgotten is not opened again.
        bucket._dropped_to = max(header.dropped_to, header.closed_to - definition.grace_of(header.text))
        bucket._sessions.load(sessions)
        bucket._awaited = set(header.awaited)
        if live is not None:
            bucket.reads(live)
        return bucket

    def reads(self, live: Collection[Stream]) -> None:
        """These are the streams that this run reads: at its start, and once more when another topic has begun (see `load`)."""
        topics = {stream[:3] for stream in self._held}
        new = {stream for stream in live if stream not in self._held and stream[:3] not in topics}
        self._gone, self._awaited = self._held.keys() - set(live), self._awaited.intersection(live) | new

    @staticmethod
    def positions(packed: bytes) -> dict[Stream, Held]:
        """How far a packed bucket has come, without loading it: for `openings`."""
        return state.read_header(packed).held


def _divided(sessions: Sessions, numbers: set[int]) -> tuple[Sessions, Sessions]:
    def part(inside: bool) -> Sessions:
        kept = [n for n in range(len(sessions.keys)) if (n in numbers) is inside]
        keys, firsts, lasts, *states = (
            [column[n] for n in kept] for column in (sessions.keys, sessions.firsts, sessions.lasts, *sessions.states)
        )
        return Sessions(keys, firsts, lasts, states)

    return part(True), part(False)
