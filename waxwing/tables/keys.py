"""Keys of rows: when two are one here, and what a tombstone deletes."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from waxwing.batch import Delete
from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of, rule
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import keys_of
from waxwing.tables.plan import Plan
from waxwing.tables.values.moments import moment

Key = tuple[Any, ...]


def identity(columns: Sequence[sa.Column[Any]], at: Sequence[int]) -> Callable[[Key], Any]:
    """A function from a row to what stands for its key: equal for two rows where every database takes their keys for one.

    Python's own equality would do, but for times with a zone (it passes over the hour that comes twice, or over the zone that a
    database keeps), for members of an enum and their names, NaN, and JSON.

    Args:
        columns: the key columns.
        at: where their values stand in a row.
    """
    converters = [_converter(column) for column in columns]
    if not any(converters):
        return itemgetter(*at)
    pairs = [(number, convert or _same) for number, convert in zip(at, converters, strict=True)]
    return lambda row: tuple([convert(row[number]) for number, convert in pairs])


def folded(key: Any) -> Any:
    """What is equal for all keys that a collation might take for one: without capitals, accents, and blanks at the end."""
    if isinstance(key, tuple):
        return tuple(map(folded, key))
    if not isinstance(key, str):
        return key
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", key).casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).rstrip()


def _same(value: Any) -> Any:
    return value


def is_zoned(column: sa.Column[Any]) -> bool:
    """Does it hold times with a zone?"""
    return kind_of(column) in {"datetime", "time"} and bool(getattr(column.type, "timezone", False))


def _converter(column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    kind = kind_of(column)
    if is_zoned(column):
        return moment
    if kind == "enum":
        return column.type.bind_processor(DefaultDialect())
    if kind == "json":
        return repr
    return (lambda value: value if value == value else "NaN") if kind == "float" else None  # noqa: PLR0124 - NaN is not


class Deletes:
    """From tombstones to keys of the table.

    Args:
        plan: what is written; its mode has keys.
        dialect: limits of the database.
    """

    def __init__(self, plan: Plan, dialect: Dialect) -> None:
        self._table = plan.table.name
        self._names = keys_of(plan.mode)
        self._columns = plan.keys
        self._rules = [rule(_unpadded(column), dialect) for column in plan.keys]
        self._reader = _reader(plan.keys[0]) if len(plan.keys) == 1 else None
        self.identity = identity(plan.keys, range(len(plan.keys)))

    def keys(self, deletes: Sequence[Delete], first: int, bad: dict[int, str]) -> list[Key]:
        """The key of each tombstone, in the order of the mode's keys; those that can't be a key of the table go to `bad`.

        Raises:
            ConfigError: no tombstone of this kind can be read.
        """
        out = []
        for number, delete in enumerate(deletes, first):
            try:
                key = self._key(delete)
            except ValueError:
                bad[number] = "the tombstone's key is no value of the key column"
                continue
            if reason := self._why_not(key):
                bad[number] = f"the tombstone's key: {reason}"
            out.append(key)
        return out

    def _key(self, delete: Delete) -> Key:
        key, names = delete.key, delete.names
        if isinstance(key, tuple) and names not in ((), self._names):
            if unknown := sorted(set(names) - set(self._names)):
                raise ConfigError(
                    f"The keys of tombstones have {', '.join(unknown)}, which is no key column of table {self._table}.",
                    hint=f"Let the fields of parse(..., key=...) be the keys of the Upsert: {', '.join(self._names)}.",
                )
            values = dict(zip(names, key, strict=True))
            return tuple([values.get(name) for name in self._names])
        if isinstance(key, tuple) and len(key) == len(self._names):
            return key
        if isinstance(key, tuple) or self._reader is None:
            raise ConfigError(
                f"A tombstone's key, as it is read, can't be a key of table {self._table} ({', '.join(self._names)}).",
                hint="Say how a message's key is read: parse(..., on_tombstone='delete', key=Key), a field for each key column.",
            )
        return (self._reader(key),)

    def _why_not(self, key: Key) -> str | None:
        for column, (types, _, reason_of), value in zip(self._columns, self._rules, key, strict=True):
            if value is None:
                return f"no value for column {column.name}"
            if type(value) not in types:
                kinds = " or ".join(sorted(kind.__name__ for kind in types))
                return f"column {column.name}: a value of type {type(value).__name__}, not {kinds}"
            if reason := reason_of(value):
                return f"column {column.name}: {reason}"
        return None


def _unpadded(column: sa.Column[Any]) -> sa.Column[Any]:
    """A key may be shorter than the column that pads it."""
    if isinstance(column.type, sa.CHAR | sa.NCHAR):
        return sa.Column(column.name, sa.String(column.type.length or 1))
    if isinstance(column.type, sa.BINARY):
        return sa.Column(column.name, sa.VARBINARY(column.type.length or 1))
    return column


def _integer(key: bytes) -> int:
    if not key.removeprefix(b"-").isdigit():  # int() would take "1_0" and " 7 " as well
        raise ValueError(key)
    return int(key)


def _reader(column: sa.Column[Any]) -> Callable[[bytes], Any] | None:
    """From a message's key to a value of the key column, or ValueError (UnicodeDecodeError is one). None: it can't be read."""
    kind = column.type.python_type
    readers: dict[type, Callable[[bytes], Any]] = {
        str: bytes.decode,
        int: _integer,
        UUID: lambda key: UUID(key.decode()),
        bytes: lambda key: key,
    }
    return readers.get(kind)
