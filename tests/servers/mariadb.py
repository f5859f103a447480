"""MariaDB from the distribution's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pymysql

from tests.servers.process import Server, Unavailable, free_ports

_numbers = count(1)


class MariaDB(Server):
    """A server with a password. `new_database()` makes an empty database and gives its URL."""

    name = "mariadb"

    def __init__(self, port: int | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        """`settings` go on top of the server's own (`{"innodb-flush-log-at-trx-commit": "1"}`)."""
        self._server, install = _binary("mariadbd"), _binary("mariadb-install-db")
        super().__init__()
        self.port = port or free_ports(1)[0]
        self.sql_user = "waxwing"
        self.sql_password = "mariadb-secret"
        self._data = self.folder / "data"
        # A test's data need not outlive the machine, only the server. The rest are the server's own defaults.
        self._settings = {"innodb-flush-log-at-trx-commit": "2", "innodb-buffer-pool-size": "512M", **(settings or {})}
        self._initialise(install)
        self._grants = self.folder / "grants.sql"  # run at every start
        self._grants.write_text(
            f"CREATE USER IF NOT EXISTS '{self.sql_user}'@'127.0.0.1' IDENTIFIED BY '{self.sql_password}';\n"
            f"GRANT ALL ON *.* TO '{self.sql_user}'@'127.0.0.1' WITH GRANT OPTION;\n"
        )

    def url(self, database: str = "mysql") -> str:
        """The URL of a database."""
        return f"mysql://{self.sql_user}:{self.sql_password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"test_{next(_numbers)}"
        connection = self._connect()
        try:
            connection.query(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        finally:
            connection.close()
        return self.url(name)

    def command(self) -> Sequence[str]:
        network = {"bind-address": "127.0.0.1", "port": str(self.port), "socket": str(self.folder / "socket")}
        files = {
            "datadir": str(self._data),
            "tmpdir": str(self.folder),
            "pid-file": str(self.folder / "pid"),
            "init-file": str(self._grants),
        }
        options = [f"--{name}={value}" for name, value in {**network, **files, **self._settings}.items()]
        return [self._server, "--no-defaults", *self._as_root(), *options]

    def ready(self) -> bool:
        try:
            self._connect().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def _connect(self) -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.sql_user,
            password=self.sql_password,
            connect_timeout=2,
            autocommit=True,
            ssl_disabled=True,
        )

    def _initialise(self, install: str) -> None:
        options = [f"--datadir={self._data}", "--skip-test-db", "--auth-root-authentication-method=normal", *self._as_root()]
        command = [install, "--no-defaults", *options]
        # A server that begins deletes the temporary tables that it finds, another one's too.
        apart = {**os.environ, "TMPDIR": str(self.folder)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, env=apart)
        if done.returncode != 0:
            raise RuntimeError(f"mariadb-install-db failed: {done.stdout}{done.stderr}")

    def _as_root(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


def _binary(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/libexec")
    if found is None:
        raise Unavailable(f"MariaDB is missing: no {name} is there (Debian: apt-get install mariadb-server)")
    return str(Path(found))
