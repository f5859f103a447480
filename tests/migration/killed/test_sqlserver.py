"""Tables of an earlier release in SQL Server: all at one database, since each connection of its test server costs a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migration.dump import Database, content, run
from tests.migration.killed.starts import Starts, start, two_at_once
from tests.migration.killed.test_earlier_process import Earlier, unpack
from tests.migration.rows import check_rows
from tests.servers.sqlserver import kept_connections
from waxwing.errors import TryLater

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sqlserver")]
PATIENT = {"database_lock_timeout_s": 60.0, "database_statement_timeout_s": 120.0, "retry_max_s": 60.0}
MIDDLE = 14


@pytest.fixture(autouse=True)
def _connections_are_kept() -> Iterator[None]:
    with kept_connections():
        yield


@pytest.mark.parametrize("database", ["sqlserver"], indirect=True)
def test_tables_of_an_earlier_release_are_carried_over_whole_and_once(database: Database, tmp_path: Path) -> None:
    url = database.old("12ee004", rows_max=3)
    # A process of any flow is alive.
    run(url, "UPDATE waxwing_owners SET heartbeat_ms = 4102444800000")
    before = content(url)
    with pytest.raises(TryLater, match="flow orders") as error:
        start(url, **PATIENT)
    assert error.value.exit_code == 75
    assert content(url) == before
    run(url, "UPDATE waxwing_owners SET heartbeat_ms = 0")
    before = content(url)

    with Starts() as starts:  # (`every` does so at each statement)
        assert str(starts.killed(url, MIDDLE)).startswith("DROP TABLE waxwing_owners")
    assert content(url) == before

    two_at_once(url, **PATIENT)
    after = content(url)
    check_rows(before, after)
    assert after["waxwing_schema"] == [(2,)]
    assert not {"waxwing_steps", "waxwing_window_state"} & after.keys()
    old = Earlier(unpack("9766af2", tmp_path), url, tmp_path)
    assert old.ended(120) == 78
    assert "schema version 2, this Waxwing knows version 1" in old.said()
