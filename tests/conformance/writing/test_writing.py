"""Every way of writing, on every database."""

# ruff: noqa: DTZ001 - timestamps without zone are what is tested

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.place import Place, make_place
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Upsert
from waxwing.tables.plan import Plan

BOTH_WAYS = pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
Row = tuple[Any, ...]


def upsert_plan(place: Place, **mode: Any) -> Plan:
    table = place.table(
        sa.Column("id", sa.String(20), primary_key=True), sa.Column("name", sa.Text), sa.Column("version", sa.Integer)
    )
    return place.plan(table, Upsert(keys=("id",), **mode))


@BOTH_WAYS
def test_new_rows_are_inserted_and_existing_ones_updated(place: Place, staged: bool) -> None:
    planned = upsert_plan(place)
    place.write(planned, [("a", "1", 1), ("b", "1", 1)], [("b", "2", 2), ("c", "2", 2)], [("d", "3", 3)], staged=staged)
    assert place.read(planned.table) == [("a", "1", 1), ("b", "2", 2), ("c", "2", 2), ("d", "3", 3)]


@BOTH_WAYS
def test_an_update_to_null_is_applied(place: Place, staged: bool) -> None:
    planned = upsert_plan(place)
    place.write(planned, [("a", "1", 1)], [("a", None, None)], staged=staged)
    assert place.read(planned.table) == [("a", None, None)]


@BOTH_WAYS
def test_null_is_not_the_empty_text(place: Place, staged: bool) -> None:
    planned = upsert_plan(place)
    place.write(planned, [("a", "", 1), ("b", None, 1), ("", "None", 1), ("None", "\\N", 1)], staged=staged)
    assert place.read(planned.table) == [("", "None", 1), ("None", "\\N", 1), ("a", "", 1), ("b", None, 1)]


@BOTH_WAYS
def test_null_in_the_first_row_drops_no_column(place: Place, staged: bool) -> None:
    planned = upsert_plan(place)
    place.write(planned, [("a", None, None), ("b", "x", 5)], staged=staged)
    assert place.read(planned.table) == [("a", None, None), ("b", "x", 5)]


@BOTH_WAYS
def test_a_table_of_key_columns_alone_takes_a_row_twice(place: Place, staged: bool) -> None:
    table = place.table(sa.Column("a", sa.Integer, primary_key=True), sa.Column("b", sa.String(50), primary_key=True))
    planned = place.plan(table, Upsert(keys=("a", "b")))
    place.write(planned, [(1, "x"), (1, "y")], [(1, "x"), (2, "x")], staged=staged)
    assert place.read(table, "a", "b") == [(1, "x"), (1, "y"), (2, "x")]


@BOTH_WAYS
def test_a_row_is_written_only_when_it_is_newer(place: Place, staged: bool) -> None:
    planned = upsert_plan(place, newer_by="version")
    # What is stored, what comes, and which of them stands.
    versions = [(5, 5, "old"), (5, 4, "old"), (5, 6, "new"), (None, 0, "new"), (5, None, "old"), (None, None, "old")]
    old = [(f"{number}", "old", stored) for number, (stored, _, _) in enumerate(versions)]
    new = [(f"{number}", "new", comes) for number, (_, comes, _) in enumerate(versions)]
    place.write(planned, old, new, staged=staged)
    assert [row[1] for row in place.read(planned.table)] == [stands for _, _, stands in versions]


@BOTH_WAYS
def test_text_versions_are_ordered_by_code_point(place: Place, staged: bool) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True), sa.Column("version", sa.Text))
    planned = place.plan(table, Upsert(keys=("id",), newer_by="version"))
    place.write(planned, [(1, "B"), (2, "a"), (3, "z")], [(1, "a"), (2, "B"), (3, "é")], staged=staged)
    assert place.read(table) == [(1, "a"), (2, "a"), (3, "é")]


