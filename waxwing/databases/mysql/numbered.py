"""Upserts into tables of MySQL and MariaDB that number their rows (AUTO_INCREMENT, a sequence).

INSERT draws a number for each row before it finds that the row is there, and a small counter would be used up by updates alone.
So the rows go through a temporary table: those that are there come with their own number, and the others are inserted after that.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from waxwing.databases.mysql import catalog
from waxwing.databases.mysql.literals import SA_DIALECT, Literals
from waxwing.tables.plan import Plan

_quote = SA_DIALECT.identifier_preparer.quote


class Numbered:
    """The temporary table of one table over one connection: made once, and emptied by DELETE, which commits nothing."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._table = SA_DIALECT.identifier_preparer.format_table(plan.table)
        self._columns = [column.name for column in plan.columns]
        self.means: Sequence[tuple[str, str]] = ()  # columns that are calculated, each with its SQL
        self._stage = f"waxwing_stage_{zlib.crc32(f'{self._table}{self._columns}'.encode()):08x}"
        # By names of their own, since in ON DUPLICATE KEY a name stands for the table's column.
        own = ", ".join(f"{_quote(name)} AS waxwing_{number}" for number, name in enumerate(self._columns))
        self._make = (
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {self._stage} ENGINE=InnoDB "  # noqa: S608 - quoted
            f"AS SELECT 0 AS waxwing_n, {own} FROM {self._table} LIMIT 0"
        ).encode()
        self._clear = f"DELETE FROM {self._stage}".encode()  # noqa: S608 - a name of ours
        self.head = f"INSERT INTO {self._stage} VALUES ".encode()  # noqa: S608 - a name of ours
        self.literals = Literals((sa.Column("waxwing_n", sa.Integer), *plan.columns))
        self._same = " AND ".join(f"t.{_quote(key.name)} = s.waxwing_{self._columns.index(key.name)}" for key in plan.keys)
        self._missing = (
            f"SELECT s.waxwing_n FROM {self._stage} AS s LEFT JOIN {self._table} AS t ON {self._same} "  # noqa: S608 - quoted
            f"WHERE t.{_quote(plan.keys[0].name)} IS NULL ORDER BY 1"
        )
        self._key = itemgetter(*(self._columns.index(key.name) for key in plan.keys))
        self.update = b""

    def stage(self, connection: sa.Connection) -> None:
        """Make the temporary table ready."""
        if not self.update:
            self.update = self._updating(catalog.numbered(connection, self._plan))
        query(connection, self._make)
        query(connection, self._clear)

    @staticmethod
    def placed(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows as they go into the temporary table, each with its place."""
        places = range(len(rows))
        return [(place, *row) for place, row in zip(places, rows, strict=True)]

    def missing(self, connection: sa.Connection) -> list[int]:
        """The places of those of which the table has none."""
        return [place for (place,) in catalog.asked(connection, self._missing)]

    def first(
        self, rows: Sequence[tuple[Any, ...]], missing: Sequence[int]
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Of the missing rows the first of each key, and the others."""
        firsts: dict[Any, tuple[Any, ...]] = {}
        others = [row for row in map(rows.__getitem__, missing) if firsts.setdefault(self._key(row), row) is not row]
        return list(firsts.values()), others

    def _updating(self, numbered: Sequence[str]) -> bytes:
        """INSERT .. SELECT of those that are there, in order, up to ON DUPLICATE KEY. With its number given a row draws none."""
        columns = [*numbered, *self._columns, *(name for name, _ in self.means)]
        own = [f"waxwing_own_{number}" for number in range(len(numbered))]
        values = [*own, *(f"waxwing_{number}" for number in range(len(self._columns))), *(text for _, text in self.means)]
        fields = ", ".join(f"t.{_quote(name)} AS {alias}" for name, alias in zip(numbered, own, strict=True))
        # By key, so that two writers of the same keys wait for each other instead of deadlocking.
        keys = [f"waxwing_{self._columns.index(key.name)}" for key in self._plan.keys] if self._plan.nature.rows_alone else []
        joined = f"SELECT s.*, {fields} FROM {self._stage} AS s INNER JOIN {self._table} AS t ON {self._same}"  # noqa: S608 - quoted
        return (
            f"INSERT INTO {self._table} ({', '.join(map(_quote, columns))}) "  # noqa: S608 - quoted
            f"SELECT {', '.join(values)} FROM ({joined}) AS waxwing_rows ORDER BY {', '.join([*keys, 'waxwing_n'])}"
        ).encode()


def query(connection: sa.Connection, statement: bytes) -> None:
    """Run a statement as it stands."""
    driver: Any = connection.connection.driver_connection
    driver.query(statement)
