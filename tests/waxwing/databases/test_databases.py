"""Databases: which one a URL means, what its errors mean, what it refuses."""

from __future__ import annotations

import sqlite3
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from waxwing.databases import database_for
from waxwing.databases.ddl import ensure
from waxwing.databases.mysql.database import MySQL
from waxwing.databases.mysql.literals import Literals
from waxwing.databases.postgresql.csv import CopyCsv
from waxwing.databases.postgresql.database import PostgreSQL
from waxwing.databases.sqlite.database import SQLite
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append
from waxwing.tables.planning import plan


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_url_finds_postgresql(scheme: str) -> None:
    assert isinstance(database_for(sa.make_url(f"{scheme}://u:p@h/d")), PostgreSQL)


def test_a_url_finds_sqlite() -> None:
    assert isinstance(database_for(sa.make_url("sqlite:///x.db")), SQLite)


def test_an_unknown_scheme_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"oracle://.* There are: .*postgresql.*sqlite"):
        database_for(sa.make_url("oracle://u:secret@h/d"))


def test_another_driver_than_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the driver psycopg2; Waxwing writes postgresql through psycopg"):
        database_for(sa.make_url("postgresql+psycopg2://u:secret@h/d"))


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "psycopg" or name.startswith("waxwing.databases.postgresql.database"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"psycopg is missing.*pip install 'waxwing-streams\[postgresql\]'"):
        database_for(sa.make_url("postgresql://h/d"))


class _Without:
    """An environment in which psycopg is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql"])
def test_a_url_finds_mysql(scheme: str) -> None:
    assert isinstance(database_for(sa.make_url(f"{scheme}://u:p@h/d")), MySQL)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("nonsense", r"Leave it out\. There are: .*bind_address, .*ssl_ca, "),
        ("ssl_cert_file", r"Did you mean ssl_cert\?"),
        ("ssl", r"Did you mean ssl_ca\?"),  # a dict in PyMySQL, which no URL can give
    ],
)
def test_an_option_that_pymysql_does_not_know_is_named(option: str, hint: str) -> None:
    url = sa.make_url(f"mysql://u:secret@h/d?charset=utf8mb4&ssl_ca=ca.pem&{option}=hidden")
    with pytest.raises(ConfigError, match=rf"the option {option}, which is not taken from a URL\. {hint}") as refused:
        MySQL().engine(url, connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1)
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("option", ["charset", "ssl_ca", "ssl_check_hostname", "unix_socket", "local_infile"])
def test_an_option_that_pymysql_knows_is_taken(option: str) -> None:
    MySQL().engine(sa.make_url(f"mysql://u@h/d?{option}=1"), connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&cache=shared&uri=true"])
def test_sqlite_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="each connection would have one of its own"):
        SQLite().engine(sa.make_url(url), connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1)


def test_an_error_of_postgresql_is_read_through_sqlalchemys_wrapper() -> None:
    error = psycopg.errors.lookup("23505")("message")
    assert PostgreSQL().classify(error).kind == "row"
    assert PostgreSQL().classify(sa.exc.DBAPIError("SELECT", None, error))[:2] == ("row", "23505")
    assert PostgreSQL().classify(psycopg.Error("x")).kind == "unknown"


def test_sqlite_s_log_is_asked_for_again_while_others_make_the_file(tmp_path: Path) -> None:
    class Busy(sqlite3.Connection):
        """As SQLite answers, now and then, whoever opens a new file at the same moment: at once, whatever its time-out."""

        refused = 2

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql and Busy.refused:
                Busy.refused -= 1
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return super().execute(sql, *parameters)

    url = sa.make_url(f"sqlite:///{tmp_path}/new.sqlite")
    engine = SQLite().engine(url, connect_timeout_s=5.0, lock_timeout_s=5.0, statement_timeout_s=5.0)
    with patch.object(sqlite3.dbapi2, "connect", partial(sqlite3.connect, factory=Busy)), engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert Busy.refused == 0


def sqlite_kind(path: Path, *statements: str) -> str:
    with pytest.raises(sqlite3.Error) as caught:  # noqa: PT012 - which of the statements raises depends on the error wanted
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            for statement in statements:
                connection.execute(statement)
        finally:
            connection.close()
    return SQLite().classify(caught.value).kind


def test_errors_of_sqlite_have_their_meaning(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert sqlite_kind(path, "SELECT * FROM somewhere") == "table"
    assert sqlite_kind(path, "SELECT FROM FROM") == "statement"
    assert sqlite_kind(path, "CREATE TABLE t (a INTEGER PRIMARY KEY, b NOT NULL)", "INSERT INTO t VALUES (1, NULL)") == "row"
    assert sqlite_kind(path, "INSERT INTO t VALUES ('x', 1)") == "row"
    assert sqlite_kind(path, "PRAGMA query_only = ON", "INSERT INTO t VALUES (1, 1)") == "permission"
    assert sqlite_kind(path, "PRAGMA max_page_count = 1", "CREATE TABLE u (a)", "CREATE TABLE v (a)") == "later"
    assert sqlite_kind(tmp_path / "nowhere" / "x.db", "SELECT 1") == "permission"
    assert SQLite().classify(OverflowError("Python int too large")).kind == "row"
    (tmp_path / "text").write_text("no database " * 100)
    assert sqlite_kind(tmp_path / "text", "SELECT * FROM t") == "config"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert sqlite_kind(path, "BEGIN IMMEDIATE") == "transient"
    holder.close()


def test_sqlite_takes_the_write_lock_at_the_begin_and_waits_for_it(tmp_path: Path) -> None:
    engine = SQLite().engine(
        sa.make_url(f"sqlite:///{tmp_path}/x.db"), connect_timeout_s=1, lock_timeout_s=7, statement_timeout_s=1
    )
    with engine.begin() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
        assert values == ["wal", 1, 1]
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 7_000
        other = sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):  # the write lock is taken at the begin
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_sqlite_refuses_a_table_whose_errors_show_at_commit_only(tmp_path: Path) -> None:
    url = sa.make_url(f"sqlite:///{tmp_path}/x.db")
    engine = SQLite().engine(url, connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1)
    table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE p (a INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(ConfigError, match="deferred foreign key"):
            ensure(connection, plan(table, Append(), dialect=SQLite.dialect), SQLite())


def test_what_is_said_of_a_table_names_its_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flow may have two, with tables of one name."""
    table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer))
    wanted = plan(table, Append(), dialect=SQLite.dialect)
    for name in ("one", "two"):
        url = sa.make_url(f"sqlite:///{tmp_path}/{name}.db")
        with SQLite().engine(url, connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1).begin() as connection:
            ensure(connection, wanted, SQLite())
            assert f"Table t in {tmp_path}/{name}.db was not there and is made." in capsys.readouterr().err
            connection.exec_driver_sql("ALTER TABLE t ADD b INTEGER NOT NULL")
            with pytest.raises(
                ConfigError, match=f"The existing table t in {tmp_path}/{name}.db does not fit: column b is NOT NULL"
            ):
                ensure(connection, wanted, SQLite())


