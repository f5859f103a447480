"""SQL Server without a server: what its numbers mean, the T-SQL that is made, which driver is used, the URL out of parts."""

# ruff: noqa: E501, ISC004 - messages stand as they came

from __future__ import annotations

import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyodbc
import pytest
import sqlalchemy as sa
import sqlglot

from waxwing.cli.drivers import show
from waxwing.configuration import load
from waxwing.databases import database_for
from waxwing.databases.sqlserver import driver as sqlserver_driver
from waxwing.databases.sqlserver.bulk import KeyRace
from waxwing.databases.sqlserver.columns import StoredColumn
from waxwing.databases.sqlserver.database import SQLServer
from waxwing.databases.sqlserver.dialect import BrokenTransaction
from waxwing.databases.sqlserver.driver import Driver
from waxwing.databases.sqlserver.errors import numbers
from waxwing.databases.sqlserver.numbers import NUMBERS
from waxwing.databases.sqlserver.sql import Statements
from waxwing.errors import ConfigError
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Append, Merge, Mode, Upsert
from waxwing.tables.plan import Nature, Plan

RECORDED = Path(__file__).parent / "sqlserver.sql"
HEAD = "[Microsoft][ODBC Driver 18 for SQL Server]"


# -- errors -----------------------------------------------------------------------------------------

# As ODBC Driver 18 and pyodbc 5 hand them out.
MESSAGES: list[tuple[str, str, str, str]] = [
    ("40001", f"[40001] {HEAD}[SQL Server]Transaction (Process ID 52) was deadlocked on lock resources with another process and has "
     "been chosen as the deadlock victim. Rerun the transaction. (1205) (SQLExecDirectW)", "transient", "1205"),
    ("42000", f"[42000] {HEAD}[SQL Server]Lock request time out period exceeded. (1222) (SQLExecDirectW)", "transient", "1222"),
    ("23000", f"[23000] {HEAD}[SQL Server]Violation of PRIMARY KEY constraint 'PK_t'. Cannot insert duplicate key in object 'dbo.t'. "
     f"The duplicate key value is (a (9)). (2627) (SQLExecDirectW); [23000] {HEAD}[SQL Server]The statement has been terminated. (3621)",
     "row", "2627"),
    ("22001", f"[22001] {HEAD}[SQL Server]String or binary data would be truncated in table 's.dbo.t', column 'v'. Truncated value: 'x'. "
     f"(2628) (SQLExecDirectW); [22001] {HEAD}[SQL Server]The statement has been terminated. (3621)", "row", "2628"),
    ("23000", f"[23000] {HEAD}[SQL Server]Cannot insert the value NULL into column 'v', table 's.dbo.t'; column does not allow nulls. "
     "INSERT fails. (515) (SQLExecDirectW)", "row", "515"),
    ("42000", f"[42000] {HEAD}[SQL Server]The INSERT permission was denied on the object 't', database 's', schema 'dbo'. (229) "
     "(SQLExecDirectW)", "permission", "229"),
    ("42S02", f"[42S02] {HEAD}[SQL Server]Invalid object name 't'. (208) (SQLExecDirectW)", "table", "208"),
    ("28000", f"[28000] {HEAD}[SQL Server]Login failed for user 'sa'. (18456) (SQLDriverConnect)", "config", "18456"),
    ("42000", f"[42000] {HEAD}[SQL Server]The transaction log for database 's' is full due to 'LOG_BACKUP'. (9002) (SQLExecDirectW)",
     "later", "9002"),
    ("42000", f"[42000] {HEAD}[SQL Server]no bad ones (50001) (SQLExecDirectW)", "row", "50001"),
    ("42000", f"[42000] {HEAD}[SQL Server]something new (33557097) (SQLExecDirectW)", "unknown", "33557097"),
    ("42000", f"[42000] {HEAD}[SQL Server]nobody knows (12345) (SQLExecDirectW)", "unknown", "12345"),
    ("08S01", f"[08S01] {HEAD}TCP Provider: Error code 0x68 (104) (SQLExecDirectW)", "transient", "08S01"),
    ("08001", f"[08001] {HEAD}TCP Provider: Error code 0x2749 (10057) (SQLDriverConnect)", "transient", "08001"),
    ("08001", f"[08001] {HEAD}SSL Provider: [error:0A000086:SSL routines::certificate verify failed:self-signed certificate] (-1) "
     "(SQLDriverConnect)", "config", "08001"),
    ("HYT00", f"[HYT00] {HEAD}Query timeout expired (0) (SQLExecDirectW)", "transient", "HYT00"),
    ("IM002", "[IM002] [unixODBC][Driver Manager]Data source name not found and no default driver specified (0) (SQLDriverConnect)",
     "config", "IM002"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "message", "kind", "code"), MESSAGES, ids=[f"{each[3]}" for each in MESSAGES])
