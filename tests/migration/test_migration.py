"""Waxwing's own tables of an earlier release are carried over: whole, once, by whoever may; nobody of before moves a thing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dataflows import orders as orders_flow
from sinks.sql.steps import SqlSteps
from tests.migration import dump, going_on
from tests.migration.dump import RELEASES, Content, Database, content, run
from waxwing.databases.ledger import making
from waxwing.errors import ConfigError, TryLater

SERVERS = ("postgresql", "mariadb")
BY_ITSELF = "mariadb"  # which commits DDL by itself


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", kinds, indirect=True)


def carried_over(database: Database, rows_max: int = dump.ROWS) -> Content:
    """What a migration that nothing disturbs makes of the dump."""
    url = database.old(rows_max=rows_max)
    going_on.start(url)
    out = content(url)
    assert out["waxwing_schema"] == [(2,)]
    assert [len(out[f"waxwing_{name}"]) for name in ("tables", "windows", "owners")] == [min(5, rows_max), min(4, rows_max), 0]
    assert min(len(out[f"waxwing_{name}"]) for name in ("progress", "state", "dead_letters")) >= 2
    assert not {"waxwing_steps", "waxwing_window_state"} & out.keys()
    return out


RENAMED = {"topic": "source", "topic_id": "source_id", "topic_partition": "source_partition", "topic_offset": "source_offset"}


@on("sqlite", *SERVERS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_row_is_what_it_was_under_its_new_names(database: Database, release: str) -> None:
    url = database.old(release)
    before = content(url)
    going_on.start(url)
    after = content(url)
    new = {"token": None, "token_offset": None, "rows_seen": 0, "rows_bad": 0, "rows_bad_run": 0, "replayed_at": None}
    for name in ("waxwing_progress", "waxwing_dead_letters", "waxwing_windows"):
        old_rows = [{RENAMED.get(key, key): value for key, value in row.items()} for row in named(before, name)]
        added = {key: new[key] for key in named(after, name)[0].keys() - old_rows[0].keys()}
        assert alike(named(after, name)) == alike([{**row, **added} for row in old_rows])
        assert (len(old_rows), len(added)) == (len(before[name]), {"progress": 5, "dead_letters": 1, "windows": 0}[name[8:]])
    states = [
        {"source_id": "waxwing:windows", "source_partition": row.pop("bucket"), **row}
        for row in named(before, "waxwing_window_state")
    ]
    assert alike(named(after, "waxwing_state")) == alike(states)
    written = [(row["flow"], row["step"], row["table_name"]) for row in named(after, "waxwing_tables")]
    assert sorted(written) == sorted(before.get("waxwing_steps", []))


def named(found: Content, table: str) -> list[dict[str, Any]]:
    """The rows of a table, by their columns."""
    columns = [name for (name,) in found[f"columns of {table}"]]
    return [dict(zip(columns, row, strict=True)) for row in found[table]]


def alike(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


class Killed(BaseException):
    """The process is no more."""


def kill_before(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill it right before this statement of a migration."""
    numbers = count()

    def dying(connection: sa.Connection, statement: sa.Executable) -> None:
        if next(numbers) == number:
            raise Killed
        connection.execute(statement)

    monkeypatch.setattr(making, "run", dying)


