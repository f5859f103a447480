"""The orders flow into the memory target: what Waxwing costs where no database is in the way.

The rows are counted and let go: a million of them in one list would measure the memory allocator.
"""

from __future__ import annotations

from typing import Any

from bytewax.dataflow import Dataflow
from typing_extensions import override

from dataflows.orders import build
from sinks import MemoryTarget
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.settings import KafkaSettings, SinkSettings


class Settings(KafkaSettings, SinkSettings):
    """No database."""


class Counted(MemoryTarget):
    """Takes rows in as the memory target does, under its lock and with its positions, and keeps their number only."""

    count = 0

    @override
    def _take_in(self, batch: Any) -> None:
        self.count += len(batch.records)


def flow() -> Dataflow:
    """The flow with settings from the environment."""
    with runtime.starting():
        settings = load(Settings)
        target = Counted(settings=settings)
        return build(KafkaSource(settings, feeds=[target], flow="orders"), target)
