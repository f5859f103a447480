"""The sink operator, and the one exactly-once partition that serves every target."""

from __future__ import annotations

import threading
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Stream as Flowing
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from typing_extensions import override

from sinks.writer.admission import Admits, admission_of
from sinks.writer.crew import Crew
from sinks.writer.writer import Writer
from waxwing import runtime
from waxwing.batch import Batch, lane_name, part_fn
from waxwing.metrics import progress
from waxwing.operators.declared import key_type, record_type
from waxwing.steps.graph import feed_from
from waxwing.steps.instead import instead
from waxwing.target import Target


def sink(step_id: str, up: Flowing[Batch[Any]], target: Target) -> None:
    """Write batches into a target, each record once.

    Parallelism: one writer thread per lane, in the lane's own process; a target with one writer
        (SQLite) has one for all lanes.
    Delivery: exactly once, where batches come straight from a source of ours (tests/faults/storm/test_window_storm.py).

    Raises:
        ConfigError: the target serves another step already, or not one record of the declared type could be written.
    """
    target = instead(step_id, target)
    bind(step_id, up, target)
    target.check_records(record_type(up))
    target.check_keys(key_type(up))
    keyed = op.map(f"{step_id}_lane", up, lambda batch: (batch.lane, batch))
    op.output(step_id, keyed, TargetSink(target))


def bind(step_id: str, up: Flowing[Any], target: Target) -> None:
    """Name to the target the step that it serves, and to the sources above the target."""
    flow = up.flow()
    # Kept on the Dataflow itself: the targets of one flow, whichever of its sources feed them.
    target.bind(target.settings.flow_name or flow.flow_id, step_id, vars(flow).setdefault("_waxwing_targets", {}))
    feed_from(up, target)


class TargetSink(FixedPartitionedSink[Any, None]):
    """A Bytewax sink over a target; its partitions bear the lanes' names, so that a lane stays on its worker."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._names = self.names(target)
        self._number = part_fn(self._names)
        self._crew: Crew | None = None
        self._lock = threading.Lock()

    @staticmethod
    def names(target: Target) -> list[str]:
        """Of the partitions."""
        lanes = min(target.settings.lanes, target.parts_max or target.settings.lanes)
        return [lane_name(lane) for lane in range(lanes)]

    @override
    def list_parts(self) -> list[str]:
        progress.start(self._target.settings.progress_interval_s)
        return self._names

    @override
    def part_fn(self, item_key: str) -> int:
        return self._number(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> TargetPartition:
        lane = for_part if len(self._names) == self._target.settings.lanes else ""
        return TargetPartition(Writer(self._target, for_part, crew=self.crew(for_part)), self._target, lane)

    def crew(self, part: str) -> Crew | None:
        """Whom the writer of a partition writes with: those of this run, where all own their positions by the same token."""
        if self._target.owners() is None or self._target.size.staged:
            return None
        with self._lock:  # several workers make partitions
            if self._crew is None or self._crew.has(part):  # the flow is run anew
                self._crew = Crew(self.admission())
            return self._crew

    def admission(self) -> Admits:
        """What may enter its transactions."""
        return admission_of(self._target)


class TargetPartition(StatefulSinkPartition[Any, None]):
    """Hands batches to its writer; the writer's thread does the rest.

    Args:
        writer: its own.
        target: whose.
        lane: which alone feeds it; empty: several do.
    """

    def __init__(self, writer: Writer, target: Target, lane: str = "") -> None:
        self._writer, self._target, self._lane = writer, target, lane

    @override
    def write_batch(self, values: list[Any]) -> None:
        for batch in values:
            self._writer.put(batch)

    @override
    def snapshot(self) -> None:
        """A barrier: what was handed over is durable afterwards. Keeps nothing, the target holds the positions.

        A change that is staged gets as old as its target says, not as an epoch: while lanes go on, only a recovery store needs
        the barrier. (A lane that ends sends something more into its targets, so that there is an epoch's end behind it.)
        """
        if not self._target.size.staged or not self._target.is_read(self._lane) or runtime.keeps_snapshots():
            self._writer.flush()

    @override
    def close(self) -> None:
        # Bytewax calls this after an exception too, so what waits is dropped, never committed.
        self._writer.close()
