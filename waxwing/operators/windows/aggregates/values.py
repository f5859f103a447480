"""Which values can be keys, be compared and kept, be summed: all of a column at once where that is fast, else one by one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Rounded
from typing import Any
from uuid import UUID

from waxwing.operators.windows.aggregates.extremes import PLAIN
from waxwing.operators.windows.aggregates.parts import FITS, FLOAT_MAX, INT_MAX

KEYS = frozenset({str, int, bytes, bool, Decimal, date, datetime, UUID})


# Decimals that are kept or compared: up to 320 digits, within the range of floats, so that EXACT holds what is done with them.
KEPT = Context(prec=320, Emax=307, Emin=0, traps=[Inexact, Rounded, Clamped, Overflow, InvalidOperation])


def key_problem(value: Any) -> str | None:
    """Why it can't be a key; None: it can."""
    if type(value) not in KEYS:
        return "null" if value is None else f"a {type(value).__name__} can't be a key"
    return plain_problem(value)


def are_texts(values: Sequence[str]) -> bool:
    """Whether all can be encoded."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def are_small(values: Sequence[int]) -> bool:
    """Whether all are within the range of floats: this sum, which is fast, raises where one is not."""
    try:
        sum(values, 0.0)
    except OverflowError:
        return False
    return True


def is_kept(value: Decimal) -> bool:
    """Whether it is finite, and of no more digits than are kept."""
    try:
        return KEPT.plus(value).is_finite()
    except DecimalException:
        return False


def are_plain(values: Sequence[Any], kinds: frozenset[type]) -> bool:
    """Whether all are null or can be kept and compared: the fast way."""
    if kinds == {str}:
        return are_texts(values)
    if kinds <= {int, bytes, bool, date, datetime, UUID, type(None)}:
        ints = values if kinds == {int} else [value for value in values if type(value) is int] if int in kinds else ()
        return are_small(ints)
    return are_numbers(values, kinds)


def plain_problem(value: Any) -> str | None:
    """Why it can't be kept or compared; None: it can."""
    if value is None:
        return None
    kind = type(value)
    if kind not in PLAIN:
        return f"a {kind.__name__} can't be kept or compared"
    if kind is str and not are_texts([value]):
        return "text that is no Unicode"
    if (kind is int and not are_small([value])) or (kind is Decimal and value.is_finite() and not is_kept(value)):
        return "a number of too many digits"
    if (kind is float and not math.isfinite(value)) or (kind is Decimal and not value.is_finite()):
        return "not finite"
    return None


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
    """Why sums can't take it; None: they can."""
    if value is None:
        return None
    if type(value) not in (int, float, Decimal):
        return f"a {type(value).__name__} is no number"
    if type(value) is Decimal and not value.is_finite():
        return "not finite"
    return None if are_numbers((value,), frozenset({type(value)})) else "a number of too many digits, or not finite"
