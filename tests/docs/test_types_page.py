"""docs/types.md is what the tables of types say, and each of their entries has cases that are written and read back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.tables import existing_types as cases
from waxwing.databases.mysql import types as mysql_types
from waxwing.databases.postgresql import types as postgresql_types
from waxwing.databases.sqlite import types as sqlite_types
from waxwing.databases.sqlserver import types as sqlserver_types
from waxwing.databases.types_page import page
from waxwing.tables.catalog import Taken, Types

ROOT = Path(__file__).parents[2]


def test_the_page_of_types_is_up_to_date() -> None:
    assert (ROOT / "docs/types.md").read_text() == page(), "stale: waxwing types > docs/types.md"


@pytest.mark.parametrize(
    ("types", "known", "not_here"),
    [
        (postgresql_types.TYPES, cases.POSTGRESQL, set()),
        (mysql_types.TYPES, cases.MYSQL, {"json"}),  # MySQL's own, which MariaDB does not have
        (sqlite_types.TYPES, cases.SQLITE, set()),
        (sqlserver_types.TYPES, cases.SQLSERVER, set()),
    ],
    ids=["postgresql", "mysql", "sqlite", "sqlserver"],
)
def test_each_type_that_is_taken_has_a_case(types: Types, known: dict[str, cases.Case], not_here: set[str]) -> None:
    tried = {name.split(" ")[0] for name in known} | {re.split(r"[ (]", case.sql.lower())[0] for case in known.values()}
    tried |= {"(none)"} if any(not case.sql for case in known.values()) else set()
    lacking = {
        tuple(name for name, other in types.items() if other is entry)
        for entry in types.values()
        if isinstance(entry, Taken) and not any(name in tried for name, other in types.items() if other is entry)
    }
    assert {name for names in lacking for name in names} == not_here
