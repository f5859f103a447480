"""Readings of sensors from Kafka, exactly once: each is checked (sensors_rules.py) and kept as it is in files, and every 15 s of
each sensor become a row of statistics: in files, in a topic and in a table, whichever SENSOR_OUTPUTS names.

Which 15 s a reading belongs to is said by the reading itself, so that the statistics are a function of the topic alone.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from pydantic import Field, field_validator

import waxwing
from dataflows.sensors_rules import RawReading, Reading, reading
from sinks import SqlWindows, sink, window_sink
from sinks.kafka import KafkaWindows
from sinks.windows.target import WindowTarget
from sources import read
from sources.kafka import KafkaSource
from waxwing.errors import ConfigError
from waxwing.operators import map, parse, without_rejects
from waxwing.operators.windows import Count, Max, Mean, Min, Tumbling, Windows
from waxwing.settings import (
    DeltaWindowSettings,
    KafkaSettings,
    KafkaWindowSettings,
    Needed,
    ParquetWindowSettings,
    SqlWindowSettings,
)
from waxwing.target import Target

__all__ = ["RawReading", "Reading", "SensorsSettings", "flow", "per_15_s", "reading", "sensor_data", "statistics"]

OUTPUTS = ("files", "topic", "table")
READINGS_SHOWN, READING_STEP_S = 50_000, 0.02  # of the embedded demonstration: a quarter of an hour
ADDRESSES = ("KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092", "DATABASE_URL=postgresql://user:password@127.0.0.1:5432/sensors")


class SensorsSettings(KafkaSettings, KafkaWindowSettings, SqlWindowSettings, ParquetWindowSettings, DeltaWindowSettings):
    """What this flow is told from outside."""

    needed: ClassVar[Mapping[str, Needed]] = {"database_url": Needed("sensor_outputs", lambda outputs: "table" in outputs)}
    source_topic: str = Field(default="sensors", min_length=1, max_length=249, description="Topic to read.")
    sensor_outputs: str = Field(
        default="files,topic,table",
        description="Where statistics go, with commas between: `files`, `topic`, `table`. Readings themselves go to files alone.",
    )
    sensor_stats_topic: str = Field(
        default="sensor_stats", min_length=1, max_length=249, description="Topic that the statistics go to."
    )
    sensors_path: str = Field(
        default="var/sensors",
        min_length=1,
        description="Folder of the files: sensor_data, sensor_data_stats and what they keep. (The demonstration has its own, "
        "var/demonstration-sensors.)",
    )
    database_table: str = Field(
        default="", description="Table of the statistics, `schema.table` or `table`. Empty: sensor_data_stats."
    )
    sensors_format: Literal["parquet", "delta"] = Field(default="parquet", description="What the files are.")
    sensors_idle_after_s: float | None = Field(
        default=None,
        gt=0.0,
        le=86_400.0,
        description="A partition without readings for so long is not waited for. Empty: all are, for ever.",
    )

    @field_validator("sensor_outputs")
    @classmethod
    def _outputs(cls, text: str) -> str:
        names = dict.fromkeys(name.strip() for name in text.split(","))
        if strange := [name for name in names if name not in OUTPUTS]:
            raise ValueError(f"must be of {', '.join(OUTPUTS)}, with commas between: {strange[0]!r} is no output")
        return ",".join(names)


sensor_data = sa.Table(
    "sensor_data",
    sa.MetaData(),
    sa.Column("sensor", sa.String(255), nullable=False),
    sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
    sa.Column("measure1", sa.Double, nullable=False),
    sa.Column("measure2", sa.Double, nullable=False),
)

per_15_s = Windows(
    by=("sensor",),
    time="ts",
    kind=Tumbling(length_s=15),
    aggregates={
        "measure1_avg": Mean("measure1"),
        "measure2_avg": Mean("measure2"),
        "count_sensor": Count(),
        "measure1_min": Min("measure1"),
        "measure1_max": Max("measure1"),
        "measure2_min": Min("measure2"),
        "measure2_max": Max("measure2"),
    },
    lateness_s=10,
)
ENDS = {"window_end": "ts"}


def statistics(*, zoned: bool, name: str = "sensor_data_stats") -> sa.Table:
    """The table of statistics, all times in UTC. Databases keep them without a zone; some know none."""
    measures = [
        sa.Column(name, sa.BigInteger if name == "count_sensor" else sa.Double, nullable=False) for name in per_15_s.aggregates
    ]
    schema, _, own = name.rpartition(".")
    return sa.Table(
        own,
        sa.MetaData(schema=schema or None),
        sa.Column("sensor", sa.String(255), primary_key=True),
        sa.Column("window_start", sa.DateTime(timezone=zoned), primary_key=True),
        sa.Column("ts", sa.DateTime(timezone=zoned), nullable=False),  # the window's end
        *measures,
    )


@waxwing.flow(SensorsSettings)
def flow(settings: SensorsSettings) -> Dataflow:
    """The flow on real servers; where none are given, the embedded demonstration."""
    if not settings.kafka_bootstrap_servers:
        settings = demonstration(settings)
    outputs = settings.sensor_outputs.split(",")
    flow = Dataflow("sensors")
    checked = map("reading", parse("parse", read("kafka", flow, KafkaSource(settings)), RawReading), reading, with_message=True)
    windows = replace(per_15_s, idle_after_s=settings.sensors_idle_after_s)
    if "files" in outputs:
        data, stats = files(settings, windows)
        sink("readings", checked, data)  # and what was refused, which needs to stand among the files but once
        window_sink("stats_files", without_rejects("accepted", checked), stats)
    if "topic" in outputs:
        topic, table = settings.sensor_stats_topic, statistics(zoned=True)
        window_sink("stats_topic", checked, KafkaWindows(settings, topic, table, windows, key="sensor", names=ENDS))
    if "table" in outputs:
        table = statistics(zoned=False, name=settings.database_table or "sensor_data_stats")
        window_sink("stats_table", checked, SqlWindows(settings, table, windows, names=ENDS))
    return flow


def files(settings: SensorsSettings, windows: Windows) -> tuple[Target, WindowTarget]:
    """The readings, and their statistics, as files."""
    # Imported only where files are asked for: their libraries may be missing elsewhere.
    table = statistics(zoned=True)
    data, stats = (f"{settings.sensors_path}/{one.name}" for one in (sensor_data, table))
    if settings.sensors_format == "delta":
        from sinks import delta  # noqa: PLC0415

        return (
            delta.DeltaTarget(settings, data, sensor_data, partition_by=(delta.day("ts"), delta.hour("ts"))),
            delta.DeltaWindows(settings, stats, table, windows, partition_by=delta.day("window_start"), names=ENDS),
        )
    from sinks.parquet import ParquetTarget, ParquetWindows, day, hour  # noqa: PLC0415

    return (
        ParquetTarget(settings, data, sensor_data, partition_by=(day("ts"), hour("ts"))),
        ParquetWindows(settings, stats, table, windows, partition_by=(day("window_start"),), names=ENDS),
    )


def demonstration(settings: SensorsSettings) -> SensorsSettings:
    """The settings with the addresses of the embedded demonstration, which is begun."""
    # A flow on real servers starts a tenth of a second sooner without.
    from dataflows import embedded  # noqa: PLC0415
    from dataflows.sensors_generator import readings  # noqa: PLC0415

    outputs = settings.sensor_outputs.split(",")
    if "files" in outputs and not settings.given_by("sensors_path"):
        settings = settings.model_copy(update={"sensors_path": str(embedded.new_folder("demonstration-sensors"))})
    elif "files" in outputs and any(Path(settings.sensors_path).glob("*")):
        raise ConfigError(
            f"The embedded demonstration begins anew each time, and SENSORS_PATH ({settings.sensors_path}) holds something.",
            hint="Name a folder that is not there; or leave it out: the demonstration has one of its own.",
        )
    first_s = time.time() - READINGS_SHOWN * READING_STEP_S
    made = embedded.Demonstration(
        records="readings",
        chunks=readings(
            READINGS_SHOWN, bad_ratio=0.002, late_ratio=0.001, seed=1, ts="mixed", first_s=first_s, step_s=READING_STEP_S
        ),
        file="demonstration-sensors.sqlite",
        tables=[statistics(zoned=False, name=settings.database_table or "sensor_data_stats")] if "table" in outputs else [],
        topics=[settings.sensor_stats_topic] if "topic" in outputs else [],
        refused=lambda: refused(settings),
        lines=how_to_read(settings) if "files" in outputs else [],
        real=ADDRESSES if "table" in outputs else ADDRESSES[:1],
    )
    return embedded.start(settings, made)


def refused(settings: SensorsSettings) -> list[tuple[str, str]]:
    """Stage and reason of each dead letter beside the files."""
    from deltalake import DeltaTable  # noqa: PLC0415 - as above
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    found: list[tuple[str, str]] = []
    for name in ("sensor_data", "sensor_data_stats"):
        folder = Path(settings.sensors_path) / f"{name}_dead_letters"
        is_delta = settings.sensors_format == "delta"
        # File by file, without threads: this is the end of the process, which theirs would abort.
        for file in DeltaTable(folder).file_uris() if is_delta else sorted(folder.glob("*.parquet")):
            rows = ParquetFile(file).read(["stage", "error"], use_threads=False).to_pylist()
            found += [(row["stage"], row["error"]) for row in rows]
    return found


def how_to_read(settings: SensorsSettings) -> list[str]:
    """The files, by DuckDB and by polars."""
    folder = f"{settings.sensors_path}/sensor_data_stats"
    text = json.dumps(folder if settings.sensors_format == "delta" else f"{folder}/**/*.parquet")
    duckdb, polars = f"duckdb.read_parquet({text})", f"polars.read_parquet({text})"
    if settings.sensors_format == "delta":  # DuckDB's own reader of these would have to be downloaded
        duckdb = f'duckdb.from_arrow(__import__("deltalake").DeltaTable({text}).to_pyarrow_dataset())'
        polars = f"polars.read_delta({text})"
    lines = [f'import duckdb; print({duckdb}.order("window_start, sensor"))', f"import polars; print({polars})"]
    return [
        f"The files lie in {settings.sensors_path}. Read them with DuckDB or with polars:",
        *(f"  python -c {shlex.quote(line)}" for line in lines),
    ]
