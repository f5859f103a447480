"""Merging into stored rows, on every database: sums, extremes, means, nulls, keys that are one to it, several writers."""

# ruff: noqa: DTZ001 - timestamps without zone are what is tested

from __future__ import annotations

import random
import threading
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.place import Place, make_place
from waxwing.errors import ConfigError
from waxwing.tables.merging import merger
from waxwing.tables.modes import Merge
from waxwing.tables.plan import Plan

BOTH_WAYS = pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
Row = tuple[Any, ...]

TOTALS = Merge(
    keys=("minute", "customer"),
    add=("orders", "value"),
    least=("smallest", "first_day"),
    greatest=("largest", "last_at"),
    mean={"mean_value": ("value", "orders")},
)
NOON, ONE = datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 13)


def totals(place: Place, mode: Merge = TOTALS) -> Plan:
    """Totals of customers per minute; the mean is null where nothing was counted."""
    return place.plan(
        place.table(
            sa.Column("minute", sa.DateTime, primary_key=True),
            sa.Column("customer", sa.String(20), primary_key=True),
            sa.Column("orders", sa.BigInteger),
            sa.Column("value", sa.Numeric(12, 2)),
            sa.Column("smallest", sa.Numeric(12, 2)),
            sa.Column("first_day", sa.Date),
            sa.Column("largest", sa.Integer),
            sa.Column("last_at", sa.DateTime),
            sa.Column("note", sa.String(20)),
            *([sa.Column("mean_value", sa.Numeric(14, 4))] if mode.mean else []),
        ),
        mode,
    )


def pair(place: Place, kind: Any = None, **mode: Any) -> Plan:
    table = place.table(sa.Column("id", sa.String(20), primary_key=True), sa.Column("n", kind or sa.Integer))
    return place.plan(table, Merge(keys=("id",), **(mode or {"add": ("n",)})))


def test_each_column_is_merged_in_its_way(place: Place) -> None:
    planned = totals(place)
    assert [column.name for column in planned.columns][-1] == "note"  # rows bring no mean
    old = (NOON, "ann", 2, Decimal("10.10"), Decimal("-3.00"), date(2026, 1, 1), 7, ONE, "old")
    new = (NOON, "ann", 4, Decimal("-0.05"), Decimal("-2.99"), date(2025, 12, 31), 9, NOON, "new")
    place.write(planned, [old], [new, (ONE, "ann", 1, Decimal("5.00"), None, None, None, None, None)])
    assert place.read(planned.table) == [
        (NOON, "ann", 6, Decimal("10.05"), Decimal("-3.00"), date(2025, 12, 31), 9, ONE, "new", Decimal("1.6750")),
        (ONE, "ann", 1, Decimal("5.00"), None, None, None, None, None, Decimal("5.0000")),
    ]


@BOTH_WAYS
def test_a_null_on_one_side_gives_the_other_side(place: Place, staged: bool) -> None:
    planned = totals(place)
    full = (1, Decimal("2.50"), Decimal("2.50"), date(2026, 1, 1), 3, NOON)
    empty = (None,) * 6
    place.write(
        planned,
        [(NOON, "a", *full, "x"), (NOON, "b", *empty, "x"), (NOON, "c", *empty, "x")],
        [(NOON, "a", *empty, None), (NOON, "b", *full, None), (NOON, "c", *empty, None)],
        staged=staged,
    )
    mean = Decimal("2.5000")
    assert place.read(planned.table, "customer") == [
        (NOON, "a", *full, None, mean),
        (NOON, "b", *full, None, mean),
        (NOON, "c", *empty, None, None),
    ]


@BOTH_WAYS
def test_a_row_that_stood_there_with_nulls_takes_part(place: Place, staged: bool) -> None:
    planned = pair(place)
    with place.engine.begin() as connection:
        connection.execute(planned.table.insert(), [{"id": "a", "n": None}])
    place.write(planned, [("a", 5), ("b", 1)], [("a", -7)], staged=staged)
    assert place.read(planned.table) == [("a", -2), ("b", 1)]