@BOTH_WAYS
def test_columns_that_the_database_keeps_are_kept_by_it(place: Place, staged: bool) -> None:
    long_ago = datetime(2001, 1, 1)
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text),
        sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime, nullable=False, server_default=sa.func.now(), onupdate=sa.func.now()),
        sa.Column("length", sa.Integer, sa.Computed("length(name)", persisted=True)),
    )
    planned = place.plan(table, Upsert(keys=("id",)))
    assert [column.name for column in planned.columns] == ["id", "name"]
    place.write(planned, [(1, "one"), (2, "two")], staged=staged)
    with place.engine.begin() as connection:
        connection.execute(table.update().values(created_at=long_ago, updated_at=long_ago))
    place.write(planned, [(1, "three")], staged=staged)
    one, two = place.read(table)
    assert (one.count(long_ago), one[1], one[4]) == (1, "three", 5)
    assert one[2] == long_ago < one[3]
    assert two == (2, "two", long_ago, long_ago, 3)


def test_two_writes_in_one_transaction_both_stand(place: Place) -> None:
    planned = upsert_plan(place)
    bulk = place.bulk(planned, staged=True)
    with place.engine.begin() as connection:
        bulk.write(connection, [("a", "1", 1), ("b", "1", 1)])
        bulk.delete(connection, [("a",)])
        bulk.write(connection, [("c", "2", 2)])
    assert place.read(planned.table) == [("b", "1", 1), ("c", "2", 2)]


def test_what_is_rolled_back_leaves_the_bulk_path_in_order(place: Place) -> None:
    planned = upsert_plan(place)
    bulk = place.bulk(planned, staged=True)
    with place.engine.connect() as connection:
        for end in ("rollback", "commit", "rollback", "commit"):
            transaction = connection.begin()
            savepoint = connection.begin_nested()
            bulk.write(connection, [(end, end, 1)])
            savepoint.commit()
            getattr(transaction, end)()
    assert place.read(planned.table) == [("commit", "commit", 1)]


def test_deletes_hit_exactly_the_keys_named(place: Place) -> None:
    planned = upsert_plan(place)
    keys = ["a", "A", "", "%", "a'b", "None", "é", "x" * 20]
    place.write(planned, [(key, "v", 1) for key in keys])
    with place.engine.begin() as connection:
        bulk = place.bulk(planned)
        bulk.delete(connection, [("a",), ("",), ("a'b",), ("missing",)])
        bulk.delete(connection, [])
    assert {row[0] for row in place.read(planned.table)} == {"A", "%", "None", "é", "x" * 20}


@pytest.mark.parametrize("kind", [sa.Integer(), sa.BigInteger(), sa.Uuid(), sa.LargeBinary()], ids=str)
def test_deletes_take_keys_of_every_kind(place: Place, kind: Any) -> None:
    keys: dict[type, list[Any]] = {sa.Uuid: [UUID(int=1), UUID(int=2)], sa.LargeBinary: [b"\x00", b"\xff"]}
    one, two = keys.get(type(kind), [1, 2**31 - 1])
    if place.database.dialect.name == "mysql" and isinstance(kind, sa.LargeBinary):
        kind = sa.VARBINARY(20)  # a BLOB is no key there
    table = place.table(sa.Column("id", kind, primary_key=True, autoincrement=False), sa.Column("v", sa.Integer))
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    place.write(planned, [(one, 1), (two, 2)])
    with place.engine.begin() as connection:
        place.bulk(planned).delete(connection, [(one,)])
    assert place.read(table) == [(two, 2)]


def test_appending_an_existing_key_blames_a_row(place: Place) -> None:
    table = place.table(sa.Column("id", sa.String(20), primary_key=True))
    planned = place.plan(table, Append())
    place.write(planned, [("a",), ("b",)])
    assert place.kind_of_failure(lambda: place.write(planned, [("c",), ("b",)])) == "row"
    assert place.read(table) == [("a",), ("b",)]


