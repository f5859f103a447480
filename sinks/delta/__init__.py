"""Delta tables as targets: rows, dead letters, positions and open windows, each exactly once."""

from sinks.delta.rows.keys import PartitionKey, day, hour
from sinks.delta.target import DeltaTarget
from sinks.delta.windows import DeltaWindows

__all__ = ["DeltaTarget", "DeltaWindows", "PartitionKey", "day", "hour"]
