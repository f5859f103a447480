"""What a source says and is asked, in the words of any source: logs, places, runs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from waxwing.batch import TOKEN_BYTES_MAX, Batch, Columns, Headers, Messages, Stream
from waxwing.errors import TargetError

Raw = Batch[bytes | None]

# What may have something to read now is looked at so often.
LOOK_S = 0.02


class NotThere(Exception):
    """What was there a moment ago is gone: a topic, a table, a file."""


@dataclass(frozen=True, slots=True)
class Log:
    """What a source has of one stream, now.

    `source`, `source_id` and `partition` name the stream, as in waxwing.batch.Stream. `first` is the first offset that can be
    read, and `end` the one behind the last record; None: nobody knows, then a bounded run ends where `read` first does. A source
    with tokens names both places: it is read from `token` on, and the first record there has the number `first`.
    `written`: up to here a stored position is none that was lost (by default `end`): behind it may stand what can't be read yet.
    `kept` False: the log's beginning is not kept for those who come later (a change log's slot): then `first` and `token` are
    where a stream begins that nobody holds, and a step that is added begins where the lowest of the others can be read from.
    """

    source: str
    source_id: str
    partition: int = 0
    first: int = 0
    token: bytes | None = None
    end: int | None = None
    end_token: bytes | None = None
    written: int | None = None
    kept: bool = True

    def nearest(self, offset: int) -> int:
        """The offset, or where the log is nearest to it."""
        if not self.kept:
            return offset
        return max(offset if self.end is None else min(offset, self.end), self.first)


class Begin(NamedTuple):
    """Where a stream begins: an offset, and the token of that very place where the source has tokens."""

    offset: int
    token: bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where to read a stream from: the record read first at `token` has the number `offset`."""

    stream: Stream
    offset: int
    token: bytes | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What was read in one go, in the log's order: messages, and the offset behind them.

    Attributes:
        messages: their offsets rise, and lie below `offset_next`.
        offset_next: where the next run begins; None: behind the last message.
        token: what the source calls that place, where it can be read from.
        whole: it is never cut: for a source that can't be read again the same way.
    """

    messages: Messages
    offset_next: int | None = None
    token: bytes | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.token, bytes) and len(self.token) > TOKEN_BYTES_MAX:
            raise TargetError(f"A source's token has {len(self.token):,} bytes: at most {TOKEN_BYTES_MAX:,} can be kept.")


def numbered(
    first: int,
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    headers: Sequence[Headers] | None = None,
    token: bytes | None = None,
    whole: bool = False,
) -> Run:
    """A run of records that the source counts itself: they have the numbers first, first + 1, and so on.

    Args:
        first: of the first one.
        values: the records, as `parse` takes them.
        keys: their keys, if they have any.
        timestamps_ms: when they were written, in milliseconds since 1970; -1 where nobody knows.
        headers: further names and values.
        token: what the source calls the place behind them.
        whole: as in Run.
    """
    size = len(values)
    offsets = range(first, first + size)
    return Run(messages(offsets, values, keys=keys, timestamps_ms=timestamps_ms, headers=headers), first + size, token, whole)


def messages(
    offsets: Sequence[int],
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    headers: Sequence[Headers] | None = None,
) -> Messages:
    """Messages for a `Run`, with numbers of their own: rising, with holes where you like. The rest as in `numbered`."""
    size = len(offsets)
    return Columns(
        offsets,
        [None] * size if keys is None else keys,
        values,
        [-1] * size if timestamps_ms is None else timestamps_ms,
        [()] * size if headers is None else headers,
    )


class Fetched(NamedTuple):
    """A run of one stream. `at_end`: behind it there is nothing for now; `over`: and nothing will come in this reading."""

    stream: Stream
    run: Run
    at_end: bool = False
    over: bool = False


class Alert(Protocol):
    """Tells the kit of what is odd: look at the source; or, of a stream, that its log does not hold the position asked for."""

    def __call__(self, stream: Stream | None = None) -> None: ...


class LaneReader(ABC):
    """What a lane reads its streams with. Used by one thread, which only `wait` keeps waiting."""

    @property
    def waits_with(self) -> object:
        """What those have in common whose `wait` is the same, and ends for all of them. (Time, where that is all.)"""
        return time

    @property
    def found_little(self) -> bool:
        """Did the last reading leave nothing of a queue that fills by itself? Then a rest makes larger batches."""
        return False

    @abstractmethod
    def open(self, places: Sequence[Place]) -> None:
        """Read these as well."""

    @abstractmethod
    def read(self, records_max: int) -> Sequence[Fetched]:
        """What is there, about so many records at most; nothing, if nothing is there."""

    def wait(self, timeout_s: float) -> None:
        """Wait for something to read, for so long at most. (Who can't tell waits until it is time to look again.)"""
        time.sleep(min(timeout_s, LOOK_S))

    @abstractmethod
    def leave(self, stream: Stream) -> None:
        """Read this one no more: it has reached its end."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


EMPTY = Columns((), (), (), (), ())


@dataclass(frozen=True)
class OpenPart:
    """One stream, ready to be read: from `offset`, or where the source has tokens from `token`, whose place is `token_offset`."""

    stream: Stream
    offset: int
    splits: tuple[int, ...] = ()
    offset_end: int | None = None
    token: bytes | None = None
    token_offset: int | None = None

    @property
    def place(self) -> Place:
        """Where the source reads from."""
        return Place(self.stream, self.offset if self.token_offset is None else self.token_offset, self.token)
