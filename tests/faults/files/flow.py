"""A flow into a folder of files, or a Delta table, and windows into another, for tests that kill it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow

import waxwing
from sinks import sink, window_sink
from sinks.delta import DeltaTarget, DeltaWindows
from sinks.parquet import ParquetTarget, ParquetWindows, day, hour
from sources import read
from sources.memory import MemorySource
from waxwing.operators import parse
from waxwing.operators.windows import Count, Sum, Tumbling, Windows
from waxwing.settings import DeltaWindowSettings, ParquetWindowSettings

PARTITIONS, EACH, FIRST_S = 3, 2_000, 1_767_225_600


class Reading(msgspec.Struct):
    """What a record is."""

    id: int
    at: datetime


def table() -> sa.Table:
    """Of the rows."""
    return sa.Table("readings", sa.MetaData(), sa.Column("id", sa.BigInteger), sa.Column("at", sa.DateTime(timezone=True)))


def minutes() -> sa.Table:
    """Of the windows."""
    return sa.Table(
        "minutes",
        sa.MetaData(),
        sa.Column("window_start", sa.DateTime(timezone=True)),
        sa.Column("n", sa.BigInteger),
        sa.Column("total", sa.BigInteger),
    )


def messages(partition: int) -> list[bytes]:
    """Every hundredth is no JSON."""
    out = []
    for n in range(EACH):
        at = datetime.fromtimestamp(FIRST_S + n, UTC).isoformat()
        out.append(b"?" if n % 100 == 99 else msgspec.json.encode({"id": partition * EACH + n, "at": at}))
    return out


class Settings(ParquetWindowSettings, DeltaWindowSettings):
    """Where to, and how."""

    form: Literal["parquet", "delta"] = "parquet"
    folder: str


@waxwing.flow(Settings)
def flow(settings: Settings) -> Dataflow:
    """Reads what there is, to its end."""
    made = Dataflow("readings")
    source = MemorySource({p: messages(p) for p in range(PARTITIONS)}, batch_records=50, lanes=settings.lanes)
    readings = parse("parse", read("in", made, source), Reading)
    windows = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count(), "total": Sum("id")}, lateness_s=EACH)
    data, closed = f"{settings.folder}/readings", f"{settings.folder}/minutes"
    keys = (day("at"), hour("at"))
    if settings.form == "delta":
        sink("rows", readings, DeltaTarget(settings, data, table(), partition_by=keys, positions=True))
        window_sink("minutes", readings, DeltaWindows(settings, closed, minutes(), windows))
    else:
        sink("rows", readings, ParquetTarget(settings, data, table(), partition_by=keys, positions=True))
        window_sink("minutes", readings, ParquetWindows(settings, closed, minutes(), windows))
    return made
