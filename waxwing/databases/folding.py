"""Which columns take texts for equal that Python tells apart: by their collation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from waxwing.tables.dialect import Dialect

_SAMPLES = ("a", "A", "á")


def folding(connection: sa.Connection, table: sa.Table, names: Iterable[str], dialect: Dialect) -> list[str]:
    """The columns among these whose collation passes over capitals, accents or blanks at the end. Asks the database itself.

    Where every collation passes over blanks at the end they are not asked for, nor of fixed-length text, which keeps none.
    """
    out = []
    for name in names:
        column = table.c[name]
        if not isinstance(column.type, sa.String) or isinstance(column.type, sa.Enum):
            continue
        samples = _SAMPLES if not dialect.name_blanks_kept or isinstance(column.type, sa.CHAR) else (*_SAMPLES, "a ")
        literals: list[sa.Select[Any]] = [sa.select(sa.literal_column(f"{dialect.text_prefix}'{sample}'")) for sample in samples]
        # Of a UNION the column's own collation decides, although not one of its rows is in it.
        told_apart = sa.union(sa.select(column).where(sa.false()), *literals).subquery()
        if connection.execute(sa.select(sa.func.count()).select_from(told_apart)).scalar_one() < len(samples):
            out.append(name)
    return out
