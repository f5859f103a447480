"""A ledger in an SQL database: a connection, and the transactions on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import Database
from waxwing.databases.ledger.errors import translated
from waxwing.databases.ledger.transaction import SqlTransaction
from waxwing.errors import RowError, TransientError
from waxwing.ledger.store import OwnersStore, Step

# A lock is waited for so long by whoever takes positions from an owner that was found stale.
BRIEFLY_S = 1.0


class SqlStore(OwnersStore):
    """A connection for one step.

    Args:
        engine: makes connections.
        database: of which product.
        step: whose rows.
        name: of the target, for messages.
        url_setting: the setting that gave the URL, for hints.
        briefly: wait for locks for BRIEFLY_S at most.
    """

    def __init__(
        self, engine: sa.Engine, database: Database, step: Step, name: str, url_setting: str, *, briefly: bool = False
    ) -> None:
        self._engine, self.database, self.step = engine, database, step
        self._name, self._url_setting, self._briefly = name, url_setting, briefly
        self._connection: sa.Connection | None = None
        self._transaction: SqlTransaction | None = None

    @override
    @contextlib.contextmanager
    def transaction(self, *, names_blockers: bool = False) -> Iterator[SqlTransaction]:
        with self.errors(names_blockers=names_blockers), self.begun() as transaction:
            yield transaction

    @contextlib.contextmanager
    def begun(self) -> Iterator[SqlTransaction]:
        """A transaction whose errors come out as they are: for one that is left open (see `errors`)."""
        connection = self.connection()
        outer = connection.begin()
        self._transaction = SqlTransaction(connection, self.database, self.step, outer)
        try:
            yield self._transaction
        finally:
            _roll_back(outer)

    @contextlib.contextmanager
    def errors(self, *, names_blockers: bool = False) -> Iterator[None]:
        """Errors of the driver as ours; one that blames a row as a RowError."""
        self._forget()
        try:
            with translated(self.database, self._name, self._url_setting):
                yield
        except TransientError as error:
            error.committing = self._transaction is not None and self._transaction.committing
            # One row is no large transaction: it was cut off while it waited, before the lock's own time limit told.
            if names_blockers and (error.locked or error.too_large) and (blockers := self._blockers()):
                error.hint = f"Locks are held by: {blockers}."
            self.close()  # nobody knows what became of the connection
            raise
        except sa.exc.DBAPIError as error:
            failure = self.database.classify(error)
            raise RowError(f"{failure.reason} ({failure.code})", column=failure.column, constraint=failure.constraint) from error

    def _forget(self) -> None:
        self._transaction = None

    def connection(self) -> sa.Connection:
        """The connection, outside of a transaction."""
        if not self.is_whole:
            self.close()
            raise TransientError(f"{self._name}: the server ended the transaction, and its connection was closed.")
        if self._connection is None:
            self._connection = self._engine.connect()
            if self.database.begin_sql:
                self.database.begins_itself(self._connection)
            if self._briefly:
                _wait_briefly(self._connection, self.database)
        return self._connection

    @property
    def is_whole(self) -> bool:
        """Or did the rollback of an earlier attempt find the transaction ended by the server (a trigger may), and close the
        connection?"""
        return self._connection is None or getattr(self._connection.connection, "dbapi_connection", None) is not None

    def _blockers(self) -> str:
        with contextlib.suppress(Exception), self._engine.connect() as other:
            return self.database.blockers(other)
        return ""

    @property
    @override
    def is_open(self) -> bool:
        return self._connection is not None

    @override
    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()


def _wait_briefly(connection: sa.Connection, database: Database) -> None:
    text = database.dialect.lock_wait_sql.format(seconds=round(BRIEFLY_S), milliseconds=round(BRIEFLY_S * 1000))
    cursor = connection.connection.cursor()
    cursor.execute(text)
    cursor.close()
    connection.connection.commit()


def _roll_back(transaction: sa.Transaction) -> None:
    if transaction.is_active:
        # It must not hide the error that brought us here; the connection goes with it.
        with contextlib.suppress(Exception):
            transaction.rollback()
