"""The model source: reads a log in batches that end at every split point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.simulation.truth import Log
from waxwing.batch import Batch, Columns, Reject, Stream
from waxwing.errors import StopError
from waxwing.positions import StartAt


class Straddles(StopError):
    """A stored position lies inside of a sum. `known`: it was stored already when the source opened."""

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


class Sum(Batch[Any]):
    """A batch whose one record was made of all its messages, as a pre-aggregate is: it can't be cut."""

    known: int | None = None

    def after(self, offset: int) -> Batch[Any]:
        if offset > self.offset_first:
            raise Straddles(
                f"{self.stream}: a sum of {self.offset_first} to {self.offset_next}, stored is {offset}",
                known=offset == self.known,
            )
        return self


class LaneReader:
    """One partition as a lane reads it."""

    def __init__(self, log: Log, lane: str, start: StartAt) -> None:
        self.log, self.lane, self.position = log, lane, start.offset
        self._splits = start.splits

    @property
    def behind(self) -> bool:
        """Is there something to read?"""
        return self.position < self.log.end

    def read(self, offsets: int) -> Iterator[tuple[int, int]]:
        """The next offsets, in pieces that end at every split point."""
        end = min(self.position + offsets, self.log.end)
        for cut in [split for split in self._splits if self.position < split < end] + [end]:
            first, self.position = self.position, cut
            yield first, cut


def batch_of(step: str, log: Log, lane: str, offset_first: int, offset_next: int, began: Mapping[Stream, int]) -> Batch[Any]:
    """What reaches a step of these offsets; `began` is where the step stood when the source opened.

    A row is a list of (offset, number) pairs: one, or for a sum all of them.
    """
    found = log.between(offset_first, offset_next)
    size = len(found)
    messages = Columns([r.offset for r in found], [None] * size, [b""] * size, [-1] * size, [()] * size)
    rejects = [Reject(at, "parse", "bad") for at, record in enumerate(found) if record.rejected]
    rows = [(at, (record.offset, n)) for at, record in enumerate(found) if not record.rejected for n in range(record.rows)]
    if step != "sums":
        records, places = [[row] for _, row in rows], [at for at, _ in rows]
        return Batch(log.stream, lane, offset_first, offset_next, messages, records, places, rejects)
    whole = [[row for _, row in rows]] if rows else []
    arrived = [at for at, record in enumerate(found) if record.rejected or record.rows]
    batch = Sum(log.stream, lane, offset_first, offset_next, messages, whole, [0] * len(whole), rejects, stands_for=arrived)
    object.__setattr__(batch, "known", began[log.stream])
    return batch
