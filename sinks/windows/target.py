"""Windows over a target: closed rows, positions and open state kept together, bucket by bucket."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from sinks.ledger import LedgerTarget
from sinks.windows.definition import check_definition
from sinks.windows.held import held_by_buckets
from sinks.windows.in_front import InFront
from waxwing.batch import Batch, Stream
from waxwing.change import Position, Size, Start, refuse_renamed, sources_of
from waxwing.errors import ConfigError, TransientError
from waxwing.ledger.store import Stored, Transaction
from waxwing.ledger.windows import BUCKETS_SOURCE, Defined, Known, Streams, bucket_stream
from waxwing.operators.exchange import BUCKETS_MAX
from waxwing.operators.windows import Bucket, Held, Opening, Rows, Windows, first_opening, openings
from waxwing.operators.windows.bucket.rebucket import rebucket as rebucket_states
from waxwing.operators.windows.definition.misfits import check_types
from waxwing.settings import WindowSettings
from waxwing.target import UNFED_HINT


class WindowTarget(InFront):
    """Windows in front of any target that keeps state; its sink partitions are buckets, each of which folds its part of the keys.

    Args:
        target: takes the rows of closed windows.
        windows: their definition.
        settings: how often buckets are written.
        buckets: how many there are.
        rows_of: closed rows, as the target takes them.
    """

    def __init__(
        self,
        target: LedgerTarget,
        windows: Windows,
        settings: WindowSettings,
        buckets: int,
        rows_of: Callable[[Rows], list[Any]],
    ) -> None:
        check_buckets(buckets)
        super().__init__(settings, target)
        self.windows, self.window_settings = windows, settings
        self.window_buckets = 1 if target.parts_max == 1 else buckets
        self.rows_of = rows_of
        target.form = "closed"
        self._begun_here: set[str] = set()  # by the source's name
        self.times_begun: Counter[Stream] = Counter()  # so often a source has begun to read it into this object
        self._openings: Mapping[Stream, Opening] | None = None

    @property
    @override
    def idle_after_s(self) -> float | None:
        return self.windows.idle_after_s

    @property
    @override
    def folds_windows(self) -> bool:
        return True

    def check_types(self, kind: Any) -> None:
        """Raises ConfigError for a type of records that the windows can't be of, or whose rows the table takes none of."""
        check_types(self.windows, kind, {})

    @property
    @override
    def size(self) -> Size:
        """Its changes get as old as those of the target below, and no less than WINDOW_SNAPSHOT_INTERVAL_S: each brings the open
        state, whether it has rows or not."""
        below = self.target.size
        return below._replace(age_s=max(below.age_s, self.window_settings.window_snapshot_interval_s))

    @property
    def hurries(self) -> bool:
        """Whether closed rows are written at once: not into a target whose changes are as large as they may be."""
        return self.target.size.commit_s is not None

    @property
    @override
    def again(self) -> str:
        return "its windows are written over, those whose records the source no longer holds by partial totals, or a second time"

    # -- at the start ----------------------------------------------------------------------------

    @override
    def positions(self) -> Sequence[Position]:
        def positions(transaction: Transaction) -> list[Position]:
            defined = transaction.defined()
            return [] if defined is None else self._opened(defined.streams, held_by_buckets(transaction, self.flow))

        return self.target.in_transaction(positions)

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        self._begun_here |= sources_of(starts)
        self.times_begun.update(start.stream for start in starts)

        def begin(transaction: Transaction) -> list[Position]:
            self.target.beginning(transaction, starts)
            defined = transaction.defined(lock=True)
            if defined is None:
                return self._begin_first(transaction, starts)
            self._check(defined)
            refuse_renamed(defined.streams, starts, self.name, self.step)
            held = held_by_buckets(transaction, self.flow)
            streams = self._now_read(with_starts(defined.streams, held, starts), starts)
            if (now := Defined(defined.buckets, self.windows.text, streams)) != defined:
                transaction.define(now)
            return self._opened(streams, held)

        found = self.target.in_transaction(begin)
        return [position for position in found if position.stream.source in sources_of(starts)]

    def _begin_first(self, transaction: Transaction, starts: Sequence[Start]) -> list[Position]:
        streams = with_starts({}, [], starts)
        # First of all, so that of two processes that begin at once one is refused here.
        transaction.define(Defined(self.window_buckets, self.windows.text, streams))
        packed = Bucket(self.windows, {start.stream: start.offset_start for start in starts}, self.moments_us).pack()
        # Behind the late records of an earlier step of this name, which bear the numbers of its emissions.
        last = transaction.letter_offset_max(BUCKETS_SOURCE)
        self._add(transaction, [packed] * self.window_buckets, 0 if last is None else last + 1)
        return self._opened(streams, [Bucket.positions(packed)] * self.window_buckets)

    def _add(self, transaction: Transaction, states: Sequence[bytes], emission: int, generation: int = 0) -> None:
        of_buckets = [bucket_stream(self.flow, number) for number in range(len(states))]
        transaction.add([Position(stream, emission, emission) for stream in of_buckets], generation)
        for stream, packed in zip(of_buckets, states, strict=True):
            transaction.keep(stream, packed)

    def _opened(self, streams: Streams, held: Sequence[Mapping[Stream, Held]]) -> list[Position]:
        """Remember where lanes begin; the position of each stream in each bucket."""
        known = {s: first_opening(one.offset_start) for s, one in streams.items()}
        self._openings = known | openings(held)
        return [_position(stream, one, bucket.get(stream)) for bucket in held for stream, one in streams.items()]

    def _now_read(self, streams: Streams, starts: Sequence[Start]) -> Streams:
        """The streams, those marked that are read: of these sources those given, of another one what was said when it began."""
        given = {start.stream for start in starts}
        of_others = self._of_others(starts)
        return {s: one._replace(read=s in given or (one.read and of_others(s.source))) for s, one in streams.items()}

    def _of_others(self, starts: Sequence[Start]) -> Callable[[str], bool]:
        """Whether a source is read by another reader of the flow than the one that begins with these: what that one read before
        and does no longer (a topic of a pattern) is not waited for."""
        now = sources_of(starts)
        mine = {one for one in self.expected if any(map(one.has, now))}
        others = self.expected - mine

        def is_of_others(source: str) -> bool:
            if source in now or any(one.has(source) for one in mine):
                return False
            return source in self._begun_here or any(one.has(source) for one in others)

        return is_of_others

    def _check(self, defined: Defined) -> None:
        check_definition(self.windows, defined, self.target)
        if defined.buckets != self.window_buckets:
            raise ConfigError(
                f"The windows kept in {self.name} are in {defined.buckets} buckets, not {self.window_buckets}.",
                hint=f"Set WINDOW_BUCKETS={defined.buckets}, or divide them anew: waxwing rebucket MODULE (of the flow).",
            )

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        now_us = time.time_ns() // 1_000

        def jump(transaction: Transaction) -> None:
            defined = transaction.defined(lock=True)
            assert defined is not None
            offset_start = defined.streams[stream].offset_start
            for row in self._buckets(transaction):
                bucket = Bucket.load(self.windows, transaction.state(row.position.stream))
                bucket.jump(stream, offset, now_us, offset_start=offset_start, stood_at=stood_at)
                self._emit(transaction, row, bucket.pack())

        self.target.in_transaction(jump)
        self.positions()  # lanes begin where it stands now

    def _buckets(self, transaction: Transaction) -> list[Stored]:
        found = [transaction.locked(bucket_stream(self.flow, number)) for number in range(self.window_buckets)]
        return [row for row in found if row is not None]

    def _emit(self, transaction: Transaction, row: Stored, packed: bytes) -> None:
        moved = row.position._replace(offset_next=row.position.offset_next + 1)
        transaction.compare_and_set(row, row._replace(position=moved))
        transaction.keep(moved.stream, packed)

    # -- what lanes and buckets ask ----------------------------------------------------------------

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

    def bucket_stream(self, number: int) -> Stream:
        """The stream that stands for a bucket."""
        return bucket_stream(self.flow, number)

    def read_streams(self) -> Mapping[Stream, Known]:
        """The streams that are read, as stored (a process may have buckets and read nothing itself): others, of a topic that is
        gone, are not waited for."""

        def read(transaction: Transaction) -> Streams:
            defined = transaction.defined()
            return {} if defined is None else defined.streams

        return {stream: one for stream, one in self.target.in_transaction(read).items() if one.read}

    # -- for the operator ----------------------------------------------------------------------------

    def rebucket(self) -> int:
        """Divide what is kept into as many buckets as there are to be, while the flow does not run. Returns how many there were.

        Raises:
            ConfigError: the buckets do not stand at the same positions, or the flow runs.
        """

        def rebucket(transaction: Transaction) -> int:
            defined = transaction.defined(lock=True)
            if defined is None or defined.buckets == self.window_buckets:
                return self.window_buckets
            rows = [transaction.locked(bucket_stream(self.flow, number)) for number in range(defined.buckets)]
            old = [row for row in rows if row is not None]
            self.target.demand_stopped(transaction)
            states = rebucket_states(self.windows, [transaction.state(row.position.stream) for row in old], self.window_buckets)
            for row in old:
                transaction.remove(row)
            # Emissions and owners are counted on, so that no dead letter's key comes twice, and no earlier owner comes back.
            emission, generation = max(row.position.offset_next for row in old), max(row.generation for row in old)
            self._add(transaction, states, emission, generation)
            transaction.define(defined._replace(buckets=self.window_buckets))
            return defined.buckets

        return self.target.in_transaction(rebucket)


