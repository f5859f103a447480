"""The targets behind a source: those that its batches end in."""

from __future__ import annotations

from collections.abc import Sequence

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
