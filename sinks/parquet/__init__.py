"""Folders of Parquet files as targets."""

from sinks.parquet.partitions import PartitionKey, day, hour
from sinks.parquet.target import ParquetTarget
from sinks.parquet.windows import ParquetWindows

__all__ = ["ParquetTarget", "ParquetWindows", "PartitionKey", "day", "hour"]
