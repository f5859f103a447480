"""PgBouncer from the distribution's packages, in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import psycopg

from tests.servers.postgresql import PostgreSQL
from tests.servers.process import Server, Unavailable, free_ports


class PgBouncer(Server):
    """A pooler; `url()` is a database of the server behind it."""

    name = "pgbouncer"

    def __init__(self, server: PostgreSQL, pool_mode: str) -> None:
        found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise Unavailable("PgBouncer is missing (Debian: apt-get install pgbouncer)")
        super().__init__()
        self._server, self._command, self.port = server, found, free_ports(1)[0]
        if os.geteuid() == 0:  # it refuses root
            self.user = "nobody"
            shutil.chown(self.folder, self.user)
        users = self.folder / "users"
        users.write_text(f'"{server.sql_user}" "{server.sql_password}"\n')
        self._config = self.folder / "pgbouncer.ini"
        self._config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = {pool_mode}\n"
        )

    def url(self, database: str) -> str:
        """The URL of a database, by way of the pooler."""
        return f"postgresql://{self._server.sql_user}:{self._server.sql_password}@127.0.0.1:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        return [self._command, str(self._config)]

    def ready(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
