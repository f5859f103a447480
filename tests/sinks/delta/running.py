"""A flow that writes records into a Delta table, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from sinks import sink
from sinks.delta import DeltaTarget
from sources import read
from sources.memory import MemorySource
from waxwing.errors import WaxwingError
from waxwing.operators import map as map_records
from waxwing.operators import parse
from waxwing.settings import DeltaSettings

QUICK = DeltaSettings(lanes=1, owner_stale_s=1.0, delta_commit_age_s=0.0)


class N(msgspec.Struct):
    """A message: which record it stands for."""

    n: int


def run(
    path: Path, table: sa.Table, records: list[Any], *, begin: str = "", settings: DeltaSettings = QUICK, **options: Any
) -> DeltaTarget:
    """Write records, as they are, by a flow."""
    flow = Dataflow("demo")
    target = DeltaTarget(settings, path, table, **options)
    source = MemorySource([{"n": n} for n in range(len(records))], begin=begin)  # type: ignore[arg-type]
    batches = parse("parse", read("in", flow, source), N)
    sink("out", map_records("record", batches, lambda one: records[one.n]), target)
    try:
        run_main(flow)
    except BaseException as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, WaxwingError):
            found = found.__cause__ or found.__context__
        raise found or error from None
    return target