def test_a_mean_of_nothing_is_null_and_one_in_between_is_rounded(place: Place) -> None:
    planned = totals(place)
    rest = (None, None, None, None, None)
    place.write(
        planned,
        [(NOON, "none", 0, Decimal(0), *rest), (NOON, "third", 3, Decimal(1), *rest), (NOON, "minus", 3, Decimal(-2), *rest)],
        [(NOON, "none", 0, Decimal(0), *rest), (NOON, "third", 0, Decimal(1), *rest)],
    )
    assert [(row[1], row[-1]) for row in place.read(planned.table, "customer")] == [
        ("minus", Decimal("-0.6667")),
        ("none", None),
        ("third", Decimal("0.6667")),
    ]


@pytest.mark.parametrize(
    ("total", "mean"),
    [
        (sa.Numeric(14, 2), sa.Numeric(14, 6)),
        (sa.BigInteger(), sa.Numeric(15, 1)),
        (sa.Double(), sa.Double()),
        (sa.Integer(), sa.Double()),
    ],
    ids=str,
)
def test_means_of_every_kind(place: Place, total: Any, mean: Any) -> None:
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("total", total, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("mean", mean),
    )
    planned = place.plan(table, Merge(keys=("id",), add=("total", "n"), mean={"mean": ("total", "n")}))
    value: Any = {sa.Numeric: Decimal("1234567.89"), sa.Double: 0.75}.get(type(total), 1_000_003)
    place.write(planned, [(1, value, 3)], [(1, value, 4), (2, value, 7)])
    read = place.read(table)
    for (_, _, _, got), want in zip(read, (2 * value / 7, value / 7), strict=True):
        if isinstance(mean, sa.Double):
            assert got == pytest.approx(want, rel=1e-15)
        else:
            exact = Decimal(2 * value if want == 2 * value / 7 else value) / 7
            assert got == exact.quantize(Decimal(1).scaleb(-mean.scale), ROUND_HALF_UP)


@BOTH_WAYS
def test_sums_of_decimals_stay_exact_over_many_transactions(place: Place, staged: bool) -> None:
    planned = pair(place, sa.Numeric(15, 4))
    rng = random.Random(4)
    parts = [[(f"k{key}", Decimal(rng.randrange(-(10**6), 10**6)).scaleb(-4)) for key in range(5)] for _ in range(50)]
    place.write(planned, *parts, staged=staged)
    assert place.read(planned.table) == [(f"k{key}", sum(rows[key][1] for rows in parts)) for key in range(5)]


@pytest.mark.parametrize(
    ("kind", "stored", "comes"),
    [
        (sa.Integer(), 2**31 - 5, 5),
        (sa.Integer(), -(2**31) + 5, -6),
        (sa.BigInteger(), 2**63 - 1, 1),
        (sa.BigInteger(), -(2**63), -1),
        (sa.SmallInteger(), 32_767, 1),
        (sa.Numeric(6, 2), Decimal("9999.99"), Decimal("0.01")),
        (sa.Numeric(6, 2), Decimal("-9999.99"), Decimal("-0.01")),
        (sa.Double(), 1.7e308, 1.7e308),
    ],
    ids=str,
)
def test_a_sum_beyond_its_column_blames_a_row_and_nothing_is_written(place: Place, kind: Any, stored: Any, comes: Any) -> None:
    planned = pair(place, kind)
    place.write(planned, [("a", stored)])
    # SQL Server says 8115; the compatible server has no number for this error.
    kind_wanted = "unknown" if place.compatible_only() and not isinstance(kind, sa.Integer) else "row"
    assert place.kind_of_failure(lambda: place.write(planned, [("b", comes), ("a", comes)])) == kind_wanted
    assert place.read(planned.table) == [("a", stored)]
    back = 5 if isinstance(stored, int) else type(stored)("0.5")
    place.write(planned, [("a", -back if stored > 0 else back)])
    ((_, now),) = place.read(planned.table)
    assert now == (stored - back if stored > 0 else stored + back)


