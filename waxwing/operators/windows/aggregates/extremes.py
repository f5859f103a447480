"""Parts that keep one value: the least, the largest, the earliest, the latest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from waxwing.operators.windows.aggregates.parts import Entries, Part


@dataclass(frozen=True)
class Largest(Part):
    """The largest value."""

    field: str

    def fold(self, entries: Entries) -> list[Any]:
        if entries.single:
            return list(entries.columns[self.field].values)
        best: list[Any] = [None] * entries.size
        self.merge(best, *entries.present(self.field))
        return best

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        try:
            for i, state in zip(at, states, strict=True):
                held = column[i]
                if held is None or (state is not None and state > held):
                    column[i] = state
        except TypeError:  # kinds that can't be compared; doing it again from the first changes nothing
            for i, state in zip(at, states, strict=True):
                if state is not None and (column[i] is None or _rank(state) > _rank(column[i])):
                    column[i] = state


@dataclass(frozen=True)
class Least(Largest):
    """The least value."""

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        try:
            for i, state in zip(at, states, strict=True):
                held = column[i]
                if held is None or (state is not None and state < held):
                    column[i] = state
        except TypeError:
            for i, state in zip(at, states, strict=True):
                if state is not None and (column[i] is None or _rank(state) < _rank(column[i])):
                    column[i] = state


_RANKS: dict[type, int] = {
    bool: 0,
    int: 0,
    float: 0,
    Decimal: 0,
    str: 1,
    bytes: 2,
    date: 3,
    time: 4,
    datetime: 5,
    UUID: 7,
}
# What the field of a Min, Max, First or Last may hold: values of these types are kept and compared.
PLAIN = frozenset(_RANKS)


def _rank(value: Any) -> tuple[int, bool, Any]:
    """An order over all kinds of values, so that the answer depends on nothing else; those with a time zone behind the others."""
    return _RANKS[type(value)], isinstance(value, datetime | time) and value.utcoffset() is not None, value


@dataclass(frozen=True)
class Earliest(Part):
    """(event time, partition, offset, value) of the earliest record."""

    field: str

    def fold(self, entries: Entries) -> list[Any]:
        best: list[Any] = [None] * entries.size
        # In the order of offsets: of equal times the one that is held came first.
        places = zip(entries.numbers, entries.times, entries.offsets, entries.columns[self.field].values, strict=True)
        for n, t, offset, value in places:
            held = best[n]
            if value is not None and (held is None or t < held[0]):
                best[n] = (t, entries.partition, offset, value)
        return best

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        for i, state in zip(at, states, strict=True):
            held = column[i]
            if held is None or (state is not None and state[:3] < held[:3]):
                column[i] = state

    def results(self, column: Sequence[Any]) -> list[Any]:
        return [None if state is None else state[3] for state in column]


@dataclass(frozen=True)
class Latest(Earliest):
    """(event time, partition, offset, value) of the latest record."""

    def fold(self, entries: Entries) -> list[Any]:
        best: list[Any] = [None] * entries.size
        places = zip(entries.numbers, entries.times, entries.offsets, entries.columns[self.field].values, strict=True)
        for n, t, offset, value in places:
            held = best[n]
            if value is not None and (held is None or t >= held[0]):
                best[n] = (t, entries.partition, offset, value)
        return best

    def merge(self, column: list[Any], at: Sequence[int], states: Sequence[Any]) -> None:
        for i, state in zip(at, states, strict=True):
            held = column[i]
            if held is None or (state is not None and state[:3] > held[:3]):
                column[i] = state
