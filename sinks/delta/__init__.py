"""Delta tables as targets: rows, dead letters, positions and open windows, each exactly once."""

from sinks.delta.target import DeltaTarget
from sinks.delta.windows import DeltaWindows
from waxwing.tables.files.keys import PartitionKey, day, hour

__all__ = ["DeltaTarget", "DeltaWindows", "PartitionKey", "day", "hour"]
