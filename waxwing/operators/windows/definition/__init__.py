"""What a user writes of windows, and what is wrong with it."""

from waxwing.operators.windows.definition.kinds import (
    END,
    MESSAGE_TIME,
    REVISION,
    SECOND_US,
    START,
    Calendar,
    Hopping,
    MessageTime,
    Session,
    Tumbling,
)
from waxwing.operators.windows.definition.windows import Windows

__all__ = [
    "END",
    "MESSAGE_TIME",
    "REVISION",
    "SECOND_US",
    "START",
    "Calendar",
    "Hopping",
    "MessageTime",
    "Session",
    "Tumbling",
    "Windows",
]
