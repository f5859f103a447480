"""Where rows go: one exactly-once partition, and the targets behind it."""

from sinks.memory import MemoryTarget
from sinks.partition import sink
from sinks.sql import SqlTarget
from waxwing.databases.base import Append, Upsert

__all__ = ["Append", "MemoryTarget", "SqlTarget", "Upsert", "sink"]
