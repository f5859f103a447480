"""What enters a bucket's transaction: pieces are folded as they come, and every so often what became of them is one emission."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from sinks.windows.target import WindowTarget
from sinks.writer.admission import RATIO_BLOCK_RECORDS
from sinks.writer.isolation import dead_letters, said
from waxwing import log
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, DeadLetter, Position
from waxwing.errors import BadRowsLimit
from waxwing.metrics import counters
from waxwing.operators.windows import NEVER, Bucket, Emission, Mark, Piece
from waxwing.operators.windows.rows import instant
from waxwing.operators.windows.stream.fold import LATE_ROWS_FROM
from waxwing.settings import WindowSettings
from waxwing.target import Expected, Target

# An emission of so many rows does not wait for its time: they would fill the memory.
ROWS_MAX = 50_000
# Rows of closed windows don't wait either, but that what is open is packed and written with them: buckets with rows write for at
# most one part in so many of the time, or as old as emissions get.
REST = 10
# The store is asked so often whether sources that are still to come have begun.
LOOK_S = 0.1


class WindowAdmission:
    """The bucket of one sink partition, and its emission under way.

    Args:
        target: where it is kept.
        number: the bucket's.
        settings: what becomes of late records.
        now_s: the clock.
    """

    folds = True

    def __init__(self, target: WindowTarget, number: int, settings: WindowSettings, now_s: Callable[[], float]) -> None:
        self._target, self._number, self._settings, self._now_s = target, number, settings, now_s
        self._stream = target.bucket_stream(number)
        self._bucket: Bucket | None = None
        self._position = Position(self._stream, 0, 0)
        self._pending = 0  # pieces folded and not yet written
        self._letters: list[DeadLetter] = []
        self._rejects: list[DeadLetter] = []  # those among them that count as bad records
        self._run_stored = 0  # the longest run of all streams, where an earlier release kept no other
        self._limits_from: Mapping[Stream, int] = {}
        self._passing = False  # whether rows of the emission may be of records below these limits
        self._judged_messages = 0
        self._stood: dict[Stream, int] = {}  # where the last emission left each stream
        self._run_too_long = ""  # what is wrong, if one has passed BAD_RUN_MAX since the last emission
        self._unknown: set[Expected] = set()  # sources of the flow that have not begun
        self._look_s = 0.0  # when to look for them again
        self._state = b""
        self._messages = 0
        self._hurries = target.hurries
        self._oldest_s = math.inf  # since when something folded waits for the next emission
        self._emitting_s = math.inf  # when an emission with rows has begun that is not durable yet
        self._rest_until_s = 0.0
        self.due_s = math.inf

    @property
    def positions(self) -> Mapping[Stream, Any]:
        """How far the bucket has come in each stream."""
        return self._bucket.held if self._bucket is not None else {}

    def weight(self, item: Any) -> int:
        """Entries of a piece; rows of a batch that is written."""
        if isinstance(item, Piece):
            sessions = 0 if item.sessions is None else len(item.sessions.keys)
            return 1 + sessions + sum(len(group.keys) for group in item.groups) + len(item.late) + len(item.rejects)
        return len(item.records) if isinstance(item, Batch) else 1

    def unknown(self, items: list[Any]) -> list[Stream]:  # noqa: ARG002 - the bucket is one
        """The bucket, until it was taken over."""
        return [self._stream] if self._bucket is None else []

    def open(self, position: Position) -> None:
        """The bucket is ours."""
        assert position.state is not None
        streams = self._target.read_streams()
        live = set(streams)
        self._bucket = Bucket.load(self._target.windows, position.state, live=live)
        self._unknown = self._target.not_begun(live)
        self._bucket.waits = bool(self._unknown)
        self._position = position._replace(state=None)
        self._run_stored = position.bad_run if self._bucket.bad_runs is None else 0
        self._bucket.bad_runs = self._bucket.bad_runs or {}
        self._stood = {stream: held.offset_next for stream, held in self._bucket.held.items()}
        self._limits_from = {stream: one.limits_from for stream, one in streams.items() if one.limits_from}

    def take(self, items: list[Piece | Mark], *, flushing: bool) -> tuple[list[Batch[Any]], int]:
        """Fold the pieces; when it is time, everything folded so far as one batch of rows."""
        bucket = self._bucket
        assert bucket is not None
        if self._unknown and (self._now_s() >= self._look_s or any(isinstance(item, Mark) for item in items)):
            self._look()
        idle_marks = 0  # that changed nothing
        for item in items:
            if isinstance(item, Piece):
                if bucket.fold(item):
                    self._count(item)
            else:
                before = bucket.closed_to, bucket.rows_waiting
                bucket.mark(item)
                idle_marks += (bucket.closed_to, bucket.rows_waiting) == before
        now_s, folded = self._now_s(), len(items) - idle_marks
        if folded and not self._pending:
            self._oldest_s = now_s
        self._pending += folded
        self.due_s = self._due_s()
        if not self._pending or not (flushing or now_s >= self.due_s or bucket.rows_waiting >= ROWS_MAX):
            return [], idle_marks
        emission, pending = bucket.emission(), self._pending
        self._state, self._pending, self.due_s = bucket.pack(), 0, math.inf
        self._emitting_s = now_s if len(emission.rows) else math.inf
        self._letters, self._rejects = self._letters_of(emission), emission.rejects
        self._messages = emission.messages if self._number == 0 else 0
        # Rows are of no one partition: they pass until the first of these has come to its limit.
        self._passing = bool(self._limits_from) and all(self._stood.get(s, 0) < at for s, at in self._limits_from.items())
        self._stood = {stream: held.offset_next for stream, held in emission.held.items()}
        number = self._position.offset_next
        # Of no message: its offset is the emission's number, which no other emission of the bucket has.
        place = Columns([number], [None], [None], [-1], [()])
        rows = self._target.rows_of(emission.rows)
        return [Batch(self._stream, "", number, number + 1, place, rows, [0] * len(rows), whole=True)], pending + idle_marks

    def _due_s(self) -> float:
        """When what was folded is an emission."""
        assert self._bucket is not None
        if not self._pending:
            return math.inf
        due_s = self._oldest_s + self._target.size.age_s
        return min(due_s, self._rest_until_s) if self._hurries and self._bucket.has_closed else due_s

    def _look(self) -> None:
        """Has another source begun, in whichever process? Before its first piece comes, it has. Until then nothing closes."""
        assert self._bucket is not None
        self._look_s = self._now_s() + LOOK_S
        live = set(self._target.read_streams())
        if (left := self._unknown & self._target.not_begun(live)) != self._unknown:
            self._bucket.reads(live)
            self._unknown = left
            self._bucket.waits = bool(self._unknown)

    def change(self, batches: list[Batch[Any]]) -> Change:
        """The emission, with the bucket's move.

        Raises:
            BadRowsLimit: with it, too many messages were rejected, or rows refused.
        """
        before = self._position
        refused = [letter for batch in batches for letter in dead_letters(batch)]
        rows = sum(len(batch.records) for batch in batches)
        after = self._judged(before, refused, rows)
        letters = [*self._letters, *refused]
        return Change(batches, {self._stream: before}, {self._stream: after}, letters, messages=self._messages)

    def give_back(self, items: list[Piece | Mark]) -> None:
        """What was folded can't come again."""
        raise AssertionError(items)

    def moved(self, change: Change) -> None:
        """The emission is durable."""
        self._position = change.after[self._stream]._replace(state=None)
        self._letters, self._rejects, self._state, self._run_too_long = [], [], b"", ""
        if self._emitting_s < math.inf:
            now_s = self._now_s()
            self._rest_until_s = now_s + (REST - 1) * (now_s - self._emitting_s)
        self._judged_messages = 0

    def _count(self, piece: Piece) -> None:
        """Bad records in a row are counted as pieces come; they are judged with the emission, which brings them."""
        assert self._bucket is not None
        assert self._bucket.bad_runs is not None
        limits_from = self._limits_from.get(piece.stream, 0)
        run, previous = self._bucket.bad_runs.get(piece.stream, self._run_stored), -1
        if piece.offset_first < limits_from:
            run = 0
        if self._number == 0:
            self._judged_messages += max(0, min(piece.arrived, piece.offset_next - limits_from))
        for at, letter in zip(piece.rejects_at, piece.rejects, strict=True):
            if letter.offset < limits_from:
                run, previous = 0, at
            elif at != previous:
                run, previous = run + 1 if at == previous + 1 else 1, at
            if run > self._target.settings.bad_run_max and not self._run_too_long:
                self._run_too_long = (
                    f"{piece.stream}: {run:,} bad records in a row, up to offset {letter.offset}; the last one: {letter.reason}"
                )
        self._bucket.bad_runs[piece.stream] = run if previous == piece.arrived - 1 else 0

    def _judged(self, before: Position, refused: list[DeadLetter], rows: int) -> Position:
        """The position behind the emission. Rejects are counted where they travel: in the first bucket. Late records are good."""
        assert self._bucket is not None
        bad = [one for one in self._rejects if one.offset >= self._limits_from.get(one.stream, 0)]
        if self._run_too_long:
            self._limit(self._run_too_long)
        seen, records_bad = self._counted("records", before.records_seen + self._judged_messages, before.records_bad, bad)
        if not self._passing:
            before = self._rows_judged(before, refused, rows)
        return before._replace(
            offset_next=before.offset_next + 1,
            records_seen=seen,
            records_bad=records_bad,
            bad_run=max((self._bucket.bad_runs or {}).values(), default=0),
            state=self._state,
        )

    def _rows_judged(self, before: Position, refused: list[DeadLetter], rows: int) -> Position:
        """Rows of closed windows are of no one record, so that their own number counts."""
        run, previous = before.rows_bad_run, -1
        for letter in sorted(refused, key=lambda letter: letter.row):
            run, previous = run + 1 if letter.row == previous + 1 else 1, letter.row
            if run > self._target.settings.bad_run_max:
                self._limit(f"{run:,} refused rows in succession; the last one: {said(letter.stage, letter.reason)}")
        all_rows = rows + len(refused)
        seen, bad = self._counted("rows", before.rows_seen + all_rows, before.rows_bad, refused)
        run = run if not all_rows or previous == all_rows - 1 else 0
        return before._replace(rows_seen=seen, rows_bad=bad, rows_bad_run=run)

    def _counted(self, what: str, seen: int, bad_before: int, bad: list[DeadLetter]) -> tuple[int, int]:
        """How many were seen, and how many of them were bad, in the block of so many that the position stands in."""
        number, block = bad_before + len(bad), RATIO_BLOCK_RECORDS
        if number > self._target.settings.bad_ratio_max * max(seen, block):
            last = bad[-1]
            self._limit(
                f"{number:,} bad {what} among {max(seen, block):,}; the last one, {last.stream} at offset {last.offset}: "
                f"{said(last.stage, last.reason)}"
            )
        return (0, 0) if seen >= block else (seen, number)

    def _limit(self, what: str) -> NoReturn:
        raise BadRowsLimit(
            f"Step {self._target.step}, {self._target.name}: {what}.",
            hint="Something is wrong with the definition or the producer. Mend it and start again, or accept them as dead "
            f"letters: {self._target.resume_command}",
        )

    def _letters_of(self, emission: Emission) -> list[DeadLetter]:
        """Rejects, late records with their windows, and late aggregates (see Windows: idle partitions)."""
        out = list(emission.rejects)
        late = emission.late if self._settings.late_records == "dead_letters" else []
        for one in late:
            start, end = _iso(one.start_us), _iso(one.end_us)
            reason = f"{one.letter.reason}; it belongs to the window from {start} to {end}"
            out.append(one.letter._replace(stage="late", reason=reason))
        row = max(LATE_ROWS_FROM, len(emission.rows))  # behind those of rows that are refused
        entries = 0
        for stream, rows in emission.late_entries:
            for values in rows.tuples():
                entries += 1
                if self._settings.late_records == "dead_letters":
                    record = msgspec.json.encode(dict(zip(rows.names, values, strict=True)), enc_hook=str)
                    reason = (
                        f"late: the window was closed while {stream} was idle, or at the end of a bounded run; this is what it "
                        "would have added"
                    )
                    out.append(DeadLetter(self._stream, self._position.offset_next, row, "late", reason, None, record, (), -1))
                    row += 1
        counters.late(self._target.step, len(emission.late) + entries)
        if emission.left_out:
            place = max(held.place for held in emission.held.values() if held.watermark > NEVER)
            say_left_out(self._target, emission.left_out, place)
        return out


def say_left_out(target: Target, rows: int, place: int) -> None:
    """Rows of windows that are not whole are left out: counted, and told."""
    counters.left_out(target.step, rows)
    log.warning(
        "windows_left_out",
        f"{target.name}: {rows:,} rows of windows that began before {_iso(place)} are left out: records before that place of the "
        "log were never read, so these windows would not be whole.",
        step=target.step,
        rows=rows,
    )


def _iso(time_us: int) -> str:
    return instant(time_us).isoformat().replace("+00:00", "Z")
