"""Batch: a run of records of one stream, the one item that travels through Bytewax."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, cast

from waxwing.errors import OffsetGap

R = TypeVar("R")
S = TypeVar("S")

Headers = Sequence[tuple[str, bytes | None]]

# A column of every database holds so much; resume tokens and sets of GTIDs have some hundred bytes.
TOKEN_BYTES_MAX = 4_096
# Of a source's name, and of its id.
SOURCE_CHARACTERS_MAX = 255


class Stream(NamedTuple):
    """What a position belongs to: one partition of one source, as read by one flow.

    `source` is the name that people know (a topic, a table); `source_id` tells a re-created one apart, and makes it another
    stream (a topic's id; where the broker has none it is `name:<topic>`); `partition` is 0 where there is only one.
    """

    flow: str
    source: str
    source_id: str
    partition: int

    def __str__(self) -> str:
        return f"{self.source}[{self.partition}]"


class Reject(NamedTuple):
    """A record, or one row made of it, that goes to the dead letters.

    `at` is the message's number in the batch, `row` the row's number among those made of
    the message, `stage` the step that refused it (parse, enrich, sink), `reason` why. A row of a batch that is
    taken as a whole is made of many messages: then `value` is the row itself, as JSON, and `at` the last message's.
    """

    at: int
    stage: str
    reason: str
    row: int = 0
    value: bytes | None = None


def _place(reject: Reject) -> tuple[int, int]:
    return reject.at, reject.row


class Delete(NamedTuple):
    """A tombstone: the message's number in the batch, and what it deletes.

    `key` is the message's own key in bytes; or, where it was decoded, the values of the key's columns. `names` says which columns
    these are, in their order; without, they are those of the target, in its own. `table` says of which table, where a step writes
    several.
    """

    at: int
    key: bytes | tuple[Any, ...]
    names: tuple[str, ...] = ()
    table: str = ""


class Into(NamedTuple):
    """A record that says which of its step's tables it goes into."""

    table: str
    record: Any


class Messages(Protocol):
    """The messages of a batch, one list a field: entry n of each belongs to message n. A source may fill a list when first asked.

    It pickles: batches cross processes.
    """

    def __len__(self) -> int: ...
    @property
    def offsets(self) -> Sequence[int]:
        """Their numbers, rising."""

    @property
    def keys(self) -> Sequence[bytes | None]:
        """Their keys; None: it has none."""

    @property
    def values(self) -> Sequence[bytes | None]:
        """What `parse` reads; None: a tombstone."""

    @property
    def timestamps_ms(self) -> Sequence[int]:
        """Milliseconds since 1970; -1: nobody knows."""

    @property
    def headers(self) -> Sequence[Headers]:
        """Further pairs of a name and a value, a sequence for each message."""

    def part(self, first: int, end: int) -> Messages:
        """The messages numbered first <= n < end, as a Messages of their own."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Messages held as plain lists (what the memory source makes, and what pickles).

    `timestamps_ms` are epoch milliseconds, -1 where the message has none.
    """

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int]
    headers: Sequence[Headers]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, first: int, end: int) -> Columns:
        """The messages numbered first <= n < end."""
        return Columns(
            self.offsets[first:end],
            self.keys[first:end],
            self.values[first:end],
            self.timestamps_ms[first:end],
            self.headers[first:end],
        )


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """A run of records of one partition, half-open: offset_first <= offset < offset_next.

    Offsets may have holes (compaction, transaction markers). `records[i]` was made of message
    number `at[i]`; `at` never falls and is `range(len(messages))` until a step filters or
    multiplies. `rejects` and `deletes` are in message order. `lane` names the source partition it came by.
    The records of a batch that is `whole` stand for all its messages at once (pre-aggregates do), or for those that a filter
    left (`stands_for`, their numbers): it is never cut, and `at` says nothing of them. A batch with a `mark` holds nothing: its
    partition has no more records, for now ("idle", since `idle_s`) or for ever ("end" of a bounded run).
    `token` is what the source calls the place of offset_next, where it can be read from: opaque to all others, of TOKEN_BYTES_MAX
    at most.
    """

    stream: Stream
    lane: str
    offset_first: int
    offset_next: int
    messages: Messages
    records: Sequence[R]
    at: Sequence[int]
    rejects: Sequence[Reject] = ()
    deletes: Sequence[Delete] = ()
    whole: bool = False
    mark: Literal["", "idle", "end"] = ""
    idle_s: float = 0.0
    stands_for: Sequence[int] | None = None
    token: bytes | None = None

    @property
    def arrived(self) -> Sequence[int]:
        """The numbers of the messages that came this far, as a record, a delete or a reject: those that no step filtered out."""
        if self.stands_for is not None:
            return self.stands_for
        if isinstance(self.at, range) or self.whole:  # one record a message
            return range(len(self.messages))
        return sorted({*self.at, *(reject.at for reject in self.rejects), *(delete.at for delete in self.deletes)})

    def with_records(
        self,
        records: Sequence[S],
        at: Sequence[int],
        rejects: Sequence[Reject] | None = None,
        deletes: Sequence[Delete] | None = None,
    ) -> Batch[S]:
        """The same batch after a step: new records, and all rejects so far (sorted here by message)."""
        made: Any = replace(  # all other fields, those to come too; of another type of record from here on
            self,
            records=cast("Any", records),
            at=at,
            rejects=self.rejects if rejects is None else sorted(rejects, key=_place),
            deletes=self.deletes if deletes is None else deletes,
        )
        return cast("Batch[S]", made)

    def part(self, first: int, end: int) -> Batch[R]:
        """The part made of the messages numbered first <= n < end.

        The first part begins at offset_first and the last one ends at offset_next; a cut in
        between lies on the offset of the message behind it, so that parts join without a gap.
        """
        size = len(self.messages)
        low, high = bisect_left(self.at, first), bisect_left(self.at, end)
        return replace(
            self,
            offset_first=self.offset_first if first <= 0 else self.messages.offsets[first] if first < size else self.offset_next,
            offset_next=self.offset_next if end >= size else self.messages.offsets[end],
            messages=self.messages.part(first, end),
            records=self.records[low:high],
            at=[n - first for n in self.at[low:high]],
            rejects=[r._replace(at=r.at - first) for r in self.rejects if first <= r.at < end],
            deletes=[d._replace(at=d.at - first) for d in self.deletes if first <= d.at < end],
            stands_for=None if self.stands_for is None else [n - first for n in self.stands_for if first <= n < end],
            token=self.token if end >= size else None,
        )

    def after(self, offset: int) -> Batch[R]:
        """What lies at or above an offset: the replay cut. `offset_first` becomes the offset.

        Raises:
            OffsetGap: the batch is whole and the offset lies inside it: the source did not end a batch there.
        """
        if offset <= self.offset_first:
            return self
        if self.whole and offset < self.offset_next:
            raise OffsetGap(
                f"{self.stream}: a stored position, {offset}, lies inside a batch that stands for offsets {self.offset_first} "
                f"to {self.offset_next} as a whole.",
                hint="Nothing of it was written. The source must know every target of the flow, so that it ends a batch at each "
                "stored position: leave feeds=[...] out.",
                source=self.stream.source,
                partition=self.stream.partition,
                offset_first=self.offset_first,
                expected=offset,
            )
        first = bisect_left(self.messages.offsets, offset)
        return replace(self.part(first, len(self.messages)), offset_first=offset) if first else replace(self, offset_first=offset)


