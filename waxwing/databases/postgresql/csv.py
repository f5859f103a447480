"""Rows as CSV for COPY, which a JSON array of them nearly is.

    [[1,"a \\"b\\"",null],[2,"c",2.5]]   ->   1,"a \\"b\\"",null
                                            2,"c",2.5

Texts stand between quotes, so that none is taken for NULL. Measured beside lines made by "%": a third of the time for a record of
3 fields and for one of 60, the same for an orders row; the server reads both equally fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from waxwing.databases.json_rows import Encode, dumper, each, encoded, encoders, escapes, rows_as_json
from waxwing.databases.refusals import encodes

# The encoding is named here, so that no setting of the session changes what the bytes mean. (E: a lone backslash may escape.)
COPY_OPTIONS = r"FROM STDIN (FORMAT csv, NULL 'null', ESCAPE E'\\', ENCODING 'UTF8')"

# COPY takes off JSON's escapes of quotes and of backslashes, and reads those of control characters as they stand.
_FOREIGN = escapes(b"bfnrtu")

# Text of so many rows at a time: far larger pieces of memory would be mapped, and cleared by the kernel, anew for each write.
PART_ROWS = 500

# Named parameters, so that "%" in a name or an expression is not doubled.
SA_DIALECT: sa.Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # SQLAlchemy's are not annotated


class CopyCsv:
    """Rows as CSV for COPY. Which columns need what is decided once; values are looked at a column at a time."""

    def __init__(self, columns: Sequence[sa.Column[Any]]) -> None:
        self._encoders = encoders(columns, SA_DIALECT, _own)
        self._dumps = dumper(columns)

    @encodes
    def encode(self, rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """The rows as CSV in UTF-8, in parts."""
        parts = []
        for first in range(0, len(rows), PART_ROWS):
            part = encoded(rows[first : first + PART_ROWS], self._encoders)
            text = rows_as_json(part, self._dumps, b"\n", _FOREIGN)
            parts.append(_value_by_value(part) if text is None else text + b"\n")
        return parts

    @encodes
    def values(self, rows: Sequence[tuple[Any, ...]]) -> list[list[str | None]]:
        """The rows as texts, which the columns' types read as they read CSV."""
        return [[None if value is None else str(value) for value in row] for row in encoded(rows, self._encoders)]


def _value_by_value(rows: Sequence[tuple[Any, ...]]) -> bytes:
    return "".join([",".join(map(_quoted, row)) + "\n" for row in rows]).encode()


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _own(column: sa.Column[Any], kind: str) -> Encode | None:
    if kind == "float":
        # JSON has no NaN and no infinity: they go as text. (filter: without nulls, and zeros need no look.)
        as_text = each(str)
        return lambda values: values if all(map(isfinite, filter(None, values))) else as_text(values)
    if kind == "datetime" and getattr(column.type, "timezone", False):
        return each(str)  # orjson rounds a zone's seconds
    return each(lambda value: f"\\x{value.hex()}") if kind == "binary" else None
