"""Which columns take texts for equal that Python tells apart: by their collation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

_SAMPLES = ("a", "A", "á")


def folding(connection: sa.Connection, table: sa.Table, names: Iterable[str]) -> list[str]:
    """The columns among these whose collation passes over capitals, accents or blanks at the end. Asks the database itself.

    SQL Server passes over blanks at the end in any collation, and fixed-length text keeps none: not asked there.
    """
    mssql = connection.dialect.name == "mssql"
    out = []
    for name in names:
        column = table.c[name]
        if not isinstance(column.type, sa.String) or isinstance(column.type, sa.Enum):
            continue
        samples = _SAMPLES if mssql or isinstance(column.type, sa.CHAR) else (*_SAMPLES, "a ")
        literals: list[sa.Select[Any]] = [sa.select(sa.literal_column(f"{'N' if mssql else ''}'{sample}'")) for sample in samples]
        # Of a UNION the column's own collation decides, although not one of its rows is in it.
        told_apart = sa.union(sa.select(column).where(sa.false()), *literals).subquery()
        if connection.execute(sa.select(sa.func.count()).select_from(told_apart)).scalar_one() < len(samples):
            out.append(name)
    return out
