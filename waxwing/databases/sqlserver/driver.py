"""Which ODBC driver talks to SQL Server: a system one where there is one, else the one inside the wheel mssql-python-odbc."""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from waxwing.errors import ConfigError

_SYSTEM = re.compile(r"ODBC Driver (\d+) for SQL Server")
VERSION_MIN = 17
# What the driver takes (and SQLAlchemy before it); others it passes over without a word.
# https://learn.microsoft.com/sql/connect/odbc/dsn-connection-string-attribute
_OPTIONS = """
    Addr Address AnsiNPW APP ApplicationIntent Authentication AutoTranslate ColumnEncryption ConnectRetryCount
    ConnectRetryInterval Database Description Driver DSN Encrypt Failover_Partner FailoverPartnerSPN FileDSN GetDataExtensions
    HostnameInCertificate IpAddressPreference KeepAlive KeepAliveInterval KeystoreAuthentication KeystorePrincipalId
    KeystoreSecret Language LongAsMax MultiSubnetFailover Net Network PWD QueryLog_On QueryLogFile QueryLogTime QuotedId
    Regional Replication Server ServerCertificate ServerSPN StatsLog_On StatsLogFile TransparentNetworkIPResolution
    Trusted_Connection TrustServerCertificate UID UseFMTONLY WSID odbc_connect odbc_autotranslate"""
OPTIONS = frozenset(_OPTIONS.split())
# Distributions by the name that os-release gives them, in the wheel's words.
_FAMILIES = {"debian": "debian_ubuntu", "ubuntu": "debian_ubuntu", "alpine": "alpine", "suse": "suse", "sles": "suse"}


class Driver(NamedTuple):
    """One ODBC driver: its name or file, as a connection string takes it, and where it was found."""

    name: str
    found: str


def load() -> ModuleType:
    """pyodbc, imported only when SQL Server is used.

    Raises:
        ModuleNotFoundError: pyodbc is not installed.
        ConfigError: the system lacks unixODBC.
    """
    try:
        import pyodbc  # noqa: PLC0415 - here and nowhere else, because it needs a library of the system
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"pyodbc can't be loaded: {error}.",
            hint="Install unixODBC: `apt-get install unixodbc`, `dnf install unixODBC` or `apk add unixodbc`.",
        ) from error
    # unixODBC would keep closed connections open, with their locks, for the next one.
    pyodbc.pooling = False
    module: ModuleType = pyodbc
    return module


def drivers() -> list[Driver]:
    """All drivers that would do, the one that is used first."""
    named = [(int(match[1]), name) for name in load().drivers() if (match := _SYSTEM.fullmatch(name))]
    system = [Driver(name, "odbcinst.ini") for number, name in sorted(named, reverse=True) if number >= VERSION_MIN]
    return system + wheel()


def wheel() -> list[Driver]:
    """The driver inside the wheel mssql-python-odbc, for this machine."""
    spec = importlib.util.find_spec("mssql_python_odbc")
    if spec is None or spec.origin is None:
        return []
    libraries = Path(spec.origin).parent / "libs" / "linux"
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = [
        path
        for family in _families()
        for path in sorted((libraries / family / machine / "lib").glob("libmsodbcsql-*.so*"), reverse=True)
    ]
    return [Driver(str(path), "wheel mssql-python-odbc") for path in found[:1]]


def _families() -> Sequence[str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return [*dict.fromkeys(_FAMILIES[name] for name in names if name in _FAMILIES), "rhel"]


def driver() -> Driver:
    """The driver to use.

    Raises:
        ConfigError: there is none.
    """
    for each in drivers():
        return each
    raise ConfigError(
        "No ODBC driver for SQL Server was found: neither a system one nor the wheel's.",
        hint="pip install mssql-python-odbc, or install Microsoft's package msodbcsql18.",
    )
