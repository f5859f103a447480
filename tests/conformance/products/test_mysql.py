"""What only MySQL and MariaDB have: engines, character sets, collations, packets, a table made by hand in their usual way."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from dataflows.orders import orders
from tests.conformance.place import Place, database_on, make_place
from tests.conformance.tables.test_neighbours import Case
from waxwing.databases.ledger import schema
from waxwing.databases.mysql.database import SQL_MODE
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Upsert


@pytest.fixture
def place(mariadb_place: Place) -> Place:
    return mariadb_place


def keyed(place: Place, *columns: sa.Column[Any]) -> sa.Table:
    return place.table(sa.Column("id", sa.String(20), primary_key=True), *(columns or (sa.Column("v", sa.Text),)))


def test_an_orders_table_made_by_hand_in_the_usual_way_is_taken(place: Place) -> None:
    place.run(
        """CREATE TABLE orders (
            id VARCHAR(36) NOT NULL PRIMARY KEY,
            order_id VARCHAR(64) NOT NULL,
            quantity INT NOT NULL DEFAULT 0,
            unit_price DECIMAL(10,2) NOT NULL DEFAULT 0.00,
            total_value DECIMAL(10,2) NOT NULL DEFAULT 0.00,
            processed_at BIGINT,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
            KEY order_id (order_id)
        )"""
    )
    planned = place.plan(orders, Upsert(keys=("id",)))
    assert [column.name for column in planned.columns] == [
        "id",
        "order_id",
        "quantity",
        "unit_price",
        "total_value",
        "processed_at",
    ]
    good = ("a", "o", 2, Decimal("1.50"), Decimal("3.00"), 1)
    too_large = ("b", "o", 2, Decimal("99999999.99"), Decimal("199999999.98"), 1)
    assert place.accepted(planned, [good, too_large, ("c" * 36, "o" * 65, *good[2:])]) == [good]
    place.write(planned, [good])
    place.run("UPDATE orders SET created_at = '2020-01-01', updated_at = '2020-01-01'")
    place.write(planned, [good])
    place.write(planned, [(*good[:2], 3, *good[3:])])
    with place.engine.connect() as connection:
        [row] = connection.execute(sa.text("SELECT quantity, year(created_at) AS made, year(updated_at) AS changed FROM orders"))
    assert (row.quantity, row.made) == (3, 2020)
    assert row.changed > 2020


def test_the_session_is_strict_and_read_committed_whatever_the_server_s_defaults_are(place: Place) -> None:
    place.run("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'")
    try:
        other = make_place(place.url)
        with other.engine.connect() as connection:
            assert set(connection.scalar(sa.text("SELECT @@sql_mode")).split(",")) == set(SQL_MODE.split(","))
            assert connection.scalar(sa.text("SELECT @@tx_isolation")) == "READ-COMMITTED"
        planned = other.plan(keyed(other), Upsert(keys=("id",)))
        rows = [("a", "x\\'\"y"), ("b", "\\"), ("c", "")]
        other.write(planned, rows)
        assert other.read(planned.table) == rows
    finally:
        place.run("SET GLOBAL sql_mode = DEFAULT")


@pytest.mark.parametrize("engine", ["MyISAM", "Aria", "MEMORY"])
def test_a_table_without_transactions_is_refused(place: Place, engine: str) -> None:
    table = keyed(place, sa.Column("v", sa.Integer))
    place.run(f"CREATE TABLE {table.name} (id varchar(20) PRIMARY KEY, v int) ENGINE={engine}")
    with pytest.raises(ConfigError, match=f"has the engine {engine}, which has no transactions"):
        place.plan(table, Upsert(keys=("id",)))


def test_a_text_column_that_can_t_hold_all_text_is_refused(place: Place) -> None:
    table = keyed(place)
    place.run(f"CREATE TABLE {table.name} (id varchar(20) PRIMARY KEY, v text CHARACTER SET latin1) CHARACTER SET utf8mb4")
    with pytest.raises(ConfigError, match=r"column v has the character set latin1.*CONVERT TO CHARACTER SET utf8mb4"):
        place.plan(table, Upsert(keys=("id",)))


def test_a_table_that_waxwing_makes_tells_keys_apart_as_python_does(place: Place) -> None:
    keys = ["a", "A", "á", "a ", " a", "ß", "ss"]
    planned = place.plan(keyed(place), Upsert(keys=("id",)))
    place.write(planned, [(key, key) for key in keys], [(key, f"{key}!") for key in keys])
    assert sorted(place.read(planned.table)) == sorted((key, f"{key}!") for key in keys)
    [[made]] = place_query(place, f"SHOW CREATE TABLE {planned.table.name}", 1)
    assert "ENGINE=InnoDB" in made
    assert "utf8mb4_nopad_bin" in made


def test_keys_that_an_existing_table_takes_for_one_end_as_the_last_row_says(place: Place) -> None:
    table = keyed(place)
    place.run(f"CREATE TABLE {table.name} (id varchar(20) PRIMARY KEY, v text) COLLATE utf8mb4_general_ci")
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [("a", "1"), ("A", "2"), ("b", "1"), ("a ", "3")])
    assert place.read(table) == [("a", "3"), ("b", "1")]


def test_rows_and_deletes_of_keys_that_the_table_takes_for_one_count_in_their_order(place: Place) -> None:
    table = keyed(place)
    place.run(f"CREATE TABLE {table.name} (id varchar(20) PRIMARY KEY, v text) COLLATE utf8mb4_general_ci")
    bulk = place.bulk(place.plan(table, Upsert(keys=("id",))))
    with place.engine.begin() as connection:
        bulk.write(connection, [("x", "0"), ("y", "0"), ("z", "0")])
        # a, then A deleted, then B, b and x deleted, then X
        bulk.replace(connection, [("a", "1"), ("B", "2"), ("X", "3")], [("A",), ("b",), ("x",), ("Y",)], [1, 2, 2, 3])
    assert place.read(table) == [("X", "3"), ("z", "0")]


def test_a_row_that_is_equal_in_another_unique_key_is_a_bad_row_and_changes_nothing(place: Place) -> None:
    planned = place.plan(keyed(place, sa.Column("email", sa.String(50), unique=True)), Upsert(keys=("id",)))
    place.write(planned, [("a", "x@y"), ("b", None)])
    with pytest.raises(Exception, match="another unique key") as refused:
        place.write(planned, [("c", "n@y"), ("d", "x@y")])
    assert place.database.classify(refused.value).kind == "row"
    assert place.kind_of_failure(lambda: place.write(planned, [("b", "x@y")])) == "row"
    assert place.read(planned.table) == [("a", "x@y"), ("b", None)]


def test_rows_go_in_several_statements_where_a_packet_is_too_small_and_a_larger_row_is_a_bad_one(place: Place) -> None:
    planned = place.plan(keyed(place), Upsert(keys=("id",)))
    rows = [(f"k{number:03}", str(number) * 20_000) for number in range(100)]
    place.run("SET GLOBAL max_allowed_packet = 1048576")
    try:
        small = make_place(place.url)
        small.write(planned, rows)
        assert small.read(planned.table) == rows
        assert small.kind_of_failure(lambda: small.write(planned, [("a", "x"), ("b", '"' * 600_000)])) == "row"
        assert small.read(planned.table) == rows
    finally:
        place.run("SET GLOBAL max_allowed_packet = DEFAULT")


def test_matched_rows_are_counted_though_nothing_changes(place: Place) -> None:
    table = place.plan(keyed(place), Append()).table
    with place.engine.begin() as connection:
        connection.execute(table.insert().values(id="a", v="1"))
        assert connection.execute(table.update().where(table.c.id == "a").values(v="1")).rowcount == 1


def test_a_table_in_another_database_is_written_through_its_name(place: Place) -> None:
    place.run("CREATE DATABASE IF NOT EXISTS other CHARACTER SET utf8mb4")
    table = place.table(sa.Column("id", sa.String(20), primary_key=True), schema="other")
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [("a",)], [("a",), ("b",)])
    assert place.read(table) == [("a",), ("b",)]


def test_a_login_that_is_refused_an_unknown_database_and_a_missing_permission_are_matters_of_configuration(place: Place) -> None:
    for url in (place.url.set(password="wrong"), place.url.set(database="nowhere")):
        other = make_place(url)
        assert other.kind_of_failure(partial(other.plan, keyed(other), Append())) == "config"
    place.run(
        "CREATE USER IF NOT EXISTS limited@'127.0.0.1' IDENTIFIED BY 'limited'", "GRANT SELECT ON *.* TO limited@'127.0.0.1'"
    )
    with pytest.raises(ConfigError, match="names no database"):
        make_place(place.url._replace(database=None))
    limited = make_place(place.url.set(username="limited", password="limited"))
    assert limited.kind_of_failure(lambda: limited.plan(keyed(limited), Append())) == "permission"


def place_query(place: Place, statement: str, column: int) -> list[list[Any]]:
    with place.engine.connect() as connection:
        return [[row[column]] for row in connection.exec_driver_sql(statement)]


def test_a_password_that_is_not_ascii_is_sent_as_the_server_reads_it(place: Place) -> None:
    place.run(
        "CREATE USER IF NOT EXISTS keyed@'127.0.0.1' IDENTIFIED BY 'schlüssel-пароль'", "GRANT ALL ON *.* TO keyed@'127.0.0.1'"
    )
    other = make_place(place.url.set(username="keyed", password="schlüssel-пароль"))
    with other.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_smaller_column_without_sign_is_named_as_the_server_names_it(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = keyed(place, sa.Column("v", sa.Integer))
    place.run(f"CREATE TABLE {table.name} (id varchar(20) PRIMARY KEY, v smallint unsigned)")
    planned = place.plan(table, Upsert(keys=("id",)))
    # MariaDB tells a width as well.
    assert re.search(r"takes less than the flow's Table in v \(SMALLINT(\(5\))? UNSIGNED\): ", capsys.readouterr().err)
    assert place.accepted(planned, [("a", 65_535), ("b", 65_536), ("c", -1)]) == [("a", 65_535)]


def test_a_tls_file_that_is_missing_is_a_matter_of_configuration(place: Place) -> None:
    other = make_place(place.url.update_query_dict({"ssl_ca": "/nowhere/ca.pem"}))
    assert other.kind_of_failure(other.engine.connect) == "config"


@pytest.mark.real_mysql
def test_oracle_s_mysql_keeps_rows_and_tells_keys_apart() -> None:
    if not (server := os.environ.get("MYSQL_URL")):
        pytest.skip("MYSQL_URL names no server (mysql://user:password@host/)")
    with database_on(server) as url:
        real = make_place(url)
        with real.engine.connect() as connection:
            if "mariadb" in connection.scalar(sa.text("SELECT version()")).lower():
                pytest.skip("MYSQL_URL names a MariaDB, not Oracle's MySQL")
        planned = real.plan(keyed(real, sa.Column("j", sa.JSON)), Upsert(keys=("id",)))
        rows = [(key, {"key": key}) for key in ("a", "A", "a ")]
        real.write(planned, rows, [("a", {"n": 1.5})])
        assert sorted(real.read(planned.table)) == sorted([("a", {"n": 1.5}), *rows[1:]])
        [[made]] = place_query(real, f"SHOW CREATE TABLE {planned.table.name}", 1)
        assert "utf8mb4_0900_bin" in made


def test_numbers_of_a_sequence_beyond_their_column_end_the_flow(mariadb_place: Place) -> None:
    place = mariadb_place
    place.run("CREATE SEQUENCE small_numbers START WITH 126")
    for mode in (Append(), Upsert(keys=("code",))):
        table = place.table(sa.Column("code", sa.Integer, unique=True), sa.Column("n", sa.Integer))
        place.run(
            "ALTER SEQUENCE small_numbers RESTART 126",
            f"CREATE TABLE {table.name} (id tinyint PRIMARY KEY DEFAULT nextval(small_numbers), code int NOT NULL UNIQUE, n int)",
        )
        planned = place.plan(table, mode)
        place.write(planned, [(1, 1), (2, 1)])
        with pytest.raises(ConfigError, match=r"the numbers of column id have run out.*Give the column a larger type"):
            place.write(planned, [(3, 1)])
        place.run(f"ALTER TABLE {table.name} MODIFY id int DEFAULT nextval(small_numbers)")
        place.write(planned, [(3, 1)])
        assert place.read(table, "code") == [(1, 1), (2, 1), (3, 1)]


def test_a_trigger_s_own_error_is_not_taken_for_a_second_key(mariadb_place: Place) -> None:
    place = mariadb_place
    table = place.table(
        sa.Column("k", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer, unique=True)
    )
    case = Case(place, table, Upsert(keys=("k",)))
    case.write(case.batch([(1, 1)]))
    case.write(case.batch([(2, 2), (3, 1)]))
    place.run(
        f"CREATE TRIGGER g_{table.name} BEFORE UPDATE ON {table.name} FOR EACH ROW "
        "SET NEW.n = IF(NEW.n = 9, (SELECT 1 UNION ALL SELECT 2), NEW.n)"
    )
    case.write(case.batch([(1, 9), (2, 3)]))
    case.write(case.batch([(3, 1), (2, 4)]))
    with place.engine.connect() as connection:
        t = schema.dead_letters
        query = sa.select(t.c.reason).where(t.c.flow == case.stream.flow).order_by(t.c.source_offset)
        reasons = list(connection.scalars(query))
    ours = "another row has the same value in another unique key of the table"
    assert [ours in reason for reason in reasons] == [True, False, True]
    assert "1242" in reasons[1]
    assert case.rows() == [(1, 1), (2, 4)]
