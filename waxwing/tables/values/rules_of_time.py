"""What columns of dates and times take: see rules.py."""

# ruff: noqa: ARG001, ARG005 - one signature for all rules

from __future__ import annotations

from datetime import UTC, date, datetime, time
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from waxwing.tables.dialect import Dialect
from waxwing.tables.values.rules import Rule, Values, fits_each, refused

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND_DIGITS = 6
_zone = attrgetter("tzinfo")


def date_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    return Rule(frozenset({date}), lambda values: True, lambda value: None)


def datetime_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    zoned, grain = _zoned(column, dialect), _grain(column.type)

    def reason(value: datetime) -> str | None:
        if (value.utcoffset() is not None) != zoned:
            return _wrong_zone(zoned)
        if value.microsecond % grain:
            return _TOO_FINE
        # At the calendar's ends the instant may lie outside of it in UTC, in which it is read.
        return None if not zoned or _FIRST <= value <= _LAST else "outside of the years 1 to 9999 in UTC"

    def all_fit(values: Values) -> bool:
        if set(map(_zone, values)) != {UTC if zoned else None}:
            return False
        return grain == 1 or not any(value.microsecond % grain for value in values)

    def each(values: Values) -> bool:
        return all_fit(values) or all(reason(value) is None for value in values)

    return Rule(frozenset({datetime}), each if zoned else all_fit, reason)


def time_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    zoned, grain = _zoned(column, dialect), _grain(column.type)

    def reason(value: time) -> str | None:
        if (value.utcoffset() is not None) != zoned:
            return _wrong_zone(zoned)
        return _TOO_FINE if value.microsecond % grain else None

    return Rule(frozenset({time}), fits_each(reason), reason)


_TOO_FINE = "a time with more digits of a second than the column keeps"


def _grain(kind: Any) -> int:
    """Microseconds that the declared type tells apart; some call it precision, some fsp."""
    digits = next((each for name in ("precision", "fsp") if (each := getattr(kind, name, None)) is not None), _MICROSECOND_DIGITS)
    return int(10 ** max(_MICROSECOND_DIGITS - digits, 0))


def _zoned(column: sa.Column[Any], dialect: Dialect) -> bool:
    zoned = bool(getattr(column.type, "timezone", False))
    if zoned and not (dialect.time_timezone_kept if isinstance(column.type, sa.Time) else dialect.timezone_kept):
        raise refused(
            column,
            f"{dialect.name} does not keep time zones{' of times of day' if dialect.timezone_kept else ''}",
            "Declare it without timezone=True and give it UTC without zone, or store epoch milliseconds as BigInteger.",
        )
    return zoned


def _wrong_zone(zoned: bool) -> str:
    return "without time zone, and the column has one" if zoned else "with a time zone, and the column has none"
