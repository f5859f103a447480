"""What a user writes: which windows, of which fields, closed when; and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any, Literal

from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.aggregates.functions import Aggregate
from waxwing.operators.windows.aggregates.parts import Part
from waxwing.operators.windows.definition.calendars import calendar_grid
from waxwing.operators.windows.definition.checks import (
    check_corrections,
    check_fields,
    check_kind,
    check_names,
    check_null_keys,
    check_spans,
)
from waxwing.operators.windows.definition.grids import EvenGrid, Grid
from waxwing.operators.windows.definition.kinds import (
    DAY_US,
    END,
    REVISION,
    SECOND_US,
    START,
    Calendar,
    Hopping,
    MessageTime,
    Session,
    Tumbling,
    microseconds,
)
from waxwing.operators.windows.definition.text import meaning, text_of


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows over event time: what belongs to one is a function of the topic alone.

    A record is late when the watermark of its own Kafka partition (the highest event time before it, less the lateness) has
    passed its window; for sessions, when it has passed the record's own time (any later bound would let the interleaving of the
    partitions decide). A window closes when the watermarks of all partitions have passed it.

    The clock decides two things. Idle partitions are not waited for, and what they bring for closed windows later comes as late
    rows, so that nothing is lost. And a message's timestamp is believed up to future_s ahead of the clock: a message just at
    that limit may be rejected, and after a crash, when it is judged again, be taken.

    Args:
        by: names of the key's fields; () for one key over everything. Values are text, whole numbers, bytes, booleans, Decimals,
            dates, datetimes (those in a zone become UTC) or UUIDs. Equal values (1 and Decimal("1.0")) are one key.
        time: the field with the event time (epoch seconds, or a datetime, of which naive ones are UTC), or MESSAGE_TIME, which
            the clock limits (see future_s).
        kind: Tumbling, Hopping, Calendar or Session.
        aggregates: by the name of their result.
        lateness_s: how much disorder a partition may have; windows close that much later.
        grace_s: for so long a closed window can be corrected by a row with a higher revision (0: not at all). Not for sessions.
        corrections: "at_end" of the grace (the default), one row a window and key; or "eager", with every emission.
        idle_after_s: a partition without records for so long is not waited for. None (the default): all are, for ever.
        future_s: a record this far (3,600 s by default) ahead of its message's timestamp (of the clock, where the message has
            none, or one as far ahead itself) is rejected: one bad clock must not close everything.
        fields: the fields' names, where records are plain tuples (else None, the default).
        null_keys: what becomes of a record with a null in its key: "reject" (the default); "group", as in SQL's GROUP BY; or
            by the names of fields what stands for a null there ({"customer": ""}), as if the record had it: then other nulls are
            rejected. A table's primary key takes no nulls, so that it needs the last.

    Raises:
        ConfigError: a definition that can't be.
    """

    by: tuple[str, ...]
    time: str | MessageTime
    kind: Tumbling | Hopping | Calendar | Session
    aggregates: Mapping[str, Aggregate]
    lateness_s: float
    grace_s: float = 0
    corrections: Literal["at_end", "eager"] = "at_end"
    idle_after_s: float | None = None
    future_s: float = 3_600
    fields: Sequence[str] | None = None
    null_keys: Literal["reject", "group"] | Mapping[str, Any] = "reject"

    def __post_init__(self) -> None:
        self._become(aggregates=dict(self.aggregates))
        check_fields(self.by, self.time, self.aggregates)
        self._become(by=tuple(self.by), fields=None if self.fields is None else tuple(self.fields))
        check_names(self.names, self.fields, self.read_fields)
        check_kind(self.kind, self.grace_s)
        check_spans({"lateness_s": self.lateness_s, "grace_s": self.grace_s, "future_s": self.future_s})
        if self.idle_after_s is not None:
            check_spans({"idle_after_s": self.idle_after_s}, at_least_us=1)
        check_corrections(self.corrections)
        given: Any = self.null_keys
        check_null_keys(given, self.by)
        if isinstance(given, Mapping):
            self._become(null_keys={name: given[name] for name in self.by if name in given})

    def _become(self, **values: Any) -> None:
        """While it is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # -- what follows from it, in whole microseconds ------------------------------------------------

    @cached_property
    def gap_us(self) -> int | None:
        """The gap of sessions; None for other windows."""
        return microseconds(self.kind.gap_s) if isinstance(self.kind, Session) else None

    @cached_property
    def length_us(self) -> int:
        """The length of windows that all have the same one; 0 for others."""
        return microseconds(self.kind.length_s) if isinstance(self.kind, Tumbling | Hopping) else 0

    @cached_property
    def every_us(self) -> int:
        """The distance between the beginnings of windows."""
        return microseconds(self.kind.every_s) if isinstance(self.kind, Hopping) else self.length_us

    @cached_property
    def by_calendar(self) -> bool:
        """Are their lengths a calendar's?"""
        return isinstance(self.kind, Calendar)

    def _of_whole(self, unit_us: int) -> bool:
        """Do all windows begin and end with such a span, or with a day of their calendar?"""
        return self.by_calendar or bool(self.length_us and not self.length_us % unit_us and not self.every_us % unit_us)

    @cached_property
    def whole_days(self) -> bool:
        """Do all windows begin and end with a day: of UTC, or of their calendar's zone?"""
        return self._of_whole(DAY_US)

    @cached_property
    def whole_seconds(self) -> bool:
        """Do all windows begin and end with a second?"""
        return self._of_whole(SECOND_US)

    @cached_property
    def grid(self) -> Grid:
        """Where windows begin and end, that are no sessions."""
        assert not isinstance(self.kind, Session)
        return calendar_grid(self.kind) if isinstance(self.kind, Calendar) else EvenGrid(self.length_us, self.every_us)

    def start_of(self, end: int) -> int:
        """The start of the window that ends there; of a session, that of its last record.

        Raises:
            ConfigError: no window of the calendar ends there.
        """
        return self.grid.start_of(end) if self.gap_us is None else end - self.gap_us

    def day(self, time_us: int) -> date:
        """The day that a window's start or end stands for, where they are of whole days."""
        return self.grid.day(time_us)

    @cached_property
    def lateness_us(self) -> int:
        return microseconds(self.lateness_s)

    @cached_property
    def behind_us(self) -> int:
        """What came before a record that is on time is younger than it by less than this; without any disorder, no younger."""
        return self.lateness_us + 1 if self.lateness_us else 0

    def never_late(self) -> Windows:
        """The same windows, for which no record is late."""
        out = replace(self, lateness_s=0)
        vars(out)["lateness_us"] = -NEVER  # more than a definition may say
        return out

    @cached_property
    def grace_us(self) -> int:
        return microseconds(self.grace_s)

    @cached_property
    def future_us(self) -> int:
        return microseconds(self.future_s)

    # -- fields and parts -------------------------------------------------------------------------

    @cached_property
    def read_fields(self) -> tuple[str, ...]:
        """Every field that is read."""
        time = () if isinstance(self.time, MessageTime) else (self.time,)
        values = (aggregate.reads for aggregate in self.aggregates.values())
        return tuple(dict.fromkeys([*self.by, *time, *(field for field in values if field is not None)]))

    @cached_property
    def checks(self) -> dict[str, str]:
        """How the values of each aggregated field are checked: the strictest that an aggregate asks for."""
        order = ["any", "plain", "number"]
        out: dict[str, str] = {}
        for aggregate in self.aggregates.values():
            if aggregate.reads is not None:
                out[aggregate.reads] = max(out.get(aggregate.reads, "any"), aggregate.check, key=order.index)
        return out

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What is kept for each (window, key); equal parts of several aggregates once."""
        return tuple(dict.fromkeys(part for aggregate in self.aggregates.values() for part in aggregate.parts))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns of a row."""
        return (START, END, *self.by, *self.aggregates, REVISION)

    def results(self, columns: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """The aggregates' columns from those of the parts."""
        return [
            aggregate.results(*(columns[self.parts.index(part)] for part in aggregate.parts))
            for aggregate in self.aggregates.values()
        ]

    def means_the_same(self, text: str) -> bool:
        """Whether windows of this text left rows and a state that go on under this definition."""
        return meaning(text) == meaning(self.text)

    @cached_property
    def text(self) -> str:
        """What is kept beside rows and state, to know them again."""
        return text_of(self.by, self.time, self.kind, self.aggregates, self.lateness_us, self.grace_us, self.null_keys)
