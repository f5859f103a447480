"""Keys of existing tables by their types, and tables of special kinds: rows are found again, updated and deleted."""

# ruff: noqa: DTZ001 - timestamps without zone are what is tested

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from tests.conformance.place import Place, make_place
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Merge, Upsert

U1, U2 = UUID(int=1), UUID(int=2)
MOMENTS = [datetime(2026, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]


def stored(place: Place, table: sa.Table, columns: str = "k, n") -> list[tuple[Any, ...]]:
    with place.engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT {columns} FROM {table.name} ORDER BY 1")
        return [tuple(row) for row in found]


def rewritten(place: Place, sql: str, kind: Any, values: Sequence[Any], *before: str) -> list[tuple[Any, ...]]:
    """Insert a row for each value of the key, update each, delete the last: what is left."""
    table = place.table(sa.Column("k", kind, primary_key=True), sa.Column("n", sa.Integer))
    place.run(f"CREATE TABLE {table.name} (k {sql}, n int)", *(statement.format(table.name) for statement in before))
    planned = place.plan(table, Upsert(keys=("k",)))
    rows = place.accepted(planned, [(value, 1) for value in values])
    place.write(planned, rows, [(value, 2) for value, _ in rows])
    with place.engine.begin() as connection:
        place.bulk(planned).delete(connection, [(values[-1],)])
    return stored(place, table)


def test_keys_of_every_kind_of_column_are_found_again_on_postgresql(postgresql_place: Place) -> None:
    place = postgresql_place
    place.run(
        "CREATE TYPE key_state AS ENUM ('Open', 'b')",
        "CREATE DOMAIN key_text AS varchar(10) NOT NULL CHECK (VALUE <> 'x')",
    )
    assert rewritten(place, "key_state PRIMARY KEY", sa.String(10), ["Open", "open", "b"]) == [("Open", 2)]
    assert rewritten(place, "key_text PRIMARY KEY", sa.String(10), ["Open", "b"]) == [("Open", 2)]
    assert rewritten(place, "char(36) PRIMARY KEY", sa.Uuid(), [U1, U2]) == [(str(U1), 2)]
    assert rewritten(place, "char(36) PRIMARY KEY", sa.String(36), [str(U1), "x", str(U2)]) == [(str(U1), 2)]
    assert rewritten(place, "name PRIMARY KEY", sa.Text(), ["a", "x" * 64, "b"]) == [("a", 2)]
    assert rewritten(place, "timestamptz(3) PRIMARY KEY", sa.DateTime(timezone=True), MOMENTS) == [(MOMENTS[0], 2)]


def test_keys_of_every_kind_of_column_are_found_again_on_mariadb(mariadb_place: Place) -> None:
    place = mariadb_place
    enum = "enum('Open', 'closed') collate utf8mb4_general_ci PRIMARY KEY"
    assert rewritten(place, enum, sa.String(10), ["Open", "open", "Öpen", "closed"]) == [("Open", 2)]
    assert rewritten(place, "set('a', 'b') PRIMARY KEY", sa.String(10), ["a,b", "b,a", "a"]) == [("a,b", 2)]
    assert rewritten(place, "char(36) PRIMARY KEY", sa.Uuid(), [U1, U2]) == [(str(U1), 2)]
    # As 32 digits, where that is how the table's rows have them.
    digits = f"INSERT INTO {{}} VALUES ('{U1.hex}', 1)"
    assert rewritten(place, "char(36) PRIMARY KEY", sa.Uuid(), [U1, U2], digits) == [(U1.hex, 2)]
    hyphens = f"INSERT INTO {{}} VALUES ('{U1}', 1)"
    assert rewritten(place, "varchar(36) PRIMARY KEY", sa.Uuid(), [U1, U2], hyphens) == [(str(U1), 2)]


@pytest.mark.parametrize(
    "columns",
    [
        "varchar(36) UNIQUE",
        "varchar(36) NOT NULL UNIQUE",
        "VARCHAR ( 36 ) CONSTRAINT one UNIQUE",
        "national character varying(36) COLLATE BINARY UNIQUE",
        "primary key",
    ],
)
def test_a_unique_key_of_sqlite_is_found_however_it_is_written(tmp_path: Path, columns: str) -> None:
    place = make_place(sa.make_url(f"sqlite:///{tmp_path}/keys.sqlite"))
    assert rewritten(place, columns, sa.String(36), ["007", "7"]) == [("007", 2)]


PERIOD = (
    "started {0} GENERATED ALWAYS AS ROW START, ended {0} GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (started, ended)"
)


@pytest.mark.parametrize("period", ["", f", {PERIOD.format('timestamp(6)')}", f", {PERIOD.format('bigint unsigned')}"])
def test_a_table_that_keeps_versions_of_its_rows_is_written_like_others(mariadb_place: Place, period: str) -> None:
    place = mariadb_place
    table = place.table(sa.Column("k", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    place.run(f"CREATE TABLE {table.name} (k int PRIMARY KEY, n int{period}) WITH SYSTEM VERSIONING")
    upsert, merge = place.plan(table, Upsert(keys=("k",))), place.plan(table, Merge(keys=("k",), add=("n",)))
    place.write(upsert, [(1, 1), (2, 2)], [(1, 3)])
    place.write(merge, [(1, 4), (3, 5)])
    with place.engine.begin() as connection:
        place.bulk(upsert).delete(connection, [(2,)])
    assert stored(place, table) == [(1, 7), (3, 5)]
    with place.engine.connect() as connection:
        versions = connection.exec_driver_sql(f"SELECT n FROM {table.name} FOR SYSTEM_TIME ALL WHERE k = 1 ORDER BY n")
        assert versions.scalars().all() == [1, 3, 7]


def test_an_upsert_beside_a_key_without_overlaps_is_refused_at_the_start(mariadb_place: Place) -> None:
    place = mariadb_place
    table = place.table(number(), sa.Column("n", sa.Integer), sa.Column("s", sa.Date), sa.Column("e", sa.Date))
    place.run(
        f"CREATE TABLE {table.name} (k int PRIMARY KEY COMMENT 'p WITHOUT OVERLAPS', n int, s date, e date, PERIOD FOR p (s, e))"
    )
    upsert, merge = Upsert(keys=("k",)), Merge(keys=("k",), add=("n",))
    place.plan(table, upsert)
    place.run(f"ALTER TABLE {table.name} ADD UNIQUE (n, p WITHOUT OVERLAPS)")
    for mode in (upsert, merge):
        with pytest.raises(ConfigError, match=f"{table.name} has a key WITHOUT OVERLAPS, and beside one MariaDB takes no upsert"):
            place.plan(table, mode)
    days = [date(2026, 1, day) for day in (1, 9, 20)]
    place.write(place.plan(table, Append()), [(1, 1, *days[:2]), (2, 1, *days[1:])])
    assert [row[:2] for row in place.read(table)] == [(1, 1), (2, 1)]


def test_an_upsert_into_a_table_that_others_inherit_from_is_refused(postgresql_place: Place) -> None:
    place = postgresql_place
    table = place.table(number(), sa.Column("n", sa.Integer))
    place.run(
        f"CREATE TABLE {table.name} (k int PRIMARY KEY, n int)",
        f"CREATE TABLE {table.name}_old () INHERITS ({table.name})",
        f"INSERT INTO {table.name}_old VALUES (1, 1)",
    )
    for mode in (Upsert(keys=("k",)), Merge(keys=("k",), add=("n",))):
        with pytest.raises(ConfigError, match=f"{table.name}_old inherits from it, whose rows no key of {table.name} knows"):
            place.plan(table, mode)
    place.write(place.plan(table, Append()), [(2, 2)])
    assert place.read(table) == [(1, 1), (2, 2)]


def number() -> sa.Column[int]:
    return sa.Column("k", sa.Integer, primary_key=True, autoincrement=False)


def test_a_table_that_is_made_of_a_database_s_own_types_is_checked_by_them_too(
    mariadb_place: Place, postgresql_place: Place
) -> None:
    whole, fine, finest = (datetime(2026, 1, 1, 0, 0, 0, micro) for micro in (0, 1_000, 1))
    own: list[Any] = [
        mysql.DATETIME(fsp=3),
        mysql.DATETIME(),
        mysql.TINYTEXT(),
        mysql.SET("a", "bc"),
        mysql.ENUM("Open"),
        mysql.TIMESTAMP(),
    ]
    made = mariadb_place.table(number(), *(sa.Column(f"c{n}", kind) for n, kind in enumerate(own)))
    planned = mariadb_place.plan(made, Append())
    kept = (1, fine, whole, "x" * 255, "a,bc", "Open", whole)
    refused = [finest, fine, "x" * 255 + " ", "bc,a", "open", datetime(1969, 1, 1)]
    rows = [(n, *(value if n == at else None for at in range(2, 8))) for n, value in enumerate(refused, 2)]
    assert mariadb_place.accepted(planned, [kept, *rows]) == [kept]
    mariadb_place.write(planned, [kept])
    assert stored(mariadb_place, made, "k, c0, c1, c2, c3, c4, c5") == [kept]

    coarse = postgresql_place.table(number(), sa.Column("c", postgresql.TIMESTAMP(precision=3)))
    planned = postgresql_place.plan(coarse, Append())
    assert postgresql_place.accepted(planned, [(1, fine), (2, finest)]) == [(1, fine)]
    with pytest.raises(ConfigError, match=r"column c is float.*it rounds nearly every number"):
        mariadb_place.plan(mariadb_place.table(number(), sa.Column("c", mysql.FLOAT())), Append())