@BOTH_WAYS
def test_a_broken_constraint_blames_a_row_and_nothing_is_written(place: Place, staged: bool) -> None:
    parent = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    place.plan(parent, Append())
    table = sa.Table(
        f"{parent.name}_child",
        parent.metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.String(50), unique=True),
        sa.Column("parent", sa.Integer, sa.ForeignKey(parent.c.id)),
        sa.CheckConstraint("email <> 'nobody'"),
    )
    planned = place.plan(table, Upsert(keys=("id",)))
    place.write(planned, [(1, "x", None)], staged=staged)
    for bad in ((2, "x", None), (2, "nobody", None), (2, "y", 99)):
        assert place.kind_of_failure(partial(place.write, planned, [(3, "z", None), bad], staged=staged)) == "row"
    assert place.read(table) == [(1, "x", None)]


def test_more_rows_than_one_statement_takes(place: Place) -> None:
    planned = upsert_plan(place)
    rows = [(f"{n:06}", None if n % 7 == 0 else f"name {n}", n) for n in range(3_210)]
    place.write(planned, rows, [])
    assert place.read(planned.table) == rows
    place.write(planned, [(key, "again", 0) for key, _, _ in rows])
    assert place.read(planned.table) == [(key, "again", 0) for key, _, _ in rows]


KEYS = st.text("abAB", max_size=2)
TEXT = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=3)
ROWS = st.dictionaries(KEYS, st.tuples(st.none() | TEXT, st.none() | st.integers(0, 5)), max_size=6)


@pytest.mark.parametrize("newer_by", [None, "version"])
def test_any_sequence_of_batches_gives_what_a_dictionary_gives(place: Place, newer_by: str | None) -> None:
    planned = upsert_plan(place, newer_by=newer_by)
    bulk = place.bulk(planned)
    with place.engine.connect() as connection:

        @settings(max_examples=40, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(ROWS, st.booleans()), max_size=5))
        def batches(steps: list[tuple[dict[str, tuple[str | None, int | None]], bool]]) -> None:
            expected: dict[str, tuple[str | None, int | None]] = {}
            with connection.begin():
                connection.execute(planned.table.delete())
            for rows, kept in steps:
                transaction = connection.begin()
                bulk.write(connection, [(key, *values) for key, values in rows.items()])
                if not kept:
                    transaction.rollback()
                    continue
                transaction.commit()
                for key, values in rows.items():
                    held = expected.get(key)
                    if held is None or newer_by is None or (values[1] is not None and (held[1] is None or values[1] > held[1])):
                        expected[key] = values
            with connection.begin():
                read = {row[0]: (row[1], row[2]) for row in connection.execute(sa.select(planned.table))}
            assert read == expected

        batches()


def test_a_value_that_can_t_be_encoded_blames_its_row_and_not_the_url(place: Place) -> None:
    """Checks let none of these through; should one, it is no matter of the URL's options, nor a bug that stops all."""
    planned = place.plan(place.table(sa.Column("id", sa.Integer), sa.Column("v", sa.Uuid)), Append())
    assert place.kind_of_failure(lambda: place.write(planned, [(1, UUID(int=1)), (2, "none")])) == "row"
    place.write(planned, [(1, UUID(int=1))])
    assert place.read(planned.table) == [(1, UUID(int=1))]


def test_an_option_that_the_driver_can_t_read_is_told_while_connecting(mariadb_place: Place) -> None:
    with pytest.raises(ConfigError, match=r"can't be read: .*'soon'.*Check the options in DATABASE_URL"):
        make_place(mariadb_place.url.update_query_dict({"write_timeout": "soon"}))
    with pytest.raises(ConfigError, match=r"can't be read: .*Check the options in DATABASE_URL"):
        make_place(mariadb_place.url.update_query_dict({"bind_address": "\x00"})).engine.connect()
