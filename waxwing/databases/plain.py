"""Statements of every transaction, compiled once and run by the driver itself: SQLAlchemy takes ten times as long over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa


class Bound(NamedTuple):
    """A statement, and its parameters, if it has any."""

    sql: str
    parameters: Any = None


class Plain:
    """A statement whose parameters all drivers take as they are: numbers, texts and bytes.

    Errors of the driver come out as they are; `Database.classify` reads them.
    """

    def __init__(self, statement: sa.Executable, dialect: sa.Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # of all statements that are executed
        self._sql = str(compiled)
        self._fixed: dict[str, Any] = {name: value for name, value in compiled.params.items() if value is not None}
        self._names: list[str] | None = compiled.positiontup  # None: they go by name

    def bound(self, values: Mapping[str, Any]) -> Bound:
        """It, with its parameters as the driver takes them."""
        given = {**self._fixed, **values}
        return Bound(self._sql, given if self._names is None else tuple(map(given.__getitem__, self._names)))

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> Any:
        """Run it: the driver's cursor."""
        cursor = connection.connection.cursor()
        cursor.execute(*self.bound(values))
        return cursor


class Statements:
    """Those of one product of database, each compiled when it is first needed."""

    def __init__(self) -> None:
        self._known: dict[Any, Plain] = {}

    def of(self, key: Any, make: Any, connection: sa.Connection) -> Plain:
        """The statement of this key; `make` makes it."""
        if (plain := self._known.get(key)) is None:
            plain = self._known[key] = Plain(make(), connection.dialect)
        return plain
