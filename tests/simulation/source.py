"""The model source: reads a log in runs, which the shipped reader cuts into batches.

Where the log has tokens, it is read from a token, and numbered on from the offset that is stored with it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sources.kit.reading.stream import StreamReader
from sources.kit.starting.positions import StartAt
from sources.kit.words import OpenPart, Raw, Run
from tests.simulation.truth import Log, Record
from waxwing.batch import Batch, Columns, Reject, Stream
from waxwing.errors import StopError

# Longer than any windows wait.
IDLE_S = 1_000.0


class Straddles(StopError):
    """A stored position lies inside of a sum. `known`: it was stored already when the source opened."""

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


class Sum(Batch[Any]):
    """A batch whose one record was made of all its messages, as a pre-aggregate is: it can't be cut."""

    known: int | None = None

    def after(self, offset: int) -> Batch[Any]:
        if self.offset_first < offset < self.offset_next:
            raise Straddles(
                f"{self.stream}: a sum of {self.offset_first} to {self.offset_next}, stored is {offset}",
                known=offset == self.known,
            )
        return super().after(offset)


class Starts:
    """Where logs begin, and where START says; of these places alone the source knows what they are called."""

    def __init__(self, logs: Mapping[int, Log], *, latest: bool) -> None:
        self._logs = {log.stream: log for log in logs.values()}
        self._latest = latest
        self.first = {stream: log.first for stream, log in self._logs.items()}
        self._known = set(self.first.items())

    def resolve(self) -> Mapping[Stream, int]:
        """START: the logs' starts, or their ends of this moment (the last transaction's, where they have tokens)."""
        if not self._latest:
            return self.first
        ends = {stream: max((p for p in log.tokens if p <= log.end), default=log.end) for stream, log in self._logs.items()}
        self._known |= set(ends.items())
        return ends

    def token_of(self, stream: Stream, offset: int) -> bytes | None:
        """What the source calls that place."""
        return self._logs[stream].token(offset) if (stream, offset) in self._known else None


class LaneReader:
    """One partition as a lane reads it.

    Attributes:
        shift: how far the numbers that records get lie above their places in the log: not at all, if all is right.
    """

    replayable = True

    def __init__(self, log: Log, lane: str, start: StartAt, chance: random.Random) -> None:
        self.log, self._chance = log, chance
        part = OpenPart(log.stream, start.offset, start.splits, token=start.token, token_offset=start.token_offset)
        self._stream = StreamReader(lane, part, replayable=self.replayable)
        self._place, self.shift = start.offset, 0
        if start.token is not None and start.token_offset is not None:
            self._place = log.place(start.token)
            self.shift = start.token_offset - self._place
        self._again = self._said = False

    @property
    def behind(self) -> bool:
        """Is there something to read?"""
        return self._again or self._place < self.log.end

    def read(self, offsets: int) -> list[Raw]:
        """The next offsets, in batches that end at every split point; or nothing but a later token for the same place."""
        first, end = self._place, min(self._place + offsets, self.log.end)
        if self._again:
            end = first
        elif self.log.tokens and self._chance.random() < 0.5:
            end = min((place for place in self.log.tokens if first < place <= end), default=end)
        token = self.log.token(end, int(self._again))
        self._place, self._again = end, token is not None and not self._again and self._chance.random() < 0.3
        offsets_read = [record.offset + self.shift for record in self.log.between(first, end)]
        return self._stream.take(Run(messages(offsets_read), end + self.shift, token))

    @property
    def is_over(self) -> bool:
        """Has the log come to its end, which was not said yet?"""
        return not self._said and self._place >= self.log.end == self.log.end_max

    def ended(self) -> Raw:
        """Says that nothing more comes."""
        self._said = True
        return self._stream.ended()

    def idle(self) -> Raw:
        """Says that nothing came for long."""
        return replace(self._stream.rests(), idle_s=IDLE_S)

    def records(self, batch: Raw) -> list[Record]:
        """What the messages of a batch are, as the log has them."""
        return self.log.between(batch.offset_first - self.shift, batch.offset_next - self.shift)


def messages(offsets: list[int]) -> Columns:
    """Messages of which only the offset matters."""
    size = len(offsets)
    return Columns(offsets, [None] * size, [b""] * size, [-1] * size, [()] * size)


def batch_of(step: str, read: Raw, found: list[Record], began: Mapping[Stream, int]) -> Batch[Any]:
    """What reaches a step of a batch that was read; `began` is where the step stood when the source opened.

    A row is a list of (offset, number) pairs: one, or for a sum all of them.
    """
    rejects = [Reject(at, "parse", "bad") for at, record in enumerate(found) if record.rejected]
    rows = [(at, (record.offset, n)) for at, record in enumerate(found) if not record.rejected for n in range(record.rows)]
    if step != "sums":
        return read.with_records([[row] for _, row in rows], [at for at, _ in rows], rejects)
    whole = [[row for _, row in rows]] if rows else []
    arrived = [at for at, record in enumerate(found) if record.rejected or record.rows]
    first, end, at = read.offset_first, read.offset_next, [0] * len(whole)
    batch = Sum(read.stream, read.lane, first, end, read.messages, whole, at, rejects, stands_for=arrived, token=read.token)
    object.__setattr__(batch, "known", began[read.stream])
    return batch


def place_told(start: StartAt) -> str:
    """Where reading starts, for the trace."""
    if start.token is None or start.token_offset is None:
        return str(start.offset)
    return f"{start.offset}, {start.offset - start.token_offset} above the token {start.token!r}"
