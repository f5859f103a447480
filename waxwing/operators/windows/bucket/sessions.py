"""Open sessions of a bucket: intervals per key that join when they come within the gap."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from waxwing.operators.windows.bucket import packing
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Sessions
from waxwing.operators.windows.rows import Rows, make_rows

# A session: the time of its first record, its end (the last record's and the gap), and its place in the columns of states.
Open = tuple[int, int, int]


class OpenSessions:
    """Sessions by key, and a heap of (end, a number, key) with the first end of each key.

    An end in the heap may since have moved up, never down; `_first` says which entry of a key counts.
    """

    def __init__(self, definition: Windows) -> None:
        self._definition = definition
        self._open: dict[Any, list[Open]] = {}
        self.columns: list[list[Any]] = [[] for _ in definition.parts]  # of states; what is open points into them
        self._free: list[int] = []
        self._places = 0
        self._ends: list[tuple[int, int, Any]] = []
        self._first: dict[Any, int] = {}
        self._pushed = 0

    def __len__(self) -> int:
        return self._places - len(self._free)

    def fold(self, sessions: Sessions, closed_to: int) -> Rows | None:
        """Join entries with what lies closer to them than the gap; rows of what is too late, if anything is."""
        late = {n for n, first in enumerate(sessions.firsts) if first < closed_to}
        if not late:
            self._merge(sessions)
            return None
        # Only behind a decision of the clock; a session that begins below could touch one that is written.
        self._merge(_part(sessions, [n for n in range(len(sessions.keys)) if n not in late]))
        gone, gap = _part(sessions, sorted(late)), self._definition.gap_us or 0
        ends = [last + gap for last in gone.lasts]
        return make_rows(self._definition, gone.firsts, ends, gone.keys, gone.states, [0] * len(ends))

    def _merge(self, sessions: Sessions) -> None:
        gap = self._definition.gap_us or 0
        at: list[int] = []
        moved: dict[int, int] = {}
        for key, first, last in zip(sessions.keys, sessions.firsts, sessions.lasts, strict=True):
            start, end, place = first, last + gap, -1
            apart = []
            for one in self._open.get(key, ()):
                if one[0] >= end or start >= one[1]:
                    apart.append(one)
                    continue
                start, end = min(start, one[0]), max(end, one[1])
                if place < 0:
                    place = one[2]
                else:
                    self._join(place, one[2])
                    moved[one[2]] = place
            if place < 0:
                place = self._place()
                if end < self._first.get(key, end + 1):
                    self._push(end, key)
            apart.append((start, end, place))
            self._open[key] = apart
            at.append(place)
        if moved:  # an entry's session may have been joined to another by a later entry
            at = [_resolved(place, moved) for place in at]
        for part, column, states in zip(self._definition.parts, self.columns, sessions.states, strict=True):
            part.merge(column, at, states)
        self._free += moved

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        for part, column in zip(self._definition.parts, self.columns, strict=True):
            column.append(part.nothing)
        self._places += 1
        return self._places - 1

    def _join(self, place: int, other: int) -> None:
        for part, column in zip(self._definition.parts, self.columns, strict=True):
            part.merge(column, (place,), (column[other],))
            column[other] = part.nothing

    def _push(self, end: int, key: Any) -> None:
        self._first[key] = end
        self._pushed += 1  # so that keys are never compared
        heappush(self._ends, (end, self._pushed, key))

    def close(self, closed_to: int, place: int, rows: Rows) -> int:
        """Add the rows of sessions that ended; how many are left out, which may not be whole."""
        keys, ended, columns = self._take_out(closed_to)
        if not keys:
            return 0
        # One that began within the gap behind the place may be the rest of another.
        whole_from = place + (self._definition.gap_us or 0)
        whole = [n for n, one in enumerate(ended) if one[0] >= whole_from]
        if left_out := len(ended) - len(whole):
            keys, ended = [keys[n] for n in whole], [ended[n] for n in whole]
            columns = [[column[n] for n in whole] for column in columns]
        starts, ends = [one[0] for one in ended], [one[1] for one in ended]
        rows.extend(make_rows(self._definition, starts, ends, keys, columns, [0] * len(keys)))
        return left_out

    def _take_out(self, closed_to: int) -> tuple[list[Any], list[Open], list[list[Any]]]:
        """The sessions that ended, with their keys, and a column per part."""
        keys: list[Any] = []
        ended: list[Open] = []
        while self._ends and self._ends[0][0] <= closed_to:
            first, _, key = heappop(self._ends)
            if self._first.get(key) != first:
                continue
            del self._first[key]
            left = []
            for one in self._open.pop(key, ()):
                if one[1] <= closed_to:
                    keys.append(key)
                    ended.append(one)
                else:
                    left.append(one)
            if left:
                self._open[key] = left
                self._push(min(end for _, end, _ in left), key)
        columns = [[column[place] for _, _, place in ended] for column in self.columns]
        for part, column in zip(self._definition.parts, self.columns, strict=True):
            for _, _, place in ended:
                column[place] = part.nothing
        self._free += [place for _, _, place in ended]
        return keys, ended, columns

    # -- packing ------------------------------------------------------------------------------------

    def pack(self) -> list[Any]:
        """For msgpack."""
        keys = [key for key, held in self._open.items() for _ in held]
        every = [one for held in self._open.values() for one in held]
        columns = [[column[place] for _, _, place in every] for column in self.columns]
        return [packing.pack_column(some) for some in (keys, [one[0] for one in every], [one[1] for one in every], *columns)]

    def load(self, packed: Sequence[Any]) -> None:
        """What was packed."""
        keys, starts, ends, *self.columns = map(packing.unpack_column, packed)
        for place, (key, start, end) in enumerate(zip(keys, starts, ends, strict=True)):
            self._open.setdefault(key, []).append((start, end, place))
        self._first = {key: min(end for _, end, _ in held) for key, held in self._open.items()}
        self._ends = [(end, n, key) for n, (key, end) in enumerate(self._first.items(), 1)]
        self._pushed = self._places = len(keys)
        heapify(self._ends)


def _part(sessions: Sessions, numbers: list[int]) -> Sessions:
    keys, firsts, lasts, *states = (
        [column[n] for n in numbers] for column in (sessions.keys, sessions.firsts, sessions.lasts, *sessions.states)
    )
    return Sessions(keys, firsts, lasts, states)


def _resolved(place: int, moved: dict[int, int]) -> int:
    while place in moved:
        place = moved[place]
    return place
