"""What only SQL Server has: its types, collations, identities, triggers, schemas, races; a transaction that is not whole."""

# ruff: noqa: DTZ001, E501 - timestamps without zone are what is tested; tables of types read best a line each

from __future__ import annotations

import math
import threading
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import zip_longest
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mssql

from tests.conformance.place import Place, make_place
from waxwing.databases.sqlserver.bulk import KeyRace
from waxwing.databases.sqlserver.database import SQLServer
from waxwing.databases.sqlserver.dialect import BrokenTransaction
from waxwing.errors import ConfigError
from waxwing.tables.columns import checks
from waxwing.tables.modes import Append, Merge, Upsert
from waxwing.tables.plan import Plan

BOTH_WAYS = pytest.mark.parametrize("staged", [False, True], ids=["json", "raw"])


@pytest.fixture
def place(sqlserver_place: Place) -> Place:
    return sqlserver_place


def columns(place: Place, declared: str, *more: sa.Column[Any]) -> sa.Table:
    """A table made by hand, and what a flow declares of it."""
    table = place.table(*more)
    place.run(f"CREATE TABLE {table.name} ({declared})")
    return table


TYPES: dict[str, tuple[str, Any, list[Any]]] = {
    "varchar": ("varchar(10)", sa.String(10), ["", "abc", "café", "ab  "]),
    "varchar(max)": ("varchar(max)", sa.Text(), ["", "x" * 9_000, "café"]),
    "nvarchar": ("nvarchar(10)", sa.String(10), ["", "日本", "a\\b", 'q"q', "t\tn\n"]),
    "nvarchar(4000)": ("nvarchar(4000)", sa.String(4_000), ["x" * 4_000]),
    "nvarchar(max)": ("nvarchar(max)", sa.Text(), ["", "日本" * 5_000]),
    "char": ("char(3)", sa.CHAR(3), ["abc", "a c"]),
    "nchar": ("nchar(3)", sa.CHAR(3), ["abc", "日本語"]),
    "tinyint": ("tinyint", mssql.TINYINT(), [0, 255]),
    "smallint": ("smallint", sa.SmallInteger(), [-32_768, 32_767]),
    "int": ("int", sa.Integer(), [-(2**31), 2**31 - 1]),
    "bigint": ("bigint", sa.BigInteger(), [-(2**63), 2**63 - 1]),
    "bit": ("bit", sa.Boolean(), [True, False]),
    "decimal": ("decimal(38, 10)", sa.Numeric(38, 10), [Decimal("9" * 28 + "." + "9" * 10), Decimal("1E+3"), Decimal("-0.0000000001")]),
    "money": ("money", sa.Numeric(19, 4), [Decimal("922337203685477.5807"), Decimal("-0.0001")]),
    "smallmoney": ("smallmoney", sa.Numeric(10, 4), [Decimal("214748.3647")]),
    "float": ("float", sa.Double(), [0.1, 1.7976931348623157e308, -1e22, 123456789.123456789]),
    "real": ("real", sa.Double(), [0.5, 0, 0.10000000149011612, -16777216, 3.4028234663852886e38, 1.1754943508222875e-38]),
    "float(24)": ("float(24)", sa.Float(), [-0.25, 16777218.0, 1e10]),
    "date": ("date", sa.Date(), [date.min, date.max]),
    "time": ("time(7)", sa.Time(), [time(23, 59, 59, 999_999), time(0)]),
    "datetime2": ("datetime2(7)", sa.DateTime(), [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)]),
    "datetime": ("datetime", sa.DateTime(), [datetime(1753, 1, 1), datetime(2026, 1, 1, 1, 2, 3, 457_000), datetime(9999, 12, 31, 23, 59, 59, 993_000)]),
    "smalldatetime": ("smalldatetime", sa.DateTime(), [datetime(1900, 1, 1), datetime(2079, 6, 6, 23, 59)]),
    "datetimeoffset": ("datetimeoffset(7)", sa.DateTime(timezone=True), [datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=UTC)]),
    "uniqueidentifier": ("uniqueidentifier", sa.Uuid(), [UUID(int=0), UUID(int=2**128 - 1)]),
    "binary": ("binary(3)", sa.BINARY(3), [b"\x00\xff\x00"]),
    "varbinary": ("varbinary(10)", sa.LargeBinary(10), [b"", b"\x00\xff'\\", b"0x41"]),
    "varbinary(max)": ("varbinary(max)", sa.LargeBinary(), [bytes(range(256)) * 50]),
    "xml": ("xml", mssql.XML(), ["<a b=\"c\">d</a>"]),
    "json": ("nvarchar(max)", sa.JSON(), [{"a": [1, None, 'q"\\n', 1.5]}, [], "5", True]),
}  # fmt: skip


