"""What a transaction takes in, and what it leaves: changes, positions, dead letters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from waxwing.batch import Batch, Headers, Stream
from waxwing.errors import DataError


class Position(NamedTuple):
    """A stored position of one stream in one step.

    `offset_next` is the first offset not taken in; `offset_start` where the step first began;
    `offset_end` where a bounded run ends (None: it does not).
    The counters serve the limits on bad rows: `records_seen` and `records_bad` since the limits were
    last reset, `bad_run` the bad records in a row just before offset_next, `limits_from` the offset below which
    nothing is judged. `rows_seen`, `rows_bad` and `rows_bad_run` are the same for rows that stand for no one record (closed
    windows).
    `state`: what the step keeps with its position, such as open windows.
    `token` is what the source calls the place `token_offset` (<= offset_next), where it begins to read; None: it needs none.
    """

    stream: Stream
    offset_next: int
    offset_start: int
    offset_end: int | None = None
    records_seen: int = 0
    records_bad: int = 0
    bad_run: int = 0
    limits_from: int = 0
    state: bytes | None = None
    token: bytes | None = None
    token_offset: int | None = None
    rows_seen: int = 0
    rows_bad: int = 0
    rows_bad_run: int = 0

    @property
    def place(self) -> tuple[int, bytes | None]:
        """By this a commit of unknown outcome is known again; a compare-and-set compares it, and the owner."""
        return self.offset_next, self.token


class Start(NamedTuple):
    """Where a stream begins that has no position yet (`token`: what the source calls that place); where a bounded run ends."""

    stream: Stream
    offset_start: int
    offset_end: int | None
    token: bytes | None = None

    @property
    def position(self) -> Position:
        """That of a step that has taken nothing in yet."""
        at = self.offset_start
        return Position(self.stream, at, at, self.offset_end, token=self.token, token_offset=None if self.token is None else at)


def refuse_renamed(known: Iterable[Stream], starts: Iterable[Start], name: str, step: str) -> None:
    """Positions are found by a source's id: under one id there is one name.

    Args:
        known: the streams that the step has.
        starts: those that are about to begin, or to go on.
        name: of the target, for messages.
        step: the step's.

    Raises:
        DataError: what is known under one name is about to begin under another.
    """
    names = {(stream.source_id, stream.partition): stream for stream in known}
    for start in starts:
        new = start.stream
        old = names.setdefault((new.source_id, new.partition), new)
        if old.source != new.source:
            raise DataError(
                f"{name}: step {step} knows {old} by the id {new.source_id!r}, which {new} has now. Was it renamed?",
                hint="Give it its name back, then start again: it goes on where it stood. Is it another one? Then its source has "
                f"to give it another id. Are both wanted anew? Empty the table, and: waxwing step drop {new.flow} {step}.",
                step=step,
                source=new.source,
            )


def sources_of(starts: Iterable[Start]) -> set[str]:
    """The names of their sources."""
    return {start.stream.source for start in starts}


class DeadLetter(NamedTuple):
    """One row of the dead letters; its key is (flow, step, source id, partition, offset, row)."""

    stream: Stream
    offset: int
    row: int
    stage: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def place(self) -> tuple[Stream, int, int]:
        """Its key within a step."""
        return self.stream, self.offset, self.row


@dataclass(slots=True)
class Change:
    """What one transaction takes in: batches in order, and per stream the move from `before` to `after`.

    The compare-and-set of a stream is `before[stream].place` -> `after[stream].place`.
    """

    batches: list[Batch[Any]]
    before: dict[Stream, Position]
    after: dict[Stream, Position]
    dead_letters: list[DeadLetter] = field(default_factory=list)
    # Set while the outcome of an earlier COMMIT of this very change is unknown: then a position
    # that already stands at `after` means that it was committed, otherwise it is a conflict.
    in_doubt: bool = False
    # Rows and deletes of the batches that are written one after the other, in this order; None: all of them at once.
    parts: Sequence[list[Batch[Any]]] | None = None
    # Others write the same rows: lock them in the order of their keys, where that changes nothing else.
    by_key: bool = False
    # Messages taken in, and rows, where the batches do not hold them (windows; what was staged).
    messages: int | None = None
    rows: int | None = None


class Size(NamedTuple):
    """How large and how old a target's changes get.

    Attributes:
        rows_max: records in one; a batch is not cut.
        age_s: how long a record waits for others before its change is committed.
        commit_s: about how long a commit should take: changes are made smaller or larger until it does. None: they are as large
            as they may be.
        staged: whether records are taken in as they come, before the commit (into a growing file, a spool), so that a change may
            be larger than memory.
    """

    rows_max: int
    age_s: float
    commit_s: float | None = 0.1
    staged: bool = False


class Order(NamedTuple):
    """What has to be known to write rows in another order than that of their messages.

    `keys`: what stands for the key of each record, then of each delete, numbered as in RowError.bad; None: any order will do.
    `replaces`: a later row of the same key makes an earlier one needless.
    """

    keys: Sequence[Hashable] | None = None
    replaces: bool = False
