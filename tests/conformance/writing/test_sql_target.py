"""The SQL target on every database: modes, order within a batch, dead letters, fencing, unknown commits, several openings."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Append, SqlTarget, Upsert
from sinks.sql.session import SqlSession
from sinks.writer.writer import Writer
from tests.conformance.place import Place, lose_commits
from tests.faults.recompute import plain_engine
from tests.servers import PostgreSQL
from tests.servers.process import until
from waxwing.batch import Batch, Columns, Delete, Reject, Stream
from waxwing.change import Change, Start
from waxwing.databases import database_for
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError, Fenced, TargetError, TransientError
from waxwing.ledger.members import Member
from waxwing.ledger.ownership import Ownership
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Mode

STREAM = Stream("flow", "topic", "topic-id", 0)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "sqlserver"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.sqlite"
    if request.param == "sqlserver":  # where a new database costs seconds, as a new connection does
        place: Place = request.getfixturevalue("sqlserver_place")
        for table in ("things", *schema.metadata.tables):
            place.run(f"DROP TABLE IF EXISTS {table}")
        text = place.url.render_as_string(hide_password=False)
        _KEPT[text] = place
        return text
    return str(request.getfixturevalue(request.param).new_database())


_KEPT: dict[str, Place] = {}
ON_THREE = pytest.mark.parametrize("url", ["sqlite", "postgresql", "mariadb"], indirect=True)


def things(*extra: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.String(10), primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("updated_at", sa.DateTime, server_default=sa.func.now(), onupdate=sa.func.now()),
        *extra,
    )


def target(
    url: str, mode: Mode, table: sa.Table | None = None, *, step: str = "flow.out", stale_s: float = 1.0, **settings: Any
) -> SqlTarget:
    made = SqlTarget(
        SqlSettings(database_url=SecretStr(url), flush_interval_s=0.0, owner_stale_s=stale_s, **settings),
        things() if table is None else table,
        mode,
    )
    if url in _KEPT and not settings:
        made.place.database, made.place.engine = _KEPT[url].database, _KEPT[url].engine
    made.bind("flow", step)
    made.prepare()
    made.begin([Start(STREAM, 0, None)])
    return made


def impatient(url: str, lock_timeout_s: float, statement_timeout_s: float) -> SqlTarget:
    """A target whose connections have these time limits once it is prepared, which a busy machine may take longer for."""
    limits = {"database_lock_timeout_s": lock_timeout_s, "database_statement_timeout_s": statement_timeout_s}
    quick = SqlTarget(SqlSettings.model_validate({"database_url": url, **limits}), things(), Append())
    to = target(url, Append(), retry_max_s=600.0)
    to.place.engine, to.statement_timeout_s = quick.place.engine, quick.statement_timeout_s
    return to


def batch(
    first: int, records: list[Any], deletes: list[tuple[int, bytes]] | None = None, rejects: tuple[int, ...] = ()
) -> Batch[Any]:
    """One message per record; a None among the records is the place of a delete or a reject."""
    size = len(records)
    messages = Columns(list(range(first, first + size)), [b"k"] * size, [b"v\xff"] * size, [5] * size, [(("h", b"x"),)] * size)
    at = [n for n, record in enumerate(records) if record is not None]
    return Batch(
        STREAM, "lane-000", first, first + size, messages, [records[n] for n in at], at,
        [Reject(n, "parse", "no JSON\x00") for n in rejects], [Delete(n, key) for n, key in deletes or []],
    )  # fmt: skip


def write(to: SqlTarget, *batches: Batch[Any]) -> None:
    writer = Writer(to, "lane-000")
    try:
        for each in batches:
            writer.put(each)
        writer.flush()
    finally:
        writer.close()


def rows(url: str, table: str = "things", columns: str = "id, n") -> list[tuple[Any, ...]]:
    query = sa.text(f"SELECT {columns} FROM {table} ORDER BY 1")
    if url in _KEPT:
        with _KEPT[url].engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]
    engine = sa.create_engine(database_for(sa.make_url(url)).dialect.drivername + url[url.index("://") :])
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return found


def test_append_writes_every_row_and_a_second_start_goes_on(url: str) -> None:
    write(target(url, Append()), batch(0, [{"id": "a", "n": 1}, {"id": "b", "n": None}]))
    write(target(url, Append()), batch(0, [{"id": "a", "n": 1}, {"id": "b", "n": 2}]), batch(2, [{"id": "c", "n": 3}]))
    assert rows(url) == [("a", 1), ("b", None), ("c", 3)]


def test_append_sends_a_duplicate_key_to_the_dead_letters(url: str) -> None:
    write(target(url, Append()), batch(0, [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 9)]))
    assert rows(url) == [("a", 1), ("b", 1), ("c", 1)]
    letters = rows(
        url, "waxwing_dead_letters", "source_offset, stage, message_key, message_value, message_headers, message_timestamp_ms"
    )
    assert [(offset, stage, bytes(key), bytes(value), headers, ms) for offset, stage, key, value, headers, ms in letters] == [
        (offset, "sink", b"k", b"v\xff", '[["h", "x"]]', 5) for offset in (2, 4)
    ]


@pytest.mark.parametrize("body", ["ROLLBACK TRANSACTION; RAISERROR('no nines', 16, 1)", "RAISERROR('no nines', 16, 1); ROLLBACK"])
@pytest.mark.parametrize("url", ["sqlserver"], indirect=True)
def test_a_trigger_that_ends_the_transaction_itself_costs_its_row_only(url: str, body: str) -> None:
    to = target(url, Append())
    _KEPT[url].run(
        f"CREATE TRIGGER things_t ON things AFTER INSERT AS IF EXISTS (SELECT 1 FROM inserted WHERE n = 9) BEGIN {body} END"
    )
    write(to, batch(0, [("a", 1), ("b", 9), ("c", 3)]))
    assert rows(url) == [("a", 1), ("c", 3)]
    [(offset, reason)] = rows(url, "waxwing_dead_letters", "source_offset, reason")
    assert offset == 1
    assert "no nines" in reason


def test_upsert_keeps_the_last_of_a_key_and_applies_an_update_to_null(url: str) -> None:
    to = target(url, Upsert(keys=("id",)))
    write(to, batch(0, [("a", 1), ("b", 1), ("a", 2)]), batch(3, [("b", None), ("c", 3)]))
    assert rows(url) == [("a", 2), ("b", None), ("c", 3)]


def test_only_newer_versions_win_within_a_batch_and_over_batches(url: str) -> None:
    versions = [("a", 2), ("a", 1), ("b", 1), ("b", 3), ("b", 3)]
    for cut in range(len(versions) + 1):
        table = things(sa.Column("v", sa.Integer))
        table.name = f"things{cut}"
        to = target(url, Upsert(keys=("id",), newer_by="v"), table, step=f"step{cut}")
        records = [{"id": key, "n": number, "v": version} for number, (key, version) in enumerate(versions)]
        write(to, batch(0, list(records[:cut])), batch(cut, list(records[cut:])))
        assert rows(url, f"things{cut}", "id, n, v") == [("a", 0, 2), ("b", 3, 3)]


@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_deletes_keep_their_order_wherever_the_batch_ends(url: str, cut: int) -> None:
    to = target(url, Upsert(keys=("id",), delete_on_tombstone=True))
    events: list[Any] = [("a", 1), ("b", 1), b"a", ("a", 2), b"b"]

    def part(first: int, last: int) -> Batch[Any]:
        records = [event if isinstance(event, tuple) else None for event in events[first:last]]
        return batch(first, records, [(n, event) for n, event in enumerate(events[first:last]) if isinstance(event, bytes)])

    write(to, part(0, cut), part(cut, 5))
    assert rows(url) == [("a", 2)]


def test_rows_that_do_not_fit_are_dead_letters_with_the_reason(url: str) -> None:
    records = [
        {"id": "a", "n": 1},
        {"id": "far too long", "n": 1},
        {"n": 1},
        {"id": "b", "n": 2**40},
        {"id": "c", "m": 1},
        {"id": "d", "n": "1"},
    ]
    write(target(url, Upsert(keys=("id",))), batch(0, records), batch(6, [{"id": "z", "n": 1}]))
    assert rows(url) == [("a", 1), ("z", 1)]
    reasons = rows(url, "waxwing_dead_letters", "source_offset, reason")
    assert [offset for offset, _ in reasons] == [1, 2, 3, 4, 5]
    for (_, reason), word in zip(reasons, ["id", "id", "n", "m", "n"], strict=True):
        assert word in reason


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_row_without_a_value_that_python_would_have_set_is_a_dead_letter(url: str) -> None:
    table = things(sa.Column("state", sa.String(9), default="new"))
    write(target(url, Append(), table), batch(0, [{"id": "a", "n": 1}, {"id": "b", "n": 1, "state": None}]))
    assert rows(url, columns="id, state") == [("b", None)]
    assert rows(url, "waxwing_dead_letters", "reason") == [("no value for column state",)]


def test_a_constraint_of_the_table_rejects_only_its_rows(url: str) -> None:
    table = things(sa.CheckConstraint("n <> 13", name="no_13"))  # type: ignore[arg-type]  # a Table takes it as it takes a column
    records = [(f"{n:03}", 13 if n in (5, 6, 90) else 100 + n) for n in range(100)]
    write(target(url, Append(), table), batch(0, records))
    assert len(rows(url)) == 97
    assert [offset for (offset,) in rows(url, "waxwing_dead_letters", "source_offset")] == [5, 6, 90]


def test_rejects_of_earlier_steps_are_dead_letters_and_empty_batches_move_the_position(url: str) -> None:
    to = target(url, Append())
    write(to, batch(0, [None, ("a", 1)], rejects=(0,)), batch(2, [None], rejects=(0,)), batch(3, []))
    assert rows(url, "waxwing_dead_letters", "source_offset, reason") == [(0, "no JSON\\x00"), (2, "no JSON\\x00")]
    assert to.positions()[0].offset_next == 3


def owned(to: SqlTarget) -> Any:
    """A session of a process that owns the flow's targets."""
    assert not to.ownership.take()
    return to.connect("lane-000", to.token())


