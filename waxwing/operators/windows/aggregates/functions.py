"""What a window computes: count, sum, mean, least, largest, first, last, and a fold of the user's own.

An aggregate is what the user writes; it is computed from parts, which keep one state per (window, key), `None` (or 0 for a
count) where nothing came yet. Aggregates share equal parts: the mean of a field costs nothing beside its sum and count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, Literal

from waxwing.errors import ConfigError
from waxwing.operators.windows.aggregates import extremes, parts
from waxwing.operators.windows.aggregates.parts import Part

Check = Literal["number", "plain", "any"]
PLACES_MAX = 60


class Aggregate(ABC):
    """One value per (window, key). Nulls of the field are skipped, as in SQL; where only nulls came, the result is None."""

    # What values of the field must be: an exact number, anything that can be kept and compared, or whatever there is.
    check: ClassVar[Check] = "plain"

    @property
    @abstractmethod
    def reads(self) -> str | None:
        """The field it reads, None for none."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What it is computed from."""

    def results(self, *columns: Sequence[Any]) -> list[Any]:
        """From the columns of its parts to its values."""
        return self.parts[0].results(columns[0])


@dataclass(frozen=True)
class Count(Aggregate):
    """How many records; of a field, how many that are not null."""

    field: str | None = None
    check = "any"

    @property
    def reads(self) -> str | None:
        return self.field

    @property
    def parts(self) -> tuple[Part, ...]:
        return (parts.Counted(self.field),)


@dataclass(frozen=True)
class _OfField(Aggregate):
    field: str

    def __post_init__(self) -> None:
        field: object = self.field
        if not isinstance(field, str) or not field:
            raise ConfigError(
                f"{type(self).__name__}({self.field!r}): a field has a name.", hint=f'Write {type(self).__name__}("quantity").'
            )

    @property
    def reads(self) -> str | None:
        return self.field


@dataclass(frozen=True)
class Sum(_OfField):
    """The exact sum, whatever the order: of ints an int, of Decimals (and ints) a Decimal, with floats a float, rounded once."""

    check = "number"

    @property
    def parts(self) -> tuple[Part, ...]:
        return (parts.Summed(self.field),)


@dataclass(frozen=True)
class Mean(_OfField):
    """The exact sum by the count, rounded once, half to even: to `places` digits behind the point, or (None) to a double.

    With places a Decimal of ints and Decimals, a float where floats are among them; without, always a float.
    """

    places: int | None = None
    check = "number"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.places is not None and (type(self.places) is not int or not 0 <= self.places <= PLACES_MAX):
            raise ConfigError(
                f"Mean({self.field!r}, places={self.places!r}): that many digits can't be kept.",
                hint=f"Take 0 to {PLACES_MAX}, or none for a double.",
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        return parts.Summed(self.field), parts.Counted(self.field)

    def results(self, *columns: Sequence[Any]) -> list[Any]:
        rounded = _double if self.places is None else _to_places(self.places)
        return [None if total is None else rounded(total, count) for total, count in zip(*columns, strict=True)]


def _double(total: Any, count: int) -> float:
    return float((parts.fraction(total) if type(total) is tuple else Fraction(total)) / count)


def _to_places(places: int) -> Callable[[Any, int], Any]:
    unit = Decimal(1).scaleb(-places)

    def rounded(total: Any, count: int) -> Any:
        if type(total) is tuple:
            return float(round(parts.fraction(total) / count, places))
        return parts.MEAN.divide(Decimal(total), Decimal(count)).quantize(unit, None, parts.MEAN)

    return rounded


@dataclass(frozen=True)
class Min(_OfField):
    """The least value. Kinds of values that can't be compared are ordered: numbers, text, bytes, dates, times."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (extremes.Least(self.field),)


@dataclass(frozen=True)
class Max(_OfField):
    """The largest value; see Min."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (extremes.Largest(self.field),)


@dataclass(frozen=True)
class First(_OfField):
    """The value of the earliest record by (event time, partition, offset)."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (extremes.Earliest(self.field),)


@dataclass(frozen=True)
class Last(_OfField):
    """The value of the latest record by (event time, partition, offset)."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (extremes.Latest(self.field),)


@dataclass(frozen=True)
class Fold(Aggregate):
    """A fold of your own, over a field or (None) whole records.

    `make()` gives an empty state, `add(state, value)` and `merge(state, other)` return the next one and may change `state`, but
    neither change nor keep `other`. A state is made of None, bool, int, float, str, bytes, Decimal, date, datetime, UUID, and
    lists, tuples, dicts and sets of these. The answer is a function of the topic alone only if merge(a, b) equals merge(b, a),
    grouping does not matter, and `add` raises (which rejects the record) by the value alone.
    """

    field: str | None
    make: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    check = "any"

    def __post_init__(self) -> None:
        for name in ("make", "add", "merge"):
            if not callable(getattr(self, name)):
                raise ConfigError(f"Fold: {name} is no function.", hint="Write Fold(field, make, add, merge).")

    @property
    def reads(self) -> str | None:
        return self.field

    @property
    def parts(self) -> tuple[Part, ...]:
        return (parts.Folded(self.field, self.make, self.add, self.merge),)