def test_csv_for_copy_escapes_what_copy_would_read_otherwise() -> None:
    columns: list[sa.Column[Any]] = [
        sa.Column("a", sa.Text),
        sa.Column("b", sa.Integer),
        sa.Column("c", sa.LargeBinary),
        sa.Column("d", sa.JSON),
    ]
    csv = CopyCsv(columns)
    assert b"".join(csv.encode([("null", 1, None, None), (None, None, b"\x00\\", {"a": "\n"})])) == (
        rb'"null",1,null,null' b"\n" rb'null,null,"\\x005c","{\"a\":\"\\n\"}"' b"\n"
    )
    # Texts that hold what parts rows, control characters, and integers that JSON's encoder does not take.
    for text in ("],[", "a\tb\\\r\n", '"], ["'):
        assert b"".join(csv.encode([(text, 2**70, None, None)])).decode() == (
            '"' + text.replace("\\", "\\\\").replace('"', '\\"') + f'","{2**70}",null,null\n'
        )
    assert csv.encode([('"\\', 1, None, None)]) == [b'"\\"\\\\",1,null,null\n']


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (1213, "Deadlock found when trying to get lock", "transient"),
        (1205, "Lock wait timeout exceeded", "transient"),
        (2013, "Lost connection to MySQL server during query", "transient"),
        (1305, "SAVEPOINT sa_savepoint_1 does not exist", "transient"),
        (1305, "FUNCTION shop.f does not exist", "table"),
        (1062, "Duplicate entry 'a' for key 'PRIMARY'", "row"),
        (1406, "Data too long for column 'v'", "row"),
        (1644, "by a trigger", "row"),
        (1045, "Access denied for user", "config"),
        (1146, "Table 'shop.orders' doesn't exist", "table"),
        (1021, "Disk full", "later"),
        (1030, "Got error 28 from storage engine", "later"),
        (65_000, "of the future", "unknown"),
    ],
)
def test_a_number_of_mysql_has_its_meaning(code: int, text: str, kind: str) -> None:
    failure = MySQL().classify(sa.exc.DBAPIError("", None, pymysql.err.OperationalError(code, text)))
    assert (failure.kind, failure.code, failure.reason) == (kind, str(code), text)


def test_only_a_transaction_that_took_too_long_may_do_in_halves() -> None:
    failures = {code: MySQL().classify(pymysql.err.OperationalError(code, "")) for code in (1969, 3024, 1317, 1205, 1213)}
    assert [code for code, failure in failures.items() if failure.too_large] == [1969, 3024, 1317]


def test_literals_of_mysql() -> None:
    columns: list[sa.Column[Any]] = [
        sa.Column("i", sa.Integer),
        sa.Column("t", sa.Text),
        sa.Column("d", sa.Numeric(10, 2)),
        sa.Column("f", sa.Double),
        sa.Column("b", sa.LargeBinary),
        sa.Column("j", sa.JSON),
        sa.Column("y", sa.Boolean),
    ]
    literals = Literals(columns)
    rows = [(1, "it's \\ 100% \x00", Decimal("1E+3"), -0.0, b"\xff'", {"a": "it's"}, True), (None,) * 7]
    assert literals.encode(rows[1:]) == b"(null,null,null,null,null,null,null)"
    # With U+0000, for which JSON has an escape that MySQL lacks, and without.
    first = rb"""(1,"it's \\ 100% \0","1E+3",-0.0,x'ff27',"{\"a\":\"it's\"}",True)"""
    assert literals.encode(rows) == first + b",\n(null,null,null,null,null,null,null)"
    plain = [(1, 'it"s\n', Decimal("0.10"), 2.5, None, [1], True)]
    assert literals.encode(plain) == rb"""(1,"it\"s\n","0.10",2.5,null,"[1]",true)"""
    between = [(2**70, "],[", None, None, None, None, False)]
    assert literals.encode(between) == b'(1180591620717411303424,"],[",null,null,null,null,False)'