def _position(stream: Stream, known: Known, held: Held | None) -> Position:
    """Of a bucket in a stream; below the first token that came with a batch it can be read from the start alone."""
    offset_next = known.offset_start if held is None else held.offset_next
    position = Position(stream, offset_next, known.offset_start, known.offset_end)
    if held is not None and held.token is not None:
        return position._replace(token=held.token, token_offset=held.token_offset)
    return position._replace(token=known.token, token_offset=None if known.token is None else known.offset_start)


def check_buckets(buckets: int) -> None:
    """Raises ConfigError for a number that can't be."""
    if not 1 <= buckets <= BUCKETS_MAX:
        raise ConfigError(f"{buckets} buckets of windows.", hint=f"Take 1 to {BUCKETS_MAX:,}, a few for each process to come.")


def with_starts(streams: Streams, held: Sequence[Mapping[Stream, Held]], starts: Iterable[Start]) -> Streams:
    """The streams with those that are new, and with the ends of a bounded run; an unfinished one keeps its own."""
    out = dict(streams)
    for start in starts:
        known = out.get(start.stream, Known(start.offset_start, start.offset_end))
        if known.token is None and known.offset_start == start.offset_start:  # an earlier release kept none
            known = known._replace(token=start.token)
        stands = [one[start.stream].offset_next if start.stream in one else known.offset_start for one in held]
        lowest = min(stands, default=known.offset_start)
        unfinished = known.offset_end is not None and lowest < known.offset_end
        keeps = unfinished and start.offset_end is not None
        out[start.stream] = known if keeps else known._replace(offset_end=start.offset_end)
    return out