def stood_still(url: str) -> None:
    """As if nobody had beaten for long."""
    with plain_engine(url).begin() as connection:
        connection.exec_driver_sql("UPDATE waxwing_owners SET heartbeat_ms = 1 WHERE heartbeat_ms > 0")


def test_a_later_owner_fences_the_earlier_one(url: str) -> None:
    # The old one beats no more: a frozen process.
    old, new = target(url, Append(), stale_s=600.0), target(url, Append(), stale_s=600.0)
    zombie = owned(old)
    zombie.take_over(STREAM)
    zombie.commit(change(old, [("a", 1)]))
    assert new.ownership.take(), "the old one is alive"
    stood_still(url)
    fresh = owned(new)
    with pytest.raises(Fenced, match="taken over"):  # whether the new one has come to this stream yet or not
        zombie.commit(change(old, [("b", 1)]))
    assert fresh.take_over(STREAM).offset_next == 1
    zombie.close()
    again = old.connect("lane-000", old.token())  # a reconnect does not take it back
    with pytest.raises(Fenced):
        again.commit(change(old, [("b", 1)]))
    with pytest.raises(Fenced):
        again.take_over(STREAM)
    with pytest.raises(Fenced):  # its heartbeat finds out, too
        old.ownership.beat("flow.out")
    with pytest.raises(Fenced):
        old.ownership.take()
    assert isinstance(old.ownership.last_look(TransientError("connection lost")), Fenced)
    fresh.commit(change(new, [("c", 1)]))
    assert rows(url) == [("a", 1), ("c", 1)]
    for session in (again, fresh):
        session.close()
    new.ownership.release()