def test_a_recorded_error_has_its_meaning(state: str, message: str, kind: str, code: str) -> None:
    error = pyodbc.Error(state, message)
    assert SQLServer().classify(error)[:2] == (kind, code)
    assert SQLServer().classify(sa.exc.DBAPIError("SELECT", None, error))[:2] == (kind, code)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_of_the_table_is_found_in_a_message(number: int) -> None:
    failure = SQLServer().classify(pyodbc.Error("42000", f"[42000] {HEAD}[SQL Server]text ({number}) (SQLExecDirectW)"))
    assert (failure.kind, failure.code) == (NUMBERS[number].kind, str(number))


def test_too_large_a_transaction_is_made_smaller() -> None:
    assert SQLServer().classify(pyodbc.Error("42000", f"[42000] {HEAD}[SQL Server]x (40552) (SQLExecDirectW)")).too_large
    assert SQLServer().classify(pyodbc.Error("HYT00", f"[HYT00] {HEAD}Query timeout expired (0) (SQLExecDirectW)")).too_large


def test_numbers_are_read_from_all_records_of_a_message() -> None:
    assert [number for number, _ in numbers(MESSAGES[2][1])] == [2627, 3621]


def test_other_errors_have_their_meaning() -> None:
    kinds = [SQLServer().classify(error).kind for error in (KeyRace(), BrokenTransaction("x"), RuntimeError("x"))]
    assert kinds == ["transient", "transient", "statement"]
    assert SQLServer().classify(pyodbc.ProgrammingError("Attempt to use a closed connection.")).kind == "transient"


# -- the T-SQL ---------------------------------------------------------------------------------------


def stored(column: sa.Column[Any], kind: str, *rest: int, identity: bool = False) -> StoredColumn:
    length, precision, scale = (*rest, 0, 0, 0)[:3]
    collation = "Latin1_General_CI_AS" if kind in {"varchar", "nvarchar"} else ""
    return StoredColumn(column, kind, length, precision, scale, collation, 1252, identity=identity)


