"""Windows in memory: the protocol of windows in a database, for tests and embedded use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from sinks.memory.target import MEMORY_SETTINGS, MemoryTarget
from sinks.windows.target import Streams, WindowTarget, add_starts, check_buckets
from waxwing.batch import Stream
from waxwing.operators.windows import Bucket, Rows, Windows
from waxwing.settings import WindowSettings
from waxwing.target import Position, Start, sources_of


class MemoryWindows(MemoryTarget, WindowTarget):
    """Closed windows in a list, held in this process with their open state.

    Args:
        windows: the windows.
        settings: as for a database.
        buckets: how many parts the keys are divided into.

    Attributes:
        rows: dicts by column name, in the order in which windows closed; corrections are rows with a higher revision.

    Parallelism: one writer per bucket, one lock for all.
    Delivery: exactly once, over any number of runs in this process (tests/unit/test_windows.py).
    """

    def __init__(self, windows: Windows, settings: WindowSettings | None = None, *, buckets: int = 2) -> None:
        check_buckets(buckets)
        self.window_settings = settings or WindowSettings(**{**MEMORY_SETTINGS.model_dump(), "window_snapshot_interval_s": 0.0})
        super().__init__(settings=self.window_settings)
        self.windows, self.window_buckets = windows, buckets
        self._streams: Streams = {}
        self._read: frozenset[Stream] = frozenset()

    @override
    def read_streams(self) -> frozenset[Stream]:
        return self._read

    @override
    def limits_from(self) -> Mapping[Stream, int]:
        return {}  # nobody resumes what lives in one process

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        with self._lock:
            for at, position in self._positions.items():
                if at[0] == self.step and position.state is not None:
                    bucket = Bucket.load(self.windows, position.state)
                    start = self._streams[stream].offset_start
                    bucket.jump(stream, offset, time.time_ns() // 1_000, offset_start=start, stood_at=stood_at)
                    self._positions[at] = position._replace(state=bucket.pack())
        self.positions()  # lanes begin where it stands now

    @override
    def rows_of(self, rows: Rows) -> list[Any]:
        return [dict(zip(rows.names, row, strict=True)) for row in rows.tuples()]

    @override
    def positions(self) -> Sequence[Position]:
        of_buckets = sorted(super().positions(), key=lambda position: position.stream.partition)
        return self.opened(self._streams, [Bucket.positions(position.state or b"") for position in of_buckets])

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        sources = sources_of(starts)
        with self._lock:
            # This object outlives runs: what an earlier one read of these sources says nothing about this one.
            of_others = self.of_others(starts, {stream.source for stream in self._read})
            others = {stream for stream in self._read if of_others(stream.source)}
            self._read = frozenset(others | {start.stream for start in starts})
            states = [p.state for (step, _), p in self._positions.items() if step == self.step and p.state is not None]
            self._streams = add_starts(self._streams, [Bucket.positions(state) for state in states], starts)
            if not states:
                for number in range(self.window_buckets):
                    stream = self.bucket_stream(number)
                    self._positions[self.step, stream] = Position(stream, 0, 0, state=self.first_state(starts))
        return [position for position in self.positions() if position.stream.source in sources]
