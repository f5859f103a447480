"""Does an existing column take what the flow's Table declares?

A column of another family, of a type that is refused, or one that keeps fewer decimals, is an error. One that is merely smaller,
coarser, or takes no nulls, is written: what it can't hold exactly becomes a dead letter, by the same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.tables.catalog import Found
from waxwing.tables.columns import LIMIT, kind_of
from waxwing.tables.dialect import Dialect
from waxwing.tables.values.json_values import TextJSON
from waxwing.tables.values.limits import UTF8_BYTES_MAX, Limit, Members, Octets, Selection
from waxwing.tables.values.rules import UUID_CHARACTERS, UUID_DIGITS, integer_range, padded_length


def differences(column: sa.Column[Any], found: Found, sql: sa.Dialect, dialect: Dialect) -> list[str]:
    """Why this existing column can't be written as declared. Empty: it can."""
    declared = _declared(column, sql)
    problems = []
    if found.computed:
        problems.append("is computed by the database")
    if found.type is None:
        problems.append(f"is {found.sql}, where {declared} is needed: {found.refused}")
    elif not _same_family(column, found.type, declared, sql, dialect) or (
        dialect.lengths_kept and _changes(kind_of(column), found.type, column)
    ):
        problems.append(f"is {shown(found, sql)}, where {declared} is needed")
    return [f"column {column.name} {problem}" for problem in problems]


def smaller(column: sa.Column[Any], found: Found, sql: sa.Dialect, dialect: Dialect) -> sa.Column[Any] | None:
    """The column as it is, if it takes less than declared, or otherwise."""
    assert found.type is not None
    kind = kind_of(column)
    narrow = _SMALLER.get(kind) if dialect.lengths_kept or kind == "json" else None
    less = narrow(found.type, column.type) if narrow else None
    limit = found.limit if kind_of(sa.Column("v", found.type)) == kind else None
    if isinstance(limit, Selection):
        less = found.type  # the length that SQLAlchemy gives such a type is that of its longest member
    length = getattr(column.type, "length", None)
    if isinstance(limit, Octets) and length is not None and length * UTF8_BYTES_MAX <= limit.most:
        limit = None  # whatever the declared type takes has room
    if kind == "enum":
        limit = _some_of(column, found.type, limit, sql)
    no_null = bool(column.nullable) and not found.nullable
    if less is None and limit is None and not no_null:
        return None
    info = {**column.info, LIMIT: limit} if limit is not None else column.info
    return sa.Column(column.name, less or column.type, nullable=bool(column.nullable) and not no_null, info=info)


def _declared(column: sa.Column[Any], sql: sa.Dialect) -> str:
    try:
        return str(column.type.compile(dialect=sql))
    except sa.exc.CompileError:  # a reflected column without a type, as SQLite has them
        return "a column without a type"


def shown(found: Found, sql: sa.Dialect) -> str:
    """The column's type, as SQLAlchemy writes it where it can."""
    try:
        return found.sql if found.type is None else str(found.type.compile(dialect=sql))
    except sa.exc.CompileError:
        return found.sql or "without a type"


def takes_less(column: sa.Column[Any], narrow: sa.Column[Any]) -> bool:
    """Is the narrowed column one to warn of? A UUID, or JSON, that only stands there as text takes all."""
    shorter = narrow.type is not column.type and kind_of(column) not in {"uuid", "json"}
    return shorter or LIMIT in narrow.info or narrow.nullable != column.nullable


def _same_family(column: sa.Column[Any], have: Any, declared: str, sql: sa.Dialect, dialect: Dialect) -> bool:
    kind = kind_of(column)
    try:
        found = kind_of(sa.Column(column.name, have))
    except ConfigError:
        return False
    if "untyped" in (kind, found):
        return dialect.untyped_columns
    families: set[str] = {kind}
    if kind in {"uuid", "enum"} and declared.startswith(("CHAR", "VARCHAR", "NCHAR", "NVARCHAR")):
        families.add("text")  # what it is stored as
    if kind == "text":
        families.add("enum")  # value by value
    if kind == "enum" or (kind == "uuid" and getattr(have, "length", None) in (UUID_DIGITS, UUID_CHARACTERS)):
        families.add("text")
    if kind in {"date", "datetime", "time"} and dialect.times_are_text:
        families.add("text")
    if kind == "boolean" and not sql.supports_native_boolean:
        families.add("integer")
    if kind == "json":
        families.add("text")
    zones_fit = found == "text" or bool(getattr(have, "timezone", False)) == bool(getattr(column.type, "timezone", False))
    return found in families and zones_fit