def every_kind() -> dict[str, tuple[Mode, list[StoredColumn], bool]]:
    """Names of statements, with what they are made of."""
    updated = sa.Column("updated_at", sa.DateTime, onupdate=sa.func.now())
    table = sa.Table(
        "orders", sa.MetaData(), sa.Column("id", sa.String(36), primary_key=True), sa.Column("price", sa.Numeric(10, 2)),
        sa.Column("mean", sa.Numeric(10, 4)), sa.Column("at", sa.DateTime(timezone=True)), sa.Column("blob", sa.LargeBinary), sa.Column("version", sa.Integer), updated,
        schema="my shop",
    )  # fmt: skip
    c = table.c
    wide = [stored(c.id, "nvarchar", 36), stored(c.price, "decimal", 9, 10, 2), stored(c.at, "datetimeoffset", 10, 34, 7)]
    wide += [stored(c.blob, "varbinary", -1), stored(c.version, "int", 4)]
    narrow = [stored(c.id, "varchar", 36), stored(c.version, "int", 4)]
    counted = [stored(c.id, "int", 4, identity=True), wide[1], wide[4]]
    numbered = sa.Table('odd "name]', sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    return {
        "append": (Append(), wide, False),
        "upsert": (Upsert(keys=("id",)), wide, False),
        "upsert among triggers": (Upsert(keys=("id",)), narrow, False),
        "upsert when newer, a code page": (Upsert(keys=("id",), newer_by="version"), narrow, False),
        "upsert through the raw table": (Upsert(keys=("id",)), wide, True),
        "merge": (Merge(keys=("id",), add=("price",), greatest=("at",), least=("version",)), wide, False),
        "merge with a mean": (Merge(keys=("id",), add=("price", "version"), mean={"mean": ("price", "version")}), counted, False),
        "identity, key columns alone": (Upsert(keys=("id",)), [stored(numbered.c.id, "int", 4, identity=True)], False),
    }


def made() -> str:
    out = ["-- Made by tests/waxwing/databases/test_sqlserver.py; delete this file and run the test to record it anew.\n"]
    for name, (mode, columns, raw) in every_kind().items():
        table = columns[0].column.table
        assert isinstance(table, sa.Table)
        touched = tuple(column for column in table.c if column.onupdate is not None)
        alone = Nature(keys_exact=False, rows_alone=name != "upsert among triggers", rows_numbered=False)
        plan = Plan(table=table, columns=tuple(each.column for each in columns), mode=mode, touched=touched, nature=alone)
        statements = Statements(plan, columns, through_raw=raw)
        if isinstance(mode, Append):
            out.append(f"-- ---- {name}\n{statements.append};\n")
        elif isinstance(mode, Merge):
            out.append(f"-- ---- {name}\n{statements.merge};\n")
            out.append(f"-- ---- {name}: keys that are known to differ\n{statements.merge_distinct};\n")
        else:
            out.append(f"-- ---- {name}\n{statements.upsert};\n")
            out.append(f"-- ---- {name}: keys that are known to differ\n{statements.upsert_distinct};\n")
            out.append(f"-- ---- {name}: with deletes\n{statements.replace};\n")
    return "\n".join(out)


def test_the_statements_are_those_that_are_recorded() -> None:
    if not RECORDED.exists():
        RECORDED.write_text(made())
    assert made() == RECORDED.read_text()


def test_every_recorded_statement_is_t_sql() -> None:
    for batch in RECORDED.read_text().split("-- ---- ")[1:]:
        text = batch.partition("\n")[2].replace("?", "@P1")
        # sqlglot's grammar has no OPTION behind a DELETE; T-SQL's has.
        text = re.sub(r"(waxwing_deleted = 1)\nOPTION \(.*?\)", r"\1", text)
        statements = sqlglot.parse(text, dialect="tsql")
        kinds = [type(statement).__name__ for statement in statements if statement is not None]
        assert "Insert" in kinds
        assert "MERGE" not in batch


@pytest.mark.parametrize(
    ("column", "kind", "collation", "keys", "compared"),
    [
        (sa.Column("k", sa.String(9)), "nvarchar", "Latin1_General_100_BIN2", ["a", "A", "a ", "a\t"], ["a", "A", "a", "a\t"]),
        (sa.Column("k", sa.String(9)), "varchar", "Latin1_General_100_BIN2_UTF8", ["a "], ["a"]),
        (sa.Column("k", sa.String(9)), "nvarchar", "bbf_unicode_bin2", ["a "], ["a"]),
        (sa.Column("k", sa.String(9)), "nvarchar", "Latin1_General_CI_AS", ["a"], None),
        (sa.Column("k", sa.String(9)), "nvarchar", "Latin1_General_CS_AS", ["a"], None),
        (sa.Column("k", sa.LargeBinary(9)), "varbinary", "", [b"a"], None),
        (sa.Column("k", sa.Uuid()), "nvarchar", "Latin1_General_100_BIN2", ["a"], None),
        (sa.Column("k", sa.Integer), "int", "", [1, 2], [1, 2]),
        (sa.Column("k", sa.Integer), "varchar", "Latin1_General_100_BIN2", [1, 2], None),
    ],
)
def test_keys_are_compared_here_only_where_the_column_does_it_alike(
    column: sa.Column[Any], kind: str, collation: str, keys: list[Any], compared: list[Any] | None
) -> None:
    found = stored(column, kind, 9)._replace(collation=collation)
    assert found.compared(keys) == compared


# -- the driver --------------------------------------------------------------------------------------


def test_a_system_driver_wins_over_the_wheels_and_the_newest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyodbc, "drivers", lambda: ["FreeTDS", "ODBC Driver 13 for SQL Server", "ODBC Driver 17 for SQL Server",
                                                    "ODBC Driver 18 for SQL Server"])  # fmt: skip
    found = sqlserver_driver.drivers()
    assert [each.name for each in found[:2]] == ["ODBC Driver 18 for SQL Server", "ODBC Driver 17 for SQL Server"]
    assert [each.found for each in found[2:]] == ["wheel mssql-python-odbc"]