@ON_THREE
def test_who_fails_asks_who_owns_first_and_lets_go(url: str) -> None:
    old, new = target(url, Append(), stale_s=600.0), target(url, Append(), stale_s=600.0)
    owned(old).close()
    lost = TransientError("connection lost")
    assert old.ownership.last_look(lost) is lost
    assert not new.ownership.take(), "the old one has let go"
    assert not old.ownership.taken
    stood_still(url)
    assert not old.ownership.take()
    assert isinstance(new.ownership.last_look(lost), Fenced)
    old.ownership.release()


@ON_THREE
def test_a_mesh_with_a_process_that_stands_still_is_taken_whole_and_one_with_all_alive_is_not(url: str) -> None:
    first, second, new = (target(url, Append(), stale_s=600.0) for _ in range(3))
    for number, one in enumerate((first, second)):
        one.ownership.me = Member("mesh", number, f"p{number}")
        assert not one.ownership.take()
    position = owned(second)
    position.take_over(STREAM)
    assert "(process 0, run mesh)" in new.ownership.take()

    def beaten(heartbeat_ms: int) -> None:
        with plain_engine(url).begin() as connection:
            stale = sa.text("UPDATE waxwing_owners SET heartbeat_ms = :then WHERE process_token = 'p1'")
            connection.execute(stale, {"then": heartbeat_ms})

    beaten(1)
    seen = {new.owners().name: new.owners().ask()}
    beaten(2)  # since it was asked
    assert new.owners().take(new.ownership.me, new.ownership.token, seen, ()) is None
    first.ownership.beat("flow.out")  # and nothing was taken from the other one
    assert not new.ownership.take()
    for one in (first, second):  # the one that was alive has lost with the other
        with pytest.raises(Fenced):
            one.ownership.beat("flow.out")
    with pytest.raises(Fenced):
        position.commit(change(second, [("a", 1)]))
    position.close()
    new.ownership.release()


