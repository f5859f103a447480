"""Keys that only the database takes for one, and rows that are deleted and made anew: as one by one, wherever a batch ends."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from sinks import Merge, Upsert
from tests.conformance.keys.keyed import Gone, singly, write
from tests.conformance.place import Place
from waxwing.errors import ConfigError, RowError
from waxwing.tables.plan import Plan

# A table whose keys fold, by database and way; and two spellings of one key.
CITEXT = "CREATE TABLE {0} (id citext PRIMARY KEY, n integer, note varchar(20) DEFAULT 'fresh')"
LOWERED = """CREATE TABLE {0} (id varchar(20) PRIMARY KEY, n integer, note varchar(20) DEFAULT 'fresh');
    CREATE OR REPLACE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id = lower(NEW.id); RETURN NEW; END';
    CREATE TRIGGER lowers BEFORE INSERT ON {0} FOR EACH ROW EXECUTE FUNCTION lowered()"""
NUMBERED = "CREATE TABLE {0} (number serial PRIMARY KEY, id citext UNIQUE, n integer, note varchar(20) DEFAULT 'fresh')"
FOLDING = {
    "postgresql": {"citext": CITEXT, "lowered": LOWERED, "numbered": NUMBERED},
    "sqlite": {
        "nocase": "CREATE TABLE {0} (id varchar(20) COLLATE NOCASE PRIMARY KEY, n integer, note varchar(20) DEFAULT 'fresh')",
        "numbered": "CREATE TABLE {0} (number integer PRIMARY KEY AUTOINCREMENT, id varchar(20) COLLATE NOCASE UNIQUE, "
        "n integer, note varchar(20) DEFAULT 'fresh')",
    },
    "mysql": {
        "general_ci": "CREATE TABLE {0} (id varchar(20) PRIMARY KEY, n integer, note varchar(20) DEFAULT 'fresh') "
        "COLLATE utf8mb4_general_ci",
        "numbered": "CREATE TABLE {0} (number integer AUTO_INCREMENT PRIMARY KEY, id varchar(20) UNIQUE, "
        "n integer, note varchar(20) DEFAULT 'fresh') COLLATE utf8mb4_general_ci",
    },
    "sqlserver": {"default": "CREATE TABLE {0} (id varchar(20) PRIMARY KEY, n integer, note varchar(20) DEFAULT 'fresh')"},
}


def folding(place: Place, made: str, mode: Any) -> Plan:
    table = place.table(sa.Column("id", sa.String(20)), sa.Column("n", sa.Integer), sa.UniqueConstraint("id"))
    if place.database.dialect.name == "postgresql":
        place.run("CREATE EXTENSION IF NOT EXISTS citext")
    place.run(made.format(table.name))
    return place.plan(table, mode)


def found(place: Place, planned: Plan) -> list[Any]:
    with place.engine.connect() as connection:
        query = sa.text(f"SELECT id, n, note FROM {planned.table.name}")
        return sorted((tuple(row) for row in connection.execute(query)), key=lambda row: row[0].lower())


def age(place: Place, planned: Plan) -> None:
    place.run(f"UPDATE {planned.table.name} SET note = 'old'")


def cuts(events: list[Any]) -> list[list[list[Any]]]:
    """One by one, in two parts of every size, and all at once."""
    return [singly(events), *([events[:n], events[n:]] for n in range(1, len(events))), [events]]


def test_upserts_and_deletes_of_keys_that_are_one_to_the_database(place: Place) -> None:
    events = [
        ("b", 0),
        ("E", 0),
        ("A1", 1),
        ("a1", 2),
        Gone(b"B"),
        ("c", 3),
        Gone(("C",)),
        ("C", 4),
        Gone({"id": "x"}),
        ("A1", 5),
        ("d", 6),
        ("e", 7),
    ]
    for name, made in FOLDING[place.database.dialect.name].items():
        planned = folding(place, made, Upsert(keys=("id",), delete_on_tombstone=True))
        table = planned.table.name
        # A trigger lowers rows, and no tombstone.
        of_table = [event if not isinstance(event, Gone) or name != "lowered" else Gone(b"b") for event in events]
        seen = []
        for parts in cuts(of_table) if place.database.dialect.name == "sqlite" else [singly(of_table), [of_table]]:
            place.run(f"DELETE FROM {table}")
            write(place, planned, [("a1", 0), ("C", 0)])
            age(place, planned)
            write(place, planned, *parts)
            seen.append(found(place, planned))
        assert all(one == seen[0] for one in seen), name
        assert [(key.lower(), n) for key, n, _ in seen[0]] == [("a1", 5), ("c", 4), ("d", 6), ("e", 7)], name
        assert seen[0][0][2] == "old", name
        if name != "lowered":
            assert [note for key, _, note in seen[0] if key == "C"] == ["fresh"], name


def test_the_newest_and_the_sum_of_keys_that_are_one_to_the_database(place: Place) -> None:
    events = [("A1", 3), ("a1", 3), ("B", 1), ("b", 2), ("A1", 2), ("a1", 5), ("B", 2), ("A1", 4)]
    for name, made in FOLDING[place.database.dialect.name].items():
        for mode, expected in ((Upsert(keys=("id",), newer_by="n"), [5, 2]), (Merge(keys=("id",), add=("n",)), [17, 5])):
            planned = folding(place, made, mode)
            written = set()
            for parts in ([events], singly(events)) if place.database.dialect.name != "sqlserver" else [[events]]:
                place.run(f"DELETE FROM {planned.table.name}")
                write(place, planned, *parts)
                rows = found(place, planned)
                written.add(tuple(row[0] for row in rows))
                assert [(row[0].lower(), row[1]) for row in rows] == list(zip(("a1", "b"), expected, strict=True)), (name, mode)
            assert len(written) == 1 or isinstance(mode, Merge), (name, written)


def test_a_key_that_is_padded_is_one_with_the_shorter_one_that_a_tombstone_brings(place: Place) -> None:
    table = place.table(sa.Column("id", sa.CHAR(3), primary_key=True), sa.Column("n", sa.Integer))
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    with place.engine.begin() as connection:
        connection.execute(table.insert(), [{"id": "ab", "n": 1}, {"id": "abc", "n": 2}])
    if place.database.dialect.name == "sqlite":  # where CHAR(3) is a text like others
        write(place, planned, [Gone(b"ab")])
    else:
        write(place, planned, [Gone(b"ab"), Gone(b"ab"), Gone(b"x")])
    assert [row[1] for row in place.read(table)] == [2]


# What else is there than the rows of one key: by database, statements about a table {0} of (id, n, note, email).
AUDIT = {
    "sqlite": ["CREATE TRIGGER {0}_t AFTER DELETE ON {0} BEGIN INSERT INTO {0}_log VALUES (old.id); END"],
    "mysql": ["CREATE TRIGGER {0}_t AFTER DELETE ON {0} FOR EACH ROW INSERT INTO {0}_log VALUES (old.id)"],
    "postgresql": [
        """CREATE FUNCTION {0}_f() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO {0}_log VALUES (old.id); RETURN NULL; END'""",
        "CREATE TRIGGER {0}_t AFTER DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION {0}_f()",
    ],
    "sqlserver": ["CREATE TRIGGER {0}_t ON {0} AFTER DELETE AS INSERT INTO {0}_log SELECT id FROM deleted"],
}


