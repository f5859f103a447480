"""What merging is in SQL: the value of a column out of the stored one and the one that comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Merge
from waxwing.tables.plan import Plan

# Digits of a quotient beyond those that its column keeps, so that rounding it once more changes nothing.
SPARE_DIGITS = 20


class MeanColumn(NamedTuple):
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


def quotients(plan: Plan) -> tuple[MeanColumn, ...]:
    """The means of a plan."""
    c = plan.table.c
    if not isinstance(plan.mode, Merge):
        return ()
    return tuple(MeanColumn(c[name], c[total], c[count]) for name, (total, count) in plan.mode.mean.items())


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
