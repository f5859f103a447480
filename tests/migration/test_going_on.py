"""What earlier releases left half-way is gone on with, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import run_main

from tests.migration import dump
from tests.migration.going_on import differences, go_on, orders, taken_in, visited
from tests.servers import SQLServer
from tests.servers.sqlserver import kept_connections
from waxwing.errors import DataError

DATABASES = ("sqlite", "postgresql", "mariadb")


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("release", dump.RELEASES)
def test_a_database_of_an_earlier_release_is_gone_on_with_exactly(
    release: str, database: str, anew: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for totals in dump.OF_FORMS:
        url = dump.empty_database(database, request, tmp_path)
        facts = dump.load(dump.file(release, database, totals), url)
        before = taken_in(url)
        go_on(facts, url)
        rows, sums = differences(facts, url)
        assert rows.equal, rows
        assert sums.equal, sums
        assert rows.rows > before > 500
        assert rows.dead_letters > 20
        assert (sums.late > 5) == (totals == "on_close")
        if totals == "on_close":
            assert visited(url) == anew


@pytest.mark.parametrize("release", dump.RELEASES)
def test_what_an_earlier_release_knew_of_tables_tells_a_renamed_flow(release: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/renamed.sqlite"
    facts = dump.load(dump.file(release, "sqlite", "on_close"), url)
    before = taken_in(url)
    with pytest.raises(BytewaxRuntimeError) as error:
        run_main(orders(facts, url, flow_name="renamed", order_totals="off"))
    assert isinstance(cause := error.value.__cause__, DataError)
    assert f"was filled from {facts.topic} by step orders of flow orders" in str(cause)
    assert taken_in(url) == before


@pytest.mark.slow
@pytest.mark.xdist_group("sqlserver")
def test_an_sql_server_of_the_first_release_is_gone_on_with_exactly(sqlserver: SQLServer) -> None:
    # Orders and live totals: each connection more costs its test server a second.
    url = sqlserver.new_database()
    facts = dump.load(dump.file("9766af2", "sqlserver", "live"), url)
    with kept_connections():
        go_on(facts, url)
    rows, sums = differences(facts, url)
    assert rows.equal, rows
    assert sums.equal, sums
