"""Rights that a flow's user lacks are found at the start, by name, on every database that knows rights."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Append, SqlTarget, SqlWindows, Upsert
from tests.conformance.place import Place, make_place
from tests.conformance.tables.test_neighbours import Case as Writing
from tests.servers import PostgreSQL
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SqlSettings, SqlWindowSettings
from waxwing.tables.modes import Merge, Mode

_numbers = itertools.count(1)
OWN = tuple(schema.metadata.tables)
ALL = "SELECT, INSERT, UPDATE, DELETE"


class Case:
    """A table, and a user who is granted what each case says."""

    def __init__(self, place: Place) -> None:
        self.place, self.name = place, place.database.dialect.name
        self.user = f"limited{next(_numbers)}"
        self.table = place.table(
            sa.Column("id", sa.String(10), primary_key=True), sa.Column("n", sa.Integer), sa.Column("v", sa.Integer)
        )
        self.target(place, Upsert(keys=("id",))).prepare()  # all tables are there
        password = "Limited-1"
        if self.name == "postgresql":
            place.run(f"CREATE ROLE {self.user} LOGIN PASSWORD '{password}'")
        elif self.name == "mysql":
            self.user_sql = f"{self.user}@'127.0.0.1'"
            place.run(f"CREATE USER {self.user_sql} IDENTIFIED BY '{password}'")
        self.user_sql = f"{self.user}@'127.0.0.1'" if self.name == "mysql" else self.user
        self.limited = make_place(place.url.set(username=self.user, password=password))

    def target(self, place: Place, mode: Mode) -> SqlTarget:
        to = SqlTarget(SqlSettings(database_url=SecretStr(place.url.render_as_string(hide_password=False))), self.table, mode)
        to.place.database, to.place.engine = place.database, place.engine
        to.bind("rights", "rights.out")
        return to

    def grant(self, *grants: str) -> None:
        """`INSERT ON t`, or `UPDATE (n) ON t`; on Waxwing's own tables all, unless they are named."""
        named = {grant.rpartition(" ")[2] for grant in grants}
        for grant in [*grants, *(f"{ALL} ON {own}" for own in OWN if own not in named)]:
            self.place.run(f"GRANT {grant} TO {self.user_sql}")

    def revoke(self) -> None:
        for table in (self.table.name, *OWN):
            if self.name == "mysql":
                with contextlib.suppress(sa.exc.DBAPIError):
                    self.place.run(f"REVOKE ALL ON {table} FROM {self.user_sql}")
            else:
                self.place.run(f"REVOKE ALL ON {table} FROM {self.user_sql}")

    def start(self, mode: Mode, *grants: str) -> str:
        """What a start with these rights says; empty if it goes on."""
        self.revoke()
        self.grant(*grants)
        try:
            self.target(self.limited, mode).prepare()
        except ConfigError as error:
            return f"{error.exit_code}: {error}"
        return ""


