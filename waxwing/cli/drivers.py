"""`waxwing drivers`: what there is to talk to SQL Server with."""

from __future__ import annotations

from rich.console import Console

from waxwing.databases.sqlserver import driver as sqlserver_driver
from waxwing.errors import ConfigError


def show() -> None:
    """One line a driver: used or found, where from, its name or file.

    Raises:
        ConfigError: none, no pyodbc, or no unixODBC.
    """
    try:
        found = sqlserver_driver.drivers()
    except ModuleNotFoundError as error:
        raise ConfigError("The package pyodbc is missing.", hint="pip install 'waxwing-streams[sqlserver]'.") from error
    if not found:
        sqlserver_driver.driver()  # raises, and says what to do
    console = Console(soft_wrap=True, highlight=False)
    for number, driver in enumerate(found):
        console.print(f"{'used ' if number == 0 else 'found'}  {driver.found}: {driver.name}", markup=False)
