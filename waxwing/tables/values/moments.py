"""Times with a zone, compared as every database compares them: by their instant."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Any


def moment(value: Any) -> Any:
    """What is compared in a value's place: of a time with a zone its instant, else the value itself.

    Python compares two times of one zone by the clock on the wall, and so takes the two of an hour that comes twice for one.
    Times of day are ordered as PostgreSQL orders them: equal instants of two zones are two, the further west the greater.
    """
    if not isinstance(value, datetime | time):
        return value
    offset = value.utcoffset()
    if offset is None:
        return value
    if isinstance(value, datetime):
        return since_first(value, offset)
    day = datetime.combine(date.min, value.replace(tzinfo=None))
    return since_first(day, offset), -offset


def since_first(value: datetime, offset: timedelta | None) -> timedelta:
    """From the first moment of the calendar. Not by astimezone(): at the calendar's ends it raises."""
    return value.replace(tzinfo=None) - datetime.min - (offset or timedelta())  # noqa: DTZ901 - no zone