@pytest.fixture(params=["postgresql", "mariadb"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.getfixturevalue(f"{request.param}_place"))


def test_each_right_that_is_missing_is_named_at_the_start(case: Case) -> None:
    t = case.table.name
    upsert, deletes, merge = (
        Upsert(keys=("id",)),
        Upsert(keys=("id",), delete_on_tombstone=True),
        Merge(keys=("id",), add=("n", "v")),
    )
    newer = Upsert(keys=("id",), newer_by="v")
    # What each mode needs is enough. (MariaDB shows a table only to whom some right is granted on it as a whole.)
    whole = "" if case.name == "postgresql" else ", REFERENCES"
    keys = "" if case.name == "postgresql" else "id, "  # which an upsert of MySQL sets, too
    assert case.start(Append(), f"INSERT ON {t}") == ""
    assert case.start(Append(), f"INSERT (id, n, v){whole} ON {t}") == ""
    assert case.start(upsert, f"SELECT (id), INSERT (id, n, v), UPDATE ({keys}n, v){whole} ON {t}") == ""
    assert case.start(deletes, f"{ALL} ON {t}") == ""
    assert case.start(merge, f"SELECT, INSERT, UPDATE ON {t}") == ""
    # What is missing is named.
    missing: list[tuple[Mode, str, str]] = [
        (Append(), f"SELECT, UPDATE, DELETE ON {t}", f"the right INSERT on {t} is missing"),
        (upsert, f"SELECT, INSERT, DELETE ON {t}", f"the right UPDATE on {t} is missing"),
        (upsert, f"INSERT, UPDATE, DELETE ON {t}", f"the right SELECT on {t} is missing"),
        (deletes, f"SELECT, INSERT, UPDATE ON {t}", f"the right DELETE on {t} is missing"),
        (Append(), f"INSERT (id, n){whole} ON {t}", f"the right INSERT on {t} (columns v) is missing"),
        (upsert, f"SELECT, INSERT, UPDATE ({keys}n) ON {t}", f"the right UPDATE on {t} (columns v) is missing"),
        (newer, f"SELECT (id), INSERT, UPDATE ON {t}", f"the right SELECT on {t} (columns "),
        (merge, f"SELECT (id, n), INSERT, UPDATE ON {t}", f"the right SELECT on {t} (columns v) is missing"),
    ]
    for mode, grants, says in missing:
        assert says in case.start(mode, grants), (mode, grants)
    for own, right in (
        ("waxwing_progress", "UPDATE"),
        ("waxwing_owners", "DELETE"),
        ("waxwing_dead_letters", "INSERT"),
        ("waxwing_schema", "SELECT"),
        ("waxwing_tables", "INSERT"),
    ):
        rest = ", ".join(each for each in ALL.split(", ") if each != right)
        assert f"the right {right} on {own} is missing" in case.start(Append(), f"INSERT ON {t}", f"{rest} ON {own}"), (
            own,
            right,
        )
    assert "the right INSERT on waxwing_dead_letters (columns reason) is missing" in case.start(
        Append(),
        f"INSERT ON {t}",
        "INSERT (flow, step, source, source_id, source_partition, source_offset, row_index, stage, message_key, message_value, "
        "message_headers, message_timestamp_ms, created_at, replayed_at) ON waxwing_dead_letters",
    )
    both = case.start(upsert, f"SELECT ON {t}")
    assert both.startswith("78: ")
    assert f"the right INSERT on {t} is missing; the right UPDATE on {t} is missing" in both
    assert "Grant it" in both


def test_windows_ask_for_the_rights_on_what_they_keep(case: Case) -> None:
    windows = Windows(by=("id",), time="t", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=1)
    table = sa.Table(
        f"w_{case.table.name}",
        sa.MetaData(),
        sa.Column("id", sa.String(10), primary_key=True),
        sa.Column("window_start", sa.DateTime, primary_key=True),
        sa.Column("n", sa.BigInteger),
    )

    def start(place: Place) -> None:
        url = SecretStr(place.url.render_as_string(hide_password=False))
        to = SqlWindows(SqlWindowSettings(database_url=url), table, windows)
        to.place.database, to.place.engine = place.database, place.engine
        to.bind("rights", "rights.windows")
        to.prepare()

    start(case.place)
    case.grant(f"{ALL} ON {table.name}", "SELECT, INSERT ON waxwing_state", "SELECT, INSERT ON waxwing_windows")
    with pytest.raises(ConfigError, match="the right DELETE on waxwing_state is missing") as refused:
        start(case.limited)
    assert "the right UPDATE on waxwing_windows is missing" in str(refused.value)
    case.place.run(f"GRANT {ALL} ON waxwing_state TO {case.user_sql}", f"GRANT {ALL} ON waxwing_windows TO {case.user_sql}")
    start(case.limited)


def test_rights_beside_the_table_are_named(postgresql_place: Place) -> None:
    case = Case(postgresql_place)
    case.table = case.place.table(sa.Column("id", sa.String(10), primary_key=True), sa.Column("n", sa.Integer))
    name = case.table.name
    case.place.run(f"CREATE TABLE {name} (number serial, id varchar(10) PRIMARY KEY, n int)")
    assert f"the right USAGE on the sequence {name}_number_seq is missing" in case.start(Append(), f"INSERT ON {name}")
    case.place.run(f"GRANT USAGE ON SEQUENCE {name}_number_seq TO {case.user}")
    assert case.start(Append(), f"INSERT ON {name}") == ""
    case.place.run("CREATE SCHEMA closed", "CREATE TABLE closed.things (id varchar(10) PRIMARY KEY, n int)")
    case.table = case.place.table(*(column._copy() for column in case.table.c), name="things", schema="closed")
    case.grant("INSERT ON closed.things")
    with pytest.raises(ConfigError, match="permission denied for schema closed"):
        case.target(case.limited, Append()).prepare()


def test_a_published_table_without_replica_identity_is_refused_where_rows_are_updated(postgresql_place: Place) -> None:
    place = postgresql_place
    table = place.table(sa.Column("id", sa.String(10), primary_key=True), sa.Column("n", sa.Integer))
    name = table.name
    place.run(f"CREATE TABLE {name} (id varchar(10) UNIQUE NOT NULL, n int)", f"CREATE PUBLICATION p_{name} FOR TABLE {name}")

    def start(mode: Mode) -> None:
        to = SqlTarget(SqlSettings(database_url=SecretStr(place.url.render_as_string(hide_password=False))), table, mode)
        to.bind("published", f"published.{next(_numbers)}")
        to.prepare()

    start(Append())
    refused = pytest.raises(
        ConfigError, match=rf"{name} is published for replication \(p_{name}\).*each UPDATE .*REPLICA IDENTITY FULL"
    )
    with refused:
        start(Upsert(keys=("id",)))
    place.run(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
    start(Upsert(keys=("id",)))
    place.run(f"ALTER TABLE {name} REPLICA IDENTITY NOTHING", f"ALTER PUBLICATION p_{name} SET (publish = 'insert')")
    start(Upsert(keys=("id",)))
    place.run(f"DROP PUBLICATION p_{name}")


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """As a user whose rights on files count; root's do not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_or_folder_that_can_t_be_written_is_found_at_the_start() -> None:
    # pytest's own folders are closed to others; this one is open down to it.
    with tempfile.TemporaryDirectory(prefix="waxwing-rights-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "x.sqlite"
        table = sa.Table("things", sa.MetaData(), sa.Column("id", sa.String(10), primary_key=True))

        def start() -> str:
            to = SqlTarget(SqlSettings(database_url=SecretStr(f"sqlite:///{path}")), table, Append())
            to.bind("rights", "rights.out")
            try:
                with somebody():
                    to.prepare()
            except ConfigError as error:
                return f"{error.exit_code}: {error}"
            finally:
                to.place.engine.dispose()
            return ""

        with somebody():
            path.touch()
        assert start() == ""
        says = {}
        for what, of_folder, of_file in (("file", 0o777, 0o444), ("folder", 0o555, 0o666), ("both", 0o555, 0o444)):
            path.chmod(of_file)
            folder.chmod(of_folder)
            says[what] = start()
            folder.chmod(0o777)
        assert {what: text[:4] for what, text in says.items()} == dict.fromkeys(("file", "folder", "both"), "78: ")
        for text in says.values():
            assert "SQLITE_" in text
            assert "this process" in text
            assert "folder" in text


def test_a_table_that_numbers_its_rows_needs_temporary_tables(mariadb_place: Place) -> None:
    case = Case(mariadb_place)
    t = case.table.name
    case.table.append_column(sa.Column("number", sa.Integer, server_default=sa.text("0")))
    mariadb_place.run(f"ALTER TABLE {t} ADD number integer NOT NULL AUTO_INCREMENT UNIQUE")
    upsert, rights = Upsert(keys=("id",)), f"SELECT, INSERT, UPDATE ON {t}"
    told = case.start(upsert, rights)
    assert told.startswith("78: ")
    assert f"the right CREATE TEMPORARY TABLES on {t} is missing" in told
    assert case.start(Append(), rights) == ""
    mariadb_place.run(f"GRANT CREATE TEMPORARY TABLES ON {mariadb_place.url.database}.* TO {case.user_sql}")
    assert case.start(upsert, rights) == ""


def test_an_event_trigger_that_refuses_tables_is_named_and_blames_no_row(postgresql: PostgreSQL) -> None:
    place = make_place(sa.make_url(postgresql.new_database()))
    body = "BEGIN RAISE EXCEPTION ''no DDL here''; END"
    place.run(f"CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS '{body}'")
    # Neither Waxwing's own tables nor the flow's can be made: nothing that passes by itself.
    place.run("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    with pytest.raises(ConfigError, match=r"no DDL here.*make the tables as a user for whom it does"):
        Writing(place, table, Append())
    place.run("DROP EVENT TRIGGER refuse")
    modes: list[Mode] = [Append(), Upsert(keys=("id",), delete_on_tombstone=True), Merge(keys=("id",), add=("n",))]
    append, *keyed = [Writing(place, table, mode) for mode in modes]
    place.run("CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()")
    append.write(append.batch([(1, 1)]))
    Writing(place, table, Append())
    records: list[list[Any]] = [[b"1"], [(1, 2)]]
    for case, mode, some in zip(keyed, modes[1:], records, strict=True):  # while it runs
        with pytest.raises(ConfigError, match=r"No temporary table can be made, which rows go through: no DDL here \(P0001\)"):
            case.write(case.batch(some))
        assert case.letters() == []
        with pytest.raises(ConfigError, match="an event trigger of the database says no DDL here"):  # at the next start
            Writing(place, table, mode)
    assert append.rows() == [(1, 1)]
