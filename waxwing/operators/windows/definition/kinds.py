"""Kinds of windows, where a record's time stands, and what the columns of a row are called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Final, Literal

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
EPOCH_DAY = date(1970, 1, 1).toordinal()
START, END, REVISION = "window_start", "window_end", "revision"


class MessageTime(Enum):
    """Instead of a field's name: the timestamp of the Kafka message."""

    MESSAGE_TIME = "the message's timestamp"


MESSAGE_TIME: Final = MessageTime.MESSAGE_TIME


@dataclass(frozen=True)
class Tumbling:
    """Windows side by side, [n x length, (n + 1) x length) since 1970."""

    length_s: float


@dataclass(frozen=True)
class Hopping:
    """Windows of a length that begin every so often, so that they overlap."""

    length_s: float
    every_s: float


@dataclass(frozen=True)
class Calendar:
    """Days, weeks or months of a time zone, side by side: [midnight there, midnight there), however long the day is.

    Args:
        unit: "day"; "week", from Monday on; or "month".
        zone: a name of the time zone database, such as "Europe/Berlin", or "UTC".
        every: so many of them are one window, counted from the day, week or month that 1970-01-01 is in: with months 3 is a
            quarter, 12 a year. A year at the most.
    """

    unit: Literal["day", "week", "month"]
    zone: str
    every: int = 1


@dataclass(frozen=True)
class Session:
    """Windows of a key's records, each less than `gap_s` after the one before; they end `gap_s` after the last."""

    gap_s: float


def microseconds(seconds: float) -> int:
    """A span as everything counts it."""
    return round(seconds * SECOND_US)
