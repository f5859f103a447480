"""Rows of equal key, merged into one: what a database does with the stored row, done within a transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Context, Decimal, Inexact, Overflow
from operator import itemgetter
from typing import Any

from waxwing.databases.base import Merge
from waxwing.databases.rules import DECIMAL_DIGITS_MAX
from waxwing.errors import ConfigError
from waxwing.moments import moment

Row = tuple[Any, ...]

# A column's decimals have so many digits on either side of the point, at most, and a sum of any number of them a few more.
_exact = Context(prec=2 * DECIMAL_DIGITS_MAX + 100, traps=[Inexact, Overflow])


def merger(
    mode: Merge,
    names: Sequence[str],
    key: Callable[[Row], Any] | None = None,
    *,
    exact: bool = True,
    zoned: Collection[str] = (),
    numbered: bool = False,
) -> Callable[[list[Row]], list[Row]]:
    """A function that merges rows of equal key, and gives them in one order.

    That of their keys, so that two writers of the same keys wait for each other instead of deadlocking. But where a column
    takes the newest value, that of their newest records: keys that differ here ("a" and "A") may be one to the database.

    Args:
        mode: what is done with which column.
        names: of the columns, as they stand in the rows.
        key: from a row to what stands for its key; by default the values of its key columns.
        exact: are keys that differ here two to the database as well? Else they stay in the order in which they came.
        zoned: the columns that hold times with a zone.
        numbered: does the table number new rows? Then they stand in the order in which their keys first came.
    """
    key = key or itemgetter(*(names.index(name) for name in mode.keys))
    ways = [_way(mode, name, zoned=name in zoned) for name in names]
    as_came = numbered or not exact
    newest = not (numbered and exact) and any(
        way is _new and name not in mode.keys for name, way in zip(names, ways, strict=True)
    )

    def merged(rows: list[Row]) -> list[Row]:
        one = {key(row): row for row in rows}
        if len(one) < len(rows):
            one.clear()
            for row in rows:
                this = key(row)
                held = one.pop(this, None) if newest else one.get(this)
                one[this] = row if held is None else tuple([way(old, new) for way, old, new in zip(ways, held, row, strict=True)])
        if newest or as_came:
            return list(one.values())
        try:
            return [one[this] for this in sorted(one)]
        except TypeError:  # a NaN among numbers
            return [one[this] for this in sorted(one, key=str)]

    return merged


def merge_records(mode: Merge, held: Mapping[str, Any] | None, record: Any) -> dict[str, Any]:
    """A record merged with what is held for its key, as a dict, means included."""
    came = dict(record) if isinstance(record, Mapping) else {name: getattr(record, name) for name in fields_of(type(record))}
    out = dict(came)
    if held is not None:
        out = {**held, **{name: _way(mode, name, zoned=True)(held.get(name), new) for name, new in came.items()}}
    for name, (total, number) in mode.mean.items():
        out[name] = out[total] / out[number] if out[total] is not None and out[number] else None
    return out


def fields_of(kind: type) -> list[str]:
    """Names of the fields of a Struct, dataclass, named tuple or pydantic model."""
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "model_fields", None) or getattr(kind, "_fields", None)
    if names is None and dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    if names is None:
        raise ConfigError(
            f"Records of type {kind.__name__} can't become rows.",
            hint="Give the sink dicts, tuples, dataclasses, pydantic models or msgspec Structs.",
        )
    return list(names)


def _way(mode: Merge, name: str, *, zoned: bool) -> Callable[[Any, Any], Any]:
    """What a column becomes, from the value that is held and the one that comes."""
    if name in mode.add:
        return add
    if name in mode.least:
        return _earliest if zoned else least
    if name in mode.greatest:
        return _latest if zoned else greatest
    return _new


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


def _earliest(old: Any, new: Any) -> Any:
    return old if new is None or (old is not None and moment(old) <= moment(new)) else new


def _latest(old: Any, new: Any) -> Any:
    return old if new is None or (old is not None and moment(old) >= moment(new)) else new
