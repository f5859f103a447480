"""Folders of Parquet files as targets."""

from sinks.parquet.target import ParquetTarget
from sinks.parquet.windows import ParquetWindows
from waxwing.tables.files.keys import PartitionKey, day, hour

__all__ = ["ParquetTarget", "ParquetWindows", "PartitionKey", "day", "hour"]
