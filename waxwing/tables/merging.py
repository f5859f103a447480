"""Rows of equal key, merged into one: what a database does with the stored row, done within a transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Context, Decimal, Inexact, Overflow
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Merge, Mode
from waxwing.tables.values.moments import moment
from waxwing.tables.values.rules import DECIMAL_DIGITS_MAX

Row = tuple[Any, ...]

# A column's decimals have so many digits on either side of the point, at most, and a sum of any number of them a few more.
_exact = Context(prec=2 * DECIMAL_DIGITS_MAX + 100, traps=[Inexact, Overflow])

NUMBERS = {"integer", "decimal", "float"}
ORDERED = {*NUMBERS, "date", "datetime"}


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


def means(table: sa.Table, mode: Mode) -> tuple[sa.Column[Any], ...]:
    """The columns that the database sets to a mean."""
    return tuple(table.c[name] for name in mode.mean if name in table.c) if isinstance(mode, Merge) else ()


def bad_merge(table: sa.Table, mode: Merge, wanted: Sequence[str]) -> list[str]:
    """What is wrong with the mode, for this table and the columns that rows bring."""
    problems = []
    named = [*((name, "add", NUMBERS) for name in mode.add), *((name, "least", ORDERED) for name in mode.least)]
    named += [(name, "greatest", ORDERED) for name in mode.greatest]
    if not named:
        problems.append("the mode Merge names no column to merge (add, least, greatest)")
    names = [*mode.merged, *mode.mean]
    problems += [f"it has no column {name}" for name in dict.fromkeys(names) if name not in table.c]
    problems += [f"column {name} is merged in two ways" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [f"column {name} is a key and can't be merged" for name in dict.fromkeys(names) if name in mode.keys]
    for name, how, kinds in named:
        if name not in table.c:
            continue
        if kind_of(table.c[name]) not in kinds:
            dates = ", date or timestamp" if kinds is ORDERED else ""
            problems.append(f"{how} names {name}, which is no number{dates} ({table.c[name].type!r})")
        elif name not in wanted:
            problems.append(f"{how} names {name}, and rows do not bring it")
    for name, (total, count) in mode.mean.items():
        problems += [f"the mean {name} is of {part}, which is not among add" for part in (total, count) if part not in mode.add]
        if count in table.c and kind_of(table.c[count]) != "integer":
            problems.append(f"the mean {name} counts by {count}, which is no integer ({table.c[count].type!r})")
        if name not in table.c:
            continue
        column = table.c[name]
        if name in wanted or column.server_default is not None or column.onupdate is not None:
            problems.append(f"column {name} is a mean, which the database sets, and rows or defaults bring it too")
        if kind_of(column) not in {"decimal", "float"} or (kind_of(column) == "decimal" and column.type.scale is None):  # type: ignore[attr-defined]  # it is a Numeric
            problems.append(f"the mean {name} needs decimals: a Numeric with a scale, or Double ({column.type!r})")
    return problems
