"""What a user writes: which windows, by which key, over which time, with which aggregates. Checked once, here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal

from waxwing.errors import ConfigError
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.aggregates import Aggregate, Fold
from waxwing.operators.windows.parts import Part
from waxwing.operators.windows.values import key_problem

SECOND_US = 1_000_000
LENGTH_MAX_S = 400 * 86_400
# As many windows as one record may belong to.
WINDOWS_MAX = 1_000
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
class Session:
    """Windows of a key's records, each less than `gap_s` after the one before; they end `gap_s` after the last."""

    gap_s: float


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
        kind: Tumbling, Hopping or Session.
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
    kind: Tumbling | Hopping | Session
    aggregates: Mapping[str, Aggregate]
    lateness_s: float
    grace_s: float = 0
    corrections: Literal["at_end", "eager"] = "at_end"
    idle_after_s: float | None = None
    future_s: float = 3_600
    fields: Sequence[str] | None = None
    null_keys: Literal["reject", "group"] | Mapping[str, Any] = "reject"

    def __post_init__(self) -> None:
        object.__setattr__(self, "aggregates", dict(self.aggregates))
        self._check_names()
        self._check_times()
        if self.corrections not in ("at_end", "eager"):
            raise ConfigError(f"corrections={self.corrections!r} is unknown.", hint='Take "at_end" or "eager".')
        self._check_null_keys()

    def _check_names(self) -> None:
        by: Any = self.by  # whatever the caller wrote
        if isinstance(by, str) or not all(isinstance(name, str) and name for name in by):
            raise ConfigError(f"by={self.by!r} is no tuple of field names.", hint='Write by=("customer",), or by=() for one key.')
        object.__setattr__(self, "by", tuple(by))
        time: Any = self.time
        if time is not MESSAGE_TIME and not (isinstance(time, str) and time):
            raise ConfigError(f"time={self.time!r} is no field's name.", hint='Write time="ordered_at", or time=MESSAGE_TIME.')
        if not self.aggregates:
            raise ConfigError("Windows without aggregates compute nothing.", hint='Write aggregates={"orders": Count()}.')
        aggregates: Mapping[Any, Any] = self.aggregates
        for name, aggregate in aggregates.items():
            if not isinstance(name, str) or not name or not isinstance(aggregate, Aggregate):
                raise ConfigError(
                    f"aggregates: {name!r}: {aggregate!r} is no aggregate.",
                    hint='Write aggregates={"orders": Count(), "value": Sum("value")}.',
                )
        names = self.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"Windows: two columns would be called {', '.join(twice)}.",
                hint=f"Rename the aggregate; {START}, {END}, {REVISION} and the key's fields are columns too.",
            )
        if self.fields is not None:
            object.__setattr__(self, "fields", tuple(self.fields))
            if lacking := [name for name in self.read_fields if name not in (self.fields or ())]:
                raise ConfigError(
                    f"fields={list(self.fields)!r} lacks {', '.join(lacking)}.", hint="Name the tuples' fields in their order."
                )

    def _check_null_keys(self) -> None:
        given = self.null_keys
        if not isinstance(given, Mapping):
            if given not in ("reject", "group"):
                raise ConfigError(f"null_keys={given!r} is unknown.", hint='Take "reject", "group", or such as {"customer": ""}.')
            return
        if strange := [name for name in given if name not in self.by]:
            raise ConfigError(
                f"null_keys: {', '.join(map(str, strange))} is no field of the key, which is {self.by!r}.",
                hint="Name fields of by, with what stands for a null there.",
            )
        for name, value in given.items():
            if (reason := key_problem(value)) is not None:
                raise ConfigError(
                    f"null_keys: {value!r} can't stand for a null in {name}: {reason}.", hint="Take a value of the field's type."
                )
        object.__setattr__(self, "null_keys", {name: given[name] for name in self.by if name in given})

    def _check_times(self) -> None:
        spans: dict[str, Any] = {"lateness_s": self.lateness_s, "grace_s": self.grace_s, "future_s": self.future_s}
        lengths: dict[str, Any] = {}
        if isinstance(self.kind, Tumbling | Hopping):
            lengths["length_s"] = self.kind.length_s
            if isinstance(self.kind, Hopping):
                lengths["every_s"] = self.kind.every_s
        elif isinstance(self.kind, Session):
            lengths["gap_s"] = self.kind.gap_s
            if self.grace_s:
                raise ConfigError(
                    f"Sessions take no corrections: grace_s={self.grace_s!r}.",
                    hint="A late record could join two sessions that were written already: raise lateness_s instead.",
                )
        else:
            raise ConfigError(f"kind={self.kind!r} is unknown.", hint="Take Tumbling(length_s=60), Hopping or Session.")
        if self.idle_after_s is not None:
            lengths["idle_after_s"] = self.idle_after_s
        for name, value in (spans | lengths).items():
            if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= LENGTH_MAX_S:
                raise ConfigError(f"{name}={value!r} is no span of time.", hint=f"Take 0 to {LENGTH_MAX_S:,} seconds.")
            if name in lengths and round(value * SECOND_US) == 0:
                raise ConfigError(f"{name}={value!r} is too short.", hint="Take a microsecond or more.")
        if isinstance(self.kind, Hopping):
            if self.kind.every_s > self.kind.length_s:
                raise ConfigError(
                    f"Windows of {self.kind.length_s} s every {self.kind.every_s} s leave gaps.",
                    hint="Let every_s be at most length_s.",
                )
            if self.length_us > WINDOWS_MAX * self.every_us:
                raise ConfigError(
                    f"Each record would be in {self.length_us / self.every_us:,.0f} windows.",
                    hint=f"At most {WINDOWS_MAX:,} can be.",
                )

    # -- what follows from it, in whole microseconds ------------------------------------------------

    @cached_property
    def gap_us(self) -> int | None:
        """The gap of sessions; None for other windows."""
        return round(self.kind.gap_s * SECOND_US) if isinstance(self.kind, Session) else None

    @cached_property
    def length_us(self) -> int:
        """The length of windows that have one."""
        return 0 if isinstance(self.kind, Session) else round(self.kind.length_s * SECOND_US)

    @cached_property
    def every_us(self) -> int:
        """The distance between the beginnings of windows."""
        return round(self.kind.every_s * SECOND_US) if isinstance(self.kind, Hopping) else self.length_us

    @cached_property
    def whole_days(self) -> bool:
        """Do all windows begin and end with a day (of UTC)?"""
        day_us = 86_400 * SECOND_US
        return bool(self.length_us) and not self.length_us % day_us and not self.every_us % day_us

    @cached_property
    def slot_us(self) -> int:
        """All records of a slot are in the same windows, so that a batch is folded by slot, not by window."""
        return math.gcd(self.length_us, self.every_us)

    def ends(self, slot: int) -> list[int]:
        """The ends of the windows that a slot is in, rising."""
        last = slot - slot % self.every_us + self.length_us
        return [*range(last, slot, -self.every_us)][::-1]

    @cached_property
    def lateness_us(self) -> int:
        return round(self.lateness_s * SECOND_US)

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
        return round(self.grace_s * SECOND_US)

    @cached_property
    def future_us(self) -> int:
        return round(self.future_s * SECOND_US)

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
        """Whether windows of this text left rows and a state that go on under this definition.

        Which records are late, and for how long a window is corrected, may be said anew: that holds for what comes.
        """
        return _meaning(text) == _meaning(self.text)

    @staticmethod
    def grace_of(text: str) -> int:
        """The grace in a text, in microseconds."""
        found = _SPANS.search(text)
        return round(float(found["grace"]) * SECOND_US) if found else 0

    @cached_property
    def text(self) -> str:
        """What is kept beside rows and state, to know them again: in ASCII, which every database holds."""
        aggregates = ", ".join(
            f"{name}={f'Fold({aggregate.field!r})' if isinstance(aggregate, Fold) else aggregate!r}"
            for name, aggregate in self.aggregates.items()
        )
        time = "MESSAGE_TIME" if isinstance(self.time, MessageTime) else repr(self.time)
        return _ascii(
            f"by={self.by!r} time={time} kind={self.kind!r} aggregates=({aggregates}) "
            f"lateness_s={self.lateness_us / SECOND_US!r} grace_s={self.grace_us / SECOND_US!r}"
            f"{f' null_keys={self.null_keys!r}' if isinstance(self.null_keys, dict) else ''}"
        )


_SPANS = re.compile(r" lateness_s=\S+ grace_s=(?P<grace>[0-9.e+-]+)")
_WHOLE = re.compile(r"(?<=[0-9])\.0(?=[,) ]|$)")


def _meaning(text: str) -> str:
    return _WHOLE.sub("", _SPANS.sub("", _ascii(text)))


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
