"""Rows of equal key, merged into one: what a database does with the stored row, done within a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal, Inexact, Overflow
from operator import itemgetter
from typing import Any

from waxwing.databases.base import Merge
from waxwing.databases.rules import DECIMAL_DIGITS_MAX

Row = tuple[Any, ...]

# A column's decimals have so many digits on either side of the point, at most, and a sum of any number of them a few more.
_exact = Context(prec=2 * DECIMAL_DIGITS_MAX + 100, traps=[Inexact, Overflow])


def merger(mode: Merge, names: Sequence[str]) -> Callable[[list[Row]], list[Row]]:
    """A function that merges rows of equal key, and gives them in the order of their keys.

    In one order, so that two writers of the same keys wait for each other instead of deadlocking.

    Args:
        mode: what is done with which column.
        names: of the columns, as they stand in the rows.
    """
    key = itemgetter(*(names.index(name) for name in mode.keys))
    ways = [_way(mode, name) for name in names]

    def merged(rows: list[Row]) -> list[Row]:
        one = {key(row): row for row in rows}
        if len(one) < len(rows):
            one.clear()
            for row in rows:
                at = key(row)
                held = one.get(at)
                one[at] = row if held is None else tuple([way(old, new) for way, old, new in zip(ways, held, row, strict=True)])
        try:
            return [one[at] for at in sorted(one)]
        except TypeError:  # members of an enum, and their names among them
            return [one[at] for at in sorted(one, key=str)]

    return merged


def _way(mode: Merge, name: str) -> Callable[[Any, Any], Any]:
    """What a column becomes, from the value that is held and the one that comes."""
    if name in mode.add:
        return add
    if name in mode.least:
        return least
    return greatest if name in mode.greatest else _new


def add(old: Any, new: Any) -> Any:
    """The sum; of a null and a value the value."""
    if old is None or new is None:
        return new if old is None else old
    return _exact.add(old, new) if isinstance(old, Decimal) or isinstance(new, Decimal) else old + new


def least(old: Any, new: Any) -> Any:
    """The smaller; of a null and a value the value."""
    return old if new is None or (old is not None and old <= new) else new


def greatest(old: Any, new: Any) -> Any:
    """The greater; of a null and a value the value."""
    return old if new is None or (old is not None and old >= new) else new


def _new(old: Any, new: Any) -> Any:  # noqa: ARG001 - as the others
    return new
