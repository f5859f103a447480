"""The databases that storms go over: how each is started, blocked and restarted. A further one is one more entry."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from tests.faults.cluster import LAUNCH
from tests.faults.recompute import plain_engine
from tests.servers import MariaDB, PostgreSQL, SQLServer


class DatabaseServer(Protocol):
    """What a storm asks of a server (tests/servers)."""

    name: str
    folder: Path

    def new_database(self) -> str: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class DatabaseKind:
    """One kind of database.

    Attributes:
        server: makes its server, not yet started; None where there is none, the database being a file.
        locked: blocks every write of the flow; in place of a restart as well, where there is no server.
        settings: of the flow, beyond those that every storm gives it.
        may_stay_frozen: now that the flow is frozen, would the server end what it has under way, so that a successor can go on?
    """

    server: Callable[[], DatabaseServer] | None
    locked: Callable[[str], AbstractContextManager[None]]
    may_stay_frozen: Callable[[str], bool]
    settings: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def rows_locked(url: str) -> Iterator[None]:
    """Hold the positions' rows in an open transaction."""
    with plain_engine(url).connect() as connection:
        for attempt in range(10):
            try:
                connection.exec_driver_sql("UPDATE waxwing_progress SET bad_run = bad_run")
                break
            except sa.exc.DBAPIError:  # a deadlock with the flow, whose transactions lock the same rows in other orders
                connection.rollback()
                if attempt == 9:
                    raise
        yield
        with contextlib.suppress(sa.exc.DBAPIError):  # a flow that was about to begin a partition ends who sits on positions
            connection.rollback()


@contextlib.contextmanager
def file_locked(url: str) -> Iterator[None]:
    """Let another process hold the write lock of an SQLite file."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60); "
        "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [*LAUNCH, sys.executable, "-c", code, url.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            holder.kill()


def file_not_locked(url: str) -> bool:
    """Nobody ends the transaction of a frozen process: it must have none."""
    probe = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)
    try:
        probe.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        probe.close()
    return True


def always(_: str) -> bool:
    """The server ends whatever it waits for, or the successor does."""
    return True


DATABASES: Mapping[str, DatabaseKind] = {
    "postgresql": DatabaseKind(server=PostgreSQL, locked=rows_locked, may_stay_frozen=always),
    "mariadb": DatabaseKind(server=MariaDB, locked=rows_locked, may_stay_frozen=always),
    "sqlserver": DatabaseKind(
        server=SQLServer,
        locked=rows_locked,
        may_stay_frozen=always,
        # On the compatible server each new connection learns its catalog first: with four at once on a busy machine that takes
        # longer than the storms' usual 5 s, and a connection that was given up begins anew.
        settings={"DATABASE_STATEMENT_TIMEOUT_S": "20", "RETRY_MAX_S": "60"},
    ),
    "sqlite": DatabaseKind(server=None, locked=file_locked, may_stay_frozen=file_not_locked),
}