@on("sqlite", "postgresql")
def test_killed_before_any_statement_nothing_was_done(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = carried_over(database)
    url = database.old()
    before = content(url)
    for number in count(0, 6):
        with monkeypatch.context() as patched:
            kill_before(number, patched)
            try:
                going_on.start(url)
                break
            except Killed:
                pass
        assert content(url) == before
    assert content(url) == whole
    assert number > 20


@on(BY_ITSELF)
def test_killed_before_every_statement_the_next_start_goes_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = carried_over(database, rows_max=2)
    for first in (2, 3):  # the one is killed behind every second statement, the other in between
        url = database.old(rows_max=2)
        for kills in range(40):
            with monkeypatch.context() as patched:
                kill_before(first + kills // 4, patched)  # rows go with who wrote them: it has to come further
                try:
                    going_on.start(url)
                    break
                except Killed:
                    pass
            # An earlier release that starts now makes what it misses, before it looks at the version: the highest counts.
            found = content(url)
            assert max(found["waxwing_schema"]) == (2,)
            run(url, *(text for name, text in database.made().items() if name not in found))
        assert 5 < kills < 39
        assert content(url) == whole


@on("sqlite", *SERVERS)
def test_no_earlier_process_of_any_flow_may_be_alive(database: Database) -> None:
    for release in RELEASES:
        url = database.old(release)
        one = "WHERE flow = 'visits' AND step = 'hops'"
        run(url, f"UPDATE waxwing_owners SET heartbeat_ms = 4102444800000 {one}")  # it beats on: in the year 2100
        before = content(url)
        with pytest.raises(TryLater, match="flow visits") as error:
            going_on.start(url)
        assert error.value.exit_code == 75
        assert f"({dict(_places(before))['hops']})" in str(error.value)
        assert content(url) == before
        run(url, f"UPDATE waxwing_owners SET heartbeat_ms = 0 {one}")  # it has stopped
        going_on.start(url)
        assert content(url)["waxwing_schema"] == [(2,)]


def _places(found: Content) -> Iterator[tuple[str, str]]:
    columns = [name for (name,) in found["columns of waxwing_owners"]]
    for row in found["waxwing_owners"]:
        facts = dict(zip(columns, row, strict=True))
        if facts["flow"] == "visits" and facts["heartbeat_ms"] == 4102444800000:
            yield facts["step"], facts["place"]


@on("sqlite")
def test_a_command_looks_at_nothing_that_is_not_carried_over_and_carries_nothing_over(database: Database) -> None:
    url = database.old()
    before = content(url)
    steps = SqlSteps(orders_flow.OrdersSettings(database_url=SecretStr(url)), "orders")
    with pytest.raises(ConfigError, match="are of an earlier release; a flow's first start carries them over"):
        steps.kept()
    assert content(url) == before
    going_on.start(url)
    assert sorted(steps.kept()) == ["customer_totals", "orders", "totals"]


@on("sqlite", *SERVERS)
def test_two_processes_at_once_carry_over_once(database: Database) -> None:
    whole = carried_over(database)
    url = database.old()
    errors: list[BaseException] = []
    together = threading.Barrier(2)

    def starting() -> None:
        together.wait(60)
        try:
            going_on.start(url)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=starting) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert content(url) == whole


@on("sqlite", "mariadb")
def test_tables_that_an_earlier_release_made_and_never_used_do_not_count(database: Database) -> None:
    # It was ended before it wrote the version: nothing was stored yet.
    for release in RELEASES:
        url = database.empty()
        run(url, *database.made(release).values())
        going_on.start(url)
        found = content(url)
        assert found["waxwing_schema"] == [(2,)]
        assert ("source_id",) in found["columns of waxwing_progress"]
        # It started on the new ones: it made what it missed, and then looked at the version.
        url = database.old(release)
        going_on.start(url)
        whole = content(url)
        run(url, *(text for name, text in database.made(release).items() if name not in whole))
        assert content(url) != whole
        going_on.start(url)
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
        going_on.start(limited)
    assert error.value.exit_code == 78
    assert content(url) == before
    assert "in this order" in str(error.value)
    _, _, statements = str(error.value).partition("in this order, while nothing runs on them: ")
    run(url, *(text.strip() for text in statements.split(";") if text.strip()))
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole
    _grant(url, named)
    going_on.start(limited)
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole


def _grant(url: str, user: str) -> None:
    """All that a run needs on the tables that are there."""
    own = [name for name in content(url) if name.startswith("waxwing_")]
    run(url, *(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {user}" for name in (*own, "orders")))