@BOTH_WAYS
def test_every_type_of_an_existing_table_is_kept(place: Place, staged: bool) -> None:
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    kinds = list(TYPES.values())
    declared = ", ".join(f"c{at} {kind} NULL" for at, (kind, _, _) in enumerate(kinds))
    table = columns(
        place, f"n int PRIMARY KEY, {declared}", number, *(sa.Column(f"c{at}", kind) for at, (_, kind, _) in enumerate(kinds))
    )
    planned = place.plan(table, Upsert(keys=("n",)))
    by_type = [(None, *values) for _, _, values in kinds]
    rows = list(zip(range(max(map(len, by_type))), *map(list, zip(*zip_longest(*by_type), strict=True)), strict=True))
    assert place.accepted(planned, rows) == rows
    place.write(planned, [(row[0], *(None for _ in TYPES)) for row in rows], rows, staged=staged)
    for name, got, gave in zip(["n", *TYPES], zip(*place.read(table), strict=True), zip(*rows, strict=True), strict=True):
        # SQLAlchemy reads bytes of some columns as a bytearray.
        assert [bytes(value) if isinstance(value, bytearray) else value for value in got] == list(gave), name


@pytest.mark.parametrize("declared", ["sql_variant", "rowversion"])
def test_a_column_that_is_not_written_is_refused_at_the_start(place: Place, declared: str) -> None:
    own, v = sa.Column("n", sa.Integer, primary_key=True), sa.Column("v", sa.DateTime)
    table = columns(place, f"n int PRIMARY KEY, v {declared}", own, v)
    with pytest.raises(ConfigError, match=r"column v is .* where .* is needed"):
        place.plan(table, Append(), columns=["n", "v"])


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ("datetime", [datetime(2026, 1, 1, 0, 0, 0, 1_000), datetime(2026, 1, 1, 0, 0, 0, 3_001), datetime(1752, 12, 31)]),
        ("smalldatetime", [datetime(2026, 1, 1, 0, 0, 1), datetime(1899, 12, 31), datetime(2079, 6, 7)]),
    ],
)
def test_a_value_that_a_rough_time_would_round_is_a_bad_row(place: Place, declared: str, values: list[datetime]) -> None:
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    table = columns(place, f"n int PRIMARY KEY, v {declared} NULL", number, sa.Column("v", sa.DateTime))
    good = datetime(2026, 1, 1)
    planned = place.plan(table, Upsert(keys=("n",)))
    for value in values:
        assert place.accepted(planned, [(1, value), (2, good), (3, None)]) == [(2, good), (3, None)]


@pytest.mark.parametrize(
    ("declared", "kind", "longest"),
    [
        ("money", sa.Numeric(19, 4), "922337203685477.5807"),
        ("money", sa.Numeric(19, 2), "922337203685477.58"),
        ("smallmoney", sa.Numeric(10, 4), "214748.3647"),
        ("smallmoney", sa.Numeric(12, 4), "214748.3647"),
    ],
)
def test_an_amount_beyond_the_range_of_money_is_a_bad_row(place: Place, declared: str, kind: Any, longest: str) -> None:
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    table = columns(place, f"n int PRIMARY KEY, v {declared} NULL", number, sa.Column("v", kind))
    planned, most = place.plan(table, Upsert(keys=("n",))), Decimal(longest)
    good = [(1, most), (2, -most), (3, None), (4, Decimal(5)), (5, 7)]
    beyond = most + Decimal(1).scaleb(-kind.scale)
    assert place.accepted(planned, [*good, (6, beyond), (7, -beyond), (8, 10**14 * 9 + 10**15)]) == good
    place.write(planned, good)
    assert place.read(table) == good


def real_column(place: Place, declared: str) -> Plan:
    number = sa.Column("n", sa.Integer, primary_key=True, autoincrement=False)
    table = columns(place, f"n int PRIMARY KEY, v {declared} NULL", number, sa.Column("v", sa.Double))
    return place.plan(table, Upsert(keys=("n",)))


