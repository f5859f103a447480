"""What is durable of a source: what its server may be told, for lag tools, or that it may forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sources.kit.feeds import Feeds
from waxwing.batch import Stream


class Durable:
    """The durable position of each stream: the lowest of the targets', or without any what snapshots covered."""

    def __init__(self, feeds: Feeds, reads: Callable[[Stream], bool]) -> None:
        self._feeds, self._reads = feeds, reads
        self._snapshots: dict[int, Mapping[Stream, int]] = {}
        self._covered: dict[Stream, int] = {}

    def snapshot_of(self, lane: int, offsets: Mapping[Stream, int]) -> None:
        """A lane's snapshot holds these offsets."""
        self._snapshots[lane] = offsets

    def next_batch_of(self, lane: int) -> None:
        """Bytewax asks a lane for its next batch: so the epoch of its last snapshot is durable everywhere."""
        if snapshot := self._snapshots.pop(lane, None):
            self._covered.update(snapshot)

    def positions(self, at_end: bool) -> dict[Stream, int]:
        """By stream; `at_end`: the run has ended well, so its last snapshots count."""
        if not self._feeds.targets:
            if at_end:
                for lane in list(self._snapshots):
                    self.next_batch_of(lane)
            return dict(self._covered)
        lowest: dict[Stream, int] = {}
        for position in (position for feed in self._feeds.targets for position in feed.positions()):
            stream = position.stream
            if self._reads(stream):  # the targets hold those of others, and of earlier sources of the name
                lowest[stream] = min(position.offset_next, lowest.get(stream, position.offset_next))
        return lowest
