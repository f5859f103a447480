"""The orders flow into the memory target: what Waxwing costs where no database is in the way.

The rows are counted and let go: a million of them in one list would measure the memory allocator.
"""

from __future__ import annotations

from typing import Any

from bytewax.dataflow import Dataflow
from typing_extensions import override

from dataflows.orders import build
from sinks import MemoryTarget
from sinks.memory.rows import KeptRows
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.change import Change
from waxwing.configuration import load
from waxwing.settings import KafkaSettings, SinkSettings


class Settings(KafkaSettings, SinkSettings):
    """No database."""


class Number(KeptRows):
    """Of the rows."""

    count = 0

    @override
    def write(self, change: Change, *, dry_run: bool) -> None:
        self.count += sum(len(batch.records) for batch in change.batches)

    @property
    @override
    def rows(self) -> list[Any]:
        return []


class Counted(MemoryTarget):
    """Takes rows in as the memory target does, under its lock and with its positions, and keeps their number only."""

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings=settings)
        self._kept = Number()


def flow() -> Dataflow:
    """The flow with settings from the environment."""
    with runtime.starting():
        settings = load(Settings)
        target = Counted(settings)
        return build(KafkaSource(settings), target)
