"""How a process feeds a step: what Bytewax does between the source and the sink partitions of one process."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sinks.partition import TargetPartition, TargetSink
from tests.simulation.database import Crash
from tests.simulation.source import batch_of
from tests.simulation.steps.stepped import SteppedWriter
from tests.simulation.target import ModelTarget
from waxwing.batch import Batch
from waxwing.errors import WaxwingError
from waxwing.settings import SinkSettings
from waxwing.target import Target

if TYPE_CHECKING:
    from sinks.writer.admission import Admits
    from sources.kit.words import Raw
    from tests.simulation.process import Process
    from tests.simulation.truth import Record


class Fed(ABC):
    """A step in one process.

    Attributes:
        model: the target over the model of a store.
        target: what sources and writers are given.
    """

    target: Target

    def __init__(self, process: Process, step: str, model: ModelTarget) -> None:
        self.process, self.world, self.step, self.model = process, process.world, step, model
        self.target = model
        self.partitions: dict[str, TargetPartition] = {}

    @abstractmethod
    def open(self) -> None:
        """Make the sink partitions of this process; the source is open."""

    @abstractmethod
    def put(self, batch: Batch[Any]) -> None:
        """Hand a batch over to whoever it is for."""

    @abstractmethod
    def batch(self, read: Raw, found: list[Record]) -> Batch[Any]:
        """What the steps before make of what was read."""

    @property
    def has_mail(self) -> bool:
        """Has another process of the mesh sent it anything that was not taken in?"""
        return False

    def receive(self) -> None:
        """Take in something of that."""
        raise NotImplementedError(self.step)

    def add(self, name: str, writer: SteppedWriter) -> None:
        """A sink partition."""
        self.process.writers.append(writer)
        self.partitions[name] = TargetPartition(writer, self.target)

    def flush(self) -> None:
        """An epoch's end."""
        for partition in self.partitions.values():
            partition.snapshot()

    def close(self) -> None:
        """What Bytewax does at an end that nobody asked for."""
        for partition in self.partitions.values():
            with contextlib.suppress(Crash, WaxwingError):
                partition.close()

    def put_wrongly(self, batch: Batch[Any]) -> None:
        """A batch is lost on the way, comes twice, or its halves come on two paths (branch, map, map, merge).

        Of two paths the sink can't know before the second batch: it loses that one half, and must stop then.
        """
        batches = self.miswired(batch, self.world.chance.randrange(3))
        fed = ", ".join(f"{each.offset_first} to {each.offset_next} {list(each.records)}" for each in batches)
        self.world.say(f"{self.process}: {self.step} is fed {batch.stream} wrongly: {fed or 'nothing'}")
        for each in batches:
            self.put(each)

    def miswired(self, batch: Batch[Any], how: int) -> list[Batch[Any]]:
        """What comes in the place of a batch."""
        if how == 0:
            return []
        if how == 1:
            return [batch, batch]
        self.process.torn[self.step, batch.stream.partition] = batch.offset_next
        torn = self.world.torn.setdefault((self.step, batch.stream.partition), [])
        torn.append((batch.offset_first, batch.offset_next))
        return [half(batch, odd) for odd in (0, 1)]


def half(batch: Batch[Any], odd: int) -> Batch[Any]:
    """The even or the odd messages of a batch, which says that it is all of it."""
    chosen = [n for n, at in enumerate(batch.at) if at % 2 == odd]
    return replace(
        batch,
        records=[batch.records[n] for n in chosen],
        at=[batch.at[n] for n in chosen],
        rejects=[reject for reject in batch.rejects if reject.at % 2 == odd],
        deletes=[delete for delete in batch.deletes if delete.at % 2 == odd],
    )


class Sink(TargetSink):
    """The shipped one; what admits batches may be planted."""

    def __init__(self, target: Target, admission: Callable[[SinkSettings], Admits]) -> None:
        super().__init__(target)
        self._admits = admission

    @override
    def admission(self) -> Admits:
        return self._admits(self._target.settings)


class FedByLane(Fed):
    """A step each of whose partitions takes in one lane (or all of them, where there is one writer)."""

    _route: Callable[[str], int]
    _names: Sequence[str]

    @override
    def open(self) -> None:
        sink = Sink(self.target, self.world.parts.admission)
        self._route, self._names = sink.part_fn, sink._names
        for name in self._names:
            if self.process.has(name):
                self.add(name, SteppedWriter(self.process, self.target, name, crew=sink.crew(name)))

    @override
    def put(self, batch: Batch[Any]) -> None:
        self.partitions[self._names[self._route(batch.lane)]].write_batch([batch])

    @override
    def batch(self, read: Raw, found: list[Record]) -> Batch[Any]:
        return batch_of(self.step, read, found, self.model.began)
