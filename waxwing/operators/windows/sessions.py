"""Open sessions of a bucket: intervals per key that join when they come within the gap."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from waxwing.operators.windows import packing
from waxwing.operators.windows.definition import NEVER, Windows
from waxwing.operators.windows.pieces import Sessions

# A session: the time of its first record, its end (the last record's and the gap), and a list per part with its state.
Open = tuple[int, int, list[list[Any]]]


class OpenSessions:
    """Sessions by key, with a heap of (end, key's number): an end in it may since have moved up, never down."""

    def __init__(self, definition: Windows) -> None:
        self._definition = definition
        self._open: dict[Any, list[Open]] = {}
        self._ends: list[tuple[int, int, Any]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    @property
    def end_max(self) -> int:
        """The latest end."""
        return max((end for held in self._open.values() for _, end, _ in held), default=NEVER)

    def merge(self, sessions: Sessions) -> None:
        """Join entries with what lies closer to them than the gap."""
        gap = self._definition.gap_us or 0
        parts = self._definition.parts
        for key, first, last, *states in zip(sessions.keys, sessions.firsts, sessions.lasts, *sessions.states, strict=True):
            start, end = first, last + gap
            # The states of an entry are another's too: they are merged into new ones, not kept.
            columns = [[part.nothing] for part in parts]
            for part, column, state in zip(parts, columns, states, strict=True):
                part.merge(column, (0,), (state,))
            apart = []
            for one in self._open.get(key, ()):
                if one[0] < end and start < one[1]:
                    start, end = min(start, one[0]), max(end, one[1])
                    for part, column, state in zip(parts, columns, one[2], strict=True):
                        part.merge(column, (0,), state)
                else:
                    apart.append(one)
            if len(apart) == len(self._open.get(key, ())):
                self._push(end, key)
            self._open[key] = [*apart, (start, end, columns)]

    def _push(self, end: int, key: Any) -> None:
        self._pushed += 1  # so that keys are never compared
        heappush(self._ends, (end, self._pushed, key))

    def close(self, closed_to: int) -> tuple[list[Any], list[int], list[int], list[list[Any]]]:
        """Take out the sessions that ended: keys, starts, ends, and a column per part."""
        keys: list[Any] = []
        ended: list[Open] = []
        while self._ends and self._ends[0][0] <= closed_to:
            _, _, key = heappop(self._ends)
            left = []
            for one in self._open.pop(key, ()):
                if one[1] <= closed_to:
                    keys.append(key)
                    ended.append(one)
                else:
                    left.append(one)
            if left:
                self._open[key] = left
                # The one that this end was pushed for has grown, or it closed under another's: one too many does no harm.
                self._push(min(end for _, end, _ in left), key)
        columns = [[one[2][n][0] for one in ended] for n in range(len(self._definition.parts))]
        return keys, [one[0] for one in ended], [one[1] for one in ended], columns

    # -- packing ------------------------------------------------------------------------------------

    def pack(self) -> list[Any]:
        """For msgpack."""
        keys = [key for key, held in self._open.items() for _ in held]
        every = [one for held in self._open.values() for one in held]
        columns = [[one[2][n][0] for one in every] for n in range(len(self._definition.parts))]
        return [packing.pack_column(some) for some in (keys, [one[0] for one in every], [one[1] for one in every], *columns)]

    def load(self, packed: Sequence[Any]) -> None:
        """What was packed."""
        keys, starts, ends, *columns = map(packing.unpack_column, packed)
        for key, start, end, *states in zip(keys, starts, ends, *columns, strict=True):
            self._open.setdefault(key, []).append((start, end, [[state] for state in states]))
        self._ends = [(end, n, key) for n, (key, end) in enumerate(zip(keys, ends, strict=True), 1)]
        self._pushed = len(keys)
        heapify(self._ends)