@pytest.mark.parametrize("audited", [False, True], ids=["plain", "audited"])
def test_what_is_deleted_and_made_anew_is_as_if_written_one_by_one(place: Place, audited: bool) -> None:
    vendor = place.database.dialect.name
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer),
        sa.Column("note", sa.String(20), server_default="fresh"),
    )
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    name = table.name
    place.run(
        f"CREATE TABLE {name}_log (id integer)",
        f"CREATE TABLE {name}_part (id integer, FOREIGN KEY (id) REFERENCES {name} (id) ON DELETE CASCADE)",
        *(statement.format(name) for statement in (AUDIT[vendor] if audited else [])),
    )
    planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
    assert planned.nature.rows_alone is not audited
    assert planned.nature.keys_exact
    events = [
        Gone(b"1"),
        (1, 10),
        (2, 20),
        Gone((2,)),
        (4, 40),
        (2, 21),
        (2, 22),
        Gone({"id": 3}),
        Gone(b"4"),
        Gone(b"5"),
        (5, 50),
    ]
    parts = [[events], [events[:1], events[1:]], singly(events)]
    seen: list[Any] = []
    for transactions in parts if vendor != "sqlserver" else parts[:1]:
        place.run(*(f"DELETE FROM {name}{end}" for end in ("_part", "", "_log")))
        write(place, planned, [(1, 1), (3, 1), (6, 1)])
        place.run(f"UPDATE {name} SET note = 'old'", f"INSERT INTO {name}_part VALUES (1), (6)", f"DELETE FROM {name}_log")
        write(place, planned, *transactions)
        with place.engine.connect() as connection:
            log = sorted(connection.scalars(sa.text(f"SELECT id FROM {name}_log")))
            kept = sorted(connection.scalars(sa.text(f"SELECT id FROM {name}_part")))
        seen.append((sorted(place.read(table)), log, kept))
    rows = [(1, 10, "fresh"), (2, 22, "fresh"), (5, 50, "fresh"), (6, 1, "old")]
    assert seen == [(rows, [1, 2, 3, 4] if audited else [], [6])] * len(seen)


