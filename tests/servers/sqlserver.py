"""A SQL Server that runs already: the one that WAXWING_TEST_SQLSERVER or MSSQL_URL names.

WAXWING_TEST_SQLSERVER is a line such as `SERVER=127.0.0.1,14330 DATABASE=bench UID=... PWD=...`, of a server that speaks SQL
Server's protocol and need not be Microsoft's; MSSQL_URL is a URL of a real one, whose login may make databases.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import sqlalchemy as sa

from tests.servers.process import Unavailable
from tests.servers.relay import Relay
from waxwing.databases import database_for
from waxwing.databases.sqlserver import driver as sqlserver_driver
from waxwing.databases.sqlserver.bulk import Abilities
from waxwing.databases.sqlserver.database import SQLServer as Product
from waxwing.errors import ConfigError

_numbers = count(1)
_RESET_CONNECTION = 1246  # SQL_COPT_SS_RESET_CONNECTION, of msodbcsql.h


class SQLServer:
    """A server that others have started; its databases are ours, and a relay in front of it.

    `stop` and `kill` close the relay, so that clients find it gone, and `start` opens it again.
    """

    name = "sqlserver"

    def __init__(self, *, real: bool = False) -> None:
        """`real` asks for Microsoft's own (MSSQL_URL)."""
        text, line = os.environ.get("MSSQL_URL", ""), os.environ.get("WAXWING_TEST_SQLSERVER", "")
        if real and not text:
            raise Unavailable("needs Microsoft's own SQL Server: name one by MSSQL_URL")
        if not (text or line):
            raise Unavailable("no SQL Server: name one by WAXWING_TEST_SQLSERVER or MSSQL_URL")
        self._url = sa.make_url(text) if text else _url(line)
        try:
            # Named in the URL, so that plain SQLAlchemy can read what we wrote.
            self._url = self._url.update_query_dict({"driver": sqlserver_driver.driver().name})
        except (ConfigError, ModuleNotFoundError) as error:
            raise Unavailable(str(error)) from error
        self.sql_password = self._url.password or ""
        self._run("SELECT 1")
        self._made: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="waxwing-sqlserver-")
        self.folder = Path(self._folder.name)
        (self.folder / "server.log").write_text("The log is the server's own.\n")
        self._relay: Relay | None = None
        self._port = 0

    def start(self) -> Self:
        """Let clients reach the server."""
        self._relay = self._relay or Relay(self.address, self._port)
        self._port = self._relay.port
        return self

    def stop(self) -> None:
        """End all connections, and take no new ones."""
        if self._relay is not None:
            self._relay.close()
        self._relay = None

    def kill(self) -> None:
        """For clients the same."""
        self.stop()

    def heal(self) -> None:
        """Undo what a test did to it."""
        self.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._url.host or "127.0.0.1", self._url.port or 1433

    def url(self, database: str = "") -> str:
        """The URL of a database, through the relay."""
        url = self._url.set(database=database) if database else self._url
        if self._port:
            url = url.set(host="127.0.0.1", port=self._port)
        return url.render_as_string(hide_password=False)

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        # Other runs may use the same server.
        name = f"waxwing_{os.getpid()}_{next(_numbers)}"
        for attempts_left in reversed(range(20)):
            try:
                self._run(f"CREATE DATABASE {name}")
                break
            except sa.exc.ProgrammingError as error:  # the test server's, where two are made at once
                if "concurrently updated" not in str(error) or not attempts_left:
                    raise
                time.sleep(0.5)
        self._made.append(name)
        return self.url(name)

    def close(self) -> None:
        """Drop the databases that were made."""
        self.stop()
        self._folder.cleanup()
        for name in self._made:
            try:
                self._run(f"DROP DATABASE {name}")
            except sa.exc.SQLAlchemyError:  # a test that failed has left a connection open
                continue

    def _run(self, statement: str) -> None:
        engine = database_for(self._url).engine(self._url, connect_timeout_s=10, lock_timeout_s=10, statement_timeout_s=60)
        try:
            with engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.autocommit = True  # databases are made outside of transactions
                connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            if statement == "SELECT 1":
                raise Unavailable(f"the SQL Server at {self.address} does not answer: {error.orig}") from error
            raise

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def kept_connections() -> Iterator[None]:
    """Let all who ask for an engine of one database, within this process, have the same one, with a pool.

    Where each connection is a process that first has to learn its catalog, a new one costs seconds of a core. What a session
    leaves behind is thrown away all the same: one that is taken again is reset by the server before.
    """
    engines: dict[str, tuple[sa.Engine, Abilities]] = {}
    made, thrown_away, disposed = Product.engine, sa.Connection.invalidate, sa.Engine.dispose

    def engine(self: Product, url: sa.URL, **limits: float) -> sa.Engine:
        key = f"{url.render_as_string(hide_password=False)} {sorted(limits.items())}"
        if key not in engines:
            new = made(self, url, **limits)
            new.pool = sa.QueuePool(
                new.pool._creator,
                pool_size=0,  # as large as it gets
                use_lifo=True,
                pre_ping=True,
                dialect=new.dialect,
                _dispatch=new.pool.dispatch,
            )
            sa.event.listen(new, "handle_error", _unsound)
            sa.event.listen(new, "checkout", partial(_reset, new.pool))
            engines[key] = new, self._abilities
        out, self._abilities = engines[key]  # what the server can do is looked up by the first connection
        return out

    def is_kept(engine: sa.Engine) -> bool:
        return any(engine is kept for kept, _ in engines.values())

    def dispose(self: sa.Engine, close: bool = True) -> None:
        if not is_kept(self):
            disposed(self, close)

    def invalidate(self: sa.Connection, exception: BaseException | None = None) -> None:
        """Not closed but reset, where nothing is known to be wrong with it."""
        if exception is None and not self.closed and not self.invalidated and is_kept(self.engine):
            self.connection.info["waxwing_reset"] = True
        else:
            thrown_away(self, exception)

    patches = ((Product, "engine", engine), (sa.Connection, "invalidate", invalidate), (sa.Engine, "dispose", dispose))
    with contextlib.ExitStack() as stack:
        for owner, name, ours in patches:
            stack.enter_context(patch.object(owner, name, ours))
        yield


def _unsound(context: sa.engine.ExceptionContext) -> None:
    """A COMMIT or ROLLBACK failed: a trigger can leave the test server without a transaction that the driver takes for open."""
    if context.statement is None and context.connection is not None and not context.connection.invalidated:
        with contextlib.suppress(NotImplementedError):  # SQLAlchemy's own first questions of a server are asked outside of a pool
            context.connection.info["waxwing_unsound"] = True


def _reset(pool: sa.Pool, connection: Any, record: sa.pool.ConnectionPoolEntry, proxy: object) -> None:
    if "waxwing_unsound" in record.info:
        raise sa.exc.DisconnectionError("no reset would mend it")  # the pool makes another
    if record.info.pop("waxwing_reset", False):
        try:
            connection.set_attr(_RESET_CONNECTION, 1)
            pool.dispatch.connect(connection, record)
        except Exception as error:
            raise sa.exc.DisconnectionError("it can't be reset") from error  # the pool makes another


def _url(line: str) -> sa.URL:
    facts = dict(word.split("=", 1) for word in line.split())
    host, _, port = facts["SERVER"].partition(",")
    return sa.URL.create(
        "mssql",
        facts["UID"],
        facts["PWD"],
        host,
        int(port or 1433),
        facts["DATABASE"],
        {"Encrypt": "no"},
    )
