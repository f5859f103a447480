"""Where rows go: one exactly-once partition, and the targets behind it."""

from sinks.memory import MemoryTarget
from sinks.partition import sink
from sinks.sql import SqlTarget
from waxwing.databases.base import Append, Merge, Upsert

__all__ = ["Append", "MemoryTarget", "Merge", "SqlTarget", "Upsert", "sink"]
