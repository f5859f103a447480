"""What a source is made with; what all sources do alike stands behind it. See docs/your-own-source.md."""

from sources.kit.source import LaneSource, Source
from sources.kit.words import Alert, Begin, Fetched, LaneReader, Log, NotThere, Options, Place, Run, numbered

__all__ = [
    "Alert",
    "Begin",
    "Fetched",
    "LaneReader",
    "LaneSource",
    "Log",
    "NotThere",
    "Options",
    "Place",
    "Run",
    "Source",
    "numbered",
]
