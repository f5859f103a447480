"""What steps hold back until other partitions have shown themselves: sources see to it that it is let go again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from waxwing.batch import Batch, Columns, Stream
from waxwing.target import Target


def reminders(feeds: Sequence[Target], lane: str, stood: Callable[[], Mapping[Stream, int]]) -> list[Batch[Any]] | None:
    """Empty batches of streams of which something can be let go, which wakes the step that holds it.

    Args:
        feeds: the targets.
        lane: the lane's name.
        stood: its streams, and where each stands.

    Returns:
        None where a step still waits for other partitions: a lane that ended now would leave behind what it holds.
    """
    waits = False
    out: list[Batch[Any]] = []
    for feed in feeds:
        settled, streams = feed.held_back()
        waits |= not settled
        if settled and streams:
            mine = [(stream, offset) for stream, offset in stood().items() if stream in streams]
            out += [Batch(stream, lane, offset, offset, Columns((), (), (), (), ()), (), ()) for stream, offset in mine]
    return None if waits else out
