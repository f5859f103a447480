"""What merging is in SQL: the value of a column out of the stored one and the one that comes. Checks of the mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.databases.base import Merge, Mode, Plan
from waxwing.databases.columns import kind_of

NUMBERS = {"integer", "decimal", "float"}
ORDERED = {*NUMBERS, "date", "datetime"}
# Digits of a quotient beyond those that its column keeps, so that rounding it once more changes nothing.
SPARE_DIGITS = 20


def means(table: sa.Table, mode: Mode) -> tuple[sa.Column[Any], ...]:
    """The columns that the database sets to a mean."""
    return tuple(table.c[name] for name in mode.mean if name in table.c) if isinstance(mode, Merge) else ()


class Mean(NamedTuple):
    """A column that is a sum through a count."""

    column: sa.Column[Any]
    total: sa.Column[Any]
    number: sa.Column[Any]

    @property
    def floats(self) -> bool:
        """Is it a quotient of floats? Else of exact numbers."""
        return "float" in {kind_of(self.column), kind_of(self.total)}

    @property
    def decimals(self) -> int:
        """Digits behind the point that it keeps."""
        return getattr(self.column.type, "scale", None) or 0


def quotients(plan: Plan) -> tuple[Mean, ...]:
    """The means of a plan."""
    c = plan.table.c
    if not isinstance(plan.mode, Merge):
        return ()
    return tuple(Mean(c[name], c[total], c[count]) for name, (total, count) in plan.mode.mean.items())


def becomes(mode: Merge, names: Sequence[str], stored: Callable[[str], str], comes: Callable[[str], str]) -> dict[str, str]:
    """SQL for each column but the keys, by its name: what stands in a row after the merge.

    Args:
        mode: what is done with which column.
        names: the columns that rows bring.
        stored: SQL of a column's stored value.
        comes: SQL of the value that comes.
    """
    out = {}
    for name in names:
        if name in mode.keys:
            continue
        old, new = stored(name), comes(name)
        if name in mode.add:
            # Either may be null, and then the sum is.
            out[name] = f"coalesce({old} + {new}, {old}, {new})"
        elif name in mode.least or name in mode.greatest:
            order = "<=" if name in mode.least else ">="
            out[name] = f"CASE WHEN {new} IS NULL OR {old} {order} {new} THEN {old} ELSE {new} END"
        else:
            out[name] = new
    return out


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
