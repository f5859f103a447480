"""Where records come from."""

from __future__ import annotations

from typing import Any, TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.dataflow import Stream as Flowing
from bytewax.inputs import Source

from waxwing.batch import Batch
from waxwing.errors import ConfigError
from waxwing.steps.graph import Feeder
from waxwing.steps.instead import instead

R = TypeVar("R")

__all__ = ["read"]


def read(step_id: str, flow: Dataflow, source: Source[Batch[R]]) -> Flowing[Batch[R]]:
    """Read a source: a stream of its batches.

    Every sink that is drawn behind it says itself which target the batches end in, so that the source starts where that stands.

    Parallelism: the source's lanes, spread over all workers and processes.
    Delivery: exactly once into each target of ours behind it, on an unbroken path (tests/faults/test_kafka_source.py).

    Raises:
        ConfigError: it is no source of Waxwing: its items are no batches.
    """
    source = instead(step_id, source)
    given: Any = source
    if not isinstance(given, Feeder):
        raise ConfigError(
            f"read({step_id!r}): {type(given).__name__} is no source of Waxwing.",
            hint="Give it a KafkaSource, or one that is made as docs/your-own-source.md says; any other goes with op.input, "
            "and its items are no batches, so they end in a plain Bytewax sink.",
        )
    return op.input(step_id, flow, source)
