"""Waxwing's own tables of an earlier release are carried over: whole, once, by whoever may; nobody of before moves a thing."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bytewax.testing import run_main
from pydantic import SecretStr

from dataflows import orders as orders_flow
from sinks import SqlTarget, Upsert
from sinks.sql.steps import SqlSteps
from tests.faults.cluster import ROOT
from tests.faults.recompute import plain_engine
from tests.faults.storm_databases import file_not_locked
from tests.migration import dump, earlier, going_on
from tests.migration.dump import RELEASES
from tests.migration.test_going_on import empty_database
from tests.servers.process import until
from waxwing.databases.ledger import making
from waxwing.errors import ConfigError, TransientError, TryLater

Content = dict[str, list[tuple[Any, ...]]]
SERVERS = ("postgresql", "mariadb")
IN_ONE = "in a transaction"
BY_ITSELF = "mariadb"  # which commits DDL by itself


class Database:
    """Databases of one kind, filled from a dump: Waxwing's own tables alone, or all."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
        self.kind, self._request, self._folder = kind, request, folder

    def empty(self) -> str:
        return empty_database(self.kind, self._request, self._folder)

    def old(self, release: str = "12ee004", rows_max: int = dump.ROWS, *, own_alone: bool = True) -> str:
        url = self.empty()
        dump.load(dump.file(release, self.kind, "on_close"), url, own_alone=own_alone, rows_max=rows_max)
        return url

    def made(self, release: str = "12ee004") -> dict[str, str]:
        """The release's own tables: how it makes them, by name."""
        statements = dump.statements(dump.file(release, self.kind, "on_close"))
        return {text.split()[2]: text for text in statements if text.startswith("CREATE TABLE waxwing_")}


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(request.param, request, tmp_path)


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", kinds, indirect=True)


def start(url: str, **settings: Any) -> None:
    """What a flow's start does with the tables."""
    more: dict[str, Any] = {"retry_max_s": 0.0, "database_lock_timeout_s": 5.0, **settings}
    target = SqlTarget(orders_flow.OrdersSettings(database_url=SecretStr(url), **more), orders_flow.orders, Upsert(keys=("id",)))
    target.bind("orders", "orders")
    target.prepare()


def content(url: str) -> Content:
    """All rows of Waxwing's own tables."""
    engine = plain_engine(url)
    with engine.connect() as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if name.startswith("waxwing_")]
        out = {name: sorted(map(tuple, connection.execute(sa.text(f"SELECT * FROM {name}"))), key=repr) for name in names}
        columns = {name: [(column["name"],) for column in sa.inspect(connection).get_columns(name)] for name in names}
    engine.dispose()
    return out | {f"columns of {name}": found for name, found in columns.items()}


def run(url: str, *statements: str) -> None:
    engine = plain_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


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
                start(url)
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
                    start(url)
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
            start(url)
        assert error.value.exit_code == 75
        assert f"({dict(_places(before))['hops']})" in str(error.value)
        assert content(url) == before
        run(url, f"UPDATE waxwing_owners SET heartbeat_ms = 0 {one}")  # it has stopped
        start(url)
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
    start(url)
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
            start(url)
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


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first release's files."""
    if subprocess.run(["git", "cat-file", "-e", "9766af2^{commit}"], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("the history lacks the release 9766af2: git fetch --unshallow")
    return earlier.unpack("9766af2", tmp_path_factory.mktemp("earlier"))


def test_an_earlier_release_says_that_the_tables_are_newer(old_code: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.sqlite"
    start(url)
    whole = content(url)
    old = earlier.Earlier(old_code, url, tmp_path)
    assert old.ended(60) == 78
    assert "schema version 2, this Waxwing knows version 1" in old.said()
    assert "Traceback" not in old.said()
    start(url)
    assert {name: rows for name, rows in content(url).items() if name in whole} == whole


# On SQLite a frozen transaction locks everybody out for as long as it is frozen: there it has none.
@pytest.mark.parametrize(
    ("database", "stop"), [("sqlite", ""), ("postgresql", IN_ONE), ("mariadb", IN_ONE)], indirect=["database"]
)
def test_a_frozen_process_of_an_earlier_release_moves_nothing_when_it_is_thawed(
    database: Database, stop: str, old_code: Path, tmp_path: Path
) -> None:
    url = database.empty()
    facts = dump.Facts("9766af2", database.kind, "on_close", "earlier", "name:earlier")
    totals = "off" if stop else "on_close"  # with one writer only it is known where it stands
    settings = {"ORDER_TOTALS": totals, "DATABASE_STATEMENT_TIMEOUT_S": "1"}
    old = earlier.Earlier(old_code, url, tmp_path, stop=stop, settings=settings)

    def equal() -> bool:
        rows, sums = going_on.differences(facts, url) if totals != "off" else (going_on.compare_orders(facts, url), None)
        assert rows.equal, rows
        assert sums is None or sums.equal, sums
        return True

    try:
        until(lambda: old.runs() and _written(url) >= 150, timeout_s=60, what="it has written a part")
        if stop:
            old.gate.touch()
        else:
            until(lambda: _froze_outside(old, url), timeout_s=60, what="it stands still outside of a transaction")
        until(old.stands_still, timeout_s=60, what="it stands still")
        before = _written(url)
        limits = {"owner_stale_s": 0.5, "database_statement_timeout_s": 2.0, "database_lock_timeout_s": 10.0, "retry_max_s": 60.0}
        until(lambda: _starts(url, **limits), timeout_s=60, what="its owners are stale, and its locks are gone")
        run_main(going_on.orders(facts, url, order_totals=totals, **limits))
        assert equal()
        assert _written(url) > before
        whole = content(url)
        old.gate.touch()
        old.go_on()
        assert old.ended(60) != 0
        assert "Traceback" not in old.said(), old.said()
        assert content(url) == whole
        assert equal()
    finally:
        old.kill()


def _starts(url: str, **settings: Any) -> bool:
    try:
        start(url, **settings)
    except (TryLater, TransientError):  # asked again, as a flow does for RETRY_MAX_S, and a supervisor after it
        return False
    return True


def _written(url: str) -> int:
    try:
        return going_on.taken_in(url)
    except sa.exc.DBAPIError:  # no such table yet
        return 0


def _froze_outside(old: earlier.Earlier, url: str) -> bool:
    old.process.send_signal(signal.SIGSTOP)
    until(old.stands_still, timeout_s=20, what="it stands still")
    if file_not_locked(url):
        return True
    old.go_on()
    return False


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
