"""The parts of aggregates: states by column. A fold makes a batch's records states, a bucket merges states.

Both work on whole columns in one tight loop each; what is measured beside them stands in `benchmarks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Clamped, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, Rounded
from fractions import Fraction
from math import fsum
from operator import pos
from types import NoneType
from typing import Any, NamedTuple

from waxwing.batch import Messages
from waxwing.operators.reasons import RAISED, reason_of

# Numbers that sums take: DIGITS_MAX digits on either side of the point; floats up to FLOAT_MAX. So a sum of any number of them
# (10**60) is exact in EXACT, and no sum of floats overflows.
DIGITS_MAX = 60
INT_MAX = 10**DIGITS_MAX - 1
FLOAT_MAX = 1e280
FITS = Context(prec=2 * DIGITS_MAX, Emax=DIGITS_MAX - 1, Emin=0, traps=[Inexact, Rounded, Clamped, Overflow, InvalidOperation])
EXACT = Context(prec=400, traps=[Inexact, Overflow, InvalidOperation, DivisionByZero])
# Wide enough that a quotient which is not exact differs from a tie long before its last digit.
_ZERO, _DECIMALS = Decimal(0), frozenset({Decimal, NoneType})
MEAN = Context(prec=300, traps=[Overflow, InvalidOperation, DivisionByZero])


class Column(NamedTuple):
    """The values of one field, with the types that occur."""

    values: Sequence[Any]
    kinds: frozenset[type]


class FoldError(Exception):
    """A user's function refused records: `bad` has their numbers, with the reasons."""

    def __init__(self, bad: dict[int, str]) -> None:
        super().__init__(bad)
        self.bad = bad


class Entries:
    """A batch's records, each with the number of its entry: `numbers` are 0 <= n < size.

    Records stand in the order of their offsets. Where keys hardly repeat, each record is an entry of its own (`single`).
    """

    __slots__ = ("_at", "_messages", "_present", "columns", "numbers", "partition", "records", "size", "times")

    def __init__(
        self,
        numbers: Sequence[int],
        size: int,
        columns: dict[str, Column],
        records: Sequence[Any],
        times: Sequence[int],
        messages: Messages,
        at: Sequence[int],
        partition: int,
    ) -> None:
        self.numbers, self.size, self.columns, self.records = numbers, size, columns, records
        self.times, self.partition = times, partition
        self._messages, self._at = messages, at
        self._present: dict[str, tuple[Sequence[int], Sequence[Any]]] = {}

    @property
    def single(self) -> bool:
        """Whether entry n is record n."""
        return isinstance(self.numbers, range)

    @property
    def offsets(self) -> Sequence[int]:
        """Of the records' messages."""
        offsets, at = self._messages.offsets, self._at
        return offsets if isinstance(at, range) and at == range(len(offsets)) else [offsets[n] for n in at]

    def present(self, field: str) -> tuple[Sequence[int], Sequence[Any]]:
        """Numbers and values of the records whose value is not null."""
        values, kinds = self.columns[field]
        if type(None) not in kinds:
            return self.numbers, values
        if field not in self._present:
            pairs = [(n, value) for n, value in zip(self.numbers, values, strict=True) if value is not None]
            self._present[field] = [n for n, _ in pairs], [value for _, value in pairs]
        return self._present[field]


class Part(ABC):
    """A state per (window, key). `nothing` is the state of no records; merging it changes nothing."""

    nothing: Any = None

    @abstractmethod
    def fold(self, entries: Entries) -> list[Any]:
        """The state of each number.

        Raises:
            FoldError: a user's function refused records; more may turn up when it is called without these.
        """

    def begin(self, column: list[Any], states: Sequence[Any]) -> None:
        """Add states of new entries, as if merged into `nothing`."""
        column.extend(states)

    @abstractmethod
    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        """Merge states[i] into column[at[i]]."""

    def results(self, column: Sequence[Any]) -> list[Any]:
        """From states to values."""
        return list(column)


@dataclass(frozen=True)
class Counted(Part):
    """How many records, or values of a field that are not null."""

    field: str | None
    nothing = 0

    def fold(self, entries: Entries) -> list[Any]:
        if entries.single and (self.field is None or type(None) not in entries.columns[self.field].kinds):
            return [1] * entries.size
        counts = [0] * entries.size
        for n in entries.numbers if self.field is None else entries.present(self.field)[0]:
            counts[n] += 1
        return counts

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        for i, count in zip(at, states, strict=True):
            column[i] += count


