"""Where reading starts, decided: pure functions over stored positions and the log's bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from waxwing.batch import Stream
from waxwing.errors import DataLoss
from waxwing.positions import StartAt
from waxwing.target import Position

CONTINUE_HINT = "To go on without them, start with ON_DATA_LOSS=continue; what is lost stays lost."


class Bounds(NamedTuple):
    """A partition's log: its first offset, and the offset behind its last record."""

    first: int
    end: int

    def nearest(self, offset: int) -> int:
        """The offset, or where the log is nearest to it."""
        return min(max(offset, self.first), self.end)


class Lost(NamedTuple):
    """A position that the log does not hold."""

    stream: Stream
    position: int


class LaneState(NamedTuple):
    """What a lane keeps in Bytewax's recovery store; it decides where no target of ours remembers."""

    topic_id: str
    offsets: dict[int, int]
    ends: dict[int, int | None]

    def offset(self, stream: Stream) -> int | None:
        """Where the partition stood; None: the store does not know it."""
        return self.offsets.get(stream.partition) if stream.source_id == self.topic_id else None

    @property
    def unfinished(self) -> bool:
        """Was it a bounded run that had not reached its end?"""
        return any(end is not None and self.offsets[number] < end for number, end in self.ends.items())


@dataclass(frozen=True)
class OpenPart:
    """One partition, ready to be read."""

    stream: Stream
    offset: int
    splits: tuple[int, ...]
    offset_end: int | None


def start_time_ms(start: str) -> int | None:
    """START as epoch milliseconds; None for earliest and latest. The settings have checked it."""
    return None if start in {"earliest", "latest"} else int(datetime.fromisoformat(start).timestamp() * 1000)


def recreated(topic: str, topic_id: str, held: Iterable[Position]) -> DataLoss | None:
    """The error when positions stand for an earlier topic of this name and none for the present one."""
    of_topic = [position for position in held if position.stream.source == topic]
    if not of_topic or any(position.stream.source_id == topic_id for position in of_topic):
        return None
    stood = ", ".join(f"{p.stream} at {p.offset_next}" for p in sorted({_bare(p) for p in of_topic}, key=lambda p: p.stream))
    return recreated_error(topic, topic_id, of_topic[0].stream.source_id, f"The positions stored are of the old one ({stood}).")


def _bare(position: Position) -> Position:
    return Position(position.stream, position.offset_next, 0)


def recreated_error(topic: str, topic_id: str, old_id: str, detail: str) -> DataLoss:
    """The error for a topic that was deleted and created again."""
    return DataLoss(
        f"Topic {topic} was deleted and created again: it is a new topic (id {topic_id}, was {old_id}). {detail}",
        hint="ON_DATA_LOSS=continue reads the new topic from its log's start; what the old one still held unread is lost.",
        topic=topic,
        topic_id=topic_id,
        topic_id_before=old_id,
    )


def missing(lost: Sequence[Lost], bounds: Mapping[int, Bounds]) -> DataLoss | None:
    """The error for positions outside their logs, all in one; None when the logs hold them all."""
    parts, records = [], 0
    for stream, position in sorted(set(lost)):
        log, stands = bounds[stream.partition], f"{stream} stands at offset {position}, but the log"
        if position < log.first:
            records += log.first - position
            gone = f"{log.first - position} offsets are gone unread"
            parts.append(f"{stands} begins at {log.first}: {gone} (transactions' markers and aborted records may be among them)")
        elif position > log.end:
            records += position - log.end
            parts.append(f"{stands} ends at {log.end}: {position - log.end} offsets that were read are not there")
    if not parts:
        return None
    return DataLoss(
        f"Kafka's log does not hold the stored positions: {'; '.join(parts)}.",
        hint="Below the log's start: retention overtook the flow. Beyond its end: the log was cut, or these are other brokers. "
        + CONTINUE_HINT,
        offsets_lost=records,
    )


def part(stream: Stream, start: StartAt, log: Bounds, resume: int | None, *, alone: bool) -> OpenPart:
    """Where to read a partition from, moved onto the log.

    Args:
        stream: the partition.
        start: what the targets (or, without any, the START policy) say.
        log: the log's bounds; a position outside it was reported, and moves to the nearest end of the log.
        resume: the recovery store's offset, if it has one.
        alone: no target remembers, so a recovery store's offset decides; else the lower one does.
    """
    wanted = start.offset if resume is None else resume if alone else min(start.offset, resume)
    offset = log.nearest(wanted)
    splits = {log.nearest(split) for split in (start.offset, *start.splits) if not alone}
    return OpenPart(stream, offset, tuple(sorted(split for split in splits if split > offset)), start.offset_end)
