"""Where reading starts, decided: pure functions over stored positions and what the logs hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sources.kit.starting.positions import StartAt
from sources.kit.state import StreamState
from sources.kit.words import Log, OpenPart
from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.errors import DataLoss

CONTINUE_HINT = "To go on without them, start with ON_DATA_LOSS=continue; what is lost stays lost."


class Lost(NamedTuple):
    """A position that the log does not hold."""

    stream: Stream
    position: int


def start_time_ms(start: str) -> int | None:
    """START as epoch milliseconds; None for earliest and latest. The settings have checked it."""
    return None if start in {"earliest", "latest"} else int(datetime.fromisoformat(start).timestamp() * 1000)


def recreated(noun: str, source: str, ids: Collection[str], held: Iterable[Position]) -> DataLoss | None:
    """The error when positions stand for an earlier source of this name and none for the present one.

    Args:
        noun: what the source's kind is called: topic, table.
        source: its name.
        ids: what tells the present one apart.
        held: the stored positions.
    """
    of_source = [position for position in held if position.stream.source == source]
    if not of_source or any(position.stream.source_id in ids for position in of_source):
        return None
    stood = ", ".join(f"{p.stream} at {p.offset_next}" for p in sorted({_bare(p) for p in of_source}, key=lambda p: p.stream))
    now = ", ".join(sorted(ids))
    return recreated_error(
        noun, source, now, of_source[0].stream.source_id, f"The positions stored are of the old one ({stood})."
    )


def _bare(position: Position) -> Position:
    return Position(position.stream, position.offset_next, 0)


def recreated_error(noun: str, source: str, source_id: str, old_id: str, detail: str) -> DataLoss:
    """The error for a source that was deleted and created again."""
    return DataLoss(
        f"{noun.capitalize()} {source} was deleted and created again: it is a new {noun} (id {source_id}, was {old_id}). "
        f"{detail}",
        hint=f"ON_DATA_LOSS=continue reads the new {noun} from its log's start; what the old one still held unread is lost.",
        **{noun: source, f"{noun}_id": source_id, f"{noun}_id_before": old_id},
    )


def missing(lost: Sequence[Lost], logs: Mapping[Stream, Log], aside: str = "") -> DataLoss | None:
    """The error for positions outside their logs, all in one; None when the logs hold them all.

    `aside`: what else may be among the offsets that are gone.
    """
    parts, records = [], 0
    for stream, position in sorted(set(lost)):
        log, stands = logs[stream], f"{stream} stands at offset {position}, but the log"
        end = log.end if log.written is None else log.written
        if position < log.first:
            records += log.first - position
            parts.append(f"{stands} begins at {log.first}: {log.first - position} offsets are gone unread{aside}")
        elif end is not None and position > end:
            records += position - end
            parts.append(f"{stands} ends at {end}: {position - end} offsets that were read are not there")
    if not parts:
        return None
    return DataLoss(
        f"The log does not hold the stored positions: {'; '.join(parts)}.",
        hint="Below the log's start: retention overtook the flow. Beyond its end: the log was cut, or these are other servers. "
        + CONTINUE_HINT,
        offsets_lost=records,
    )


def part(stream: Stream, start: StartAt, log: Log, resume: StreamState | None, *, alone: bool) -> OpenPart:
    """Where to read a stream from, moved onto the log.

    Args:
        stream: the stream.
        start: what the targets (or, without any, the START policy) say.
        log: what there is to read; a position outside it was reported, and moves to the nearest end of the log.
        resume: what the recovery store says, if it knows the stream.
        alone: no target remembers, so the recovery store decides; else the lower one does.
    """
    by_resume = resume is not None and (alone or resume.offset < start.offset)
    offset = log.nearest(resume.offset if by_resume and resume is not None else start.offset)
    splits = {log.nearest(split) for split in (start.offset, *start.splits) if not alone}
    token, token_offset = start.token, start.token_offset
    if by_resume and resume is not None and (resume.token is not None or (token_offset is not None and token_offset > offset)):
        token, token_offset = resume.token, resume.token_offset
    if token is None and log.token is not None:
        token, token_offset = log.token, log.first
    return OpenPart(
        stream, offset, tuple(sorted(split for split in splits if split > offset)), start.offset_end, token, token_offset
    )
