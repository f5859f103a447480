"""Windows into a target: pieces travel from the lanes to the buckets, and a bucket is a sink partition."""

from __future__ import annotations

import time
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Stream as Flowing
from typing_extensions import override

from sinks.partition import TargetPartition, TargetSink, bind, sink
from sinks.windows.admission import WindowAdmission
from sinks.windows.live import LiveTarget
from sinks.windows.target import WindowTarget
from sinks.writer.writer import Writer
from waxwing.batch import Batch, Stream
from waxwing.errors import ConfigError, OffsetGap
from waxwing.operators.declared import record_type
from waxwing.operators.exchange import bucket_name
from waxwing.operators.windows import Mark, Piece, StreamFold
from waxwing.steps.instead import instead
from waxwing.target import Target


def window_sink(step_id: str, up: Flowing[Batch[Any]], target: WindowTarget | LiveTarget) -> None:
    """Fold batches into the target's windows: written when they have closed (SqlWindows), or with every batch (SqlLiveWindows).

    Parallelism: lanes fold where their batches are; Bytewax spreads the buckets over all workers.
    Delivery: exactly once, where batches come straight from a source of ours (tests/faults/storm/test_window_storm.py). What a
        window holds is a function of the topic alone, idle partitions aside (see Windows).

    Raises:
        ConfigError: the target serves another step already, or keeps no windows; or the records' type, where the steps before say
            it, has no such fields or none that windows can be of.
    """
    target = instead(step_id, target)
    if not isinstance(target, WindowTarget | LiveTarget):
        raise ConfigError(
            f"The step {step_id!r} folds windows, and {type(target).__name__} keeps none.",
            hint="Give it SqlWindows, SqlLiveWindows or MemoryWindows; other targets go with sinks.sink.",
        )
    target.check_types(record_type(up))
    if isinstance(target, LiveTarget):
        sink(step_id, op.flat_map(f"{step_id}_fold", up, target.fold), target)
        return
    vars(up.flow()).setdefault("_waxwing_windows", []).append(target)  # for `waxwing rebucket`
    bind(step_id, up, target)
    op.output(step_id, op.flat_map(f"{step_id}_fold", up, Lanes(target, step_id)), WindowSink(target))


class Lanes:
    """Folds the batches of all partitions that come by here; a partition that is read anew begins where the target says."""

    def __init__(self, target: WindowTarget, step_id: str) -> None:
        self._target, self._step_id = target, step_id
        self._names = WindowSink.names(target)
        self._lanes: dict[Stream, tuple[StreamFold, int]] = {}

    def __call__(self, batch: Batch[Any]) -> list[tuple[str, Piece | Mark]]:
        lane, begun = self._lanes.get(batch.stream, (None, 0))
        if lane is None or lane.offset != batch.offset_first:
            times = self._target.times_begun[batch.stream]
            if lane is not None and begun == times:  # not read anew: below is as wrong as above, and looks like a replay
                raise OffsetGap(
                    f"Windows: a batch of {batch.stream} begins at offset {batch.offset_first:,}, not at {lane.offset:,}.",
                    hint="Batches must reach the windows in order, by one unbroken path from their source.",
                )
            opening = self._target.opening(batch)
            if opening is None:
                return []
            lane = StreamFold(self._target.windows, batch.stream, len(self._names), opening, self._step_id, _clock_us)
            self._lanes[batch.stream] = lane, times
        if batch.mark:
            mark = lane.mark_of(batch, _clock_us())
            return [] if mark is None else [(name, mark) for name in self._names]
        return list(zip(self._names, lane.fold(batch), strict=True))


def _clock_us() -> int:
    return time.time_ns() // 1_000


class WindowSink(TargetSink):
    """A Bytewax sink whose partitions are buckets."""

    def __init__(self, target: WindowTarget) -> None:
        super().__init__(target)
        self._windows = target

    @staticmethod
    @override
    def names(target: Target) -> list[str]:
        assert isinstance(target, WindowTarget)
        return [bucket_name(bucket) for bucket in range(target.window_buckets)]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> TargetPartition:
        settings = self._windows.window_settings
        admission = WindowAdmission(self._windows, self._names.index(for_part), settings, time.monotonic)
        return TargetPartition(Writer(self._windows, for_part, admission=admission), self._windows)
