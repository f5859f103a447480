"""Which values can be keys, be compared and kept, be summed: all of a column at once where that is fast, else one by one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal, DecimalException
from typing import Any
from uuid import UUID

from waxwing.operators.windows.extremes import PLAIN
from waxwing.operators.windows.parts import FITS, FLOAT_MAX, INT_MAX

KEYS = frozenset({str, int, bytes, bool, Decimal, date, datetime, UUID})


def key_problem(value: Any) -> str | None:
    if type(value) not in KEYS:
        return f"a {type(value).__name__} can't be a key"
    return plain_problem(value)


def are_plain(values: Sequence[Any], kinds: frozenset[type]) -> bool:
    if kinds == {str}:
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            return False
        return True
    return kinds <= {int, bytes, bool, date, datetime, UUID, type(None)} or are_numbers(values, kinds)


def plain_problem(value: Any) -> str | None:
    if value is None:
        return None
    kind = type(value)
    if kind not in PLAIN:
        return f"a {kind.__name__} can't be kept or compared"
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return "text that is no Unicode"
    return "not finite" if kind in (float, Decimal) and not math.isfinite(value) else None


def are_numbers(values: Sequence[Any], kinds: frozenset[type]) -> bool:
    """Whether all are null or numbers that sums take: the fast way, for one type at a time."""
    if type(None) in kinds:
        values, kinds = [value for value in values if value is not None], kinds - {type(None)}
    if not kinds:
        return True
    if kinds == {int}:
        return bool(max(values) <= INT_MAX and min(values) >= -INT_MAX)
    if kinds == {float}:
        return all(map(math.isfinite, values)) and bool(max(values) <= FLOAT_MAX and min(values) >= -FLOAT_MAX)
    if kinds == {Decimal}:
        try:
            deque(map(FITS.plus, values), maxlen=0)
        except DecimalException:
            return False
        return all(map(Decimal.is_finite, values))
    return False


def number_problem(value: Any) -> str | None:
    if value is None:
        return None
    if type(value) not in (int, float, Decimal):
        return f"a {type(value).__name__} is no number"
    if type(value) is Decimal and not value.is_finite():
        return "not finite"
    return None if are_numbers((value,), frozenset({type(value)})) else "a number of too many digits, or not finite"
