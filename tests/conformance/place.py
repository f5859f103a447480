"""A database under test, and the few calls that the suite needs."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import pq
from sqlalchemy.schema import SchemaItem

from tests.servers.process import until
from waxwing.databases import database_for
from waxwing.databases.base import Bulk, Database
from waxwing.databases.ddl import ensure
from waxwing.databases.ledger.schema import owners
from waxwing.databases.plain import Bound
from waxwing.databases.postgresql.database import PostgreSQL
from waxwing.errors import TransientError
from waxwing.tables.columns import checks
from waxwing.tables.modes import Mode
from waxwing.tables.plan import Plan
from waxwing.tables.planning import plan

_numbers = count(1)
# What is decided above the database is shown on three of them: SQL Server's test server needs a second of a core for each
# connection that the others make in a hundredth.
ON_THREE = pytest.mark.parametrize("place", ["sqlite", "postgresql", "mariadb"], indirect=True)


@dataclass(frozen=True)
class Place:
    """An empty database, and the few calls that the suite needs."""

    database: Database
    url: sa.URL
    engine: sa.Engine

    def table(self, *columns: SchemaItem, name: str = "", schema: str | None = None) -> sa.Table:
        """A table with a name of its own."""
        return sa.Table(name or f"t{next(_numbers)}", sa.MetaData(), *columns, schema=schema)

    def plan(self, table: sa.Table, mode: Mode, columns: Sequence[str] | None = None) -> Plan:
        """Decide and make (or check) the table, as the SQL target does at its start."""
        wanted = plan(table, mode, dialect=self.database.dialect, columns=columns)
        with self.engine.begin() as connection:
            return ensure(connection, wanted, self.database)

    def accepted(self, planned: Plan, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows that the checks let through."""
        bad: set[int] = set()
        for check, values in zip(checks(planned, self.database.dialect), zip(*rows, strict=True), strict=True):
            bad |= check(values).keys()
        return [row for number, row in enumerate(rows) if number not in bad]

    def write(self, planned: Plan, *batches: Sequence[tuple[Any, ...]], staged: bool = False) -> None:
        """Write batches over one connection, a transaction each."""
        with self.engine.connect() as connection:
            bulk = self.bulk(planned, staged=staged)
            try:
                for rows in batches:
                    with connection.begin():
                        bulk.write(connection, rows)
                        self.database.check_deferred(connection)
            except BaseException:
                connection.invalidate()  # as a flow does: what a failure leaves behind is nobody else's
                raise

    def bulk(self, planned: Plan, *, staged: bool = False) -> Bulk:
        """The bulk path, as few rows take it; `staged` asks for the one that it falls back on with many, where it has several."""
        bulk = self.database.bulk(planned)
        if staged and hasattr(bulk, "_staging_left"):
            bulk._few, bulk._staging_left = None, 1_000_000  # type: ignore[attr-defined]  # CopyBulk's own
        if staged and hasattr(bulk, "_through_raw"):
            bulk._through_raw = True
        return bulk

    def read(self, table: sa.Table, *order: str) -> list[tuple[Any, ...]]:
        """All rows, as SQLAlchemy reads them."""
        with self.engine.connect() as connection:
            query = sa.select(table).order_by(*(table.c[name] for name in order or [next(iter(table.c)).name]))
            return [tuple(row) for row in connection.execute(query)]

    def run(self, *statements: str) -> None:
        """Run SQL as it stands."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def clear(self) -> None:
        """Drop all tables but Waxwing's own."""
        names = "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_name NOT LIKE 'waxwing%'"
        with self.engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(sa.text(names))]
            quote = self.engine.dialect.identifier_preparer.quote_identifier
            while found:
                kept = []
                for schema, name, kind in found:
                    what = "VIEW" if kind == "VIEW" else "TABLE"
                    try:
                        connection.rollback()
                        connection.exec_driver_sql(f"DROP {what} {quote(schema)}.{quote(name)}")
                        connection.commit()
                    except sa.exc.DBAPIError:  # another one needs it, or a test that failed has left it locked
                        kept.append((schema, name, kind))
                if len(kept) == len(found):
                    return
                found = kept

    def compatible_only(self) -> bool:
        """Is it a server that speaks SQL Server's protocol, and is not Microsoft's? It hashes names beyond 63 bytes in its
        catalog, and tells nothing of an index's condition."""
        if self.database.dialect.name != "sqlserver":
            return False
        with self.engine.connect() as connection:
            return "Babelfish" in str(connection.exec_driver_sql("SELECT @@VERSION").scalar())

    def stopped(self, flow: str) -> None:
        """Wait until no process of a flow, whose OWNER_STALE_S is one second, counts as alive here.

        A run that ends lets go by itself, but waits for nobody to do so: behind a heartbeat that is under way it leaves its
        record as it is.
        """
        since = sa.text(f"{self.database.dialect.now_ms_sql} - 1000")
        fresh = sa.select(owners.c.token).where(owners.c.flow == flow, owners.c.heartbeat_ms > since)

        def over() -> bool:
            with self.engine.connect() as connection:
                return not (sa.inspect(connection).has_table(owners.name) and connection.execute(fresh).first())

        until(over, timeout_s=60.0, what=f"nobody alive of {flow}")

    def kind_of_failure(self, call: Callable[[], object]) -> str:
        """What the error means that the call raises."""
        try:
            call()
        except Exception as error:
            return self.database.classify(error).kind
        raise AssertionError("no error was raised")


def make_place(url: sa.URL, *, lock_timeout_s: float = 5.0) -> Place:
    database = database_for(url)
    engine = database.engine(url, connect_timeout_s=20.0, lock_timeout_s=lock_timeout_s, statement_timeout_s=60.0)
    return Place(database, url, engine)


def lose_commits(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, *faults: str) -> None:
    """Lose the connection in the next COMMITs: "before" one, "after" it (it goes through; its answer is lost), or not ("")."""
    coming = chain(faults, repeat(""))

    def around(commit: Callable[[], None]) -> None:
        fault = next(coming)
        if fault == "before":
            raise TransientError("lost")
        commit()
        if fault == "after":
            raise TransientError("lost")

    around_commits(engine, monkeypatch, around)


def around_commits(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, around: Callable[[Callable[[], None]], None]) -> None:
    """Each COMMIT of this engine is given to `around`, which sends it or not: the driver's, and PostgreSQL's with a proof."""
    real, together = engine.dialect.do_commit, PostgreSQL.together

    def commit(connection: Any) -> None:
        if getattr(getattr(connection, "pgconn", None), "transaction_status", None) == pq.TransactionStatus.IDLE:
            real(connection)  # the proof's went before
        else:
            around(lambda: real(connection))

    def joined(database: PostgreSQL, connection: sa.Connection, statements: Sequence[Bound]) -> list[int]:
        if statements[-1].sql != database.commit_sql:
            return together(database, connection, statements)
        counts: list[int] = []
        around(lambda: counts.extend(together(database, connection, statements)))
        return counts

    monkeypatch.setattr(engine.dialect, "do_commit", commit)
    monkeypatch.setattr(PostgreSQL, "together", joined)


@contextlib.contextmanager
def database_on(server: str) -> Iterator[sa.URL]:
    """A database of its own on somebody's MySQL server, dropped at the end."""
    name = f"waxwing_test_{secrets.token_hex(4)}"
    url = sa.make_url(server)
    engine = sa.create_engine(url.set(drivername="mysql+pymysql"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield url.set(database=name)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