@pytest.mark.parametrize("declared", ["real", "float(24)"])
def test_a_number_that_four_bytes_would_round_is_a_bad_row(place: Place, declared: str) -> None:
    planned = real_column(place, declared)
    _, check = checks(planned, place.database.dialect)
    for value in (0.1, -16777217.0, 16777217, 1e39, 1e-40, 5e-324):
        assert check([0.5, value, None, 16777216]) == {1: "a number that REAL would round"}
    assert check([math.inf]) == {0: "infinity, which sqlserver does not keep"}


@BOTH_WAYS
def test_any_number_of_four_bytes_comes_back_as_it_was(place: Place, staged: bool) -> None:
    planned = real_column(place, "real")
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)

    @settings(max_examples=10, database=None)
    @given(st.lists(number, min_size=20, max_size=40))
    def round_trip(values: list[float]) -> None:
        rows = [(n, value) for n, value in enumerate(values) if not 0 < abs(value) < 2**-126]  # what SQL Server's range has
        assert place.accepted(planned, list(enumerate(values))) == rows
        place.write(planned, rows, staged=staged)
        written = dict(rows)
        assert [row for row in place.read(planned.table) if row[0] in written] == rows

    round_trip()


@BOTH_WAYS
def test_text_that_a_code_page_lacks_is_a_bad_row_and_no_question_marks(place: Place, staged: bool) -> None:
    table = columns(
        place, "k varchar(10) PRIMARY KEY, v int", sa.Column("k", sa.String(10), primary_key=True), sa.Column("v", sa.Integer)
    )
    planned = place.plan(table, Upsert(keys=("k",)))
    assert place.kind_of_failure(lambda: place.write(planned, [("日本", 1)], staged=staged)) == "row"
    assert place.read(table) == []


def keyed(place: Place, collation: str) -> sa.Table:
    id_ = sa.Column("id", sa.String(20), primary_key=True)
    return columns(
        place,
        f"id nvarchar(20) COLLATE {collation} PRIMARY KEY, v int, w int NULL",
        id_,
        sa.Column("v", sa.Integer),
        sa.Column("w", sa.Integer),
    )


CI, CS = "Latin1_General_CI_AS", "Latin1_General_CS_AS"


@BOTH_WAYS
def test_of_keys_that_the_collation_takes_for_one_the_last_stands(place: Place, staged: bool) -> None:
    table = keyed(place, CI)
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [("a", 1, None), ("A", 2, None), ("b", 3, None), ("b  ", 4, None)], staged=staged)
    assert [row[1] for row in place.read(table)] == [2, 4]
    place.write(planned, [("B", 5, None), ("a ", 6, None), ("A", 7, None)], staged=staged)
    assert [row[1] for row in place.read(table)] == [7, 5]


def test_a_case_sensitive_collation_keeps_both(place: Place) -> None:
    table = keyed(place, CS)
    place.write(place.plan(table, Upsert(keys=("id",))), [("a", 1, None), ("A", 2, None)])
    assert sorted(row[1] for row in place.read(table)) == [1, 2]


def test_tables_made_by_waxwing_tell_capitals_apart(place: Place) -> None:
    table = place.table(sa.Column("id", sa.String(20), primary_key=True), sa.Column("v", sa.Integer))
    place.write(place.plan(table, Upsert(keys=("id",))), [("a", 1), ("A", 2)], [("A", 3)])
    assert sorted(place.read(table)) == [("A", 3), ("a", 1)]


def test_of_keys_that_are_one_the_newest_stands_and_the_first_of_equals(place: Place) -> None:
    table = keyed(place, CI)
    planned = place.plan(table, Upsert(keys=("id",), newer_by="w"))
    place.write(planned, [("a", 1, 5), ("A", 2, 4), ("A ", 3, 5), ("b", 4, None), ("B", 5, 0)])
    assert [row[1] for row in place.read(table)] == [1, 5]


def test_deletes_and_rows_of_keys_that_are_one_keep_their_order(place: Place) -> None:
    table = keyed(place, CI)
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    place.write(planned, [("a", 0, None), ("b", 0, None), ("c", 0, None)])
    with place.engine.begin() as connection:
        # A deleted after a; B deleted before b; c deleted; d new, and D deleted before it.
        rows = [("a", 1, None), ("b", 1, None), ("d", 1, None)]
        place.bulk(planned).replace(connection, rows, [("A",), ("B",), ("C ",), ("D",)], [1, 1, 2, 2])
    assert [(row[0], row[1]) for row in place.read(table)] == [("b", 1), ("d", 1)]


