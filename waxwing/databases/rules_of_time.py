"""What columns of dates and times take: see rules.py."""

# ruff: noqa: ARG001, ARG005 - one signature for all rules

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from waxwing.databases.base import Dialect
from waxwing.databases.rules import Rule, Values, fits_each, refused

_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_zone = attrgetter("tzinfo")


def date_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    return Rule(frozenset({date}), lambda values: True, lambda value: None)


def datetime_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    # Types of single databases that keep only some values bring the test with them.
    kept: Callable[[datetime], bool] | None = getattr(column.type, "keeps", None)
    zoned = kept is None and _zoned(column, dialect)

    def reason(value: datetime) -> str | None:
        if (value.utcoffset() is not None) != zoned:
            return _wrong_zone(zoned)
        if kept is not None and not kept(value):
            return f"a time that {column.type.__visit_name__.upper()} does not keep exactly"
        # Within a day of the calendar's ends the same instant may lie outside of it in another zone.
        return None if not zoned or _FIRST <= value <= _LAST else "too close to the calendar's end for a timestamp with zone"

    def all_fit(values: Values) -> bool:
        zones = set(map(_zone, values))
        if not zoned:
            return zones == {None}
        return zones == {UTC} and bool(min(values) >= _FIRST and max(values) <= _LAST)

    def each(values: Values) -> bool:
        return (kept is None and all_fit(values)) or all(reason(value) is None for value in values)

    return Rule(frozenset({datetime}), each if zoned or kept is not None else all_fit, reason)


def time_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    zoned = _zoned(column, dialect)

    def reason(value: time) -> str | None:
        return None if (value.utcoffset() is not None) == zoned else _wrong_zone(zoned)

    return Rule(frozenset({time}), fits_each(reason), reason)


def _zoned(column: sa.Column[Any], dialect: Dialect) -> bool:
    if (getattr(column.type, "precision", None) or 6) < 6 or getattr(column.type, "precision", None) == 0:
        raise refused(column, "it would round microseconds", "Declare it without a precision.")
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
