"""Records to columns: times, keys and values, each checked in one pass; what is wrong with a record rejects that record."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import islice, repeat
from operator import attrgetter, itemgetter, le, truediv
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from waxwing.batch import Batch
from waxwing.errors import ConfigError
from waxwing.operators.reasons import RAISED, reason_of
from waxwing.operators.windows.aggregates.parts import EXACT, Column
from waxwing.operators.windows.aggregates.values import (
    are_numbers,
    are_plain,
    are_small,
    are_texts,
    is_kept,
    key_problem,
    number_problem,
    plain_problem,
)
from waxwing.operators.windows.definition import MESSAGE_TIME, SECOND_US, Windows
from waxwing.operators.windows.definition.misfits import Takes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Years 2 to 9997: the ends of windows, and any time zone, are datetimes too.
TIME_MIN_US, TIME_MAX_US = -62_104_000_000 * SECOND_US, 253_350_000_000 * SECOND_US


class Span(NamedTuple):
    """What there is to say of all times at once; of none at all nothing. `rising`: none is below the one before it."""

    lowest: int
    highest: int
    rising: bool


class Read(NamedTuple):
    """The good records of a batch, by column: their numbers in the batch, their messages' numbers (`at`), and so on.

    `bad`: number of a record in the batch to the reason.
    """

    numbers: Sequence[int]
    records: Sequence[Any]
    at: Sequence[int]
    times: Sequence[int]
    keys: Sequence[Any]
    columns: dict[str, Column]
    bad: dict[int, str]
    span: Span


class EventReader:
    """Reads what a definition asks for; how, is decided once per type of record.

    `clock_us` gives the time of day where a message has no timestamp that could be believed; `takes` are the types that a field
    may have, where it takes fewer.
    """

    def __init__(self, definition: Windows, clock_us: Callable[[], int] | None, takes: Takes = MappingProxyType({})) -> None:
        self._definition, self._clock_us, self._takes = definition, clock_us, takes
        self._getters: dict[type, dict[str, Callable[[Any], Any]]] = {}

    def read(self, batch: Batch[Any], refused: Mapping[int, str]) -> Read:
        """The batch's records by column, without those that are wrong and those refused already."""
        definition = self._definition
        bad = dict(refused)
        raw = self._pull(batch.records, bad)
        stamps = _chosen(batch.messages.timestamps_ms, batch.at)
        if definition.time is MESSAGE_TIME:
            times, name = [stamp * 1000 for stamp in stamps], "the message's timestamp"
        else:
            times, name = _times(raw[str(definition.time)]), str(definition.time)
        span = _span(times)
        if definition.time is MESSAGE_TIME and span.lowest < 0:
            times = list(map(_stamp_us, stamps))
            span = _span(times)
        if times and not TIME_MIN_US <= span.lowest <= span.highest <= TIME_MAX_US:
            _all(times, bad, name, _time_problem, raw.get(name, stamps))
        self._check_future(times, span, stamps, bad)
        by = [self._keys(raw[field], bad, field) for field in definition.by]
        columns = {}
        for field, check in definition.checks.items():
            kinds = frozenset(map(type, raw[field]))
            if check == "number" and not are_numbers(raw[field], kinds):
                _all(raw[field], bad, field, number_problem)
            elif check == "plain" and not are_plain(raw[field], kinds):
                _all(raw[field], bad, field, plain_problem)
            if field in self._takes and not kinds <= self._takes[field] | {NoneType}:
                _all(raw[field], bad, field, partial(_not_taken, self._takes[field]))
            values = _in_utc(raw[field], bad, field) if check == "plain" and datetime in kinds else raw[field]
            columns[field] = Column(values, kinds)
        keys = by[0] if len(by) == 1 else list(zip(*by, strict=True)) if by else [()] * len(times)
        read = Read(range(len(times)), batch.records, batch.at, times, keys, columns, bad, span)
        return without(read, bad) if bad else read

    # -- fields -----------------------------------------------------------------------------------

    def _pull(self, records: Sequence[Any], bad: dict[int, str]) -> dict[str, list[Any]]:
        kinds = set(map(type, records))
        for kind in kinds - self._getters.keys():
            self._getters[kind] = self._getters_of(kind)
        fields = self._definition.read_fields
        if len(kinds) == 1:
            getters = self._getters[kinds.pop()]
            # A field is missing, or a property of the record's own raises: looked for one by one.
            with contextlib.suppress(*RAISED):
                return {field: list(map(getters[field], records)) for field in fields}
        out: dict[str, list[Any]] = {field: [] for field in fields}
        for number, record in enumerate(records):
            getters = self._getters[type(record)]
            for field in fields:
                try:
                    out[field].append(getters[field](record))
                except RAISED as error:
                    out[field].append(None)
                    by_a_property = error.__traceback__ is not None and error.__traceback__.tb_next is not None
                    bad.setdefault(number, f"{field}: {reason_of(error, record)}" if by_a_property else f"{field} is missing")
        return out

    def _getters_of(self, kind: type) -> dict[str, Callable[[Any], Any]]:
        fields = self._definition.read_fields
        if issubclass(kind, Mapping):
            return {field: itemgetter(field) for field in fields}
        if issubclass(kind, tuple) and not hasattr(kind, "_fields"):
            order = self._definition.fields
            if order is None:
                raise ConfigError("Windows: tuples have no names for their fields.", hint="Name them: Windows(fields=[...]).")
            return {field: itemgetter(order.index(field)) for field in fields}
        names = _fields(kind)
        if names is not None and (lacking := [field for field in fields if field not in names]):
            raise ConfigError(
                f"Windows: records of type {kind.__name__} have no {', '.join(lacking)}.",
                hint=f"They have {', '.join(sorted(names))}.",
            )
        return {field: attrgetter(field) for field in fields}

    # -- checks -----------------------------------------------------------------------------------

    def _keys(self, values: Sequence[Any], bad: dict[int, str], field: str) -> Sequence[Any]:
        """A field of the key, with what stands for nulls."""
        kinds = set(map(type, values))
        if (kinds == {str} and are_texts(values)) or (kinds == {int} and are_small(values)):
            return values
        null_keys = self._definition.null_keys
        if not isinstance(null_keys, str) and field in null_keys and type(None) in kinds:
            stand_in = null_keys[field]
            return self._keys([stand_in if value is None else value for value in values], bad, field)
        group = null_keys == "group"
        _all(values, bad, field, lambda value: None if group and value is None else key_problem(value))
        return _in_utc(values, bad, field) if datetime in kinds else values

    def _check_future(self, times: Sequence[int], span: Span, stamps: Sequence[int], bad: dict[int, str]) -> None:
        """Judged by the message's timestamp, which is part of the log, so that reading again decides the same."""
        future, now = self._definition.future_us, None if self._clock_us is None else self._clock_us()
        if not times:
            return
        told = span if self._definition.time is MESSAGE_TIME else Span(min(stamps) * 1000, max(stamps) * 1000, rising=False)
        if told.lowest >= 0 and span.highest <= told.lowest + future and (now is None or told.highest <= now + future):
            return
        for number, (t, stamp) in enumerate(zip(times, stamps, strict=True)):
            believed = stamp >= 0 and (now is None or stamp * 1000 <= now + future)
            limit = stamp * 1000 if believed else now
            if number not in bad and limit is not None and t > limit + future:
                ahead = (t - limit) / SECOND_US
                bad[number] = f"its time is {ahead:,.0f} s ahead of {'its message' if believed else 'the clock'}"