def test_without_a_system_driver_the_wheels_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyodbc, "drivers", list)
    assert Path(sqlserver_driver.driver().name).is_file()


def test_no_driver_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlserver_driver, "drivers", list)
    with pytest.raises(ConfigError, match="pip install mssql-python-odbc"):
        sqlserver_driver.driver()


class _Broken:
    """An environment in which importing pyodbc fails as it does without libodbc, or without pyodbc."""

    def __init__(self, error: ImportError) -> None:
        self._error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pyodbc":
            raise self._error


def test_a_missing_libodbc_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyodbc")
    missing = ImportError("libodbc.so.2: cannot open shared object file: No such file or directory")
    monkeypatch.setattr(sys, "meta_path", [_Broken(missing), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"libodbc\.so\.2.*apt-get install unixodbc"):
        database_for(sa.make_url("mssql://h/d"))


def test_a_missing_pyodbc_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyodbc")
    monkeypatch.setattr(
        sys, "meta_path", [_Broken(ModuleNotFoundError("No module named 'pyodbc'", name="pyodbc")), *sys.meta_path]
    )
    with pytest.raises(ConfigError, match=r"pip install 'waxwing-streams\[sqlserver\]'"):
        database_for(sa.make_url("mssql://h/d"))


# -- the URL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mssql", "mssql+pyodbc"])
def test_a_url_finds_sql_server(scheme: str) -> None:
    assert isinstance(database_for(sa.make_url(f"{scheme}://u:p@h/d")), SQLServer)


def test_settings_by_parts_make_the_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    parts = {"HOST": "db", "PORT": "1444", "DB": "shop", "USER": "u", "PASSWORD": "p@s/s", "ENCRYPT": "strict"}
    parts |= {"DRIVER": "ODBC Driver 17 for SQL Server", "TRUST_SERVER_CERTIFICATE": "yes"}
    for name, value in parts.items():
        monkeypatch.setenv(f"SQLSERVER_{name}", value)
    url = sa.make_url(load(SqlSettings).database_url.get_secret_value())
    assert (url.drivername, url.host, url.port, url.database) == ("mssql", "db", 1444, "shop")
    assert (url.username, url.password) == ("u", "p@s/s")
    assert dict(url.query) == {
        "driver": "ODBC Driver 17 for SQL Server",
        "Encrypt": "strict",
        "TrustServerCertificate": "yes",
    }


def test_options_of_the_url_win_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlserver_driver, "driver", lambda: Driver("ours", "test"))
    url = sa.make_url("mssql://u:p@h/d?driver=theirs&keepalive=5&Encrypt=no")
    engine = SQLServer().engine(url, connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1)
    (text,), _ = engine.dialect.create_connect_args(engine.url)
    assert "DRIVER={theirs}" in text
    assert "Encrypt=no" in text
    assert "KeepAlive=30" not in text


def test_a_url_without_a_database_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlserver_driver, "driver", lambda: Driver("ours", "test"))
    with pytest.raises(ConfigError, match="names no database"):
        SQLServer().engine(
            sa.make_url("mssql://u:p@h:1433/?Encrypt=no"), connect_timeout_s=1, lock_timeout_s=1, statement_timeout_s=1
        )


def test_decimals_travel_without_exponents() -> None:
    column = stored(sa.Column("v", sa.Numeric(10, 2)), "decimal", 9, 10, 2)
    encode = column.encoder(as_json=True)
    assert encode is not None
    assert list(encode([Decimal("1E+3"), None, Decimal("0.10"), 7])) == ["1000", None, "0.10", "7"]


def test_drivers_are_listed_the_one_that_is_used_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sqlserver_driver, "drivers", lambda: [Driver("ODBC Driver 18", "odbcinst.ini"), Driver("/x.so", "wheel")])
    show()
    assert capsys.readouterr().out.splitlines() == ["used   odbcinst.ini: ODBC Driver 18", "found  wheel: /x.so"]
