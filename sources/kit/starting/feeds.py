"""The targets behind a source: those that its batches end in, and what is durable there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waxwing.batch import Stream
from waxwing.target import Target


class Feeds:
    """The targets of one source: found in the graph as steps are drawn behind it, or given by hand."""

    def __init__(self, given: Sequence[Target] | None) -> None:
        self._given = None if given is None else tuple(given)
        self._graph: object = None
        self._found: list[Target] = []

    def add(self, graph: object, target: Target) -> None:
        """A step of this graph writes into the target; what another graph held before is over."""
        if self._graph is not graph:
            self._graph, self._found = graph, []
        if target not in self._found:
            self._found.append(target)

    @property
    def targets(self) -> Sequence[Target]:
        """Them, in the order of their steps."""
        return tuple(self._found) if self._given is None else self._given


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