def test_of_two_that_come_at_once_one_owns_all_targets(url: str) -> None:
    """Both have asked while nobody was alive; a thawed owner that beats again is left alone, too."""
    old, new = target(url, Append(), stale_s=600.0), target(url, Append(), stale_s=600.0)
    records = old.owners(), new.owners()
    seen = {records[0].name: records[0].ask()}
    assert records[0].take(Member("a", 0, "a"), "a" * 16, seen, ()) is not None
    assert records[1].take(Member("b", 0, "b"), "b" * 16, seen, ()) is None
    stood_still(url)
    seen = {records[0].name: records[0].ask()}
    assert records[0].beat("a" * 16)
    assert records[1].take(Member("b", 0, "b"), "b" * 16, seen, ()) is None
    assert records[0].beat("a" * 16)
    stood_still(url)
    seen = {records[0].name: records[0].ask()}
    assert records[1].take(Member("b", 0, "b"), "b" * 16, seen, ()) == {"a"}
    assert not records[0].beat("a" * 16)
    for one, token in zip(records, ("a", "b"), strict=True):
        one.release(token * 16)


@ON_THREE
def test_who_has_lost_the_target_and_owns_it_again_is_left_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a newcomer's question and its taking; what was heard first counts no more. Under the same name it can't."""
    old, new = (target(url, Append(), stale_s=600.0).owners() for _ in range(2))
    member = Member("a", 0, "a")
    assert old.take(member, "a" * 16, {old.name: old.ask()}, ()) is not None
    stood_still(url)
    assert new.take(Member("c", 0, "c"), "c" * 16, {new.name: new.ask()}, ()) == {"a"}
    new.release("c" * 16)
    assert old.take(member, "d" * 16, {old.name: old.ask()}, ()) is None
    take = new.take

    def takes_late(*args: Any) -> set[str] | None:
        assert old.take(Member("d", 0, "d"), "d" * 16, {old.name: old.ask()}, ()) is not None
        return take(*args)

    monkeypatch.setattr(new, "take", takes_late)
    newcomer = Ownership(Member("b", 0, "b"))
    newcomer.add("flow", "flow.out", new)
    assert newcomer.take()
    assert old.beat("d" * 16)
    old.release("d" * 16)


@ON_THREE
def test_who_lost_its_targets_let_go_and_took_them_again_is_left_alone(url: str) -> None:
    """In one process, as a notebook runs a flow again: what its earlier run has lost says nothing about this one."""
    one, two, three = (target(url, Append(), stale_s=600.0) for _ in range(3))
    assert not one.ownership.take()
    stood_still(url)
    assert not two.ownership.take()
    with pytest.raises(Fenced):
        one.ownership.beat("flow.out")
    for each in (one, two):
        each.ownership.release()
    assert not one.ownership.take()
    assert three.ownership.take(), "it beats"
    one.ownership.beat("flow.out")
    one.ownership.release()


def change(to: SqlTarget, records: list[Any], *, in_doubt: bool = False) -> Change:
    (position,) = to.positions()
    end = position.offset_next + len(records)
    return Change(
        [batch(position.offset_next, records)], {STREAM: position}, {STREAM: position._replace(offset_next=end)}, [], in_doubt
    )


def test_a_commit_in_doubt_that_succeeded_is_not_written_again(url: str) -> None:
    to = target(url, Append())
    session = owned(to)
    session.take_over(STREAM)
    one = change(to, [("a", 1)])
    session.commit(one)
    with pytest.raises(TargetError, match="somebody else"):
        session.commit(one)
    one.in_doubt = True
    session.commit(one)
    assert rows(url) == [("a", 1)]
    session.close()


def test_a_connection_lost_in_commit_is_in_doubt(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit goes through and its answer is lost; then the connection is lost before the commit."""
    to = target(url, Append())
    write(to, batch(0, [("warm", 0)]))
    lose_commits(to.place.engine, monkeypatch, *["after", "before", ""] * 2)
    write(to, *[batch(n, [(f"row {n}", n)]) for n in range(1, 9)])
    assert rows(url) == [*[(f"row {n}", n) for n in range(1, 9)], ("warm", 0)]


