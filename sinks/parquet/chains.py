"""The chains of a run: read to their ends, and sealed by whoever takes the step.

A chain is of one sink partition: `head-<part>-<k>`, and behind each head a segment of up to SEGMENT_RECORDS - 1 records. With the
next head the segment before it goes; heads stay as long as their run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

from sinks.parquet.place import Place
from sinks.parquet.records import SEGMENT_RECORDS, Anchor, File, Link, Moved, Run, pack, stream_of, unpack
from waxwing.batch import Stream


class Overtaken(Exception):
    """What was read is being removed: a later anchor stands."""


Streams = dict[Stream, Moved]


def merge(streams: Streams, moved: Streams) -> None:
    """Take over what a chain says of streams: where it builds on the same place of the anchor, and is no less far."""
    for stream, to in moved.items():
        held = streams.get(stream)
        if held is not None and held.since == to.since and to.offset_next >= held.offset_next:
            streams[stream] = to


class End(NamedTuple):
    """A chain's end: whether it is sealed, the next record's path (of a chain that is not), where its streams stand, and the
    files of its last record."""

    sealed: bool
    following: Path
    streams: Streams
    files: tuple[File, ...]


def head_path(folder: Path, part: str, k: int) -> Path:
    """Of a head."""
    return folder / f"head-{part}-{k:08}"


def record_path(folder: Path, segment: str, n: int) -> Path:
    """Of record n (from 1) behind a head."""
    return folder / segment / f"{n:04}"


class Chains:
    """Of the runs of one step.

    Args:
        place: its folders.
        flow: the flow's name.
    """

    def __init__(self, place: Place, flow: str) -> None:
        self._place, self._flow = place, flow

    def end(self, run: Run, part: str, number: int) -> End:
        """A chain's end as of now; `number`: of the anchor that names the run.

        Raises:
            Overtaken: a later anchor stands, and the chain is going.
            DataError: it is gone.
        """
        folder = self._place.chains / run.folder
        while True:
            heads = self._heads(folder, part, number)
            if not heads:
                return End(False, head_path(folder, part, 0), {}, ())
            last = heads[-1]
            head = self._read(head_path(folder, part, last))
            if head is not None and head.sealed:
                if last == 0:
                    return End(True, head_path(folder, part, 0), {}, ())
                found = self._behind(folder, part, last - 1)
                if found is not None:
                    return found._replace(sealed=True)
            elif head is not None and (found := self._behind(folder, part, last)) is not None:
                # A segment that is going has ends that it never had: but then a later head stands.
                if found.sealed or self._heads(folder, part, number)[-1:] == [last]:
                    return found
                continue
            self._demand_going(folder, part, last, number)

    def _behind(self, folder: Path, part: str, k: int) -> End | None:
        """The end of the chain whose last head that is none of a sealer is this one; None: the segment is going."""
        head = self._read(head_path(folder, part, k))
        if head is None:
            return None
        streams, files = self._streams(head), head.files
        for n in range(1, SEGMENT_RECORDS):
            path = record_path(folder, head.segment, n)
            record = self._read(path)
            if record is None:
                return End(False, path, streams, files) if path.parent.exists() else None
            if record.sealed:
                return End(True, path, streams, files)
            streams |= self._streams(record)
            files = record.files
        return End(False, head_path(folder, part, k + 1), streams, files)

    def live(self, anchor: Anchor, number: int) -> Streams:
        """Where the streams of an anchor stand now.

        Raises as `end` does.
        """
        streams = {stream_of(self._flow, row): row.moved for row in anchor.rows}
        for run in anchor.runs:
            for part in run.parts:
                merge(streams, self.end(run, part, number).streams)
        return streams

    def seal(self, run: Run, part: str, number: int, token: str) -> End:
        """A chain's end, where nothing can be added any more. (After a crash nobody is left to be kept off: it may be gone then.)

        Raises as `end` does.
        """
        folder = self._place.chains / run.folder
        while True:
            end = self.end(run, part, number)
            if end.sealed:
                return end
            if not self._place.link(end.following, pack(Link(sealed=token)), number + 1, token, sync=False):
                self._demand_going(folder, part, -1, number)
                continue
            # A segment may have been going while it was sealed: then a later head stands, and the lane goes on behind that.
            if end.following.parent == folder or self._is_last(folder, part, end.following.parent.name, number):
                return end

    def _is_last(self, folder: Path, part: str, segment: str, number: int) -> bool:
        heads = self._heads(folder, part, number)
        last = self._read(head_path(folder, part, heads[-1])) if heads else None
        return last is not None and last.segment == segment

    def _heads(self, folder: Path, part: str, number: int) -> list[int]:
        prefix = f"head-{part}-"
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            self._demand_overtaken(folder, number)
        return sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix))

    def _read(self, path: Path) -> Link | None:
        packed = self._place.read(path)
        return None if packed is None else unpack(path, packed, Link)

    def _streams(self, record: Link) -> Streams:
        return {Stream(self._flow, source, source_id, partition): moved for source, source_id, partition, moved in record.streams}

    def _demand_going(self, folder: Path, part: str, k: int, number: int) -> None:
        """What was just read is not there now: since a later head stands, or since a later anchor does."""
        if not folder.exists() or not any(later > k for later in self._heads(folder, part, number)):
            self._demand_overtaken(folder, number)

    def _demand_overtaken(self, folder: Path, number: int) -> NoReturn:
        if max(self._place.numbers(), default=-1) > number:
            raise Overtaken
        raise self._place.gone(folder)
