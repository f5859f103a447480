"""What a definition of windows may say. Each check raises ConfigError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from waxwing.errors import ConfigError
from waxwing.operators.windows.aggregates.functions import Aggregate
from waxwing.operators.windows.aggregates.values import key_problem
from waxwing.operators.windows.definition.calendars import EVERY_MAX, zone_of
from waxwing.operators.windows.definition.kinds import (
    END,
    MESSAGE_TIME,
    REVISION,
    START,
    Calendar,
    Hopping,
    Session,
    Tumbling,
    microseconds,
)

LENGTH_MAX_S = 400 * 86_400
# As many windows as one record may belong to.
WINDOWS_MAX = 1_000


def check_fields(by: Any, time: Any, aggregates: Mapping[Any, Any]) -> None:
    """Whatever the caller wrote: are these a key, a time, and aggregates?"""
    if isinstance(by, str) or not all(isinstance(name, str) and name for name in by):
        raise ConfigError(f"by={by!r} is no tuple of field names.", hint='Write by=("customer",), or by=() for one key.')
    if time is not MESSAGE_TIME and not (isinstance(time, str) and time):
        raise ConfigError(f"time={time!r} is no field's name.", hint='Write time="ordered_at", or time=MESSAGE_TIME.')
    if not aggregates:
        raise ConfigError("Windows without aggregates compute nothing.", hint='Write aggregates={"orders": Count()}.')
    for name, aggregate in aggregates.items():
        if not isinstance(name, str) or not name or not isinstance(aggregate, Aggregate):
            raise ConfigError(
                f"aggregates: {name!r}: {aggregate!r} is no aggregate.",
                hint='Write aggregates={"orders": Count(), "value": Sum("value")}.',
            )


def check_names(names: Sequence[str], fields: Sequence[str] | None, read: Sequence[str]) -> None:
    """Are the columns of a row apart, and do the tuples have the fields that are read?"""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Windows: two columns would be called {', '.join(twice)}.",
            hint=f"Rename the aggregate; {START}, {END}, {REVISION} and the key's fields are columns too.",
        )
    if fields is not None and (lacking := [name for name in read if name not in fields]):
        raise ConfigError(f"fields={list(fields)!r} lacks {', '.join(lacking)}.", hint="Name the tuples' fields in their order.")


def check_corrections(corrections: str) -> None:
    if corrections not in ("at_end", "eager"):
        raise ConfigError(f"corrections={corrections!r} is unknown.", hint='Take "at_end" or "eager".')


def check_null_keys(given: Any, by: Sequence[str]) -> None:
    """Is it said what becomes of nulls in the key?"""
    if not isinstance(given, Mapping):
        if given not in ("reject", "group"):
            raise ConfigError(f"null_keys={given!r} is unknown.", hint='Take "reject", "group", or such as {"customer": ""}.')
        return
    if strange := [name for name in given if name not in by]:
        raise ConfigError(
            f"null_keys: {', '.join(map(str, strange))} is no field of the key, which is {by!r}.",
            hint="Name fields of by, with what stands for a null there.",
        )
    for name, value in given.items():
        if (reason := key_problem(value)) is not None:
            raise ConfigError(
                f"null_keys: {value!r} can't stand for a null in {name}: {reason}.", hint="Take a value of the field's type."
            )


def check_kind(kind: Any, grace_s: Any) -> None:
    """Is it a kind of windows, whose spans fit each other, and the grace?"""
    if isinstance(kind, Session):
        check_spans({"gap_s": kind.gap_s}, at_least_us=1)
        if grace_s:
            raise ConfigError(
                f"Sessions take no corrections: grace_s={grace_s!r}.",
                hint="A late record could join two sessions that were written already: raise lateness_s instead.",
            )
    elif isinstance(kind, Tumbling):
        check_spans({"length_s": kind.length_s}, at_least_us=1)
    elif isinstance(kind, Hopping):
        check_spans({"length_s": kind.length_s, "every_s": kind.every_s}, at_least_us=1)
        if kind.every_s > kind.length_s:
            raise ConfigError(
                f"Windows of {kind.length_s} s every {kind.every_s} s leave gaps.", hint="Let every_s be at most length_s."
            )
        length_us, every_us = microseconds(kind.length_s), microseconds(kind.every_s)
        if length_us > WINDOWS_MAX * every_us:
            raise ConfigError(
                f"Each record would be in {length_us / every_us:,.0f} windows.", hint=f"At most {WINDOWS_MAX:,} can be."
            )
    elif isinstance(kind, Calendar):
        check_calendar(kind.unit, kind.zone, kind.every)
    else:
        raise ConfigError(f"kind={kind!r} is unknown.", hint="Take Tumbling(length_s=60), Hopping, Calendar or Session.")


def check_calendar(unit: Any, zone: Any, every: Any) -> None:
    """Is it a calendar, in a zone that this machine knows?"""
    if not isinstance(unit, str) or unit not in EVERY_MAX:
        raise ConfigError(
            f"Calendar: unit={unit!r} is unknown.",
            hint='Take "day", "week" or "month"; every=3 months are a quarter, every=12 a year.',
        )
    if type(every) is not int or not 1 <= every <= EVERY_MAX[unit]:
        raise ConfigError(f"Calendar: every={every!r} is no number of {unit}s.", hint=f"Take 1 to {EVERY_MAX[unit]}.")
    zone_of(zone)


def check_spans(spans: Mapping[str, Any], at_least_us: int = 0) -> None:
    """Are these seconds, not too many, and not too few?"""
    for name, value in spans.items():
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= LENGTH_MAX_S:
            raise ConfigError(f"{name}={value!r} is no span of time.", hint=f"Take 0 to {LENGTH_MAX_S:,} seconds.")
        if microseconds(value) < at_least_us:
            raise ConfigError(f"{name}={value!r} is too short.", hint="Take a microsecond or more.")
