"""Plan: what is written into a table, decided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.tables.modes import Merge, Mode, keys_of


class Nature(NamedTuple):
    """What the table in the database does with rows, as far as it matters for how they are written; asked once.

    keys_exact: keys are equal where Python says so: no collation, type or trigger takes two for one.
    rows_alone: what becomes of a row depends on rows of its own key alone: no trigger, no other unique key that two rows might
        share (but for the table's own numbers), no reference into the table itself.
    rows_numbered: it gives new rows numbers that they do not bring (a sequence, an identity). They may run out, and are drawn in
        the order in which the rows' keys came.
    """

    keys_exact: bool
    rows_alone: bool
    rows_numbered: bool


# Before anybody has asked.
UNASKED = Nature(keys_exact=False, rows_alone=False, rows_numbered=False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is written, decided once: the table, the columns that rows bring, the mode.

    `columns` are in the order of the row tuples. `touched` are columns that the database sets itself
    on update (SQLAlchemy `onupdate=func.now()`), rendered into the UPDATE part.
    """

    table: sa.Table
    columns: tuple[sa.Column[Any], ...]
    mode: Mode
    touched: tuple[sa.Column[Any], ...]
    nature: Nature = UNASKED

    @property
    def changed(self) -> set[str]:
        """Names of the columns that the statements set."""
        made = self.mode.mean if isinstance(self.mode, Merge) else ()
        return {*(column.name for column in (*self.columns, *self.touched)), *made}

    @property
    def keys(self) -> tuple[sa.Column[Any], ...]:
        """The key columns, as they are written; none where every row is inserted."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in keys_of(self.mode))


def columns_of(rows: Sequence[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """Rows, by column."""
    return list(zip(*rows, strict=True))