def test_a_dry_run_writes_nothing(url: str) -> None:
    to = target(url, Append())
    session = owned(to)
    session.take_over(STREAM)
    session.attempt(change(to, [("a", 1)]))
    assert rows(url) == []
    assert to.positions()[0].offset_next == 0
    session.close()


def test_many_processes_may_make_the_tables_at_once(url: str) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    def start() -> None:
        gate.wait()
        try:
            target(url, Append())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [count for (count,) in rows(url, "waxwing_progress", "count(*)")] == [1]


def test_tables_of_a_newer_waxwing_are_refused(url: str) -> None:
    target(url, Append())
    engine = sa.create_engine(database_for(sa.make_url(url)).dialect.drivername + url[url.index("://") :])
    with engine.begin() as connection:
        connection.execute(schema.schema_version.update().values(version=99))
    engine.dispose()
    with pytest.raises(ConfigError, match="schema version 99"):
        target(url, Append())


def test_sessions_and_targets_never_show_the_password(url: str) -> None:
    to = target(url, Append())
    session = owned(to)
    assert isinstance(session, SqlSession)
    assert "postgres-secret" not in to.name + repr(to) + repr(session)
    session.close()


def test_a_process_frozen_inside_a_copy_is_ended_and_its_successor_goes_on(postgresql: PostgreSQL) -> None:
    """No time limit of PostgreSQL reaches a COPY that waits for its client."""
    url = postgresql.new_database()
    write(target(url, Append()), batch(0, [("a", 1)]))
    successor = impatient(url, 0.5, 1.0)
    with psycopg.connect(url) as frozen, frozen.cursor() as cursor:
        cursor.execute("UPDATE waxwing_progress SET bad_run = bad_run")
        with contextlib.suppress(psycopg.OperationalError), cursor.copy("COPY things FROM STDIN"):
            write(successor, batch(1, [("b", 2)]))
            assert rows(url) == [("a", 1), ("b", 2)]
    assert frozen.broken


