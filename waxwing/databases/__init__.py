"""Databases: one file each. `database_for` finds the one that a URL means."""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa

from waxwing.databases import address
from waxwing.databases.base import Database
from waxwing.errors import ConfigError

# Scheme of the URL -> module, class, extra of the distribution (empty: nothing more to install).
# A driver is imported only when its database is asked for.
_DATABASES: dict[str, tuple[str, str, str]] = {
    "sqlite": ("waxwing.databases.sqlite.database", "SQLite", ""),
    "postgresql": ("waxwing.databases.postgresql.database", "PostgreSQL", "postgresql"),
    "postgres": ("waxwing.databases.postgresql.database", "PostgreSQL", "postgresql"),
    "mssql": ("waxwing.databases.sqlserver.database", "SQLServer", "sqlserver"),
    "mysql": ("waxwing.databases.mysql.database", "MySQL", "mysql"),
    "mariadb": ("waxwing.databases.mysql.database", "MySQL", "mysql"),
}


def check_url(text: str, setting: str) -> None:
    """Look at the URL that a setting gave, as far as can be told without connecting.

    Raises:
        ConfigError: it can't be meant so. Names the setting, and never has the password.
    """
    url = address.parsed(text, setting)
    with address.named(setting):
        database_for(url).engine(url, connect_timeout_s=1.0, lock_timeout_s=1.0, statement_timeout_s=1.0)


def database_for(url: sa.URL) -> Database:
    """The database that a URL means.

    Raises:
        ConfigError: an unknown scheme, another driver than ours, or the driver's package is missing.
    """
    scheme, _, driver = url.drivername.partition("+")
    if scheme not in _DATABASES:
        known = ", ".join(sorted(_DATABASES))
        raise ConfigError(f"No database is known for URLs that begin with {scheme}://.", hint=f"There are: {known}.")
    module, name, extra = _DATABASES[scheme]
    try:
        database: Database = getattr(import_module(module), name)()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("waxwing"):
            raise
        raise ConfigError(
            f"The package {error.name} is missing, which {scheme}:// needs.", hint=f"pip install 'waxwing-streams[{extra}]'."
        ) from error
    ours = database.dialect.drivername.partition("+")[2]
    if driver and driver != ours:
        raise ConfigError(
            f"The URL asks for the driver {driver}; Waxwing writes {scheme} through {ours or 'the standard library'}.",
            hint=f"Begin the URL with {scheme}://.",
        )
    return database
