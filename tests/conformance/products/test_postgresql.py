"""What only PostgreSQL has: schemas, partitions, identity columns, deferred constraints, tables that can't be used."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects.postgresql import JSONB

from sinks import SqlTarget
from tests.conformance.place import Place, make_place
from tests.servers import PostgreSQL
from waxwing.configuration import load
from waxwing.databases.ledger.store import SqlStore
from waxwing.databases.postgresql import copy
from waxwing.errors import ConfigError, RowError
from waxwing.ledger.store import Step
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Append, Upsert


@pytest.fixture
def place(postgresql_place: Place) -> Place:
    return postgresql_place


def simple(place: Place, **more: str) -> sa.Table:
    return place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.Text), **more)


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
def test_jsonb(place: Place, staged: bool) -> None:
    table = place.table(sa.Column("n", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", JSONB))
    planned = place.plan(table, Upsert(keys=("n",)))
    kept = [(1, {"a": [1, None, "x\\", 1.5]}), (2, []), (3, "5"), (4, True), (5, 5)]
    assert place.accepted(planned, [*kept, (6, ["\x00"])]) == kept
    place.write(planned, kept, staged=staged)
    assert place.read(table, "n") == kept


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
def test_a_table_in_another_schema(place: Place, staged: bool) -> None:
    place.run('CREATE SCHEMA IF NOT EXISTS "Other Schema"')
    table = simple(place, schema="Other Schema")
    place.write(place.plan(table, Upsert(keys=("id",))), [(1, "a")], [(1, "b")], staged=staged)
    assert place.read(table) == [(1, "b")]


def test_a_missing_schema_is_a_matter_of_configuration(place: Place) -> None:
    assert place.kind_of_failure(lambda: place.plan(simple(place, schema="nowhere"), Append())) == "config"


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
def test_a_partitioned_table(place: Place, staged: bool) -> None:
    table = simple(place)
    place.run(
        f"CREATE TABLE {table.name} (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        f"CREATE TABLE {table.name}_low PARTITION OF {table.name} FOR VALUES FROM (0) TO (10)",
        f"CREATE TABLE {table.name}_high PARTITION OF {table.name} FOR VALUES FROM (10) TO (20)",
    )
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(1, "a"), (11, "a")], [(11, "b"), (12, "b")], staged=staged)
    assert place.read(table) == [(1, "a"), (11, "b"), (12, "b")]
    assert place.kind_of_failure(lambda: place.write(planned, [(99, "no partition")], staged=staged)) == "row"


@pytest.mark.parametrize("always", [False, True], ids=["by default", "always"])
def test_an_identity_column_may_be_the_key(place: Place, always: bool) -> None:
    table = place.table(sa.Column("id", sa.BigInteger, sa.Identity(always=always), primary_key=True), sa.Column("v", sa.Text))
    place.write(place.plan(table, Upsert(keys=("id",))), [(5, "a")], [(5, "b"), (6, "b")])
    assert place.read(table) == [(5, "b"), (6, "b")]
    place.write(place.plan(table, Append()), [("drawn",)])
    assert place.read(table)[0] == (1, "drawn")


@pytest.mark.parametrize(
    ("ddl", "reason"),
    [
        ("CREATE UNLOGGED TABLE {} (id integer PRIMARY KEY, v text)", "is UNLOGGED"),
        ("CREATE MATERIALIZED VIEW {} AS SELECT 1 AS id, 'x' AS v", "is a materialized view"),
        (
            """CREATE TABLE {0} (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
            CREATE UNLOGGED TABLE {0}_1 PARTITION OF {0} FOR VALUES FROM (0) TO (9)""",
            "_1 is UNLOGGED",
        ),
        (
            "CREATE TABLE {0} (id integer PRIMARY KEY, v text); CREATE RULE r AS ON INSERT TO {0} DO INSTEAD NOTHING",
            "has rules",
        ),
    ],
    ids=["unlogged", "materialized view", "unlogged partition", "rules"],
)
def test_a_table_that_can_not_be_used_exactly_once_is_refused(place: Place, ddl: str, reason: str) -> None:
    table = simple(place)
    place.run(ddl.format(table.name))
    with pytest.raises(ConfigError, match=reason):
        place.plan(table, Append())


def test_row_level_security_is_refused_where_it_applies(place: Place) -> None:
    table = simple(place)
    place.run(
        f"CREATE TABLE {table.name} (id integer PRIMARY KEY, v text)",
        f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY",
        "CREATE ROLE limited LOGIN PASSWORD 'limited'",
        f"GRANT ALL ON {table.name} TO limited",
    )
    place.plan(table, Append())  # a superuser passes over it
    other = make_place(place.url.set(username="limited", password="limited"))
    with pytest.raises(ConfigError, match="row-level security"):
        other.plan(table, Append())
    missing = simple(place)
    assert other.kind_of_failure(lambda: other.plan(missing, Append())) == "permission"  # may not make tables


@pytest.mark.parametrize(
    ("column", "needed"),
    [
        ("v text, d numeric(12, 1)", "NUMERIC\\(10, 2\\)"),
        ("v text, d double precision", "NUMERIC\\(10, 2\\)"),
        ("v text, f real", "FLOAT"),
        ("v text, t timestamptz", "TIMESTAMP WITHOUT TIME ZONE"),
        ("v text, u text", "UUID"),
    ],
)
def test_a_column_that_would_cut_or_round_is_refused(place: Place, column: str, needed: str) -> None:
    every: list[sa.Column[Any]] = [
        sa.Column("v", sa.String(10)),
        sa.Column("d", sa.Numeric(10, 2)),
        sa.Column("f", sa.Float),
        sa.Column("t", sa.DateTime),
        sa.Column("u", sa.Uuid),
    ]
    names = [part.split()[0] for part in column.split(", ") if not part[0].isdigit()]
    table = place.table(*(each for each in every if each.name in names))
    place.run(f"CREATE TABLE {table.name} ({column})")
    with pytest.raises(ConfigError, match=f"where {needed} is needed"):
        place.plan(table, Append())


def test_deferred_constraints_speak_before_the_commit(place: Place) -> None:
    parent = simple(place)
    place.plan(parent, Append())
    table = sa.Table(
        f"{parent.name}_child",
        parent.metadata,
        sa.Column("id", sa.ForeignKey(parent.c.id, deferrable=True, initially="DEFERRED"), primary_key=True),
    )
    planned = place.plan(table, Append())
    with place.engine.connect() as connection, connection.begin() as transaction:
        place.bulk(planned).write(connection, [(1,)])
        assert place.kind_of_failure(lambda: place.database.check_deferred(connection)) == "row"
        transaction.rollback()


def test_a_conflict_of_keys_falls_back_to_staging_and_is_tried_again_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "FEW_VALUES_MAX", 0)  # else one INSERT takes so few
    table = simple(place)
    planned = place.plan(table, Upsert(keys=("id",)))
    bulk = place.bulk(planned)
    seen = []
    with place.engine.connect() as connection:
        for number in range(60):
            with connection.begin():
                bulk.write(connection, [(0 if number < 2 else number, str(number))])
            seen.append(bulk._staging_left)  # type: ignore[attr-defined]  # CopyBulk's own
    assert seen[0] == 0  # new keys go straight
    assert seen[1] == 15  # the second met an existing key
    assert seen[16:18] == [0, 0]  # after 16 writes the straight way is tried again, and stays
    assert len(place.read(table)) == 59


def test_two_writers_of_the_same_keys_wait_instead_of_deadlocking(place: Place) -> None:
    table = simple(place)
    planned = place.plan(table, Upsert(keys=("id",)))
    rows = [(number, "x" * 100) for number in range(500)]
    place.write(planned, rows)
    errors: list[BaseException] = []

    def write(rows: list[tuple[int, str]]) -> None:
        try:
            place.write(planned, *[rows] * 20, staged=True)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(each,)) for each in (rows, rows[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_limits_of_time_are_the_servers_own(place: Place) -> None:
    with place.engine.connect() as connection:
        values = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("statement_timeout", "lock_timeout")}
        values["idle"] = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "waxwing"
    assert values == {"statement_timeout": "1min", "lock_timeout": "5s", "idle": "10s"}


def test_a_lock_time_out_is_transient_and_the_blocker_is_named(place: Place) -> None:
    table = simple(place)
    planned = place.plan(table, Upsert(keys=("id",)))
    impatient = make_place(place.url, lock_timeout_s=0.1)
    with place.engine.connect() as holder, holder.begin():
        holder.exec_driver_sql(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE")
        pid = holder.scalar(sa.text("SELECT pg_backend_pid()"))
        assert impatient.kind_of_failure(lambda: impatient.write(planned, [(1, "a")])) == "transient"
        with impatient.engine.connect() as other:
            blockers = impatient.database.blockers(other)
        assert f"pid {pid} (waxwing, idle in transaction, in a transaction since 2" in blockers
    with impatient.engine.connect() as other:
        assert impatient.database.blockers(other) == ""


def test_a_session_that_is_ended_is_a_transient_failure(place: Place) -> None:
    with place.engine.connect() as connection:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        driver = connection.connection.driver_connection
        assert driver is not None
        place.run(f"SELECT pg_terminate_backend({pid}, 5000)")
        assert place.kind_of_failure(lambda: connection.exec_driver_sql("SELECT 1")) == "transient"
        assert place.kind_of_failure(lambda: driver.execute("SELECT 1")) == "transient"
        # What SQLAlchemy says of a connection that it has given up.
        assert place.kind_of_failure(lambda: connection.exec_driver_sql("SELECT 1")) == "transient"


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"password": "wrong"}, "config", "28P01"),
        ({"password": None}, "config", "28P01"),
        ({"username": "nobody-known"}, "config", "28P01"),
        ({"database": "nothing"}, "config", "3D000"),
        ({"port": 1}, "transient", "connection"),
        ({"host": "nowhere.invalid"}, "transient", "connection"),
        ({"query": {"sslmode": "require"}}, "config", "28000"),
    ],
    ids=str,
)
def test_what_keeps_a_connection_from_being_made(place: Place, change: dict[str, object], kind: str, code: str) -> None:
    other = make_place(sa.URL.create(**{**place.url._asdict(), **change}))
    with pytest.raises(sa.exc.SQLAlchemyError) as refused:
        other.engine.connect()
    failure = place.database.classify(refused.value)
    assert (failure.kind, failure.code) == (kind, code), failure
    assert "wrong" not in failure.reason
    assert "postgres-secret" not in str(failure)


def test_a_database_of_another_encoding_and_of_old_string_rules_is_written(postgresql: PostgreSQL) -> None:
    url = sa.make_url(postgresql.new_database())
    with make_place(url).engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        connection.rollback()
        driver.autocommit = True
        driver.execute("CREATE DATABASE ascii_of_old TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        driver.execute("ALTER DATABASE ascii_of_old SET standard_conforming_strings = off")
    place = make_place(url.set(database="ascii_of_old"))
    table = place.table(sa.Column("id", sa.String(20), primary_key=True), sa.Column("v", sa.Text))
    rows = [("a", 'back\\slash "quoted"'), ("b", "ключ"), ("c", None)]
    place.write(place.plan(table, Upsert(keys=("id",))), rows, rows)
    assert place.read(table) == rows


def test_a_second_database_s_refused_password_names_its_own_setting_and_is_said_once(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settings(SqlSettings):
        alarms_database_url: SecretStr = SecretStr("")

    url = postgresql.new_database()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("ALARMS_DATABASE_URL", url.replace(postgresql.sql_password, "wrong-secret"))
    given = load(Settings)
    alarms = sa.Table("alarms", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    target = SqlTarget(given.model_copy(update={"database_url": given.alarms_database_url}), alarms, Append())
    target.bind("shop", "alarms")
    with pytest.raises(ConfigError, match="alarms in postgresql at") as refused:
        target.prepare()
    assert str(refused.value).count("password authentication failed") == 1
    assert "Check user and password in ALARMS_DATABASE_URL" in refused.value.hint
    assert "wrong-secret" not in str(refused.value)


def test_what_waits_for_commit_and_is_refused_there_leaves_no_doubt_whether_it_was_committed(place: Place) -> None:
    table = simple(place)
    place.plan(table, Append())
    child = f"{table.name}_child"
    with place.engine.begin() as connection:
        refers = f"REFERENCES {table.name} (id) DEFERRABLE INITIALLY DEFERRED"
        connection.exec_driver_sql(f"CREATE TABLE {child} (parent int {refers})")
    store = SqlStore(place.engine, place.database, Step("flow", "step"), "child", "DATABASE_URL")
    told: list[bool] = []

    def write() -> None:
        with store.transaction() as transaction:
            transaction.guard()
            transaction.connection.exec_driver_sql(f"INSERT INTO {child} VALUES (1)")
            try:
                transaction.finish()
            finally:
                told.append(transaction.committing)

    with pytest.raises(RowError, match="foreign key"):
        write()
    assert told == [False]
    store.close()
    with place.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {child}")
