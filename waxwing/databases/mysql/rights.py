"""A user's rights on MySQL and MariaDB: there is no function that tells, so statements that change nothing ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymysql
import sqlalchemy as sa

from waxwing.databases.base import Need
from waxwing.databases.mysql.errors import meaning
from waxwing.databases.mysql.literals import SA_DIALECT

# A right on the database, not on a table of it.
TEMPORARY = "CREATE TEMPORARY TABLES"
_quote = SA_DIALECT.identifier_preparer.quote


def lacking(connection: sa.Connection, need: Need) -> Sequence[str] | None:
    """None where the user has the right; else the columns that it is missing for."""
    columns = [column.name for column in need.columns]
    if _may(connection, need, columns):
        return None
    return [column for column in columns if len(columns) == 1 or not _may(connection, need, [column])]


def _may(connection: sa.Connection, need: Need, columns: Sequence[str]) -> bool:
    table = SA_DIALECT.identifier_preparer.format_table(need.table)
    names = list(map(_quote, columns))
    statement = {
        "SELECT": f"SELECT {', '.join(names)} FROM {table} WHERE FALSE",  # noqa: S608 - quoted
        "INSERT": f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(['NULL'] * len(names))} FROM DUAL WHERE FALSE",  # noqa: S608
        "UPDATE": f"UPDATE {table} SET {', '.join(f'{name} = NULL' for name in names)} WHERE FALSE",  # noqa: S608
        "DELETE": f"DELETE FROM {table} WHERE FALSE",  # noqa: S608
        # Neither of the two ends the transaction; without a schema's name it is made in the connection's.
        TEMPORARY: "CREATE TEMPORARY TABLE IF NOT EXISTS waxwing_may (n integer)",
    }[need.right]
    driver: Any = connection.connection.driver_connection
    try:
        driver.query(statement)
    except pymysql.err.Error as error:
        # Other errors are of no right: what they are about shows at the first record, or never (1364: a column without default).
        return not (isinstance(error.args[0], int) and meaning(error.args[0], "").kind == "permission")
    if need.right == TEMPORARY:
        driver.query("DROP TEMPORARY TABLE IF EXISTS waxwing_may")
    return True
