"""What a lane keeps in Bytewax's recovery store (`-r`); it decides where no target of ours remembers.

Kept are plain values, for Bytewax pickles classes by the module that they stand in. An earlier release kept
`sources.kafka_start.LaneState`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sources.kafka_start import LaneState as Of12ee004
from waxwing.batch import Stream
from waxwing.errors import ConfigError

FORMAT = 1
# Waxwing's own mark in the store, its format's number, the lanes, and by (source, source id, partition) a StreamState's values.
Kept = tuple[str, int, int, dict[tuple[str, str, int], tuple[int, int | None, bytes | None, int | None]]]
MARK = "waxwing lane"


class StreamState(NamedTuple):
    """Where a stream stood, where a bounded run ends, and the token it can be read from."""

    offset: int
    end: int | None = None
    token: bytes | None = None
    token_offset: int | None = None


class LaneState(NamedTuple):
    """What the store holds of a lane. `lanes` 0: an earlier release did not say how many there were."""

    lanes: int
    streams: Mapping[tuple[str, str, int], StreamState]

    @classmethod
    def of(cls, kept: object, name: str) -> LaneState | None:
        """From what was kept; an earlier release knew one topic, whose name it did not keep.

        Raises:
            ConfigError: it is of a later release, or of something else.
        """
        match kept:
            case None:
                return None
            case Of12ee004(topic_id, offsets, ends):
                return cls(0, {(name, topic_id, number): StreamState(at, ends.get(number)) for number, at in offsets.items()})
            case (str(mark), int(number), int(lanes), dict(streams)) if (mark, number) == (MARK, FORMAT):
                return cls(lanes, {key: StreamState(*values) for key, values in streams.items()})
        raise ConfigError(
            f"The recovery store holds something else for this step: {type(kept).__name__}.",
            hint="Is it of a later Waxwing, or of another flow? Give -r another folder, made anew.",
        )

    def kept(self) -> Kept:
        """As it is stored."""
        return MARK, FORMAT, self.lanes, {key: (*one,) for key, one in self.streams.items()}

    def stream(self, stream: Stream) -> StreamState | None:
        """Where the stream stood; None: the store does not know it."""
        return self.streams.get((stream.source, stream.source_id, stream.partition))

    def ids(self, source: str) -> set[str]:
        """The ids under which it knows a source."""
        return {source_id for name, source_id, _ in self.streams if name == source}

    @property
    def unfinished(self) -> bool:
        """Was it a bounded run that had not reached its end?"""
        return any(one.end is not None and one.offset < one.end for one in self.streams.values())
