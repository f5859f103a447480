"""What folds send to buckets, and where one begins. Everything here pickles: pieces cross processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zlib import crc32

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.ledger.windows import NEVER, UNSEEN
from waxwing.operators.windows.aggregates.parts import EXACT


class Group(NamedTuple):
    """Entries for one window: keys, and for each part of the aggregates a column of states.

    `grace`: these records came after their partition's watermark had passed the window, within the grace. `distinct`: no key is
    there twice.
    """

    end_us: int
    grace: bool
    keys: Sequence[Any]
    states: Sequence[Sequence[Any]]
    distinct: bool = False


class Sessions(NamedTuple):
    """Entries of sessions: key, times of the first and the last record, and a column of states per part."""

    keys: Sequence[Any]
    firsts: Sequence[int]
    lasts: Sequence[int]
    states: Sequence[Sequence[Any]]


class Late(NamedTuple):
    """A record that came too late for a window; one in several windows may be late for some of them.

    `letter` is what a dead letter about it would be; its row is that of no other letter about the message.
    """

    start_us: int
    end_us: int
    time_us: int
    key: Any
    letter: DeadLetter


@dataclass(slots=True)
class Piece:
    """What one batch holds for one bucket; often nothing but the positions.

    `offset_start` is where the stream began, `watermark_next` the partition's watermark behind the batch, `place` that of Held as
    the fold has it. `messages` counts the batch's, `arrived` those that no filter left out; `rejects` (earlier steps' too) travel
    to the first bucket, with the numbers of their messages among the arrived. `token` is that of the batch: of offset_next.
    """

    stream: Stream
    offset_start: int
    offset_first: int
    offset_next: int
    watermark_next: int
    messages: int
    arrived: int
    place: int = NEVER
    groups: list[Group] = field(default_factory=list)
    sessions: Sessions | None = None
    late: list[Late] = field(default_factory=list)
    rejects: list[DeadLetter] = field(default_factory=list)
    rejects_at: list[int] = field(default_factory=list)
    token: bytes | None = None


class Mark(NamedTuple):
    """A partition has no more records at this offset: for now (it is idle), or for ever (`ended`, in a bounded run).

    `clock_us`: what is idle was idle already at that time of the day.
    """

    stream: Stream
    offset_start: int
    offset: int
    ended: bool
    clock_us: int = NEVER


class Held(NamedTuple):
    """How far a bucket has come in a stream: where the stream began, the next offset, and the watermark there.

    `place` is where a stream that began in the middle of its log, or passed over lost records, begins in event time: no record
    that was not read belongs to a window from there on. NEVER: it was read whole. It is an upper bound, which falls with what is
    read: a record is at most the lateness older than any before it. UNSEEN: nothing was read yet, and nobody knows.
    `token` is what the source calls `token_offset`, the last place at or below offset_next that it gave a name (None: none).
    """

    offset_start: int
    offset_next: int
    watermark: int
    place: int = NEVER
    token: bytes | None = None
    token_offset: int | None = None


class Opening(NamedTuple):
    """Where a fold begins to read a stream, with the watermark there; it ends a batch at each of `splits` (rising)."""

    offset_start: int
    offset: int
    watermark: int
    splits: tuple[int, ...] = ()
    place: int = NEVER


def first_held(offset_start: int, moment_us: int | None = None) -> Held:
    """What is held of a stream of which nothing was taken in yet.

    Offset 0 is a log's very beginning; behind it records were there before. `moment_us`: all of these were written before that
    time, and so are no younger (a message tells of the past).
    """
    place = NEVER if offset_start == 0 else UNSEEN if moment_us is None else moment_us
    return Held(offset_start, offset_start, NEVER, place)


def first_opening(offset_start: int) -> Opening:
    """Where a fold begins a stream of which nothing was taken in yet."""
    held = first_held(offset_start)
    return Opening(offset_start, offset_start, NEVER, (), held.place)


def openings(buckets: Iterable[Mapping[Stream, Held]]) -> dict[Stream, Opening]:
    """Where each stream begins: at the lowest position that any of the buckets holds, with the watermark held there.

    A bucket that does not know a stream yet counts as at its start. A stream that none knows is not in the answer: it begins
    at first_opening(start).
    """
    all_held = list(buckets)
    out = {}
    for stream in dict.fromkeys(stream for held in all_held for stream in held):
        (start,) = {held[stream].offset_start for held in all_held if stream in held}
        asks = [held.get(stream) or first_held(start) for held in all_held]
        first = min(ask.offset_next for ask in asks)
        lowest = [ask for ask in asks if ask.offset_next == first]
        splits = tuple(sorted({ask.offset_next for ask in asks} - {first}))
        out[stream] = Opening(start, first, max(a.watermark for a in lowest), splits, max(a.place for a in lowest))
    return out


def buckets_of(keys: Sequence[Any], fields: int, buckets: int) -> list[int]:
    """The bucket of each key: equal keys are in one bucket, in every process.

    Texts and whole numbers, the usual keys, take no detour, nor a memory of keys: looking one up among 100,000 costs more.
    """
    kinds = set(map(type, keys)) if fields == 1 else set()
    if kinds == {str}:
        sums = map(crc32, map(str.encode, keys))
    elif kinds == {int}:
        sums = map(crc32, map(b"%d".__mod__, keys))
    elif fields == 1:
        sums = map(crc32, map(_encoded, keys))
    else:
        sums = map(crc32, [b"\x1f".join(map(_encoded, key)) for key in keys])
    return [one % buckets for one in sums]


def _encoded(value: Any) -> bytes:
    """Equal values have equal bytes: 1, True and Decimal("1.0"), or one moment in two time zones."""
    kind = type(value)
    if kind is bytes:
        return bytes(value)
    if kind is int or kind is bool or (kind is Decimal and value == value.to_integral_value()):
        return b"%d" % value
    if kind is Decimal:
        value = value.normalize(EXACT)  # whatever context the caller has
    elif kind is datetime and value.tzinfo is not None:
        value = value.astimezone(UTC)
    return str(value).encode()
