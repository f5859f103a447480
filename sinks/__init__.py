"""Where rows go: one exactly-once partition, and the targets behind it."""

from sinks.memory.target import MemoryTarget
from sinks.memory.windows import MemoryWindows
from sinks.partition import sink
from sinks.sql.live_windows import SqlLiveWindows
from sinks.sql.target import SqlTarget
from sinks.sql.windows import SqlWindows
from sinks.windows.sink import window_sink
from waxwing.batch import Into
from waxwing.tables.modes import Append, Merge, Upsert

__all__ = [
    "Append",
    "Into",
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
