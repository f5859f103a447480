"""Readings of sensors, as the flow sensors checks them, into one target alone: files, a Delta table or a topic."""

from __future__ import annotations

from typing import Literal

from bytewax.dataflow import Dataflow

import waxwing
from dataflows.sensors import RawReading, reading, sensor_data
from sinks import sink
from sinks.delta import DeltaTarget
from sinks.kafka import KafkaTarget
from sinks.parquet import ParquetTarget, day, hour
from sources import read
from sources.kafka import KafkaSource
from waxwing.operators import map, parse  # noqa: A004 - as a flow has it
from waxwing.settings import DeltaSettings, KafkaSettings, KafkaTargetSettings, ParquetSettings
from waxwing.target import Target


class Settings(KafkaSettings, KafkaTargetSettings, ParquetSettings, DeltaSettings):
    """Where from, and where to."""

    output: Literal["parquet", "delta", "kafka"] = "parquet"
    output_place: str = ""  # a folder, or a topic


@waxwing.flow(Settings)
def flow(settings: Settings) -> Dataflow:
    """Kafka -> checked readings -> the output."""
    flow = Dataflow("readings")
    checked = map("reading", parse("parse", read("kafka", flow, KafkaSource(settings)), RawReading), reading, with_message=True)
    target: Target
    if settings.output == "kafka":
        target = KafkaTarget(settings, settings.output_place, sensor_data, key="sensor")
    elif settings.output == "delta":
        target = DeltaTarget(settings, settings.output_place, sensor_data)
    else:
        target = ParquetTarget(settings, settings.output_place, sensor_data, partition_by=(day("ts"), hour("ts")))
    sink("output", checked, target)
    return flow
