"""What is written beside a folder of Parquet files: anchors, and the records of lanes' chains."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.errors import ConfigError, DataError
from waxwing.ledger.contents import OwnerRow
from waxwing.ledger.members import Member
from waxwing.ledger.store import Stored
from waxwing.ledger.windows import Defined, dump_streams, load_streams

FORMAT = 1
# Every so many records of a chain one is a head, with which a fresh segment begins.
SEGMENT_RECORDS = 1_000


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """What moves of a position: by a lane's commits, or, now and then, by the anchor.

    `since` is the number of the anchor that set it last: what a chain says of a stream counts where it builds on that.
    `state`: the file in staging that holds what is kept with the position; empty: nothing is.
    """

    since: int
    offset_next: int
    records_seen: int
    records_bad: int
    bad_run: int
    token: bytes | None
    token_offset: int | None
    rows_seen: int
    rows_bad: int
    rows_bad_run: int
    state: str = ""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A stream in an anchor."""

    source: str
    source_id: str
    partition: int
    offset_start: int
    offset_end: int | None
    limits_from: int
    generation: int
    moved: Moved


class File(msgspec.Struct, frozen=True, array_like=True):
    """A file in staging that a record moves in: among the rows, or the dead letters, under a name below their folder."""

    staged: str
    letters: bool
    to: str


class Run(msgspec.Struct, frozen=True, array_like=True):
    """An owner that may write: its chains' folder, and the sink partitions that have one there."""

    token: str
    folder: str
    parts: tuple[str, ...]


class OwnerRecord(msgspec.Struct, frozen=True, array_like=True):
    """An owner, as the ledger knows it."""

    generation: int
    token: str
    run: str
    process: int
    own: str
    place: str
    heartbeat_ms: int


class WindowsRecord(msgspec.Struct, frozen=True, array_like=True):
    """The step's windows."""

    buckets: int
    text: str
    streams: str


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """Who owns the step, where its streams began, and where they stood when it was written.

    `files` are still to be moved in. `columns` has the type of each column that files have, by its name; `keys` the columns that
    stand in the folders' names (None: nobody has said yet).
    """

    format: int
    flow: str
    step: str
    rows: tuple[Row, ...] = ()
    windows: WindowsRecord | None = None
    owners: tuple[OwnerRecord, ...] = ()
    runs: tuple[Run, ...] = ()
    files: tuple[File, ...] = ()
    columns: dict[str, str] = {}
    keys: tuple[str, ...] | None = None


class Link(msgspec.Struct, frozen=True, array_like=True):
    """A record of a lane's chain: where its streams stand, and which files it moves in.

    `segment`: of a head, the folder of the records behind it. `sealed`: nothing but this: the token of who has taken the step.
    """

    streams: tuple[tuple[str, str, int, Moved], ...] = ()
    files: tuple[File, ...] = ()
    segment: str = ""
    sealed: str = ""
    format: int = FORMAT


T = TypeVar("T", Anchor, Link)

pack = msgspec.msgpack.encode


def unpack(path: Path, packed: bytes, kind: type[T]) -> T:
    """A record as it was read.

    Raises:
        DataError: it is damaged.
        ConfigError: a later release has written it.
    """
    try:
        record: T = msgspec.msgpack.decode(packed, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(
            f"{path} is damaged: {error}.", hint="Restore its folder from a backup, with the folder of the rows."
        ) from error
    if record.format != FORMAT:
        raise ConfigError(f"{path} has format {record.format}, this Waxwing knows {FORMAT}.", hint="Run the newer Waxwing.")
    return record


def stream_of(flow: str, row: Row) -> Stream:
    """The stream of a row."""
    return Stream(flow, row.source, row.source_id, row.partition)


def moved_of(position: Position, since: int, state: str) -> Moved:
    """What moves of a position."""
    return Moved(
        since,
        position.offset_next,
        position.records_seen,
        position.records_bad,
        position.bad_run,
        position.token,
        position.token_offset,
        position.rows_seen,
        position.rows_bad,
        position.rows_bad_run,
        state,
    )


def row_of(stored: Stored, moved: Moved) -> Row:
    """A stored position as an anchor keeps it."""
    position = stored.position
    said = position.offset_start, position.offset_end, position.limits_from
    return Row(*position.stream[1:], *said, stored.generation, moved)


def stored_of(flow: str, row: Row, moved: Moved) -> Stored:
    """A stored position, by what an anchor says of its stream and by where it stands."""
    position = Position(
        stream_of(flow, row),
        moved.offset_next,
        row.offset_start,
        row.offset_end,
        records_seen=moved.records_seen,
        records_bad=moved.records_bad,
        bad_run=moved.bad_run,
        limits_from=row.limits_from,
        token=moved.token,
        token_offset=moved.token_offset,
        rows_seen=moved.rows_seen,
        rows_bad=moved.rows_bad,
        rows_bad_run=moved.rows_bad_run,
    )
    return Stored(position, row.generation)


def defined_of(flow: str, record: WindowsRecord) -> Defined:
    """The step's windows, as the ledger has them."""
    return Defined(record.buckets, record.text, load_streams(flow, record.streams))


def windows_record(defined: Defined | None) -> WindowsRecord | None:
    """The step's windows, as an anchor has them."""
    return None if defined is None else WindowsRecord(defined.buckets, defined.text, dump_streams(defined.streams))


def owner_row(record: OwnerRecord) -> OwnerRow:
    """An owner, as the ledger has it."""
    return OwnerRow(record.token, Member(record.run, record.process, record.own), record.place, record.heartbeat_ms)


def owner_record(generation: int, row: OwnerRow) -> OwnerRecord:
    """An owner, as an anchor has it."""
    return OwnerRecord(generation, row.token, *row.member, row.place, row.heartbeat_ms)


def place_of(stored: Stored) -> Moved:
    """What moves of a stored position, to see whether it was moved."""
    return moved_of(stored.position, 0, "")