def test_deletes_by_keys_of_several_columns(place: Place) -> None:
    table = place.table(
        sa.Column("v", sa.Integer),
        sa.Column("shop", sa.String(10), primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    )
    planned = place.plan(table, Upsert(keys=("id", "shop"), delete_on_tombstone=True))
    write(place, planned, [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "b", 2)])
    write(place, planned, [Gone({"shop": "a", "id": 2}), Gone({"id": 1, "shop": "b"}), (5, "b", 1), Gone({"id": 9, "shop": "b"})])
    assert sorted(place.read(table)) == [(1, "a", 1), (4, "b", 2), (5, "b", 1)]
    for key, reason in (({"id": 1}, "no value for column shop"), ({"id": "1", "shop": "a"}, "column id: a value of type str")):
        with pytest.raises(RowError) as refused:
            write(place, planned, [(7, "z", 7), Gone(key)])
        assert list(refused.value.bad) == [1]
        assert reason in refused.value.bad[1]
    for wrong in (b"1", ("a",), {"id": 1, "shop": "a", "v": 1}):
        with pytest.raises(ConfigError, match="key"):
            write(place, planned, [Gone(wrong)])


class Colour(Enum):
    RED = 1
    BLUE = 2


TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))  # an hour that comes twice
UTC_TWICE = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
# Type, texts of one and the same key each (to the databases that take it), by what Python may make of them.
SPELLED: list[tuple[Any, list[list[Any]]]] = [
    (sa.Numeric(6, 2), [[Decimal("1.0"), Decimal("1.00"), 1], [Decimal("-0.0"), Decimal(0)], [Decimal("1.01")]]),
    (sa.Double(), [[1.0, 1], [-0.0, 0.0], [0.5], [math.nan, float("nan")], [math.inf]]),
    (sa.DateTime(timezone=True), [[TWICE, UTC_TWICE], [TWICE.replace(fold=1), UTC_TWICE + timedelta(hours=1)]]),
    (sa.Time(timezone=True), [[time(12, tzinfo=UTC)], [time(13, tzinfo=timezone(timedelta(hours=1)))]]),
    (sa.Enum(Colour), [[Colour.RED, "RED"], ["BLUE", Colour.BLUE]]),
    (sa.Uuid(), [[UUID(int=1)], [UUID(int=2)]]),
    (sa.LargeBinary(16), [[b"a"], [b"a "], [b"A"], [b"\xff" * 16]]),
    (sa.Boolean(), [[True], [False]]),
    (sa.Date(), [[date(2026, 1, 1)], [date(1, 1, 1)]]),
]