def test_a_process_frozen_in_a_transaction_that_no_time_limit_ends_is_ended_by_its_successor(postgresql: PostgreSQL) -> None:
    """As one that has sent a part of a pipeline: PostgreSQL's clock of idle transactions is off until the rest comes."""
    url = postgresql.new_database()
    write(target(url, Append()), batch(0, [("a", 1)]))
    successor = impatient(url, 0.5, 1.0)
    with psycopg.connect(url, application_name="waxwing") as frozen:
        frozen.execute("UPDATE waxwing_progress SET bad_run = bad_run")
        write(successor, batch(1, [("b", 2)]))
        assert rows(url) == [("a", 1), ("b", 2)]
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")


def test_a_process_frozen_while_its_copy_was_refused_is_ended_by_its_successor(postgresql: PostgreSQL) -> None:
    """What it sent behind the refusal turns PostgreSQL's clock of idle transactions off; its savepoint keeps the locks."""
    url = postgresql.new_database()
    write(target(url, Append()), batch(0, [("a", 1)]))
    successor = impatient(url, 0.5, 1.0)
    with (
        contextlib.closing(psycopg.connect(url, application_name="waxwing")) as frozen,
        psycopg.connect(url, autocommit=True) as watch,
    ):
        frozen.execute("SET idle_in_transaction_session_timeout = 1000")
        frozen.execute("UPDATE waxwing_progress SET bad_run = bad_run")
        frozen.execute("SAVEPOINT straight")
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {frozen.info.backend_pid}"

        def refused() -> bool:
            return watch.execute(state).fetchone() == ("idle in transaction (aborted)",)

        frozen.pgconn.send_query(b"COPY things (id) FROM STDIN")
        frozen.pgconn.get_result()
        for _ in range(2):
            frozen.pgconn.put_copy_data(b"a\tone column too many\n")
            until(lambda: frozen.pgconn.flush() == 0, timeout_s=180, what="the rows are sent")
            until(refused, timeout_s=180, what="the COPY is refused")
        write(successor, batch(1, [("b", 2)]))
        assert rows(url) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(("lock_timeout_s", "statement_timeout_s"), [(2.0, 20.0), (20.0, 4.0)], ids=["lock", "statement"])
def test_a_process_frozen_inside_a_transaction_of_sql_server_is_ended_whichever_time_limit_tells(
    sqlserver_place: Place, lock_timeout_s: float, statement_timeout_s: float
) -> None:
    """SQL Server ends nobody's idle transaction; a statement may be cut off before the lock's time limit tells of it."""
    url = sqlserver_place.url.render_as_string(hide_password=False)
    for table in ("things", *schema.metadata.tables):
        sqlserver_place.run(f"DROP TABLE IF EXISTS {table}")
    to = target(url, Append())
    write(to, batch(0, [("a", 1)]))
    successor = impatient(url, lock_timeout_s, statement_timeout_s)
    with to.place.engine.connect() as frozen:
        frozen.execute(sa.text("UPDATE waxwing_progress SET bad_run = bad_run"))
        write(successor, batch(1, [("b", 2)]))
        with pytest.raises(sa.exc.DBAPIError):
            frozen.execute(sa.text("SELECT 1"))
        frozen.invalidate()
    assert rows(url) == [("a", 1), ("b", 2)]
