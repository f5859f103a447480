"""Windows before a plain Bytewax sink, which remembers nothing: their state goes into Bytewax's recovery store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Stream as Flowing
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from typing_extensions import override

from waxwing.batch import Batch, Stream
from waxwing.change import DeadLetter
from waxwing.errors import ConfigError
from waxwing.operators.exchange import BUCKETS_MAX, bucket_name
from waxwing.operators.windows.bucket.bucket import Bucket, Emission
from waxwing.operators.windows.definition import END, START, Windows
from waxwing.operators.windows.pieces import Late, Mark, Opening, Piece, first_opening
from waxwing.operators.windows.rows import LateEntries, instant
from waxwing.operators.windows.stream.fold import StreamFold

Row = dict[str, Any]
LaneState = tuple[int, int, int, tuple[int, ...], int]
BucketState = tuple[bytes, tuple[Mark, ...]]


@dataclass(frozen=True)
class WindowsOut:
    """What comes out of windows.

    `rows` are dicts: window_start and window_end (datetimes in UTC), the key's fields, the aggregates, and the revision.
    `late` are records that came too late, or aggregates of those that came too late because a partition had been idle.
    `rejects` are records that were refused here or by earlier steps.
    """

    rows: Flowing[Row]
    late: Flowing[Late | LateEntries]
    rejects: Flowing[DeadLetter]


@operator
def windows(
    step_id: str,
    up: Flowing[Batch[Any]],
    definition: Windows,
    *,
    partitions: int,
    buckets: int = 16,
    clock_us: Callable[[], int] | None = None,
) -> WindowsOut:
    """Aggregate batches over windows of event time, for steps and sinks of Bytewax's own.

    `partitions` is how many Kafka partitions come: before each has shown itself nothing closes. The source marks a
    partition as idle or, in a bounded run, as ended; the engine's end of input closes nothing, for a stop is one too.

    Parallelism: Bytewax spreads the partitions, then the buckets, over all workers. The number of buckets is part of the state.
    Delivery: at least once with Bytewax's recovery (`-r`): what follows the last finished epoch is emitted again after a
        crash, with the same rows, if `waxwing.recovery.prepare` ran before the start
        (tests/waxwing/operators/windows/test_windows_plain.py). Without `-r` state is lost at a stop.

    Raises:
        ConfigError: a number of buckets or partitions that is out of bounds, or a state of another definition.
        OffsetGap: batches of a partition do not follow each other.
    """
    if not 1 <= buckets <= BUCKETS_MAX or partitions < 1:
        raise ConfigError(
            f"windows {step_id}: {buckets} buckets, {partitions} partitions.",
            hint=f"Take 1 to {BUCKETS_MAX:,} buckets, and the number of the topic's partitions.",
        )
    by_stream = op.key_on("by_stream", up, lambda item: str(item.stream))
    folded = op.stateful_batch("lanes", by_stream, lambda state: _LaneLogic(definition, buckets, step_id, clock_us, state))
    pieces: KeyedStream[Piece | Mark] = op.map("by_bucket", folded, lambda item: item[1])
    emitted = op.stateful_batch("buckets", pieces, lambda state: _BucketLogic(definition, partitions, state))
    return WindowsOut(
        op.flat_map("rows", emitted, lambda item: _rows(item[1])),
        op.flat_map("late", emitted, lambda item: [*item[1].late, *item[1].late_entries]),
        op.flat_map("rejects", emitted, lambda item: item[1].rejects),
    )


class _LaneLogic(StatefulBatchLogic[Batch[Any], tuple[str, Piece | Mark], LaneState]):
    """The fold of one partition; what it holds is where it stands, and the watermark there."""

    def __init__(
        self, definition: Windows, buckets: int, step_id: str, clock_us: Callable[[], int] | None, state: LaneState | None
    ) -> None:
        self._names = [bucket_name(bucket) for bucket in range(buckets)]
        self._make: Callable[[Stream, Opening], StreamFold] = lambda stream, opening: StreamFold(
            definition, stream, buckets, opening, step_id, clock_us
        )
        self._now_us = clock_us or (lambda: time.time_ns() // 1_000)
        self._opening = None if state is None else Opening(*state)
        self._lane: StreamFold | None = None

    @override
    def on_batch(self, values: list[Batch[Any]]) -> tuple[Iterable[tuple[str, Piece | Mark]], bool]:
        return [one for value in values for one in self._folded(value)], StatefulBatchLogic.RETAIN

    def _folded(self, value: Batch[Any]) -> Iterable[tuple[str, Piece | Mark]]:
        if self._opening is None:
            self._opening = first_opening(value.offset_first)
        if self._lane is None:
            self._lane = self._make(value.stream, self._opening)
        if value.mark:
            mark = self._lane.mark_of(value, self._now_us())
            return ((name, mark) for name in self._names if mark is not None)
        return zip(self._names, self._lane.fold(value), strict=True)

    @override
    def snapshot(self) -> LaneState:
        assert self._opening is not None
        if self._lane is None:
            return self._opening
        return self._opening.offset_start, self._lane.offset, self._lane.watermark, (), self._lane.place


class _BucketLogic(StatefulBatchLogic[Piece | Mark, Emission, BucketState]):
    """A bucket; each activation emits what it closed.

    With its state go the ends of partitions: a source that goes on behind them says them no more.
    """

    def __init__(self, definition: Windows, partitions: int, state: BucketState | None) -> None:
        if state is None:
            self._bucket = Bucket(definition, {}, streams_min=partitions)
        else:
            self._bucket = Bucket.load(definition, state[0], streams_min=partitions)
            for mark in state[1]:
                self._bucket.mark(mark)

    @override
    def on_batch(self, values: list[Piece | Mark]) -> tuple[Iterable[Emission], bool]:
        for value in values:
            if isinstance(value, Mark):
                self._bucket.mark(value)
            else:
                self._bucket.fold(value)
        emission = self._bucket.emission()
        return () if emission.is_empty else (emission,), StatefulBatchLogic.RETAIN

    @override
    def snapshot(self) -> BucketState:
        return self._bucket.pack(), self._bucket.ends()


def _rows(emission: Emission) -> Iterator[Row]:
    names = emission.rows.names
    for row in emission.rows.tuples():
        made = dict(zip(names, row, strict=True))
        made[START], made[END] = instant(made[START]), instant(made[END])
        yield made
