"""What a source is made with; what all sources do alike stands behind it. See docs/your-own-source.md."""

from sources.kit.options import Options
from sources.kit.source import LaneSource, Source
from sources.kit.words import Alert, Begin, Fetched, LaneReader, Log, NotThere, Place, Run, messages, numbered
from waxwing.batch import Messages

__all__ = [
    "Alert",
    "Begin",
    "Fetched",
    "LaneReader",
    "LaneSource",
    "Log",
    "Messages",
    "NotThere",
    "Options",
    "Place",
    "Run",
    "Source",
    "messages",
    "numbered",
]
