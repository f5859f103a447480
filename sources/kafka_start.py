"""What earlier releases kept in Bytewax's recovery store (`-r`): pickled by this module's name, so it has to stay here.

It is read by `sources.kit.state`, and no longer written.
"""

from __future__ import annotations

from typing import NamedTuple


class LaneState(NamedTuple):
    """Where a lane's partitions of one topic stood, and where a bounded run ends."""

    topic_id: str
    offsets: dict[int, int]
    ends: dict[int, int | None]