def test_values_that_are_one_key_are_one_row_and_others_are_not(place: Place) -> None:
    """What Python calls equal is not what counts, but what the database does."""
    for kind, values in SPELLED:
        keys = values
        table = place.table(sa.Column("id", kind, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
        try:
            planned = place.plan(table, Upsert(keys=("id",), delete_on_tombstone=True))
        except ConfigError:  # a type that this database can't keep
            continue
        if isinstance(kind, sa.Double):
            dialect = place.database.dialect
            keys = [k for k in keys if (dialect.float_nan or k[0] == k[0]) and (dialect.float_infinity or abs(k[0]) != math.inf)]
        rows = [(spelled, number) for number, same in enumerate(keys) for spelled in same]
        merges = place.plan(table, Merge(keys=("id",), add=("n",)))
        for parts in [[rows], [rows, rows]]:
            write(place, planned, *parts)
            assert sorted(row[1] for row in place.read(table)) == list(range(len(keys))), kind
        write(place, merges, [(spelled, 100) for spelled, _ in rows])
        sums = sorted(number + 100 * len(same) for number, same in enumerate(keys))
        assert sorted(row[1] for row in place.read(table)) == sums, kind
        gone = [Gone((same[-1],)) for same in keys[1:]]
        write(place, planned, [*gone, (keys[-1][0], 7)])
        assert sorted(row[1] for row in place.read(table)) == sorted([100 * len(keys[0]), 7]), kind


# Whether rows are alone in a table of a key `k` and a number `n`, beside what is said here: an index after the columns.
ALONE = ("", "more int", "more int; (more)", "more int DEFAULT 1")
NOT_ALONE = ("; (n)", "more int DEFAULT 1; (more)", "g {computed}; (g)")
OF_ONE = {
    "sqlite": (("id integer PRIMARY KEY",), ("more int; (more) WHERE n > 0", "; (abs(n))")),
    "postgresql": (
        ("id serial PRIMARY KEY", "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "; (k) WHERE n > 0"),
        (
            "more int; (more) WHERE n > 0",
            "more int; (more) NULLS NOT DISTINCT",
            "; (abs(n))",
            "during int4range, EXCLUDE USING gist (int4range(k, k + 2) WITH &&)",
        ),
    ),
    "mysql": (
        ("id int AUTO_INCREMENT PRIMARY KEY", "id int DEFAULT nextval(numbers), UNIQUE (id)"),
        ("more timestamp NULL ON UPDATE current_timestamp; (more)",),
    ),
    "sqlserver": (("id int IDENTITY PRIMARY KEY",), ()),
}


def test_rows_are_alone_where_no_two_keys_can_meet_in_another_unique_key(place: Place) -> None:
    dialect = place.database.dialect.name
    computed = {"sqlserver": "AS (n + 0)"}.get(dialect, "int GENERATED ALWAYS AS (n + 0) STORED")
    alone, others = OF_ONE[dialect]
    if dialect == "mysql":
        place.run("CREATE SEQUENCE numbers")
    # SQL Server lets a null be there once.
    no_nulls = [case for case in ALONE if dialect != "sqlserver" or ";" not in case]
    for cases, expected in (((*no_nulls, *alone), True), ((*NOT_ALONE, *others), False)):
        for case in cases:
            table = place.table(sa.Column("k", sa.Integer, unique=True), sa.Column("n", sa.Integer))
            columns, _, index = case.format(computed=computed).partition(";")
            place.run(f"CREATE TABLE {table.name} (k int NOT NULL UNIQUE, n int{', ' * bool(columns)}{columns})")
            if index:
                place.run(f"CREATE UNIQUE INDEX u_{table.name} ON {table.name}{index}")
            planned = place.plan(table, Upsert(keys=("k",), delete_on_tombstone=True))
            assert planned.nature.rows_alone is expected, case


def test_a_unique_key_of_a_partition_alone_is_seen(postgresql_place: Place) -> None:
    place = postgresql_place
    table = place.table(sa.Column("k", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    place.run(
        f"CREATE TABLE {table.name} (k int PRIMARY KEY, n int) PARTITION BY RANGE (k)",
        f"CREATE TABLE {table.name}_1 PARTITION OF {table.name} FOR VALUES FROM (0) TO (100)",
    )
    mode = Upsert(keys=("k",), delete_on_tombstone=True)
    assert place.plan(table, mode).nature.rows_alone
    place.run(f"CREATE UNIQUE INDEX ON {table.name}_1 (n)")
    assert not place.plan(table, mode).nature.rows_alone


def test_a_key_of_first_characters_is_not_the_key_itself(mariadb_place: Place) -> None:
    place = mariadb_place
    table = place.table(sa.Column("k", sa.String(10), primary_key=True), sa.Column("n", sa.Integer))
    place.run(f"CREATE TABLE {table.name} (k varchar(10) COLLATE utf8mb4_nopad_bin PRIMARY KEY, n int, UNIQUE (k(2)))")
    assert not place.plan(table, Upsert(keys=("k",))).nature.rows_alone
