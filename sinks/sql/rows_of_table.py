"""What one session writes into one table, and whether the table is still what it was looked at for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa

from sinks.sql.table import SqlTable
from waxwing.databases.ledger.store import SqlStore
from waxwing.errors import RowError, TableAltered, TableError
from waxwing.tables.rows import RowMaker, Written


class TableRows:
    """One table, over one connection.

    Args:
        table: looked at by now.
        store: the session's connection.
    """

    def __init__(self, table: SqlTable, store: SqlStore) -> None:
        assert table.looked is not None
        self._table, self._store, self._database = table, store, store.database
        looked = table.looked
        self._shape = looked.shape
        self.rows = RowMaker(looked.plan, table.columns, self._database.dialect)
        self._bulk = self._database.bulk(looked.plan)
        self._brought = {name.lower() for name in looked.plan.changed}
        self._looks_at_rows: set[str] = set()  # constraints of which this is known
        self.held = False  # in the transaction under way

    def send(self, connection: sa.Connection, written: Written) -> None:
        """Write."""
        rows, deletes, before = written
        if deletes:
            self._bulk.replace(connection, rows, deletes, before)
        elif rows:
            self._bulk.write(connection, rows)

    def hold(self, connection: sa.Connection) -> bool:
        """Hold the table as it is before it is written, where that must be; is it as the plan was made for?"""
        if held := self._bulk.hold(connection):
            self.check_shape(connection)
        return held

    def check_shape(self, connection: sa.Connection, cause: Exception | None = None) -> None:
        """Raises TableAltered where the table is no longer as it was when the plan was made."""
        shape = self._database.shape(connection, self._table.table)
        if shape != self._shape and shape:  # one that is gone altogether is not made anew
            self._table.forget(self._shape)
            raise TableAltered(f"{self._table.name}: the table was altered; looking at it again.") from cause

    def may_be_blamed(self, refusal: RowError | TableError) -> bool:
        """Does it name a column, or a constraint, that may have nothing to do with what rows bring?"""
        null, constraint = _named(refusal)
        return bool(null and null not in self._brought) or bool(constraint and constraint not in self._looks_at_rows)

    def look_again(self, refusal: RowError | TableError) -> None:
        """Look whether the table is as it was when the plan was made.

        Raises:
            TableAltered: it is not; the next session has a plan for what it is now.
            TableError: it refuses what stands in columns that the flow does not bring.
        """
        null, constraint = _named(refusal)
        told = hint = ""
        with self._looking() as connection:
            self.check_shape(connection, refusal)
            if not self.may_be_blamed(refusal):
                return
            if constraint:
                columns = self._database.constrained(connection, self._table.table, constraint)
                if columns is None or any(name.lower() in self._brought for name in columns):
                    self._looks_at_rows.add(constraint)
                else:
                    names = ", ".join(sorted(columns)) or "there are none"
                    told = f"rows bring none of the columns that {constraint} looks at ({names})"
                    hint = "Give them defaults that it takes (a sequence: behind the highest number), or alter the constraint"
            elif null in {column.name.lower() for column in self._database.columns(connection, self._table.table)}:
                told = f"rows do not bring the column {null}"
                hint = "Give the column a default that is no null (or look at what a trigger makes of it)"
        if told:
            raise TableError(f"{self._table.name}: {refusal.message}; {told}.", hint=f"{hint}, then start again.") from refusal

    @contextlib.contextmanager
    def _looking(self) -> Iterator[sa.Connection]:
        if self._store.is_whole:
            with self._store.transaction() as transaction:
                yield transaction.connection
        else:  # with a new one, or the next attempt would end here again
            with self._table.place.errors(self._table.name), self._table.place.engine.connect() as connection:
                yield connection


def _named(refusal: RowError | TableError) -> tuple[str, str]:
    """The column that takes no null, and the constraint, which a refusal names; empty where it names none."""
    return str(refusal.context.get("column") or "").lower(), str(refusal.context.get("constraint") or "")
