"""A source that can't be read again the same way, as a table that is polled: places have tokens, and numbers are counted anew.

What a kill undid is read anew, in other pieces and with other records. So what a step must hold is what it has taken in, in whole
pieces of one reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from typing_extensions import override

from sources.kit.starting.positions import StartAt
from sources.kit.words import Raw, Run
from tests.simulation.source import LaneReader, messages
from tests.simulation.truth import Log, Record, Row
from waxwing.change import Position

# Records are numbered below this, and make so many rows at most.
NUMBERS_MAX, ROWS_MAX = 200, 3


class Piece(NamedTuple):
    """What one whole batch holds: from a place to a place, numbered from an offset to an offset."""

    place: int
    offset: int
    place_next: int
    offset_next: int
    records: list[Record]


@dataclass
class PolledLog(Log):
    """A table. `first`, `end` and `end_max` are places, each of which has a token; records come about as it is read."""

    # Rows that the database refuses, by their numbers, whatever the reading.
    refused: frozenset[Row] = frozenset()
    # By the number of the process that reads.
    readings: dict[int, list[Piece]] = field(default_factory=dict)
    taken: dict[str, list[Record]] = field(default_factory=dict)

    def was_read(self, start: StartAt) -> bool:
        """Has anybody read on from there before? Then it was undone."""
        assert start.token is not None
        return any(piece.place == self.place(start.token) for pieces in self.readings.values() for piece in pieces)

    @override
    def between(self, offset_first: int, offset_next: int, step: str = "") -> list[Record]:
        return [record for record in self.taken.get(step, ()) if offset_first <= record.offset < offset_next]

    @override
    def ends(self, position: Position) -> bool:
        return position.token is not None and self.place(position.token) >= self.end

    @override
    def wrong_token(self, position: Position) -> str:
        right = position.token is not None and position.token_offset == position.offset_next
        return "" if right else f"{position.token!r} has the number {position.token_offset}, behind it is {position.offset_next}"

    @override
    def move(self, step: str, process: int, before: Position, after: Position) -> str:
        if after.place == before.place or before.token is None or after.token is None:
            return ""
        stands, goes = (self.place(before.token), before.offset_next), (self.place(after.token), after.offset_next)
        pieces = self.readings.get(process, [])
        first = next((n for n, piece in enumerate(pieces) if (piece.place, piece.offset) == stands), len(pieces))
        ends = [(piece.place_next, piece.offset_next) for piece in pieces[first:]]
        if goes not in ends:
            return f"no whole batches of one reading lead from {stands} to {goes}"
        for piece in pieces[first : first + ends.index(goes) + 1]:
            self.taken.setdefault(step, []).extend(piece.records)
        return ""


def polled(log: Log, chance: random.Random) -> PolledLog:
    """A table with as many places."""
    refused = frozenset((n, row) for n in range(NUMBERS_MAX) for row in range(ROWS_MAX) if chance.random() < 0.1)
    tokens = frozenset(range(log.first, log.end_max + 1))
    return PolledLog(log.stream, [], log.first, log.end, log.end_max, tokens, refused=refused)


class Poll(LaneReader):
    """Reads on from the token, in whole pieces."""

    replayable = False

    def __init__(self, log: PolledLog, lane: str, start: StartAt, chance: random.Random, process: int) -> None:
        super().__init__(log, lane, start, chance)
        assert start.token_offset is not None
        self._number = start.token_offset
        self._refused = log.refused
        self._pieces = log.readings.setdefault(process, [])

    @override
    def read(self, offsets: int) -> list[Raw]:
        chance, end = self._chance, min(self._place + offsets, self.log.end)
        numbers = range(self._number, self._number + chance.randint(0, 3))
        found = [self._record(number) for number in numbers]
        self._pieces.append(Piece(self._place, numbers.start, end, numbers.stop, found))
        self._place, self._number = end, numbers.stop
        return self._stream.take(Run(messages(list(numbers)), numbers.stop, self.log.token(end), whole=True))

    def _record(self, number: int) -> Record:
        rows, rejected = self._chance.randint(1, ROWS_MAX), self._chance.random() < 0.1
        bad = frozenset(row for row in range(rows) if (number, row) in self._refused)
        return Record(number, rows, rejected, bad)

    @override
    def records(self, batch: Raw) -> list[Record]:
        found = [record for piece in self._pieces for record in piece.records]
        return [record for record in found if batch.offset_first <= record.offset < batch.offset_next]
