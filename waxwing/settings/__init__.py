"""What a process is told from outside, every setting declared once.

A source or target takes the group it needs (`KafkaSettings`, `SqlSettings`) as a value. A flow's class names them as fields, each
with a prefix of its own where there are several (`Settings`), or inherits them; `waxwing.flow` reads it. Nothing below reads the
environment.
"""

from waxwing.settings.group import Group, Needed, Settings, prefixed
from waxwing.settings.groups import (
    DatabaseSettings,
    DeltaSettings,
    DeltaWindowSettings,
    KafkaClientSettings,
    KafkaSettings,
    KafkaTargetSettings,
    KafkaWindowSettings,
    LaneSettings,
    MySQLSettings,
    ParquetSettings,
    ParquetWindowSettings,
    SinkSettings,
    SourceSettings,
    SQLServerSettings,
    SqlSettings,
    SqlWindowSettings,
    WindowSettings,
)

__all__ = [
    "DatabaseSettings",
    "DeltaSettings",
    "DeltaWindowSettings",
    "Group",
    "KafkaClientSettings",
    "KafkaSettings",
    "KafkaTargetSettings",
    "KafkaWindowSettings",
    "LaneSettings",
    "MySQLSettings",
    "Needed",
    "ParquetSettings",
    "ParquetWindowSettings",
    "SQLServerSettings",
    "Settings",
    "SinkSettings",
    "SourceSettings",
    "SqlSettings",
    "SqlWindowSettings",
    "WindowSettings",
    "prefixed",
]
