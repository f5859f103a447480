"""The table of a flow is made when it is missing, and checked when it is there: all differences in one error."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conformance.place import ON_THREE, Place, make_place
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Upsert


def declared(place: Place, *more: sa.Column[Any]) -> sa.Table:
    return place.table(
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("price", sa.Numeric(10, 2)),
        sa.Column("count", sa.BigInteger),
        *more,
    )


def problems(place: Place, table: sa.Table, columns: str, *more: str) -> str:
    place.run(f"CREATE TABLE {table.name} ({columns})", *more)
    with pytest.raises(ConfigError) as refused:
        place.plan(table, Upsert(keys=("id",)))
    return str(refused.value)


def test_a_missing_table_is_made_with_its_indexes(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("a", sa.Integer, index=True),
        sa.Column("b", sa.Integer, unique=True),
    )
    first = place.plan(table, Upsert(keys=("id",)))
    assert [index["column_names"] for index in sa.inspect(place.engine).get_indexes(table.name) if not index["unique"]] == [["a"]]
    assert place.plan(table, Upsert(keys=("id",))) == first
    assert place.plan(table, Upsert(keys=("b",))).mode == Upsert(keys=("b",))


def test_every_difference_is_in_one_error(place: Place) -> None:
    text = problems(
        place,
        declared(place, sa.Column("needed", sa.Integer, nullable=False), sa.Column("optional", sa.Integer)),
        "id varchar(36) NOT NULL, name integer NOT NULL, price numeric(10, 1), count bigint, extra integer NOT NULL",
    )
    for part in (
        "column needed (INTEGER) is missing",
        "column name is INTEGER",
        f"where {sa.String(100).compile(dialect=place.engine.dialect)} is needed",
        "column extra is NOT NULL without a default, and rows do not bring it",
        "no primary key, unique constraint or unique index on (id)",
        "Alter the table",
    ):
        assert part in text
    assert ("column price is" in text) == place.database.dialect.lengths_kept
    assert "optional" not in text


def test_what_fits_well_enough_is_taken(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = declared(place)
    made = sa.DateTime().compile(dialect=place.engine.dialect)
    place.run(
        f"CREATE TABLE {table.name} (count bigint, more text, made {made} DEFAULT CURRENT_TIMESTAMP NOT NULL, "
        "price numeric(20, 4), name text, id varchar(50) NOT NULL)",
        f"CREATE UNIQUE INDEX {table.name}_id ON {table.name} (id)",
    )
    planned = place.plan(table, Upsert(keys=("id",)))
    assert capsys.readouterr().err == ""
    place.write(planned, [("a", "n", None, 1)], [("a", "m", None, 2)], staged=True)
    place.write(planned, [("a", "m", None, 3)])
    with place.engine.connect() as connection:
        assert connection.execute(sa.select(table.c.id, table.c.name, table.c.count)).all() == [("a", "m", 3)]


def test_a_column_that_takes_less_is_written_and_what_does_not_fit_is_a_bad_row(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    table = declared(place)
    columns = "id varchar(36) PRIMARY KEY, name varchar(5) NOT NULL, price numeric(6, 2) NOT NULL, count int"
    place.run(f"CREATE TABLE {table.name} ({columns})")
    planned = place.plan(table, Upsert(keys=("id",)))
    enforced = place.database.dialect.lengths_kept
    [line] = capsys.readouterr().err.splitlines()
    assert "becomes a dead letter" in line
    good = [("a", "short", Decimal("9999.99"), 2**31 - 1)]
    null = ("b", "x", None, 1)
    long = [("c", "longer", Decimal(1), 1), ("d", "x", Decimal(10_000), 1), ("e", "x", Decimal(1), 2**31)]
    assert place.accepted(planned, [*good, null, *long]) == good + ([] if enforced else long)
    place.write(planned, good)
    assert place.read(table) == good


def test_a_nullable_column_that_the_table_lacks_is_left_out_with_one_warning(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    table = declared(place, sa.Column("one", sa.Integer), sa.Column("two", sa.Integer))
    columns = "id varchar(36) PRIMARY KEY, name varchar(100) NOT NULL, price numeric(10, 2), count bigint"
    place.run(f"CREATE TABLE {table.name} ({columns})")
    planned = place.plan(table, Upsert(keys=("id",)))
    assert [column.name for column in planned.columns] == ["id", "name", "price", "count"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "one, two" in lines[0]


def test_a_missing_version_column_is_no_matter_of_a_warning(place: Place) -> None:
    table = declared(place)
    place.run(f"CREATE TABLE {table.name} (id varchar(36) PRIMARY KEY, name varchar(100) NOT NULL, price numeric(10, 2))")
    with pytest.raises(ConfigError, match=r"column count .* is missing"):
        place.plan(table, Upsert(keys=("id",), newer_by="count"))


def test_a_unique_index_over_some_rows_is_no_key(place: Place) -> None:
    if place.database.dialect.name == "mysql" or place.compatible_only():
        return  # it has no such index, or does not tell
    table = declared(place)
    text = problems(
        place,
        table,
        "id varchar(36) NOT NULL, name varchar(100) NOT NULL, price numeric(10, 2), count bigint",
        f"CREATE UNIQUE INDEX {table.name}_some ON {table.name} (id) WHERE count > 5",
    )
    assert f"the unique index {table.name}_some has a condition, and holds for some rows only" in text


def test_a_view_is_refused(place: Place) -> None:
    table = declared(place)
    place.run(f"CREATE VIEW {table.name} AS SELECT 'x' AS id, 'y' AS name, 1 AS price, 2 AS count")
    with pytest.raises(ConfigError, match="is a view"):
        place.plan(table, Append())


@ON_THREE
def test_two_processes_that_make_a_table_at_once_both_succeed(place: Place) -> None:
    others = [make_place(place.url) for _ in range(4)]
    for number in range(5):
        letters = sa.Enum("x", "y", name=f"letters{number}")
        table = place.table(sa.Column("id", sa.Integer, primary_key=True), sa.Column("a", letters, index=True))
        errors: list[BaseException] = []
        barrier = threading.Barrier(4)

        def make(
            other: Place, table: sa.Table = table, barrier: threading.Barrier = barrier, errors: list[BaseException] = errors
        ) -> None:
            barrier.wait()
            try:
                other.plan(table, Upsert(keys=("id",)))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=make, args=(other,)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []


def test_a_number_that_the_database_draws_is_not_brought(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.Text))
    planned = place.plan(table, Append())
    assert [column.name for column in planned.columns] == ["v"]
    assert place.plan(table, Append()) == planned
    place.write(planned, [("a",), ("b",)])
    assert place.read(table) == [(1, "a"), (2, "b")]


def test_columns_named_by_the_flow_are_the_ones_written(place: Place) -> None:
    kept = sa.Column("v", sa.Text, server_default="x")
    table = place.table(sa.Column("id", sa.Integer, primary_key=True), kept, sa.Column("w", sa.Text))
    planned = place.plan(table, Append(), columns=["v", "id"])
    place.write(planned, [("brought", 5)])
    assert place.read(table) == [(5, "brought", None)]


@pytest.mark.parametrize(
    ("mode", "columns", "reason"),
    [
        (Upsert(keys=()), None, "names no key columns"),
        (Upsert(keys="id"), None, "is one text, where a tuple of names is needed"),  # type: ignore[arg-type]  # the mistake
        (Upsert(keys=("nothing",)), None, "no column nothing"),
        (Upsert(keys=("name",)), None, "neither its primary key nor a unique constraint"),
        (Upsert(keys=("id",)), ["name"], "column id is a key, and rows do not bring it"),
        (Upsert(keys=("id",), newer_by="id"), None, "newer_by can't be a key"),
        (Upsert(keys=("id",), newer_by="nothing"), None, "no column nothing"),
        (Upsert(keys=("id",), newer_by="count"), ["id", "name"], "newer_by is count, and rows do not bring it"),
        (Upsert(keys=("id",), newer_by="done"), None, "whose type has no order"),
        (Append(), ["id"], "column name is NOT NULL, has no server default"),
        (Append(), ["id", "name", "id"], "column id is named twice"),
        (Append(), [], "rows bring no column"),
        (Append(), ["id", "name"], "column state has default=..., which Python would set, and rows do not bring it"),
        (
            Upsert(keys=("id",)),
            ["id", "name", "state"],
            "column seen has onupdate=..., which Python would set, and rows do not bring it",
        ),
    ],
    ids=lambda value: None if not isinstance(value, str) else value,
)
def test_a_mode_that_does_not_fit_the_table_is_refused(
    place: Place, mode: Append | Upsert, columns: Sequence[str] | None, reason: str
) -> None:
    more: list[sa.Column[Any]] = [
        sa.Column("done", sa.Boolean),
        sa.Column("state", sa.String(9), default="new"),
        sa.Column("seen", sa.Integer, onupdate=lambda: 1),
    ]
    with pytest.raises(ConfigError, match=reason):
        place.plan(declared(place, *more), mode, columns=columns)


def test_what_the_database_sets_as_well_and_what_no_append_updates_is_not_refused(place: Place) -> None:
    more: list[sa.Column[Any]] = [
        sa.Column("state", sa.String(9), default="new", server_default="new"),
        sa.Column("seen", sa.Integer, onupdate=lambda: 1),
    ]
    table = declared(place, *more)
    place.write(place.plan(table, Append(), columns=["id", "name"]), [("1", "a")])
    assert place.read(table) == [("1", "a", None, None, "new", None)]
