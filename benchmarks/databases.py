"""The databases that are measured. A further one is one more entry here, and its bare driver in limits/raw.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from benchmarks.limits.raw import MySQLRaw, PostgreSQLRaw, Raw, SQLiteRaw, SQLServerRaw
from tests.faults.recompute import plain_engine
from tests.faults.storm.databases import DATABASES as SERVERS
from tests.servers import SQLServer
from waxwing.tables.plan import Plan


@dataclass(frozen=True, kw_only=True)
class DatabaseKind:
    """One kind of database; its server is the one that storms go over. `peers`: are there any to measure (inside/sinks.py)?"""

    title: str
    raw: Callable[[str, Plan], Raw]
    peers: bool = False


DATABASES: Mapping[str, DatabaseKind] = {
    "postgresql": DatabaseKind(title="PostgreSQL", raw=PostgreSQLRaw),
    "mariadb": DatabaseKind(title="MariaDB", raw=MySQLRaw),
    "sqlite": DatabaseKind(title="SQLite", raw=SQLiteRaw),
    "sqlserver": DatabaseKind(title="SQL Server", raw=SQLServerRaw, peers=True),
}


class Place:
    """A running server (or a folder, for SQLite) with databases by name, each emptied before it is used again."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.kind = name, DATABASES[name]
        make = SERVERS[name].server
        self._server = make() if make is not None else None
        self._folder = folder
        self._urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._server is not None:
            self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()

    def empty(self, name: str) -> str:
        """A database without tables; its URL."""
        if self._server is None:
            for file in self._folder.glob(f"{name}.sqlite*"):
                file.unlink()
            return f"sqlite:///{self._folder / name}.sqlite"
        if name not in self._urls:
            self._urls[name] = self._server.new_database()
            return self._urls[name]
        engine = plain_engine(self._urls[name])
        with engine.begin() as connection:
            for table in sa.inspect(connection).get_table_names():
                connection.execute(sa.text(f"DROP TABLE {table}"))
        engine.dispose()
        return self._urls[name]

    def direct(self, url: str) -> str:
        """The same database past the relay that stands before a SQL Server."""
        if not isinstance(self._server, SQLServer):
            return url
        host, port = self._server.address
        return sa.make_url(url).set(host=host, port=port).render_as_string(hide_password=False)
