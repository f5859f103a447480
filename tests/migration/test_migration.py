"""Waxwing's own tables of an earlier release are carried over: whole, once, by whoever may; nobody of before moves a thing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dataflows import orders as orders_flow
from sinks.sql.steps import SqlSteps
from tests.faults.recompute import plain_engine
from tests.migration import dump
from tests.migration.dump import RELEASES, Content, Database, content, run
from tests.migration.killed.starts import start, two_at_once
from tests.migration.rows import check_rows, places
from waxwing.errors import ConfigError, TransientError, TryLater

SERVERS = ("postgresql", "mariadb")
OF_SESSION = {"postgresql": "pg_backend_pid()", "mariadb": "connection_id()"}


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", kinds, indirect=True)


def carried_over(database: Database, rows_max: int = dump.ROWS) -> Content:
    """What a migration that nothing disturbs makes of the dump."""
    url = database.old(rows_max=rows_max)
    start(url)
    out = content(url)
    assert out["waxwing_schema"] == [(2,)]
    assert [len(out[f"waxwing_{name}"]) for name in ("tables", "windows", "owners")] == [min(5, rows_max), min(4, rows_max), 0]
    assert min(len(out[f"waxwing_{name}"]) for name in ("progress", "state", "dead_letters")) >= 2
    assert not {"waxwing_steps", "waxwing_window_state"} & out.keys()
    return out


@on("sqlite", *SERVERS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_row_is_what_it_was_under_its_new_names(database: Database, release: str) -> None:
    url = database.old(release)
    before = content(url)
    start(url)
    after = content(url)
    check_rows(before, after)


@on("sqlite", *SERVERS)
def test_no_earlier_process_of_any_flow_may_be_alive(database: Database) -> None:
    for release in RELEASES:
        url = database.old(release)
        one = "WHERE flow = 'visits' AND step = 'hops'"
        run(url, f"UPDATE waxwing_owners SET heartbeat_ms = 4102444800000 {one}")  # it beats on: in the year 2100
        before = content(url)
        with pytest.raises(TryLater, match="flow visits") as error:
            start(url)
        assert error.value.exit_code == 75
        assert f"({dict(places(before))['hops']})" in str(error.value)
        assert content(url) == before
        run(url, f"UPDATE waxwing_owners SET heartbeat_ms = 0 {one}")  # it has stopped
        start(url)
        assert content(url)["waxwing_schema"] == [(2,)]


@on("sqlite")
def test_a_command_looks_at_nothing_that_is_not_carried_over_and_carries_nothing_over(database: Database) -> None:
    url = database.old()
    before = content(url)
    steps = SqlSteps(orders_flow.OrdersSettings(database_url=SecretStr(url)), "orders")
    with pytest.raises(ConfigError, match="are of an earlier release; a flow's first start carries them over"):
        steps.kept()
    assert content(url) == before
    start(url)
    assert sorted(steps.kept()) == ["customer_totals", "orders", "totals"]


@on(*SERVERS)
def test_who_keeps_the_tables_from_being_altered_is_named(database: Database) -> None:
    url = database.old(rows_max=2)
    engine = plain_engine(url)
    with engine.connect() as reader:  # as a process that was frozen behind its first look
        reader.exec_driver_sql("SELECT * FROM waxwing_progress" + " FOR UPDATE" * (database.kind == "postgresql")).all()
        number = reader.exec_driver_sql(
            "SELECT " + {"postgresql": "pg_backend_pid()"}.get(database.kind, "connection_id()")
        ).scalar()
        with pytest.raises(TransientError, match="others keep them from being carried over") as error:
            start(url, database_lock_timeout_s=1.0)
        assert error.value.exit_code == 75
        assert f" {number} (" in error.value.hint
    engine.dispose()
    start(url)
    assert content(url)["waxwing_schema"] == [(2,)]


@on("sqlite", *SERVERS)
def test_two_processes_at_once_carry_over_once(database: Database) -> None:
    whole = carried_over(database)
    url = database.old()
    two_at_once(url)
    assert content(url) == whole


@on("sqlite", "mariadb")
def test_tables_that_an_earlier_release_made_and_never_used_do_not_count(database: Database) -> None:
    # It was ended before it wrote the version: nothing was stored yet.
    for release in RELEASES:
        url = database.empty()
        run(url, *database.made(release).values())
        start(url)
        found = content(url)
        assert found["waxwing_schema"] == [(2,)]
        assert ("source_id",) in found["columns of waxwing_progress"]
        # It started on the new ones: it made what it missed, and then looked at the version.
        url = database.old(release)
        start(url)
        whole = content(url)
        run(url, *(text for name, text in database.made(release).items() if name not in whole))
        assert content(url) != whole
        start(url)
        assert {name: rows for name, rows in content(url).items() if name in whole} == whole


@on(*SERVERS)
def test_who_may_not_carry_them_over_is_told_what_to_run(database: Database) -> None:
    whole = carried_over(database, rows_max=2)
    url = database.old(rows_max=2, own_alone=False)
    user, password = f"limited_{sa.make_url(url).database}", "Limited-1"
    named = f"{user}@'127.0.0.1'" if database.kind == "mariadb" else user
    run(
        url,
        f"CREATE USER {named} IDENTIFIED BY '{password}'"
        if database.kind == "mariadb"
        else f"CREATE ROLE {user} LOGIN PASSWORD '{password}'",
    )
    limited = sa.make_url(url).set(username=user, password=password).render_as_string(hide_password=False)
    _grant(url, named)
    before = content(url)
    with pytest.raises(ConfigError) as error:
        start(limited)
    assert error.value.exit_code == 78
    assert content(url) == before
    assert "in this order" in str(error.value)
    _, _, statements = str(error.value).partition("in this order, while nothing runs on them: ")
    run(url, *(text.strip() for text in statements.split(";") if text.strip()))
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole
    _grant(url, named)
    start(limited)
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole


def _grant(url: str, user: str) -> None:
    """All that a run needs on the tables that are there."""
    own = [name for name in content(url) if name.startswith("waxwing_")]
    run(url, *(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {user}" for name in (*own, "orders")))