@BOTH_WAYS
def test_what_the_database_sets_on_update_is_set(place: Place, staged: bool) -> None:
    long_ago = datetime(2001, 1, 1)
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        sa.Column("updated_at", sa.DateTime, nullable=False, server_default=sa.func.now(), onupdate=sa.func.now()),
    )
    planned = place.plan(table, Merge(keys=("id",), add=("n",)))
    place.write(planned, [(1, 1), (2, 1)], staged=staged)
    with place.engine.begin() as connection:
        connection.execute(table.update().values(updated_at=long_ago))
    place.write(planned, [(1, 1)], staged=staged)
    one, two = place.read(table)
    assert one[:2] == (1, 2)
    assert one[2] > long_ago
    assert two == (2, 1, long_ago)


def test_another_unique_key_of_the_table_blames_a_row(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        sa.Column("email", sa.String(20), unique=True),
    )
    planned = place.plan(table, Merge(keys=("id",), add=("n",)))
    place.write(planned, [(1, 1, "x")])
    assert place.kind_of_failure(partial(place.write, planned, [(1, 1, "x"), (2, 1, "x")])) == "row"
    assert place.read(table) == [(1, 1, "x")]


# What each database takes for one key, though Python does not: a table made by hand, and spellings.
FOLDING = {
    "sqlite": ("CREATE TABLE {} (id TEXT COLLATE NOCASE PRIMARY KEY, n INTEGER, big INTEGER, note TEXT)", ["a", "A"]),
    "postgresql": ("CREATE TABLE {} (id citext PRIMARY KEY, n integer, big integer, note text)", ["a", "A"]),
    "mysql": (
        "CREATE TABLE {} (id varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n int, big int, note longtext) CHARSET=utf8mb4",
        ["a", "A", "a ", "ä"],
    ),
    "sqlserver": (
        "CREATE TABLE {} (id nvarchar(20) COLLATE Latin1_General_CI_AS PRIMARY KEY, n int, big int, note nvarchar(max))",
        ["a", "A", "a "],
    ),
}


# The column `note` takes the newest value.
NEWEST = Merge(keys=("id",), add=("n",), greatest=("big",))


