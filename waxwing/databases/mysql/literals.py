"""Rows as literals of MySQL and MariaDB, `(1,"a",null)`, which a JSON array of them nearly is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from waxwing.databases.json_rows import Encode, dumper, each, encoded, encoders, escapes, rows_as_json
from waxwing.databases.refusals import encodes

# Named parameters, so that "%" in a name or an expression is not doubled.
SA_DIALECT: sa.Dialect = mysql.dialect(paramstyle="named")

# JSON's escapes that a literal does not know; it reads the others alike. (Double quotes, since ANSI_QUOTES is off: database.py.)
_FOREIGN = escapes(b"fu")


class Literals:
    """Rows as literals. Which columns need what is decided once; values are looked at a column at a time.

    Args:
        columns: of the rows.
        more: SQL that follows the values of each row, a comma in front.
    """

    def __init__(self, columns: Sequence[sa.Column[Any]], more: str = "") -> None:
        self._encoders = encoders(columns, SA_DIALECT, _own)
        self._dumps = dumper(columns)
        self._end = more.encode()
        self._between = self._end + b"),\n("

    @encodes
    def encode(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        """The rows, a line for each."""
        rows = encoded(rows, self._encoders)
        text = rows_as_json(rows, self._dumps, self._between, _FOREIGN)
        if text is None:
            text = self._between.join([b",".join(map(_literal, row)) for row in rows])
        return b"(%b%b)" % (text, self._end)


def _literal(value: Any) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, orjson.Fragment):
        return orjson.dumps(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\x00", "\\0")
    return text.encode() if isinstance(value, int | float) else f'"{text}"'.encode()


def _own(column: sa.Column[Any], kind: str) -> Encode | None:  # noqa: ARG001 - one signature for both databases
    if kind == "float":
        # A whole number of more than 65 digits would be read as a decimal, and cut. (An integer here is one that a float holds.)
        floats = each(float)
        return lambda values: floats(values) if int in set(map(type, values)) else values
    return each(lambda value: orjson.Fragment(b"x'%b'" % value.hex().encode())) if kind == "binary" else None
