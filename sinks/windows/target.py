"""What a target of windows is: closed rows, positions and open state kept together, bucket by bucket."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from typing_extensions import override

from waxwing.batch import Batch, Stream
from waxwing.databases import ledger
from waxwing.errors import ConfigError, TransientError
from waxwing.operators.windows import NEVER, Bucket, Held, Opening, Rows, Windows, first_opening, openings
from waxwing.operators.windows.misfits import check_types
from waxwing.settings import WindowSettings
from waxwing.target import UNFED_HINT, Position, Start, Target, sources_of

BUCKETS_MAX = 1_000


# Whether the first record of a stream was seen: nobody knows yet; none came for a while; it was.
UNKNOWN, IDLE, SEEN = range(3)


class Known(NamedTuple):
    """A stream that windows take in: where it began, where a bounded run ends, whether it is still read, and the offset below
    which no limit on bad records is judged.

    `place` (of Held) is kept here for live windows, and whether a record of the stream was `seen`; buckets know it themselves.
    """

    offset_start: int
    offset_end: int | None
    read: bool = True
    limits_from: int = 0
    place: int = NEVER
    seen: int = SEEN


Streams = dict[Stream, Known]


class WindowTarget(Target):
    """A target whose sink partitions are buckets: each folds its part of the keys, and writes rows and state in one step."""

    windows: Windows
    window_buckets: int
    window_settings: WindowSettings

    @abstractmethod
    def read_streams(self) -> frozenset[Stream]:
        """The streams that are read: others, of a topic that is gone, are not waited for."""

    @abstractmethod
    def limits_from(self) -> Mapping[Stream, int]:
        """By stream that is read the offset below which no limit on bad records is judged."""

    @abstractmethod
    def rows_of(self, rows: Rows) -> list[tuple[Any, ...]]:
        """Closed rows, as the table takes them."""

    @property
    @override
    def idle_after_s(self) -> float | None:
        return self.windows.idle_after_s

    def of_others(self, starts: Sequence[Start], begun: Collection[str]) -> Callable[[str], bool]:
        """Whether a source is read by another reader of the flow than the one that begins with these: what that one read before
        and does no longer (a topic of a pattern) is not waited for. `begun`: sources that have begun here.
        """
        now = sources_of(starts)
        mine = {one for one in self.expected if any(map(one.has, now))}
        others = self.expected - mine

        def is_of_others(source: str) -> bool:
            if source in now or any(one.has(source) for one in mine):
                return False
            return source in begun or any(one.has(source) for one in others)

        return is_of_others

    @property
    @override
    def folds_windows(self) -> bool:
        return True

    def check_types(self, kind: Any) -> None:
        """Raises ConfigError for a type of records that the windows can't be of, or whose rows the table takes none of."""
        check_types(self.windows, kind, {})

    def opening(self, batch: Batch[Any]) -> Opening | None:
        """Where a lane that begins with this batch stands; None: the batch is for other steps, this one is further.

        Raises:
            TransientError: no bucket stood there when the positions were read; another process has moved on meanwhile.
        """
        if self._openings is None:
            raise ConfigError(
                f"{self.name}: the source of {batch.stream} does not know this target, nor where its windows stand.",
                hint=UNFED_HINT,
            )
        opening = self._openings.get(batch.stream)
        if opening is not None and batch.offset_first < opening.offset and batch.offset_next <= opening.offset:
            return None
        if opening is None or opening.offset != batch.offset_first:
            stood = "nowhere" if opening is None else f"at {opening.offset:,}"
            raise TransientError(
                f"{self.name}: {batch.stream} is read from {batch.offset_first:,}, and its windows stood {stood}.",
                hint="Start again. " + UNFED_HINT,
            )
        return opening

    _openings: Mapping[Stream, Opening] | None = None

    def opened(self, streams: Streams, held: Sequence[Mapping[Stream, Held]]) -> list[Position]:
        """Remember where lanes begin; the position of each stream in each bucket."""
        known = {s: first_opening(one.offset_start) for s, one in streams.items()}
        self._openings = known | openings(held)
        return [
            Position(s, bucket[s].offset_next if s in bucket else one.offset_start, one.offset_start, one.offset_end)
            for bucket in held
            for s, one in streams.items()
        ]

    def bucket_stream(self, number: int) -> Stream:
        """The stream that stands for a bucket."""
        return ledger.bucket(self.flow, number)

    def first_state(self, starts: Iterable[Start]) -> bytes:
        """What a bucket keeps before anything came."""
        return Bucket(self.windows, {start.stream: start.offset_start for start in starts}, self.moments_us).pack()


def check_buckets(buckets: int) -> None:
    """Raises ConfigError for a number that can't be."""
    if not 1 <= buckets <= BUCKETS_MAX:
        raise ConfigError(f"{buckets} buckets of windows.", hint=f"Take 1 to {BUCKETS_MAX:,}, a few for each process to come.")


def add_starts(streams: Streams, held: Sequence[Mapping[Stream, Held]], starts: Iterable[Start]) -> Streams:
    """The streams with those that are new, and with the ends of a bounded run; an unfinished one keeps its own."""
    out = dict(streams)
    for stream, offset_start, offset_end, _ in starts:
        known = out.get(stream, Known(offset_start, offset_end))
        lowest = min([one[stream].offset_next for one in held if stream in one], default=known.offset_start)
        unfinished = known.offset_end is not None and lowest < known.offset_end
        out[stream] = known if unfinished and offset_end is not None else known._replace(offset_end=offset_end)
    return out
