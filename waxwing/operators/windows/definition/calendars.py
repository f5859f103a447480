"""Days, weeks and months of a time zone: where each begins, by the zone's rules as this machine has them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from waxwing.errors import ConfigError
from waxwing.operators.windows.definition.kinds import DAY_US, EPOCH_DAY, SECOND_US, Calendar

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_MONDAY = EPOCH_DAY - EPOCH.weekday()
# A year at the most: so windows of all times that records may have (years 2 to 9998) begin and end within what a datetime holds.
EVERY_MAX = {"day": 365, "week": 52, "month": 12}
SHORTEST_DAYS = {"day": 1, "week": 7, "month": 28}
# Days of UTC of which the windows are remembered, a century's: a topic may hold any.
DAYS_MAX = 40_000
# What a folder of zones holds beside zones: other clocks (of leap seconds), and what each machine has for itself.
NO_ZONES = ("posix", "right", "posixrules", "localtime")
# A day's first instant and this is on that day, also by a clock that is hours off.
MIDDAY = timedelta(hours=11)


def zone_of(name: Any) -> ZoneInfo:
    """The rules of a zone.

    Raises:
        ConfigError: this machine knows no such zone.
    """
    if isinstance(name, str) and name and name.partition("/")[0] not in NO_ZONES:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder's name, a path, a file that is no zone
            pass
    known = sorted(available_timezones() - set(NO_ZONES))
    if not known:
        raise ConfigError(
            f"Calendar: zone={name!r} is not known: this machine has no time zones.",
            hint='Install the package tzdata (pip install tzdata, or that of the distribution). "UTC" needs it, too.',
        )
    folded = {one.casefold(): one for one in known} | {one.rpartition("/")[2].casefold(): one for one in known}
    close = get_close_matches(str(name).replace(" ", "_").casefold(), folded, n=1, cutoff=0.8)
    raise ConfigError(
        f"Calendar: zone={name!r} is no time zone that this machine knows.",
        hint=f"Did you mean {folded[close[0]]!r}?"
        if close
        else 'Take a name such as "Europe/Berlin" or "UTC"; zones that are new come with a newer package tzdata.',
    )


@lru_cache(maxsize=64)
def calendar_grid(kind: Calendar) -> CalendarGrid:
    """One for all folds and buckets of a process: they share what it remembers."""
    return CalendarGrid(kind)


class CalendarGrid:
    """Windows side by side, each from the first instant of its first day in the zone to that of the next one's.

    A day begins at midnight; where that is skipped, when the clock is moved; where it comes twice, at the first. A window of
    which the zone skipped every day has no length, and is none.

    A time's window is looked up among those of its day in UTC, which are computed once, in some 20 microseconds.
    """

    def __init__(self, kind: Calendar) -> None:
        self._kind, self._zone = kind, zone_of(kind.zone)
        self._days: dict[int, list[int]] = {}
        self.slot_us = SHORTEST_DAYS[kind.unit] * kind.every * DAY_US

    def __reduce__(self) -> tuple[Any, ...]:
        return calendar_grid, (self._kind,)  # the rules are those of the machine where it is read

    def window_at(self, time_us: int) -> tuple[int, int]:
        """Start and end of the window that holds a time."""
        day = time_us // DAY_US
        starts = self._days.get(day) or self._remember(day)
        n = bisect_right(starts, time_us)
        return starts[n - 1], starts[n]

    def slot(self, time_us: int) -> int:
        return self.window_at(time_us)[0]

    def slots(self, times: Sequence[int]) -> list[int]:
        start = end = 0
        out = []
        for t in times:  # most are in the window of the one before
            if not start <= t < end:
                start, end = self.window_at(t)
            out.append(start)
        return out

    def behind(self, slot: int) -> int:
        return self.window_at(slot)[1]

    def ends(self, slot: int) -> list[int]:
        return [self.window_at(slot)[1]]

    def start_of(self, end: int) -> int:
        """Raises ConfigError where no window ends there: who computed it goes by other rules."""
        start, found = self.window_at(end - 1)
        if found != end:
            moment = EPOCH + timedelta(microseconds=end)
            raise ConfigError(
                f"{self._kind!r}: by another process of this flow a window ends at {moment.isoformat()}, and by this one none: "
                "their machines have different time zone data.",
                hint="Give them the same (the package tzdata of the distribution, or of Python where there is no other).",
            )
        return start

    def day(self, time_us: int) -> date:
        # The rules may be others by now than those that a written window began by (see the state of a bucket).
        return (self._local(time_us).replace(tzinfo=None) + MIDDAY).date()

    # -- days ---------------------------------------------------------------------------------------

    def _remember(self, day: int) -> list[int]:
        """The starts of all windows of a day of UTC, and the end of the last one; those of no length at their place, twice."""
        number = self._number(self._local(day * DAY_US))
        starts = [self._start(number)]
        while starts[-1] < (day + 1) * DAY_US:
            number += 1
            starts.append(self._start(number))
        if len(self._days) >= DAYS_MAX:
            self._days.clear()
        self._days[day] = starts
        return starts

    def _number(self, local: datetime) -> int:
        """The number of the window that holds a local day."""
        kind = self._kind
        if kind.unit == "month":
            return ((local.year - EPOCH.year) * 12 + local.month - 1) // kind.every
        if kind.unit == "week":
            return (local.toordinal() - EPOCH_MONDAY) // (7 * kind.every)
        return (local.toordinal() - EPOCH_DAY) // kind.every

    def _start(self, number: int) -> int:
        """Where the window of a number begins."""
        kind = self._kind
        if kind.unit == "month":
            years, month = divmod(number * kind.every, 12)
            year = min(max(EPOCH.year + years, date.min.year), date.max.year)
            # Beyond them a window is only looked at as the neighbour of one that is asked for.
            return self._midnight(date(year, month + 1, 1).toordinal() + 366 * (EPOCH.year + years - year))
        if kind.unit == "week":
            return self._midnight(EPOCH_MONDAY + 7 * number * kind.every)
        return self._midnight(EPOCH_DAY + number * kind.every)

    def _midnight(self, ordinal: int) -> int:
        """The first instant of a local day, or, where the zone skipped it, of the next one."""
        day = date.fromordinal(min(max(ordinal, 1), date.max.toordinal()))
        local = datetime.combine(day, time(), self._zone)
        at = (ordinal - EPOCH_DAY) * DAY_US
        earlier, later = (at - _us(one.utcoffset()) for one in (local, local.replace(fold=1)))
        if earlier <= later:
            return earlier
        # Midnight was skipped: the two are what it would be by the clock before and behind the move, which lies between them.
        seconds = range(later // SECOND_US, earlier // SECOND_US)
        return (seconds.start + bisect_left(seconds, True, key=lambda s: self._is_on(s * SECOND_US, ordinal))) * SECOND_US

    def _is_on(self, time_us: int, ordinal: int) -> bool:
        return self._local(time_us).toordinal() >= ordinal

    def _local(self, time_us: int) -> datetime:
        return (EPOCH + timedelta(microseconds=time_us)).astimezone(self._zone)


def _us(offset: timedelta | None) -> int:
    return 0 if offset is None else (offset.days * 86_400 + offset.seconds) * SECOND_US + offset.microseconds