def test_a_key_too_long_deletes_nothing(place: Place) -> None:
    table = keyed(place, CI)
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    place.write(planned, [("x" * 20, 0, None)])
    with place.engine.begin() as connection:
        place.bulk(planned).delete(connection, [("x" * 21,)])
    assert len(place.read(table)) == 1


@BOTH_WAYS
def test_numbers_may_be_brought_for_an_identity_column(place: Place, staged: bool) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.String(10)))
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(7, "a"), (8, "b")], [(7, "c")], staged=staged)
    assert place.read(table) == [(7, "c"), (8, "b")]


@BOTH_WAYS
def test_another_schema_computed_columns_defaults_and_rowversions(place: Place, staged: bool) -> None:
    place.run("IF SCHEMA_ID('other') IS NULL EXEC('CREATE SCHEMA other')")
    id_ = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    table = place.table(id_, sa.Column("v", sa.String(10)), schema="other")
    place.run(
        f"CREATE TABLE other.{table.name} (id int PRIMARY KEY, v nvarchar(10), twice AS id * 2, made datetime2 DEFAULT SYSUTCDATETIME(), "
        "rv rowversion)"
    )
    place.write(place.plan(table, Upsert(keys=("id",))), [(1, "a")], [(1, "b"), (2, "c")], staged=staged)
    assert place.read(table) == [(1, "b"), (2, "c")]


def test_a_trigger_fires_and_what_it_raises_blames_a_row(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.String(10)))
    planned = place.plan(table, Upsert(keys=("id",)))
    place.run(
        f"CREATE TRIGGER {table.name}_t ON {table.name} AFTER INSERT AS BEGIN SET NOCOUNT ON; "
        "IF EXISTS (SELECT 1 FROM inserted WHERE v = 'bad') THROW 50001, 'no bad ones', 1; END"
    )
    place.write(planned, [(1, "good")])
    assert place.kind_of_failure(lambda: place.write(planned, [(2, "good"), (3, "bad")])) == "row"
    assert place.read(table) == [(1, "good")]


def test_an_error_of_the_last_statement_is_seen(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.String(10), unique=True)
    )
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(1, "x")])
    # The staging, the update, and only then the insert fails.
    assert place.kind_of_failure(lambda: place.write(planned, [(1, "x"), (2, "x")])) == "row"
    assert place.read(table) == [(1, "x")]


def test_a_key_that_another_writer_inserts_meanwhile_is_a_retry_and_no_bad_row(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.String(10)))
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(0, "warm")])
    other = make_place(place.url)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            other.write(planned, [(0, "later"), (1, "later")])
        except BaseException as error:
            errors.append(error)

    with place.engine.connect() as connection, connection.begin():
        place.bulk(planned).write(connection, [(1, "first")])
        thread = threading.Thread(target=write)
        thread.start()
        # It waits for our row; its own look has not seen it.
        thread.join(2.0)
    thread.join()
    if errors:  # without the lock hints of a real server, the insert meets the key
        assert isinstance(errors[0], KeyRace)
        assert SQLServer().classify(errors[0]).kind == "transient"
        other.write(planned, [(0, "later"), (1, "later")])
    assert place.read(table) == [(0, "later"), (1, "later")]


def test_a_transaction_that_was_ended_within_is_not_committed_as_if_it_were_whole(place: Place) -> None:
    with place.engine.connect() as connection:
        transaction = connection.begin()
        whole = connection.begin_nested()
        connection.exec_driver_sql("COMMIT; BEGIN TRANSACTION")
        with pytest.raises(BrokenTransaction):
            whole.commit()
        transaction.rollback()


def test_a_key_that_appears_between_the_two_statements_of_a_merge_is_a_retry_and_not_lost(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    planned = place.plan(table, Merge(keys=("id",), add=("n",)))
    place.write(planned, [(1, 1)])
    # The other writer, at the one moment that counts: when existing keys are updated, and new ones not yet inserted.
    place.run(f"CREATE TRIGGER {table.name}_t ON {table.name} AFTER UPDATE AS INSERT INTO {table.name} VALUES (2, 100)")
    assert place.kind_of_failure(lambda: place.write(planned, [(1, 1), (2, 1)])) == "transient"
    assert place.read(table) == [(1, 1)]