def folding(place: Place) -> tuple[Plan, list[str]]:
    """A table whose collation takes different keys for one; and such keys."""
    made, spellings = FOLDING[place.database.dialect.name]
    table = place.table(
        sa.Column("id", sa.String(20), primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("big", sa.Integer),
        sa.Column("note", sa.Text),
    )
    if place.database.dialect.name == "postgresql":
        place.run("CREATE EXTENSION IF NOT EXISTS citext")
    place.run(made.format(table.name))
    planned = place.plan(table, NEWEST)
    return planned, spellings


@BOTH_WAYS
def test_keys_that_are_one_to_the_database_are_all_added(place: Place, staged: bool) -> None:
    planned, spellings = folding(place)
    bulk = place.bulk(planned, staged=staged)
    first = [*((key, 1, number, "x") for number, key in enumerate(spellings)), ("b", 1, 1, "x")]
    for rows in (first, [("b", 10, None, "y"), *((key, 10, -1, "y") for key in reversed(spellings))], [("b", 100, 5, "z")]):
        with place.engine.begin() as connection:
            bulk.write(connection, rows)
    size = len(spellings)
    assert [row[1:] for row in place.read(planned.table)] == [(11 * size, size - 1, "y"), (111, 5, "z")]


@BOTH_WAYS
def test_the_newest_value_stands_for_keys_that_are_one_to_the_database(place: Place, staged: bool) -> None:
    planned, spellings = folding(place)
    bulk, merged = place.bulk(planned, staged=staged), merger(NEWEST, [column.name for column in planned.columns])
    total = 0
    for number, (one, other) in enumerate(permutations(spellings, 2)):
        for last in (f"t{number}", None):
            with place.engine.begin() as connection:
                bulk.write(connection, merged([(one, 1, 1, "s"), (other, 1, 1, "u"), (one, 1, 1, "v"), (other, 1, 1, last)]))
            total += 4
            assert [row[1:] for row in place.read(planned.table)] == [(total, 1, last)]


def test_writers_of_the_same_keys_lose_nothing_and_none_is_ended(place: Place) -> None:
    """Each in its own order, and what is transient is tried again, as the writer does."""
    planned = totals(place)
    writers, rounds, keys = 2 if place.database.dialect.name == "sqlserver" else 4, 12, 40
    sort = merger(TOTALS, [column.name for column in planned.columns])
    errors: list[BaseException] = []
    retries = [0] * writers

    def write(number: int) -> None:
        own, rng = make_place(place.url), random.Random(number)
        bulk = own.database.bulk(planned)
        connection = own.engine.connect()
        try:
            for _ in range(rounds):
                some = rng.sample(range(keys), keys // 2)
                rows = [(NOON, f"c{key}", 1, Decimal(key), Decimal(key), None, number, NOON, None) for key in some]
                while True:
                    try:
                        with connection.begin():
                            bulk.write(connection, sort(rows))
                            own.database.check_deferred(connection)
                        break
                    except Exception as error:
                        if own.database.classify(error).kind != "transient" or retries[number] > 200:
                            raise
                        retries[number] += 1
                        connection.invalidate()
                        connection.close()
                        connection = own.engine.connect()
                        bulk = own.database.bulk(planned)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()
            own.engine.dispose()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = [0] * keys
    for number in range(writers):
        rng = random.Random(number)
        for _ in range(rounds):
            for key in rng.sample(range(keys), keys // 2):
                expected[key] += 1
    read = {row[1]: (row[2], row[3]) for row in place.read(planned.table)}
    assert read == {f"c{key}": (times, Decimal(key * times)) for key, times in enumerate(expected) if times}


AMOUNTS = st.none() | st.decimals(-1000, 1000, places=2)
ROWS = st.lists(
    st.tuples(
        st.text("abA", max_size=1), st.none() | st.integers(-9, 9), AMOUNTS, st.none() | st.dates(date(1, 1, 1), date(9999, 1, 1))
    ),
    max_size=6,
)


def test_any_cutting_into_transactions_gives_the_same_rows(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.String(5), primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("v", sa.Numeric(10, 2)),
        sa.Column("d", sa.Date),
    )
    mode = Merge(keys=("id",), add=("n",), least=("v",), greatest=("d",))
    planned = place.plan(table, mode)
    bulk, merged = place.bulk(planned), merger(mode, ["id", "n", "v", "d"])
    with place.engine.connect() as connection:

        @settings(max_examples=40, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(ROWS, st.booleans()), max_size=5))
        def batches(steps: list[tuple[list[Row], bool]]) -> None:
            with connection.begin():
                connection.execute(table.delete())
            kept: list[Row] = []
            for rows, commits in steps:
                transaction = connection.begin()
                bulk.write(connection, merged(rows))
                if commits:
                    transaction.commit()
                    kept += rows
                else:
                    transaction.rollback()
            with connection.begin():
                read = {row[0]: tuple(row[1:]) for row in connection.execute(sa.select(table))}
            expected = {}
            for key in {row[0] for row in kept}:
                n, v, d = (
                    [value for value in each if value is not None]
                    for each in list(zip(*(r for r in kept if r[0] == key), strict=True))[1:]
                )
                expected[key] = (sum(n) if n else None, min(v, default=None), max(d, default=None))
            assert read == expected

        batches()


def test_an_existing_table_has_to_have_the_mean(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("total", sa.Integer),
        sa.Column("n", sa.Integer),
        sa.Column("mean", sa.Double),
    )
    place.run(f"CREATE TABLE {table.name} (id integer PRIMARY KEY, total integer, n integer)")
    with pytest.raises(ConfigError, match=r"column mean .* is missing"):
        place.plan(table, Merge(keys=("id",), add=("total", "n"), mean={"mean": ("total", "n")}))
