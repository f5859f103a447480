"""A fold: the batches of one partition, folded by (window, key) and cut into pieces, one for every bucket."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import localcontext
from itertools import accumulate, count
from types import MappingProxyType
from typing import Any, NamedTuple

from waxwing.batch import Batch, Reject, Stream, row_numbers
from waxwing.change import DeadLetter
from waxwing.errors import OffsetGap
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.aggregates.parts import EXACT, FoldError
from waxwing.operators.windows.definition import SECOND_US, Windows
from waxwing.operators.windows.definition.misfits import Takes
from waxwing.operators.windows.pieces import Late, Mark, Opening, Piece, buckets_of
from waxwing.operators.windows.stream.folding import Slot, fold_sessions, fold_windows
from waxwing.operators.windows.stream.reading import EventReader, Read, without

# Dead letters of a message's late records have rows from here on: others of it may be rejected, in the same transaction or not.
LATE_ROWS_FROM = 1_000_000

# Where times don't rise, so many records are held against one watermark before each is held against its own.
RUN_RECORDS = 250

NO_DELETES = "a tombstone (null value), and windows take no deletes"


class _LateFor(NamedTuple):
    """The number of a record among those read, the ends of the windows it is late for, and the watermark then."""

    number: int
    ends: list[int]
    watermark: int


class _Judged(NamedTuple):
    """The verdict on a batch: what is left, the group of each record (None: by its time alone), and what is late."""

    read: Read
    slots: Sequence[Slot] | None
    late: list[_LateFor]


class StreamFold:
    """Folds one partition's batches. Each record is judged by the watermark before it, so that batch boundaries change nothing.

    It stores nothing: at a start it begins where the buckets say (see `openings`).

    Args:
        definition: the windows.
        stream: the partition.
        buckets: their number, fixed for the life of the state.
        opening: where it begins; the batches that it is given end at each of the splits.
        stage: the step's name, in what becomes of rejects.
        clock_us: the time of day, for the limit on times in the future; None: only messages' timestamps limit.
        takes: by field the types of values, where they are fewer than windows take.
    """

    def __init__(
        self,
        definition: Windows,
        stream: Stream,
        buckets: int,
        opening: Opening,
        stage: str = "windows",
        clock_us: Callable[[], int] | None = None,
        takes: Takes = MappingProxyType({}),
    ) -> None:
        self._definition, self._stream, self._buckets, self._stage = definition, stream, buckets, stage
        self._offset_start, self._offset, self._watermark = opening.offset_start, opening.offset, opening.watermark
        self._place = opening.place
        self._reader = EventReader(definition, clock_us, takes)

    @property
    def offset(self) -> int:
        """The offset at which the next batch begins."""
        return self._offset

    @property
    def watermark(self) -> int:
        """The highest time so far less the lateness, in microseconds since 1970."""
        return self._watermark

    @property
    def place(self) -> int:
        """Where the partition begins in event time, as far as is known (see Held)."""
        return self._place

    def mark(self, *, ended: bool, clock_us: int = NEVER) -> Mark:
        """For every bucket: the partition is idle, or has ended, where the fold stands."""
        return Mark(self._stream, self._offset_start, self._offset, ended, clock_us)

    def mark_of(self, batch: Batch[Any], now_us: int) -> Mark | None:
        """What a marked batch says; None: not idle for long enough, or these windows wait for all partitions for ever."""
        if batch.mark == "end":
            return self.mark(ended=True)
        after_s = self._definition.idle_after_s
        if after_s is None or batch.idle_s < after_s:
            return None
        return self.mark(ended=False, clock_us=now_us - round(after_s * SECOND_US))

    def fold(self, batch: Batch[Any]) -> list[Piece]:
        """One piece for each bucket, in their order.

        Raises:
            OffsetGap: the batch does not follow the one before.
        """
        pieces, read = self.pieces(batch)
        self._add_rejects(batch, read, pieces[0])
        return pieces

    def pieces(self, batch: Batch[Any]) -> tuple[list[Piece], Read]:
        """The pieces without the rejects, and what was read, with what was wrong with the rest."""
        if batch.offset_first != self._offset:
            raise OffsetGap(
                f"Windows: a batch of {batch.stream} begins at offset {batch.offset_first:,}, not at {self._offset:,}.",
                hint="Batches must reach the windows in order, by one path.",
            )
        refused: dict[int, str] = {}
        with localcontext(EXACT):
            while True:
                read = self._reader.read(batch, refused)
                try:
                    pieces, watermark = self._pieces(batch, read)
                    break
                except FoldError as error:
                    refused |= error.bad
        self._offset, self._watermark, self._place = batch.offset_next, watermark, pieces[0].place
        return pieces, read

    # -- verdicts -----------------------------------------------------------------------------------

    def _pieces(self, batch: Batch[Any], read: Read) -> tuple[list[Piece], int]:
        watermark = max(self._watermark, read.span.highest - self._definition.lateness_us) if read.times else self._watermark
        offsets, counts = (batch.offset_first, batch.offset_next), (len(batch.messages), len(batch.arrived))
        place = self._place_behind(read.times)
        pieces = [
            Piece(batch.stream, self._offset_start, *offsets, watermark, *counts, place, token=batch.token)
            for _ in range(self._buckets)
        ]
        if read.times:
            judged = (self._judged if self._definition.gap_us is None else self._judged_sessions)(read, watermark)
            if judged.read.times:
                if self._definition.gap_us is None:
                    fold_windows(self._definition, batch, judged.read, judged.slots, pieces)
                else:
                    fold_sessions(self._definition, batch, judged.read, pieces)
            self._add_late(batch, read, judged.late, pieces)
        return pieces, watermark

    def _place_behind(self, times: Sequence[int]) -> int:
        """The place with these records. Those that came too late say nothing of what was before them.

        Once the watermark has come near it, it can't fall any more: so it is settled before a window that it decides closes.
        """
        lateness = self._definition.lateness_us
        if not times or self._place == NEVER or self._watermark >= self._place - lateness:
            return self._place
        befores = zip(times, self._befores(times), strict=False)
        on_time = [t for t, before in befores if t >= before - lateness]
        return min(self._place, min(on_time) + self._definition.behind_us) if on_time else self._place

    def _befores(self, times: Sequence[int]) -> list[int]:
        """For each record the highest time before it; one longer than the records."""
        return list(accumulate(times, max, initial=self._watermark + self._definition.lateness_us))

    def _judged(self, read: Read, watermark: int) -> _Judged:
        times, grid = read.times, self._definition.grid
        if not self._may_be_late(read, watermark):
            return _Judged(read, None, [])
        slots: list[Any] = grid.slots(times)
        befores, lateness, grace = self._befores(times), self._definition.lateness_us, self._definition.grace_us
        ends_of = {one: grid.ends(one) for one in set(slots)}
        passed_at = {one: slot_ends[0] + lateness for one, slot_ends in ends_of.items()}
        gone_for_all, late = set(), []
        for number in [n for n, (before, one) in enumerate(zip(befores, slots, strict=False)) if before >= passed_at[one]]:
            slot_ends, now = ends_of[slots[number]], befores[number] - lateness
            gone, behind = bisect_right(slot_ends, now - grace), bisect_right(slot_ends, now)
            if gone:
                late.append(_LateFor(number, slot_ends[:gone], now))
            if gone == len(slot_ends):
                gone_for_all.add(number)
            slots[number] = slots[number], gone, behind
        if gone_for_all:
            read, slots = without(read, gone_for_all), [one for n, one in enumerate(slots) if n not in gone_for_all]
        return _Judged(read, slots, late)

    def _may_be_late(self, read: Read, watermark: int) -> bool:
        """Whether a look at each record is needed. Whose window ends behind the watermark of all records around it is on time."""
        times, grid = read.times, self._definition.grid

        def ends_behind(t: int, passed: int) -> bool:
            return grid.ends(grid.slot(t))[0] > passed

        # Of times that rise each is behind all before it in the batch.
        if ends_behind(read.span.lowest, self._watermark if read.span.rising else watermark):
            return False
        if read.span.rising:
            return True
        passed = self._watermark
        for first in range(0, len(times), RUN_RECORDS):
            run = times[first : first + RUN_RECORDS]
            passed = max(passed, max(run) - self._definition.lateness_us)
            if not ends_behind(min(run), passed):
                return True
        return False

    def _judged_sessions(self, read: Read, watermark: int) -> _Judged:
        """A session's record is late by its own time: any later bound would let the interleaving decide."""
        if read.span.lowest >= (self._watermark if read.span.rising else watermark):
            return _Judged(read, None, [])
        lateness, gap = self._definition.lateness_us, self._definition.gap_us or 0
        verdicts = zip(self._befores(read.times), read.times, strict=False)
        late = [_LateFor(n, [t + gap], before - lateness) for n, (before, t) in enumerate(verdicts) if t < before - lateness]
        return _Judged(without(read, {one.number for one in late}) if late else read, None, late)

    # -- the side ways ------------------------------------------------------------------------------

    def _add_late(self, batch: Batch[Any], read: Read, late: list[_LateFor], pieces: list[Piece]) -> None:
        start_of = self._definition.start_of
        rows: defaultdict[int, count[int]] = defaultdict(lambda: count(LATE_ROWS_FROM))  # by message, whatever the bucket
        for number, ends, watermark in late:
            t, key, at = read.times[number], read.keys[number], read.at[number]
            reason = f"late: its time is {(watermark - t) / SECOND_US:,.3f} s behind the partition's watermark"
            (bucket,) = buckets_of([key], len(self._definition.by), self._buckets)
            letter = self._letter(batch, at, 0, reason)
            pieces[bucket].late += [Late(start_of(end), end, t, key, letter._replace(row=next(rows[at]))) for end in ends]

    def rejects(self, batch: Batch[Any], read: Read) -> list[Reject]:
        """Those of earlier steps, what was wrong with records that were read, and deletes."""
        rows = row_numbers(batch, list(read.bad))
        bad = [Reject(batch.at[n], self._stage, reason, row) for (n, reason), row in zip(read.bad.items(), rows, strict=True)]
        return [*batch.rejects, *bad, *(Reject(delete.at, self._stage, NO_DELETES) for delete in batch.deletes)]

    def _add_rejects(self, batch: Batch[Any], read: Read, piece: Piece) -> None:
        found = [(one.at, one.row, one.stage, one.reason) for one in self.rejects(batch, read)]
        taken: set[tuple[int, int]] = set()
        arrived = batch.arrived if found else ()
        for at, numbered, stage, reason in sorted(found):
            row = numbered  # among those that were left when it was rejected: an earlier step may have taken it
            while (at, row) in taken:
                row += 1
            taken.add((at, row))
            piece.rejects.append(self._letter(batch, at, row, reason, stage))
            piece.rejects_at.append(bisect_left(arrived, at))

    def _letter(self, batch: Batch[Any], at: int, row: int, reason: str, stage: str = "") -> DeadLetter:
        one = batch.messages.part(at, at + 1)
        return DeadLetter(
            batch.stream,
            one.offsets[0],
            row,
            stage or self._stage,
            reason,
            one.keys[0],
            one.values[0],
            one.headers[0],
            one.timestamps_ms[0],
        )