def without(read: Read, numbers: Mapping[int, Any] | set[int]) -> Read:
    """What was read, without the records of these numbers."""
    keep = [n for n in range(len(read.times)) if n not in numbers]
    columns = {}
    for field, column in read.columns.items():
        values = [column.values[n] for n in keep]
        columns[field] = Column(values, frozenset(map(type, values)))
    numbers_left, records, at, times, keys = (
        [some[n] for n in keep] for some in (read.numbers, read.records, read.at, read.times, read.keys)
    )
    return Read(numbers_left, records, at, times, keys, columns, read.bad, _span(times))


def chosen(read: Read, numbers: Sequence[int]) -> Read:
    """What was read of these records; the types of values may be more than they have."""
    take = itemgetter(slice(numbers.start, numbers.stop)) if isinstance(numbers, range) else taker(numbers)
    columns = {field: Column(take(column.values), column.kinds) for field, column in read.columns.items()}
    numbers_taken, records, at, times, keys = map(take, (read.numbers, read.records, read.at, read.times, read.keys))
    return Read(numbers_taken, records, at, times, keys, columns, read.bad, read.span)


def taker(numbers: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Takes the values of these numbers out of a column."""
    # itemgetter is the fastest way, but for one number it returns no tuple.
    return itemgetter(*numbers) if len(numbers) > 1 else lambda values: (values[numbers[0]],)


def _span(times: Sequence[int]) -> Span:
    if not times:
        return Span(0, 0, rising=True)
    if all(map(le, times, islice(times, 1, None))):
        return Span(times[0], times[-1], rising=True)
    return Span(min(times), max(times), rising=False)


def _chosen(values: Sequence[int], at: Sequence[int]) -> Sequence[int]:
    return values if isinstance(at, range) and at == range(len(values)) else [values[n] for n in at]


def _in_utc(values: Sequence[Any], bad: dict[int, str], field: str) -> Sequence[Any]:
    """Moments of other zones in UTC: equal ones are equal there, and those of an hour that comes twice are not."""
    if not any(type(value) is datetime and value.tzinfo not in (None, UTC) for value in values):
        return values
    out = list(values)
    for number, value in enumerate(values):
        if type(value) is datetime and value.tzinfo is not None:
            try:
                out[number] = value.astimezone(UTC)
            except OverflowError:
                bad.setdefault(number, f"{field}: out of range in UTC")
    return out


def _not_taken(takes: frozenset[type], value: Any) -> str | None:
    kind = type(value)
    names = ", ".join(sorted(one.__name__ for one in takes))
    return None if value is None or kind in takes else f"a {kind.__name__} can't be merged into its column, which takes {names}"


def _all(
    values: Sequence[Any],
    bad: dict[int, str],
    field: str,
    problem: Callable[[Any], str | None],
    shown: Sequence[Any] | None = None,
) -> None:
    for number, value in enumerate(values):
        if number not in bad and (reason := problem(value)) is not None:
            kind = "null" if (shown or values)[number] is None else reason
            bad[number] = f"{field}: {kind}"


# -- times ------------------------------------------------------------------------------------------

_NO_TIME = TIME_MIN_US - 1  # stands for a time that is none


def _stamp_us(stamp_ms: int) -> int:
    return _NO_TIME if stamp_ms < 0 else stamp_ms * 1000


def _times(values: Sequence[Any]) -> list[int]:
    kinds = set(map(type, values))
    if kinds == {int}:
        return [value * SECOND_US for value in values]
    if kinds == {float}:
        try:
            times = [round(value * SECOND_US) for value in values]
        except (OverflowError, ValueError):  # one is too large, or no number
            return list(map(_time_us, values))
        # Most have no digits beyond the microsecond.
        return times if list(map(truediv, times, repeat(SECOND_US))) == values else list(map(_time_us, values))
    return list(map(_time_us, values))


def _time_us(value: Any) -> int:
    if type(value) is datetime:
        since = (value if value.tzinfo is not None else value.replace(tzinfo=UTC)) - EPOCH
        return (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds
    if type(value) not in (int, float, Decimal) or (type(value) is Decimal and not is_kept(value)):
        return _NO_TIME
    # Judged before it is multiplied; not a number is not less either.
    if not abs(value) < TIME_MAX_US:
        return _NO_TIME
    # Digits beyond the microsecond are cut: those of a float are what its text has.
    return int(EXACT.multiply(Decimal(repr(value)) if type(value) is float else value, SECOND_US))


def _time_problem(time_us: int) -> str | None:
    if TIME_MIN_US <= time_us <= TIME_MAX_US:
        return None
    return "no time in seconds since 1970, or out of range"


def _fields(kind: type) -> set[str] | None:
    """Names of the fields of a Struct, pydantic model, named tuple or dataclass; None for other types."""
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "model_fields", None) or getattr(kind, "_fields", None)
    if names is None and dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    return None if names is None else set(names)
