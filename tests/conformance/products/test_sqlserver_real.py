"""What only Microsoft's own SQL Server shows: run where MSSQL_URL names one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.conformance.place import Place, make_place
from tests.servers import SQLServer, Unavailable
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Upsert

pytestmark = pytest.mark.real_mssql


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    try:
        server = SQLServer(real=True)
    except Unavailable as missing:
        pytest.skip(str(missing))
    with server:
        yield make_place(sa.make_url(server.new_database()))


def simple(place: Place) -> sa.Table:
    return place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.String(10)))


def test_json_is_read_as_it_was_meant(place: Place) -> None:
    place.run("SELECT 1")
    abilities = place.database._abilities  # type: ignore[attr-defined]  # SQLServer's own
    assert (abilities.openjson, abilities.unescapes, abilities.long_texts, abilities.binary_from_hex) == (True, True, True, True)


def test_the_update_locks_its_keys_until_the_end(place: Place) -> None:
    table = simple(place)
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(1, "a"), (2, "a")])
    other = make_place(place.url, lock_timeout_s=0.5)
    with place.engine.connect() as connection, connection.begin():
        place.bulk(planned).write(connection, [(1, "b")])
        assert other.kind_of_failure(lambda: other.write(planned, [(1, "c")])) == "transient"
        other.write(planned, [(2, "c")])  # the neighbour is free
    assert place.read(table) == [(1, "b"), (2, "c")]


def test_two_writers_of_the_same_keys_wait_instead_of_deadlocking(place: Place) -> None:
    table = simple(place)
    planned = place.plan(table, Upsert(keys=("id",)))
    rows = [(number, "x") for number in range(2_000)]
    place.write(planned, rows)
    errors: list[BaseException] = []

    def write(rows: list[tuple[int, str]]) -> None:
        try:
            make_place(place.url, lock_timeout_s=30).write(planned, *[rows] * 20)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(each,)) for each in (rows, rows[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO {} VALUES (3000000000, 'x')", "row"),  # 8115
        ("INSERT INTO {} VALUES (1, 'longer than ten')", "row"),  # 2628
        ("INSERT INTO {} SELECT CAST('1e9' AS int), 'x'", "row"),  # 245
        ("SELECT nothing FROM {}", "config"),  # 207
        ("SELECT * FROM", "config"),  # 102
    ],
)
def test_numbers_of_errors_are_the_servers_own(place: Place, statement: str, kind: str) -> None:
    table = simple(place)
    place.plan(table, Append())
    assert place.kind_of_failure(lambda: place.run(statement.format(table.name))) == kind


def test_the_seventh_digit_of_a_second_stands_beside_ours(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("at", sa.DateTime))
    place.run(f"CREATE TABLE {table.name} (id int PRIMARY KEY, at datetime2(7))")
    place.run(f"INSERT INTO {table.name} VALUES (1, '2026-01-01T00:00:00.1234567')")
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(2, None)])
    with place.engine.connect() as connection:
        text = connection.exec_driver_sql(f"SELECT CAST(at AS varchar(40)) FROM {table.name} WHERE id = 1").scalar()
    assert str(text).endswith(".1234567")


def test_a_unique_index_over_some_rows_is_no_key(place: Place) -> None:
    table = simple(place)
    place.run(f"CREATE TABLE {table.name} (id int NOT NULL, v nvarchar(10))")
    place.run(f"CREATE UNIQUE INDEX some_rows ON {table.name} (id) WHERE id > 5")
    with pytest.raises(ConfigError, match="no primary key"):
        place.plan(table, Upsert(keys=("id",)))