def _changes(kind: str, have: Any, column: sa.Column[Any]) -> bool:
    """Would the column round or cut what the declared one keeps, whatever the value?"""
    want: Any = column.type
    if kind == "uuid":
        return getattr(have, "length", None) is not None and have.length < 32
    if kind == "decimal":
        return have.precision is not None and (want.precision is None or (have.scale or 0) < (want.scale or 0))
    return False


def _smaller_text(have: Any, want: Any) -> Any:
    if isinstance(have, sa.Enum):
        return have
    if isinstance(have, sa.CHAR | sa.NCHAR):  # shorter texts would be padded
        return None if isinstance(want, sa.CHAR | sa.NCHAR) and padded_length(have) == padded_length(want) else have
    return have if have.length is not None and (want.length is None or want.length > have.length) else None


def _smaller_integer(have: Any, want: Any) -> Any:
    (low, high), (wanted_low, wanted_high) = integer_range(have), integer_range(want)
    return have if low > wanted_low or high < wanted_high else None


def _smaller_decimal(have: Any, want: Any) -> Any:
    if have.precision is None or have.precision - (have.scale or 0) >= want.precision - (want.scale or 0):
        return None
    return sa.Numeric(have.precision - (have.scale or 0) + (want.scale or 0), want.scale)


def _smaller_binary(have: Any, want: Any) -> Any:
    length, wanted = getattr(have, "length", None), getattr(want, "length", None)
    if isinstance(have, sa.BINARY):
        return None if isinstance(want, sa.BINARY) and length == wanted else have
    return have if length is not None and (wanted is None or wanted > length) else None


def _uuid_in_text(have: Any, want: Any) -> Any:
    """As it is written elsewhere, with hyphens, where the column has room for just that."""
    if not isinstance(have, sa.String) or have.length != UUID_CHARACTERS:
        return None
    kind = sa.Uuid(as_uuid=want.as_uuid, native_uuid=False)
    kind.hyphens = True  # type: ignore[attr-defined]  # ours, for encoders
    return kind


def _json_as_found(have: Any, want: Any) -> Any:
    """As text it keeps every number, where the type JSON may not; as JSONB those that are numbers of SQL."""
    if isinstance(have, sa.String):
        return None if isinstance(want, TextJSON) else TextJSON()
    return have if have.__visit_name__ == "JSONB" and want.__visit_name__ != "JSONB" else None


def _some_of(column: sa.Column[Any], have: Any, limit: Limit | None, sql: sa.Dialect) -> Limit | None:
    """Which members of an enumeration an existing column holds; None: all."""
    kind: Any = column.type
    stored = kind.dialect_impl(sql).bind_processor(sql) or (lambda value: value)
    labels = {value: stored(value) for value in (*kind.enums, *(kind.enum_class or ()))}
    members = set(have.enums) if isinstance(have, sa.Enum) else None
    longest = None if members is not None else getattr(have, "length", None)
    padded = isinstance(have, sa.CHAR | sa.NCHAR)

    def holds(label: str) -> bool:
        if members is not None:
            return label in members
        size_fits = longest is None or (len(label) == longest if padded else len(label) <= longest)
        return size_fits and (limit is None or limit.reason(label) is None)

    held = {value for value, label in labels.items() if holds(label)}
    if len(held) == len(labels):
        return None
    return Members(frozenset(held), ", ".join(sorted(label for label in set(labels.values()) if holds(label))))


_SMALLER: dict[str, Callable[[Any, Any], Any]] = {
    "text": _smaller_text,
    "integer": _smaller_integer,
    "decimal": _smaller_decimal,
    "binary": _smaller_binary,
    "uuid": _uuid_in_text,
    "json": _json_as_found,
}
