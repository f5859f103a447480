"""Where a source starts: the lowest position of the targets it feeds, with the split points between them.

Shared by all sources that feed targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from waxwing.batch import Stream
from waxwing.errors import ConfigError
from waxwing.target import Start, Target


class StartAt(NamedTuple):
    """Where to read a stream from (`offset`), where batches must end (`splits`, rising, above it), where to stop (or None)."""

    offset: int
    splits: tuple[int, ...] = ()
    offset_end: int | None = None


def prepare_feeds(feeds: Sequence[Target], flow: str) -> None:
    """Make or check the targets' tables, and look for positions that a step of another name left behind.

    Raises:
        ConfigError: a table does not fit; or positions of this flow stand under a step that it no longer has
            (read from the start again they would be doubled).
    """
    steps = {step for target in feeds for step in target.flow_steps}
    for target in feeds:
        if not target.step:
            raise ConfigError("A target in feeds=[...] serves no step.", hint='Write to it: sink("step", batches, target).')
        target.prepare()
        held = target.steps()
        if left := sorted(step for step in held if step not in steps):
            drops = "; ".join(f"waxwing step drop {flow} {step}" for step in left)
            renamed = f"A renamed step would begin anew and double its rows: waxwing step rename {flow} {left[0]} {target.step}. "
            raise ConfigError(
                f"{target.name} holds positions of flow {flow} under steps that it no longer has: {', '.join(left)}; "
                f"it has {', '.join(sorted(steps))}.",
                hint=f"{'' if target.step in held else renamed}Steps that were taken out: {drops}",
            )


def open_feeds(
    feeds: Sequence[Target],
    topic: str,
    log_starts: Mapping[Stream, int],
    resolve: Callable[[], Mapping[Stream, int]],
    ends: Mapping[Stream, int] | None,
) -> dict[Stream, StartAt]:
    """Store a position in every target that has none, before anything is read, and say where each stream starts.

    Args:
        feeds: the targets.
        topic: the topic's name.
        log_starts: every partition of the topic with the first offset of its log.
        resolve: the START policy's offset of each of these; asked only at the flow's first start. A partition that
            appears later begins at its log's start; a step that appears later where the other steps first began.
        ends: the log's ends, for a bounded run; an unfinished one keeps the ends it began with.
    """
    held = [{p.stream: p for p in target.positions() if p.stream in log_starts} for target in feeds]
    known = {stream for positions in held for stream in positions}
    policy = log_starts if known else resolve()
    stored_ends = {s: p.offset_end for positions in held for s, p in positions.items() if p.offset_end is not None}
    unfinished = any(p.offset_end is not None and p.offset_next < p.offset_end for positions in held for p in positions.values())
    out: dict[Stream, list[tuple[int, int | None]]] = {stream: [] for stream in log_starts}
    for number, target in enumerate(feeds):
        starts = []
        for stream, log_start in log_starts.items():
            firsts = [positions[stream].offset_start for positions in held if stream in positions]
            first = max(min(firsts), log_start) if firsts else policy[stream]
            if ends is None:
                end = None
            elif unfinished:
                end = stored_ends.get(stream, first)
            else:
                end = ends[stream]
            starts.append(Start(stream, first, end))
        stored = target.begin(topic, starts)
        # Another process may have been first, with another `latest`: the targets behind this one follow what is stored now.
        held[number] = {position.stream: position for position in stored if position.stream in log_starts}
        for position in stored:
            if position.stream in out:
                out[position.stream].append((position.offset_next, position.offset_end))
    return {stream: _start_at(found) for stream, found in out.items() if found}


def _start_at(found: list[tuple[int, int | None]]) -> StartAt:
    offsets = sorted({offset for offset, _ in found})
    ends = [end for _, end in found if end is not None]
    return StartAt(offsets[0], tuple(offsets[1:]), max(ends) if ends else None)
