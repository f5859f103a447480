"""Who judges windows, at every commit: what has closed, what is late, what was added."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from tests.simulation.steps.judge import Judge
from tests.simulation.steps.rows import StreamsJudge
from tests.simulation.windows.truth import Of, Place, joined, judge
from waxwing.change import DeadLetter, Position
from waxwing.ledger.windows import BUCKETS_SOURCE
from waxwing.operators.windows import Bucket

if TYPE_CHECKING:
    from tests.simulation.database import Opened
    from tests.simulation.truth import Log

SECOND_US = 1_000_000
_END = re.compile(r" to (\S+)$")


class Written(NamedTuple):
    """A row of a window: how many records are in it, and which."""

    revision: int
    records: int
    total: int


class WindowsJudge(Judge):
    """Closed windows: each (record, window) is in a row, in a correction, or late, once; and where no clock decided, in the one
    that its own partition says."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rows: dict[Place, list[Written]] = {}
        self._late_sums: dict[Place, list[Written]] = {}
        self._late: Counter[tuple[int, int, int]] = Counter()
        self._rejects: set[tuple[int, int]] = set()

    @property
    def _is_spoiled(self) -> bool:
        """Has half of a batch got lost? Then the watermarks behind it are others."""
        return any(step == self.step for step, _ in self.world.torn)

    @override
    def commit(self, opened: Opened) -> None:
        for _, (_, end, key, revision), count, total in opened.written:
            self._rows.setdefault((end // SECOND_US, key), []).append(Written(revision, count, total))
        for letter in opened.letters:
            self._bury(letter)
        if (opened.after or opened.states) and not self._is_spoiled:
            self.check(complete=False)

    def _bury(self, letter: DeadLetter) -> None:
        if letter.stream.source != BUCKETS_SOURCE:
            if letter.stage == "late":
                found = _END.search(letter.reason)
                assert found is not None
                end = int(datetime.fromisoformat(found[1]).timestamp())
                self._late[letter.stream.partition, letter.offset, end] += 1
            else:
                self._rejects.add((letter.stream.partition, letter.offset))
            return
        assert letter.value is not None
        row = json.loads(letter.value)
        if letter.stage == "late":
            place = row["window_end"] // SECOND_US, row["key"]
            self._late_sums.setdefault(place, []).append(Written(0, row["n"], int(row["total"])))
        else:
            _, end, key, count, total, revision = row
            self._rows.setdefault((end // SECOND_US, key), []).append(Written(revision, count, total))

    def _folded(self, bucket: int) -> dict[int, int]:
        for (step, stream), state in self.database.states.items():
            if step == self.step and stream.partition == bucket:
                return {one.partition: held.offset_next for one, held in Bucket.positions(state).items()}
        return {}

    def check(self, *, complete: bool) -> None:
        """All buckets."""
        shape, late, rejects = self.world.shape, Counter[tuple[int, int, int]](), set()
        expected: set[Place] = set()
        for bucket in range(shape.buckets):
            folded = self._folded(bucket)
            of, closed_to = judge(shape, bucket, self.world.events, folded)
            late += of.late
            where = f"bucket {bucket} at {folded}, closed to {closed_to}"
            expected |= (self._check_sessions if shape.gap_s else self._check_windows)(
                bucket, where, of, closed_to, complete=complete
            )
            if bucket == 0:
                logs = self.world.logs
                rejects = {
                    (partition, record.offset)
                    for partition, end in folded.items()
                    for record in logs[partition].between(logs[partition].first, end)
                    if record.rejected
                }
        if late != self._late:
            self.wrong("", f"late are {self._late - late} too many, {late - self._late} too few (partition, offset, end)")
        if rejects != self._rejects:
            self.wrong("", f"rejected are {sorted(self._rejects)}, expected {sorted(rejects)}")
        if more := (self._rows.keys() | self._late_sums.keys()) - expected:
            self.wrong("", f"rows of no record: {sorted(more)}")

    def _last(self, where: str, place: Place) -> int:
        """The values in the last row of a window and key."""
        last = 0
        for number, row in enumerate(sorted(self._rows.get(place, ()))):
            if row.revision != number:
                self.wrong(where, f"{place} has revision {row.revision} where {number} is due")
            if row.records != row.total.bit_count() or last & ~row.total:
                self.wrong(where, f"{place}: {row.records} values are {row.total:b}, before it was {last:b}")
            last = row.total
        return last

    def _check_windows(self, bucket: int, where: str, of: Of, closed_to: int, *, complete: bool) -> set[Place]:
        shape = self.world.shape
        whole = self._whole(bucket)
        for place in {*of.on_time, *of.grace}:
            last, late, every = self._last(where, place), self._late_sum(where, place), of.all(place)
            is_closed, is_over = place[0] <= closed_to, complete and shape.ends
            is_final = is_over or (is_closed and (shape.eager or place[0] + shape.grace_s <= closed_to))
            if self.world.clock_decides:
                right = not last & late and not (last | late) & ~every and (not is_final or last | late == every)
            elif is_final:
                right = last == every and not late
            elif not shape.ends:
                right = last == (of.on_time[place] if is_closed else 0) and not late
            else:  # a partition that has ended is not waited for, and brings nothing more
                least, most = whole.on_time[place], whole.all(place)
                right = (last == 0 and not is_closed) or (last & least == least and not last & ~most)
                right &= not late
            if not right:
                self.wrong(
                    where, f"{place}: rows have {last:b}, late are {late:b}, on time {of.on_time[place]:b}, all is {every:b}"
                )
        return {*of.on_time, *of.grace}

    def _whole(self, bucket: int) -> Of:
        ends = {number: log.end_max for number, log in self.world.logs.items()}
        return judge(self.world.shape, bucket, self.world.events, ends)[0]

    def _late_sum(self, where: str, place: Place) -> int:
        late = 0
        for row in self._late_sums.get(place, ()):
            if row.records != row.total.bit_count() or late & row.total:
                self.wrong(where, f"{place}: late are {late:b} and {row}")
            late |= row.total
        return late

    def _of(self, bucket: int) -> set[Place]:
        return {place for place in {*self._rows, *self._late_sums} if self.world.shape.bucket_of(place[1]) == bucket}

    def _check_sessions(self, bucket: int, where: str, of: Of, closed_to: int, *, complete: bool) -> set[Place]:
        """Where the clock decides, sessions may end early; then records are held against each other."""
        shape, mine = self.world.shape, self._of(bucket)
        is_over = complete and shape.ends
        if not self.world.clock_decides:
            due = {place: value for place, value in joined(shape, of.sessions).items() if is_over or place[0] <= closed_to}
            may = joined(shape, self._whole(bucket).sessions) if shape.ends else due
            for place in mine | due.keys():
                last = self._last(where, place)
                if (place in due and last != due[place]) or last != may.get(place, 0) or place in self._late_sums:
                    self.wrong(where, f"{place}: rows have {last:b}, due is {due.get(place, 0):b}, to come {may.get(place, 0):b}")
            return mine | due.keys()
        taken, every = 0, sum(event.value for event in of.sessions)
        for place in mine:
            for value in (self._last(where, place), self._late_sum(where, place)):
                if taken & value or value & ~every:
                    self.wrong(where, f"{place} has {value:b}, others {taken:b}, all is {every:b}")
                taken |= value
        if is_over and taken != every:
            self.wrong(where, f"sessions have {taken:b}, all is {every:b}")
        return mine

    @override
    def check_end(self) -> None:
        if not self._is_spoiled:
            self.check(complete=True)

    @override
    def is_complete(self) -> bool:
        for bucket in range(self.world.shape.buckets):
            folded = self._folded(bucket)
            if any(folded.get(number, -1) < log.end for number, log in self.world.logs.items()):
                return False
            if self.world.shape.ends and not self._is_spoiled and not self._is_closed(bucket, folded):
                return False
        return True

    def _is_closed(self, bucket: int, folded: dict[int, int]) -> bool:
        """Has everything come out?"""
        of, _ = judge(self.world.shape, bucket, self.world.events, folded)
        if self.world.shape.gap_s:
            came = sum(self._last("", place) | self._late_sum("", place) for place in self._of(bucket))
            return came >= sum(event.value for event in of.sessions)
        return all(self._last("", place) | self._late_sum("", place) == of.all(place) for place in {*of.on_time, *of.grace})


class LiveJudge(StreamsJudge):
    """Live windows: each row is the sum of all records that were taken in."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rows: dict[Place, tuple[int, int]] = {}

    @override
    def take(self, opened: Opened) -> None:
        for _, (start, key), count, total in opened.written:
            self._add((start, key), count, int(total))
        for letter in opened.letters:
            if letter.stage == "sink":
                start, key, count, total = json.loads(letter.value or b"")
                self._add((start, key), count, int(total))

    def _add(self, place: Place, count: int, total: int) -> None:
        held = self._rows.get(place, (0, 0))
        self._rows[place] = held[0] + count, held[1] + total

    @override
    def check_rows(self, where: str, log: Log, position: Position, end: int) -> None:
        if any(step == self.step for step, _ in self.world.torn):
            return
        shape, due = self.world.shape, Counter[Place]()
        for number, one in self.world.logs.items():
            key = self.database.key(self.step, one.stream)
            if (stands := self.database.progress.get(key)) is None:
                continue
            for record in one.between(stands.position.offset_start, stands.position.offset_next):
                for event in self.world.events[number][record.offset]:
                    due.update({(end_s - shape.length_s, event.key): event.value for end_s in shape.ends_of(event.time_s)})
        expected = {place: (value.bit_count(), value) for place, value in due.items()}
        if expected != self._rows:
            wrong = sorted(expected.items() ^ self._rows.items())
            self.wrong(where, f"(start, key), (records, values): {wrong}")
        letters = {offset for offset, _ in self.rejected(log)}
        if letters != (due_ := {one.offset for one in log.between(position.offset_start, end) if one.rejected}):
            self.wrong(where, f"rejected are {sorted(letters)}, expected {sorted(due_)}")

    def rejected(self, log: Log) -> list[tuple[int, int]]:
        """Dead letters of messages."""
        kept = self.database.letters.get((self.step, log.stream), {})
        return [place for place, letter in kept.items() if letter.stage != "sink"]
