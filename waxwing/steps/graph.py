"""The graph of a Dataflow, as its steps are drawn: which sources stand above a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from bytewax.dataflow import MultiPort, Operator, SinglePort
from bytewax.dataflow import Stream as Flowing

from waxwing.target import Target


@runtime_checkable
class Feeder(Protocol):
    """A source that is told of the targets its batches end in."""

    def feed(self, graph: object, target: Target) -> None:
        """A step of this graph writes into the target what comes from here."""


def feed_from(up: Flowing[Any], target: Target) -> None:
    """Tell every source above that its batches end in the target: whoever draws the line has said it."""
    graph = up.flow().substeps
    # (The steps of an operator that is still being built stand in its scope alone.)
    steps = list(_core_steps([*graph, *up._scope.substeps]))
    above = {stream: step for step in steps for stream in _streams(step, step.dwn_names)}
    seen: set[str] = set()
    todo = [up.stream_id]
    while todo:
        stream = todo.pop()
        if stream in seen or (step := above.get(stream)) is None:
            continue
        seen.add(stream)
        source = getattr(step, "source", None)
        if isinstance(source, Feeder):
            source.feed(graph, target)
        todo += _streams(step, step.ups_names)


def _core_steps(steps: Sequence[Operator]) -> Iterator[Operator]:
    """What an operator is made of; its streams go by the same names within and without."""
    for step in steps:
        if getattr(step, "core", False):
            yield step
        yield from _core_steps(step.substeps)


def _streams(step: Operator, names: list[str]) -> Iterator[str]:
    for name in names:
        port = getattr(step, name)
        if isinstance(port, SinglePort | MultiPort):
            yield from port.stream_ids.values()
