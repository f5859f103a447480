"""Every database that Waxwing writes, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import pytest
import sqlalchemy as sa

from tests.conformance.place import Place, database_on, make_place
from tests.servers.sqlserver import kept_connections


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SQL Server's by one worker: each connection of its test server learns to parse each statement anew, for up to a second."""
    for item in items:
        if "sqlserver" in item.nodeid or "sqlserver" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("sqlserver"))


@pytest.fixture(scope="session", autouse=True)
def _connections_are_kept() -> Iterator[None]:
    with kept_connections():
        yield


@pytest.fixture(scope="session", params=["sqlite", "postgresql", "mariadb", "sqlserver"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Each database in turn."""
    if request.param == "sqlite":
        url = sa.make_url(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/conformance.sqlite")
    elif request.param == "mariadb":
        return cast("Place", request.getfixturevalue("mariadb_place"))
    else:
        url = sa.make_url(request.getfixturevalue(request.param).new_database())
    return make_place(url)


@pytest.fixture(autouse=True)
def _sqlserver_stays_small(request: pytest.FixtureRequest) -> Iterator[None]:
    """Its test server reads its whole catalog for each question: with 300 tables one takes 0.5 s instead of 0.02."""
    yield
    for fixture in request.node.funcargs.values():
        if isinstance(fixture, Place) and fixture.database.dialect.name == "sqlserver":
            fixture.clear()


@pytest.fixture(scope="session")
def mariadb_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """MariaDB, or the server that MYSQL_URL names, for what no other database has."""
    if not (given := os.environ.get("MYSQL_URL")):
        yield make_place(sa.make_url(request.getfixturevalue("mariadb").new_database()))
        return
    with database_on(given) as url:
        yield make_place(url)


@pytest.fixture(scope="session")
def sqlserver_place(request: pytest.FixtureRequest) -> Place:
    """SQL Server, for what no other database has."""
    return make_place(sa.make_url(request.getfixturevalue("sqlserver").new_database()))


@pytest.fixture(scope="session")
def postgresql_place(request: pytest.FixtureRequest) -> Place:
    """PostgreSQL, for what no other database has."""
    return make_place(sa.make_url(request.getfixturevalue("postgresql").new_database()))
