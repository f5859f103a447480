"""The page of types (docs/types.md), made of each database's own table."""

from __future__ import annotations

from collections.abc import Iterator

from waxwing.databases.mysql import types as mysql_types
from waxwing.databases.postgresql import types as postgresql_types
from waxwing.databases.sqlite import types as sqlite_types
from waxwing.databases.sqlserver import types as sqlserver_types
from waxwing.tables.catalog import Refused, Taken, Types, entries

_PAGES: tuple[tuple[str, Types], ...] = (
    ("PostgreSQL", postgresql_types.TYPES),
    ("MariaDB and MySQL", mysql_types.TYPES),
    ("SQL Server and Azure SQL", sqlserver_types.TYPES),
    ("SQLite", sqlite_types.TYPES),
)

_HEAD = """\
# Types of existing columns

What stands in a table that is there already decides, not what SQLAlchemy makes of it: each start asks the database's catalog
for every column that rows bring.

- A column of a type that is **taken** keeps each value exactly as it came. What it can't keep (too long, too fine, out of its
  range, not one of its members, a constraint against it) becomes a dead letter with the reason; nothing is rounded or cut.
  Where it takes less than the flow's Table declares, a warning at the start names it (`columns_smaller`).
- A column of a type that is **refused** ends the start with exit code 78 and the sentence below. Columns that rows do not bring
  may be of any type: `SqlTarget(..., columns=[...])` names those that they bring.
- A null for a NOT NULL column is a dead letter. A column that the database computes can't be written.
- A Table that is reflected (`autoload_with=`) is taken too; a column whose type SQLAlchemy does not know (it warns) has to be
  declared by hand.
- A UUID in a column of text has hyphens where there is room for just 36 characters, unless the table's first row has 32 digits.

This page is made by `waxwing types` from `waxwing/databases/*/types.py`.
"""


def page() -> str:
    """The page, in Markdown."""
    return _HEAD + "".join(line for name, types in _PAGES for line in _of(name, types))


def _of(name: str, types: Types) -> Iterator[str]:
    every = entries(types)
    yield f"\n## {name}\n\n| column | declare | kept exactly |\n|---|---|---|\n"
    for entry in every:
        if isinstance(entry, Taken):
            yield f"| {entry.names} | {entry.declare} | {_cell(entry.exact) or 'All values'} |\n"
    yield "\n| refused | because it | instead |\n|---|---|---|\n"
    for entry in every:
        if isinstance(entry, Refused):
            yield f"| {entry.names} | {_cell(entry.why)} | {_cell(entry.instead)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("**", "^")