def row_numbers(batch: Batch[Any], records: Sequence[int]) -> list[int]:
    """Each record's number among the rows that its message made, those rejected before included."""
    taken: dict[int, set[int]] = {}
    for reject in batch.rejects:
        taken.setdefault(reject.at, set()).add(reject.row)
    out = []
    for record in records:
        at, before = batch.at[record], 0
        while before < record and batch.at[record - before - 1] == at:
            before += 1
        gone = taken.get(at)
        out.append(before if gone is None else next(islice((row for row in count() if row not in gone), before, None)))
    return out


def raw(stream: Stream, lane: str, offset_first: int, offset_next: int, messages: Messages) -> Batch[bytes | None]:
    """A batch as a source makes it: the records are the messages' values."""
    return Batch(stream, lane, offset_first, offset_next, messages, messages.values, range(len(messages)))


def marked(stream: Stream, lane: str, offset: int, mark: Literal["idle", "end"], idle_s: float = 0.0) -> Batch[bytes | None]:
    """A batch that only says that the partition has no more records at this offset."""
    return Batch(stream, lane, offset, offset, Columns((), (), (), (), ()), (), (), mark=mark, idle_s=idle_s)


def lane_name(lane: int) -> str:
    """The name of a lane, zero-padded: Bytewax sorts partition names as text."""
    return f"lane-{lane:03}"


def part_fn(names: Sequence[str]) -> Callable[[str], int]:
    """The sink's routing: a lane's name to the number of the sink partition of that name, or the only one."""
    numbers: dict[str, Any] = {name: number for number, name in enumerate(sorted(names))}
    return lambda lane: numbers.get(lane, 0)