@dataclass(frozen=True)
class Summed(Part):
    """An exact sum: an int, a Decimal, or, where floats are among the values, a tuple.

    The tuple begins with the sum of ints and Decimals; the floats that follow add up exactly to the sum of the floats, each
    being what is left, rounded. So equal sums have equal states, whatever the order.
    """

    field: str

    def fold(self, entries: Entries) -> list[Any]:
        numbers, values = entries.present(self.field)
        if float in entries.columns[self.field].kinds:
            return _fold_floats(numbers, values, entries.size)
        if entries.single:
            return list(entries.columns[self.field].values)
        # From an int Decimals begin slowly.
        sums: list[Any] = [_ZERO if entries.columns[self.field].kinds <= _DECIMALS else 0] * entries.size
        for n, value in zip(numbers, values, strict=True):
            sums[n] += value
        if len(values) < len(entries.numbers):
            for n in set(range(entries.size)).difference(numbers):
                sums[n] = None
        return sums

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        if tuple in set(map(type, states)):
            for i, state in zip(at, states, strict=True):
                held = column[i]
                if held is None:
                    column[i] = state
                elif state is not None:  # another key's floats are no reason to make a float of this sum
                    column[i] = _add(held, state) if tuple in (type(held), type(state)) else held + state
            return
        for i, state in zip(at, states, strict=True):
            held = column[i]
            if held is None:
                column[i] = state
            elif state is not None:
                try:
                    column[i] = held + state
                except TypeError:  # what is held has floats
                    column[i] = _add(held, state)

    def results(self, column: Sequence[Any]) -> list[Any]:
        kinds = set(map(type, column))
        if kinds == {int}:
            return list(column)
        if tuple in kinds:
            column = [float(fraction(state)) if type(state) is tuple else state for state in column]
        # -0 is 0
        return [None if state is None else +state for state in column] if NoneType in kinds else list(map(pos, column))


def fraction(state: tuple[Any, ...]) -> Fraction:
    """The exact value of a sum with floats."""
    return sum(map(Fraction, state[1:]), Fraction(state[0]))


def _fold_floats(numbers: Sequence[int], values: Sequence[Any], size: int) -> list[Any]:
    exact: list[Any] = [None] * size
    floats: list[list[float]] = [[] for _ in range(size)]
    for n, value in zip(numbers, values, strict=True):
        if type(value) is float:
            floats[n].append(value)
        else:
            held = exact[n]
            exact[n] = value + 0 if held is None else held + value
    return [(total or 0, *_expansion(some)) if some else total for total, some in zip(exact, floats, strict=True)]


def _add(a: Any, b: Any) -> tuple[Any, ...]:
    a, b = (a if type(a) is tuple else (a,)), (b if type(b) is tuple else (b,))
    return (a[0] + b[0], *_expansion([*a[1:], *b[1:]]))


def _expansion(values: list[float]) -> list[float]:
    """Few floats with exactly the same sum, a function of that sum alone. Empties no list, but adds to the one given."""
    out = []
    # fsum rounds once, and what is left over is a float or a sum of floats again: nothing rounds to 0 but 0.
    while rounded := fsum(values):
        out.append(rounded)
        values.append(-rounded)
    return out


@dataclass(frozen=True)
class Folded(Part):
    """The state of a user's fold, in a tuple of one, so that None may be a state."""

    field: str | None
    make: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    join: Callable[[Any, Any], Any]

    def fold(self, entries: Entries) -> list[Any]:
        states: list[Any] = [None] * entries.size
        bad: dict[int, str] = {}
        values = entries.records if self.field is None else entries.columns[self.field].values
        for number, (n, value) in enumerate(zip(entries.numbers, values, strict=True)):
            if value is None:
                continue
            held = states[n]
            try:
                states[n] = (self.add(self.make() if held is None else held[0], value),)
            except RAISED as error:
                bad[number] = reason_of(error, value)
                states[n] = None  # it may be half changed; it was for nothing, but that others that are bad are found at once
        if bad:
            raise FoldError(bad)
        return states

    def begin(self, column: list[Any], states: Sequence[Any]) -> None:
        first = len(column)
        column.extend([None] * len(states))
        self.merge(column, range(first, len(column)), states)

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        for i, state in zip(at, states, strict=True):
            if state is not None:
                held = column[i]
                # Never the state itself: several windows are given the same one, and a merge may change what it holds.
                column[i] = (self.join(self.make() if held is None else held[0], state[0]),)

    def results(self, column: Sequence[Any]) -> list[Any]:
        return [None if state is None else state[0] for state in column]
