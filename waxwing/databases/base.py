"""What a database is to Waxwing: a frozen description, an engine, and its bulk path. One file a database fills it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.databases.plain import Bound, Statements
from waxwing.databases.refusals import Failure, of_python
from waxwing.tables.catalog import Found, Types
from waxwing.tables.dialect import Dialect
from waxwing.tables.plan import Nature, Plan

# A session that does nothing inside a transaction for so long is of a process that is frozen or gone: the server ends it.
IDLE_MAX_S = 10.0


class Bulk(ABC):
    """The bulk path of one table over one connection. Called inside the caller's transaction.

    Errors of the driver come out as they are (or wrapped by SQLAlchemy); `Database.classify` reads them.
    """

    def hold(self, connection: sa.Connection) -> bool:  # noqa: ARG002 - most take back whatever they wrote
        """Keep the table from being altered until the transaction ends, and write nothing. False: writing does that, soon enough.

        Not where a rollback may leave rows in the table, by what it has become.
        """
        return False

    @abstractmethod
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Append, upsert or merge rows (column order of the plan), as if one after the other.

        Where keys are exact none comes twice. Else the table may take two for one ("a" and "A" under a collation that passes over
        capitals, blanks at the end), or two are equal: then the later row stands, or the newer one.
        """

    @abstractmethod
    def delete(self, connection: sa.Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        """Delete the rows of these keys, each a tuple in the order of the mode's keys."""

    def replace(
        self,
        connection: sa.Connection,
        rows: Sequence[tuple[Any, ...]],
        deletes: Sequence[tuple[Any, ...]],
        before: Sequence[int],
    ) -> None:
        """Delete and write what came in one order: `before[i]` of the rows stand before the i-th delete.

        Here in that order, run by run. Where nothing can tell, all deletes stand before all rows, and that is two runs.
        """
        done = 0
        for after, run in groupby(zip(before, deletes, strict=True), itemgetter(0)):
            if done < after:
                self.write(connection, rows[done:after])
            self.delete(connection, [key for _, key in run])
            done = after
        if done < len(rows):
            self.write(connection, rows[done:] if done else rows)


# Far above any message of Kafka's that is meant, and below what servers and drivers take (1 GB, of which escapes take half).
VALUE_BYTES_MAX = 256_000_000


class Need(NamedTuple):
    """A right on a table that is there; `columns`: those that it is needed for, none where it is one of whole rows."""

    right: str
    table: sa.Table
    columns: Sequence[sa.Column[Any]]


class Database(ABC):
    """One database product."""

    dialect: Dialect
    types: Types  # of the database's whole catalog
    # One text a session; None where the database does not know who holds its locks.
    blockers_sql: sa.TextClause | None = None
    # Where statements can go together: what begins a transaction, makes deferred constraints speak, and ends it.
    begin_sql = deferred_sql = commit_sql = ""

    def __init__(self) -> None:
        self.statements = Statements()

    @abstractmethod
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        """An engine without a pool whose connections are READ COMMITTED and carry the server-side limits."""

    @abstractmethod
    def bulk(self, plan: Plan) -> Bulk:
        """The bulk path for a plan. Made once per connection (it may keep staging tables on it)."""

    def classify(self, error: BaseException) -> Failure:
        """What an error of the driver (or SQLAlchemy's wrapper of it) means."""
        cause = getattr(error, "orig", None) or error
        return self.of_driver(cause) or of_python(cause)

    @abstractmethod
    def of_driver(self, cause: BaseException) -> Failure | None:
        """What an error means that the driver raised; None if it did not. Codes that stand in no table are `unknown`."""

    @abstractmethod
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        """The columns of an existing table, by the database's table of types."""

    def lock_schema(self, connection: sa.Connection) -> None:  # noqa: B027 - one writer at a time needs no lock
        """Let one process at a time make tables, until the end of the transaction."""

    def value_bytes_max(self, connection: sa.Connection) -> int:  # noqa: ARG002 - some have a limit of the connection
        """How many bytes of a dead letter's key, value and headers, or of a window's state, may stand in one statement."""
        return VALUE_BYTES_MAX

    def text_encoding(self, connection: sa.Connection) -> str | None:  # noqa: ARG002 - most hold all of Unicode
        """Python's name of the encoding of the database's texts, for what we write of our own; None: all of Unicode."""
        return None

    @abstractmethod
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        """What tells that the table was altered, in anything that a plan rests on, or that it is refused for. Empty: it is gone.

        Columns with their types and labels, constraints and unique keys, triggers, and whether it is kept through a crash.
        A cheap question, asked in every transaction that writes rows.
        """

    @abstractmethod
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        """The columns that a CHECK, unique or foreign key of the table looks at, as `Failure.constraint` names it.

        None: nobody knows, or others may say what stands there (triggers, generated columns); or it is of another table.
        """

    def check_deferred(self, connection: sa.Connection) -> None:  # noqa: B027 - most have no constraint that waits for COMMIT
        """Make deferred constraints speak now, before COMMIT; more is written behind, for which they wait again."""

    def begins_itself(self, connection: sa.Connection) -> None:  # noqa: B027 - drivers begin transactions
        """The driver begins no transactions on this connection: `begin_sql` does."""

    def stands_in_error(self, connection: sa.Connection) -> bool:  # noqa: ARG002 - asked where `commit_sql` goes with others
        """Has the server refused a statement of a transaction that is still open? Then it has not seen COMMIT."""
        return False

    def together(self, connection: sa.Connection, statements: Sequence[Bound]) -> list[int]:
        """Run statements, by the driver and in as few round trips as it can: how many rows each has changed."""
        counts = []
        for sql, parameters in statements:
            cursor = connection.connection.cursor()
            cursor.execute(sql) if parameters is None else cursor.execute(sql, parameters)
            counts.append(int(cursor.rowcount))
            cursor.close()
        return counts

    def blockers(self, connection: sa.Connection) -> str:
        """Who holds locks on Waxwing's tables now, for the message of a lock time-out; empty if unknown."""
        return "" if self.blockers_sql is None else "; ".join(connection.scalars(self.blockers_sql))

    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:  # noqa: B027 - most end them themselves
        """End sessions that hold Waxwing's positions beyond the statement time limit, where the server itself does not."""

    @abstractmethod
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        """What the existing table does with rows of this plan."""

    @abstractmethod
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        """Why an upsert can't go by these columns of the existing table: what is unique on them, by name, and can't be gone by.

        Empty: it can. None: nothing unique is on them.
        """

    @abstractmethod
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        """None where the user has the right; else the columns that it is missing for (all, where it is one of the table's)."""

    def more_needs(self, plan: Plan) -> Sequence[Need]:  # noqa: ARG002 - most have none
        """Rights that writing this plan needs beside those on its rows, once the table is known."""
        return ()

    def obstacles(self, connection: sa.Connection, need: Need) -> Sequence[str]:  # noqa: ARG002 - most have none
        """Why the server would refuse this all the same, as the table stands."""
        return ()

    @abstractmethod
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        """Why this existing table can't be used exactly once (UNLOGGED, no transactions, ...). Empty: fine."""

    def refusals_of(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> list[str]:
        """The same for several tables; where each question costs, they are one."""
        return [why for table in tables for why in self.refusals(connection, table)]
