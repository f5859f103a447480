"""Addresses of databases: poolers, several hosts, options, and servers that are something else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import SqlTarget, Upsert
from tests.servers import MariaDB, PostgreSQL
from tests.servers.pgbouncer import PgBouncer
from tests.servers.process import Unavailable
from waxwing.errors import ConfigError, TransientError
from waxwing.settings import SqlSettings

table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


def prepared(url: str) -> SqlTarget:
    """A target that has been at the database."""
    target = SqlTarget(SqlSettings(database_url=SecretStr(url), database_connect_timeout_s=2), table, Upsert(keys=("id",)))
    target.bind("flow", "step")
    target.prepare()
    return target


@pytest.fixture
def database(postgresql: PostgreSQL) -> str:
    return postgresql.new_database().rpartition("/")[2]


@contextlib.contextmanager
def pooler(server: PostgreSQL, mode: str) -> Iterator[PgBouncer]:
    try:
        bouncer = PgBouncer(server, mode)
    except Unavailable as missing:
        pytest.skip(str(missing))
    with bouncer:
        yield bouncer


@pytest.mark.parametrize("options", ["", "?prepare_threshold=0", "?prepare_threshold=none"])
@pytest.mark.parametrize("others", [0, 3])
def test_a_pooler_that_lends_a_session_for_a_transaction_is_refused(
    postgresql: PostgreSQL, database: str, options: str, others: int
) -> None:
    with pooler(postgresql, "transaction") as bouncer, contextlib.ExitStack() as busy:
        held = [busy.enter_context(psycopg.connect(bouncer.url(database))) for _ in range(others)]
        for one in held:
            one.execute("SELECT 1")
        for one in held:
            one.commit()
        with pytest.raises(ConfigError, match=rf"At 127\.0\.0\.1:{bouncer.port} stands a pooler .* Set pool_mode=session"):
            prepared(bouncer.url(database) + options)


def test_a_pooler_that_gives_a_session_of_its_own_is_fine(postgresql: PostgreSQL, database: str) -> None:
    with pooler(postgresql, "session") as bouncer:
        prepared(bouncer.url(database) + "?prepare_threshold=2")
        with pytest.raises(ConfigError, match="option"):
            prepared(bouncer.url(database) + "?options=-c%20work_mem%3D8MB")


def test_of_several_hosts_the_one_that_takes_writes_is_used(postgresql: PostgreSQL, database: str) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{postgresql.port}"
    login = f"{postgresql.sql_user}:{postgresql.sql_password}"
    target = prepared(f"postgresql://{login}@{hosts}/{database}?target_session_attrs=read-write")
    assert target.name == f"t in postgresql at {hosts}/{database}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sslmod=require", r"the option sslmod, .* Did you mean sslmode\?"),
        ("autocommit=true", "the option autocommit, which is not taken"),
        ("sslmode=maybe", "sslmode"),
        ("connect_timeout=soon", "connect_timeout"),
        ("target_session_attrs=writer", "target_session_attrs"),
        ("prepare_threshold=few", "It is a number of executions, or none"),
        ("sslmode=prefer&sslmode=require", "gives the option sslmode 2 times"),
    ],
)
def test_an_option_that_is_none_or_makes_no_sense_is_named(postgresql: PostgreSQL, options: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        prepared(f"{postgresql.url()}?{options}")


class Stranger:
    """Something that listens, and is no database."""

    def __init__(self, says: bytes | None) -> None:
        self._says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                if self._says is None:
                    client.close()
                else:
                    client.sendall(self._says)
                    self._kept.append(client)

    def __enter__(self) -> int:
        return int(self.port)

    def __exit__(self, *unused: object) -> None:
        for one in (self._socket, *self._kept):
            one.close()


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql"])
def test_a_server_that_is_something_else_is_told_with_its_address_and_the_mend(
    scheme: str, postgresql: PostgreSQL, mariadb: MariaDB
) -> None:
    with Stranger(b"") as silent, Stranger(None) as closing, Stranger(b"SSH-2.0-OpenSSH_9.2\r\n") as speaking:
        others = {"postgresql": mariadb.port, "mysql": postgresql.port, "mssql": postgresql.port}
        for port in (silent, closing, speaking, others[scheme]):
            with pytest.raises((ConfigError, TransientError)) as told:
                prepared(f"{scheme}://someone:wren-nest-4711@127.0.0.1:{port}/shop")
            assert f"127.0.0.1:{port}" in str(told.value)
            assert "Check host and port in DATABASE_URL" in str(told.value)
            assert "wren-nest-4711" not in str(told.value)
