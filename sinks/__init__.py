"""Where rows go: one exactly-once partition, and the targets behind it."""

from sinks.memory import MemoryTarget
from sinks.memory_windows import MemoryWindows
from sinks.partition import sink
from sinks.sql import SqlTarget
from sinks.sql_live_windows import SqlLiveWindows
from sinks.sql_windows import SqlWindows
from sinks.windows import window_sink
from waxwing.databases.base import Append, Merge, Upsert

__all__ = [
    "Append",
    "MemoryTarget",
    "MemoryWindows",
    "Merge",
    "SqlLiveWindows",
    "SqlTarget",
    "SqlWindows",
    "Upsert",
    "sink",
    "window_sink",
]
