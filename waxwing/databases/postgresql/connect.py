"""How a connection to PostgreSQL is made: what the URL may say, and what may not stand in between."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import pq

from waxwing.databases.address import check_options
from waxwing.errors import ConfigError

# psycopg's own, beside those of libpq.
THRESHOLD = "prepare_threshold"


def arguments(url: sa.URL, ours: Mapping[str, Any]) -> dict[str, Any]:
    """What psycopg is given beside the URL: ours, where the URL says nothing of it, and what it would not take as text.

    Raises:
        ConfigError: an option that neither libpq nor psycopg knows.
    """
    known = [*(option.keyword.decode() for option in pq.Conninfo.get_defaults()), THRESHOLD]
    check_options(url, known, several_hosts=True)
    out = {name: value for name, value in ours.items() if name not in url.query}
    if THRESHOLD in url.query:
        text = str(url.query[THRESHOLD]).lower()
        if not (text.isdecimal() or text == "none"):
            raise ConfigError(f"DATABASE_URL has {THRESHOLD}={text}.", hint="It is a number of executions, or none.")
        out[THRESHOLD] = None if text == "none" else int(text)
    return out


def refuse_shared_sessions(connection: psycopg.Connection[Any]) -> None:
    """Look for a pooler that gives each transaction another session: time limits, temporary tables and prepared statements
    would be somebody else's, and a frozen process's transaction could not be ended.

    Raises:
        ConfigError: there is one. (One that gives a client a session of its own, as PgBouncer's `session` mode, is fine.)
    """
    # Behind a pooler the number that the handshake gave is no process of the server.
    mine = _session(connection)
    if mine == connection.info.backend_pid:
        return
    with contextlib.closing(psycopg.connect(connection.info.dsn, password=connection.info.password)) as other:
        # What one gives back the next one gets; and what the next one holds the first one can't get again.
        shared = _session(other, hold=True) == mine or _session(connection) != mine
    if shared:
        raise ConfigError(
            f"At {connection.info.host}:{connection.info.port} stands a pooler that lends a session for a transaction alone "
            "(PgBouncer's pool_mode=transaction): time limits and temporary tables need a session of their own.",
            hint="Set pool_mode=session for this database in pgbouncer.ini, or give DATABASE_URL the server's own address.",
        )


def _session(connection: psycopg.Connection[Any], *, hold: bool = False) -> int:
    """The server's process that answers now."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if not hold:
        connection.commit()
    return int(row[0]) if row else 0
