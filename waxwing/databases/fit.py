"""Does an existing column take what the flow's Table declares?

A column of another family, or one that would change values (fewer decimals, single precision, no microseconds), is refused. One
that is merely smaller, or takes no nulls, is written: what it can't hold becomes a dead letter, by the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from waxwing.databases.base import Dialect
from waxwing.databases.columns import kind_of
from waxwing.databases.rules import integer_range
from waxwing.errors import ConfigError


def differences(column: sa.Column[Any], found: Mapping[str, Any], sql: sa.Dialect, dialect: Dialect) -> list[str]:
    """Why this existing column can't be written as declared. Empty: it can."""
    have, declared = found["type"], column.type.compile(dialect=sql)
    problems = []
    if found.get("computed"):
        problems.append("is computed by the database")
    if not _same_family(column, have, declared, sql) or (dialect.lengths_kept and _changes(kind_of(column), have, column)):
        problems.append(f"is {have.compile(dialect=sql)}, where {declared} is needed")
    return [f"column {column.name} {problem}" for problem in problems]


def smaller(column: sa.Column[Any], found: Mapping[str, Any], dialect: Dialect) -> sa.Column[Any] | None:
    """The column as it is, if it takes less than declared."""
    narrow = _SMALLER.get(kind_of(column)) if dialect.lengths_kept else None
    kind = narrow(found["type"], column.type) if narrow else None
    no_null = bool(column.nullable) and not found["nullable"]
    if kind is None and not no_null:
        return None
    return sa.Column(column.name, kind or column.type, nullable=bool(column.nullable) and not no_null)


def _same_family(column: sa.Column[Any], have: Any, declared: str, sql: sa.Dialect) -> bool:
    kind = kind_of(column)
    try:
        found = kind_of(sa.Column(column.name, have))
    except ConfigError:
        return False
    families: set[str] = {kind}
    if kind in {"uuid", "enum"} and declared.startswith(("CHAR", "VARCHAR", "NCHAR", "NVARCHAR")):
        families.add("text")  # what it is stored as
    if kind == "boolean" and not sql.supports_native_boolean:
        families.add("integer")
    if kind == "json":
        families.add("text")
    return found in families and bool(getattr(have, "timezone", False)) == bool(getattr(column.type, "timezone", False))


def _changes(kind: str, have: Any, column: sa.Column[Any]) -> bool:
    """Would the column round, cut or pad what the declared one keeps?"""
    want: Any = column.type
    if kind == "text":
        padded = isinstance(have, sa.CHAR | sa.NCHAR)
        return padded and (not isinstance(want, sa.CHAR | sa.NCHAR) or (have.length or 1) > (want.length or 1))
    if kind in {"uuid", "enum"}:
        length = getattr(have, "length", None)
        return length is not None and not isinstance(have, sa.Enum) and length < (32 if kind == "uuid" else want.length)
    if kind == "decimal":
        return have.precision is not None and (want.precision is None or (have.scale or 0) < (want.scale or 0))
    if hasattr(have, "keeps"):
        return False  # value by value
    if kind == "float":
        return isinstance(have, sa.REAL) or (have.__visit_name__ == "FLOAT" and (have.precision or 0) <= 24)
    return kind in {"datetime", "time"} and _microseconds_lost(have)


def _microseconds_lost(have: Any) -> bool:
    if hasattr(have, "fsp"):  # MySQL's types; its TIMESTAMP ends in 2038
        return have.__visit_name__ == "TIMESTAMP" or (have.fsp or 0) < 6
    digits = getattr(have, "precision", None)
    return digits is not None and digits < 6


def _smaller_text(have: Any, want: Any) -> Any:
    return have if have.length is not None and (want.length is None or want.length > have.length) else None


def _smaller_integer(have: Any, want: Any) -> Any:
    (low, high), (wanted_low, wanted_high) = integer_range(have), integer_range(want)
    return have if low > wanted_low or high < wanted_high else None


def _smaller_decimal(have: Any, want: Any) -> Any:
    if have.precision is None:
        return None
    spare = have.precision - (have.scale or 0) - (want.precision - (want.scale or 0))
    # Types of single databases that keep only some of their longest numbers tell which.
    some = hasattr(have, "keeps")
    if spare > 0 or (spare == 0 and not some):
        return None
    return (type(have) if some else sa.Numeric)(have.precision - (have.scale or 0) + (want.scale or 0), want.scale)


def _keeps_some(have: Any, want: Any) -> Any:
    return have if hasattr(have, "keeps") and not hasattr(want, "keeps") else None


_SMALLER: dict[str, Callable[[Any, Any], Any]] = {
    "text": _smaller_text,
    "integer": _smaller_integer,
    "decimal": _smaller_decimal,
    "datetime": _keeps_some,
    "float": _keeps_some,
}
