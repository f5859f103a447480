"""Keys that no upsert can go by, and tables that number their rows themselves."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from sinks import Append, Merge, Upsert
from tests.conformance.keys.keyed import Gone, singly, write
from tests.conformance.place import Place
from waxwing.errors import ConfigError
from waxwing.tables.modes import Mode

# What can't be the arbiter of an upsert by `code`: statements about a table {0} of (code, n), and what the refusal says.
UNFIT = {
    "postgresql": [
        (
            "CREATE TABLE {0} (code varchar(20) PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n integer)",
            "primary key {0}_pkey is deferr",
        ),
        (
            "CREATE TABLE {0} (code varchar(20) CONSTRAINT one_code UNIQUE DEFERRABLE, n integer)",
            "unique constraint one_code is deferr",
        ),
        (
            "CREATE TABLE {0} (code varchar(20) PRIMARY KEY, n integer); ALTER TABLE {0} ADD UNIQUE (code) DEFERRABLE",
            "unique constraint {0}_code_key is deferr",
        ),
        (
            "CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code) WHERE n > 0",
            "{0}_i has a condition",
        ),
        (
            "CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (lower(code))",
            "{0}_i is one of expressions",
        ),
        ("CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code, n)", "no primary key, unique"),
        (
            """CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code);
            UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('{0}_i' AS regclass)""",
            "{0}_i is not valid",
        ),
        (
            "CREATE TABLE {0} (code varchar(20), n integer, EXCLUDE (code WITH =))",
            "exclusion constraint {0}_code_excl is no unique",
        ),
    ],
    "mysql": [
        ("CREATE TABLE {0} (code varchar(20), n integer, UNIQUE KEY short (code(3)))", "unique index short is of the first char"),
        ("CREATE TABLE {0} (code varchar(20), n integer, UNIQUE KEY both_of (code, n))", "no primary key, unique"),
    ],
    "sqlite": [
        (
            "CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code) WHERE n > 0",
            "{0}_i has a condition",
        ),
        (
            "CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (lower(code))",
            "{0}_i is one of expressions",
        ),
        ("CREATE TABLE {0} (code varchar(20) UNIQUE ON CONFLICT REPLACE, n integer)", "ON CONFLICT REPLACE, which drops rows"),
        ("CREATE TABLE {0} (code varchar(20), n integer, UNIQUE (code, n))", "no primary key, unique"),
    ],
    "sqlserver": [
        ("CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code) WHERE n > 0", "has a filter"),
        ("CREATE TABLE {0} (code varchar(20), n integer); CREATE UNIQUE INDEX {0}_i ON {0} (code, n)", "no primary key, unique"),
    ],
}
FIT = {
    "postgresql": [
        "code varchar(20), n integer, CONSTRAINT {0}_c UNIQUE NULLS NOT DISTINCT (code)",
        "code varchar(20) UNIQUE, n integer",
    ],
    "mysql": [
        "code varchar(20), n integer, UNIQUE KEY whole (code), UNIQUE KEY part (code(3), n)",
        "code varchar(20) UNIQUE, n integer) WITH SYSTEM VERSIONING -- (",
        """code varchar(20), n integer, s timestamp(6) GENERATED ALWAYS AS ROW START, e timestamp(6) GENERATED ALWAYS AS ROW END,
        PERIOD FOR SYSTEM_TIME (s, e), UNIQUE (code)) WITH SYSTEM VERSIONING -- (""",
    ],
    "sqlite": ["code varchar(20) UNIQUE, n integer", "code varchar(20), n integer, UNIQUE (code)"],
    "sqlserver": ["code varchar(20) UNIQUE, n integer"],
}


def coded(place: Place, *unique: sa.Constraint | sa.Index) -> sa.Table:
    return place.table(sa.Column("code", sa.String(20)), sa.Column("n", sa.Integer), *(unique or (sa.UniqueConstraint("code"),)))


def test_keys_that_no_upsert_can_go_by_are_refused_at_the_start_by_name(place: Place) -> None:
    vendor = place.database.dialect.name
    for made, reason in UNFIT[vendor]:
        if "filter" in reason and place.compatible_only():
            continue  # it tells nothing of an index's condition
        table = coded(place)
        place.run(*made.format(table.name).split(";"))
        for mode in (Upsert(keys=("code",)), Merge(keys=("code",), add=("n",))):
            with pytest.raises(ConfigError) as refused:
                place.plan(table, mode)
            assert reason.format(table.name) in str(refused.value)
    for made in FIT[vendor]:
        table = coded(place)
        place.run(f"CREATE TABLE {table.name} ({made.format(table.name)})")
        write(place, place.plan(table, Upsert(keys=("code",))), [("abcd", 1)], [("abcd", 2), ("abce", 3)])
        assert place.read(table) == [("abcd", 2), ("abce", 3)], made


def test_a_table_of_the_flow_s_own_with_such_keys_is_refused_too(place: Place) -> None:
    for unique in (
        sa.UniqueConstraint("code", deferrable=True, name="late"),
        sa.UniqueConstraint("code", initially="DEFERRED", name="late"),
        sa.Index("some", "code", unique=True, postgresql_where=sa.text("n > 0")),
        sa.Index("low", sa.text("lower(code)"), unique=True),
        sa.Index("first", "code", unique=True, mysql_length={"code": 3}),
    ):
        with pytest.raises(ConfigError, match=r"constraint late .*deferrable|neither its primary key nor a unique constraint"):
            place.plan(coded(place, unique), Upsert(keys=("code",)))


# A table that numbers its rows, with room for few; by database.
SMALL = {
    "postgresql": [
        "number smallserial PRIMARY KEY",
        "number smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "number smallint",
        "number int2",
        "number integer",
        "number int4",
        "number int8",
        "number {0}_d",
    ],
    "mysql": [
        "number tinyint AUTO_INCREMENT PRIMARY KEY",
        "number tinyint UNIQUE DEFAULT nextval({0}_s)",
        "number int UNIQUE",
        "number bigint UNIQUE",
    ],
    "sqlite": ["number integer PRIMARY KEY AUTOINCREMENT"],
    "sqlserver": ["number tinyint IDENTITY(1, 1) PRIMARY KEY"],
}
# What draws them is not to be seen in the default: a function of the default's, one behind that, one that a trigger calls, one
# whose body only the server has parsed, one that puts its SQL together.
_SEQUENCE = "CREATE SEQUENCE {0}_s"
_DRAWS = "CREATE FUNCTION {0}_f() RETURNS integer LANGUAGE sql AS $$ SELECT CAST(nextval('{0}_s') AS integer) $$"
_DEFAULT = "ALTER TABLE {0} ALTER number SET DEFAULT {0}_g()"
PREPARED = {
    "number tinyint UNIQUE DEFAULT nextval({0}_s)": ["CREATE SEQUENCE {0}_s MAXVALUE 120 CACHE 0"],
    "number {0}_d": [_SEQUENCE, _DRAWS, "CREATE DOMAIN {0}_d AS integer DEFAULT {0}_f()"],
}
HIDDEN = {
    "number int UNIQUE": [
        "CREATE SEQUENCE {0}_s CACHE 0",
        "CREATE TRIGGER {0}_t BEFORE INSERT ON {0} FOR EACH ROW SET NEW.number = coalesce(NEW.number, nextval({0}_s))",
    ],
    "number bigint UNIQUE": [
        "CREATE SEQUENCE {0}_s CACHE 0",
        "CREATE FUNCTION {0}_f() RETURNS bigint RETURN NEXT VALUE FOR {0}_s",
        "CREATE TRIGGER {0}_t BEFORE INSERT ON {0} FOR EACH ROW IF NEW.number IS NULL THEN SET NEW.number = {0}_f(); END IF",
    ],
    "number smallint": [_SEQUENCE, _DRAWS, "ALTER TABLE {0} ALTER number SET DEFAULT {0}_f()"],
    "number int2": [
        _SEQUENCE,
        _DRAWS,
        "CREATE FUNCTION {0}_g() RETURNS integer STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN {0}_f(); END $$",
        _DEFAULT,
    ],
    "number integer": [
        _SEQUENCE,
        _DRAWS,
        """CREATE FUNCTION {0}_g() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN NEW.number := coalesce(NEW.number, {0}_f()); RETURN NEW; END $$""",
        "CREATE TRIGGER {0}_t BEFORE INSERT ON {0} FOR EACH ROW EXECUTE FUNCTION {0}_g()",
    ],
    "number int4": [
        _SEQUENCE,
        _DRAWS,
        "CREATE FUNCTION {0}_g() RETURNS integer STABLE LANGUAGE sql BEGIN ATOMIC SELECT {0}_f(); END",
        _DEFAULT,
    ],
    "number int8": [
        _SEQUENCE,
        """CREATE FUNCTION {0}_g() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint;
        BEGIN EXECUTE 'SELECT next' || 'val(''{0}_s'')' INTO n; RETURN n; END $$""",
        _DEFAULT,
    ],
}


def numbered(place: Place, kind: str) -> sa.Table:
    table = coded(place)
    place.run(*(statement.format(table.name) for statement in PREPARED.get(kind, ())))
    place.run(f"CREATE TABLE {table.name} ({kind.format(table.name)}, code varchar(20) UNIQUE, n integer DEFAULT 0)")
    place.run(*(statement.format(table.name) for statement in HIDDEN.get(kind, ())))
    return table


def numbers(place: Place, table: sa.Table) -> list[tuple[int, str, int]]:
    with place.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(f"SELECT number, code, n FROM {table.name} ORDER BY number"))]


def test_a_row_that_is_there_draws_no_number(place: Place) -> None:
    for kind in SMALL[place.database.dialect.name]:
        table = numbered(place, kind)
        upserts = place.plan(table, Upsert(keys=("code",), delete_on_tombstone=True))
        merges = place.plan(table, Merge(keys=("code",), add=("n",)))
        newest = place.plan(table, Upsert(keys=("code",), newer_by="n"))
        both = [("a", 1), ("b", 1)]
        write(place, upserts, [("a", 0), *both])
        write(place, upserts, *[[("b", n), ("a", n)] for n in range(3)])
        write(place, merges, *[both] * 3)
        write(place, newest, *[[("a", n), ("b", -1)] for n in range(8)])
        write(place, upserts, [("c", 1), ("b", 9)])
        assert numbers(place, table) == [(1, "a", 7), (2, "b", 9), (3, "c", 1)], kind
        write(place, upserts, [Gone(b"a"), ("a", 5)])
        assert numbers(place, table) == [(2, "b", 9), (3, "c", 1), (4, "a", 5)], kind


# How a counter is brought near its end.
ENDS = {
    "postgresql": [
        ("number smallserial PRIMARY KEY", "SELECT setval('{0}_number_seq', 32766)", "{0}_number_seq"),
        (
            "number smallint PRIMARY KEY DEFAULT 1",
            "CREATE SEQUENCE {0}_s START 32767; ALTER TABLE {0} ALTER number SET DEFAULT nextval('{0}_s')",
            "{0}_s",
        ),
        (
            "number smallint",
            "CREATE SEQUENCE {0}_s START 31767; ALTER TABLE {0} ALTER number SET DEFAULT nextval('{0}_s') + 1000",
            "{0}_s of column number (smallint)",
        ),
        (
            "number smallint",
            (
                "CREATE SEQUENCE {0}_s INCREMENT -1 MINVALUE -99999 MAXVALUE 1 START -32768; "
                "ALTER TABLE {0} ALTER number SET DEFAULT nextval('{0}_s')"
            ),
            "{0}_s of column number (smallint)",
        ),
        (
            "number smallint",
            (
                f"CREATE SEQUENCE {{0}}_s START 32767; {_DRAWS}; CREATE FUNCTION {{0}}_g() RETURNS trigger LANGUAGE plpgsql "
                "AS $$ BEGIN NEW.number := {0}_f();RETURN NEW;END $$; "
                "CREATE TRIGGER {0}_t BEFORE INSERT ON {0} FOR EACH ROW EXECUTE FUNCTION {0}_g()"
            ),
            "{0}_s of column number (smallint)",
        ),
        (
            "number smallint",
            f"CREATE SEQUENCE {{0}}_s START 32767; {_DRAWS}; ALTER TABLE {{0}} ALTER number SET DEFAULT {{0}}_f()",
            "{0}_s of column number (smallint)",
        ),
    ],
    "mysql": [
        ("number tinyint AUTO_INCREMENT PRIMARY KEY", "ALTER TABLE {0} AUTO_INCREMENT = 126", "number"),
        (
            "number tinyint",
            (
                "CREATE SEQUENCE {0}_s START 126 CACHE 2; "
                "CREATE TRIGGER {0}_t BEFORE INSERT ON {0} FOR EACH ROW SET NEW.number = ifnull(NEW.number, nextval({0}_s))"
            ),
            "number",
        ),
    ],
    "sqlite": [
        (
            "number integer PRIMARY KEY AUTOINCREMENT",
            "INSERT INTO sqlite_sequence VALUES ('{0}', 9223372036854775806)",
            "sqlite_sequence",
        )
    ],
}


def test_numbers_that_have_run_out_are_named_and_blame_no_row(place: Place) -> None:
    for kind, prepared, name in ENDS.get(place.database.dialect.name, []):
        for mode in (Upsert(keys=("code",)), Append()):
            table = coded(place)
            place.run(f"CREATE TABLE {table.name} ({kind}, code varchar(20) UNIQUE, n integer)")
            place.run(*prepared.format(table.name).split("; "))
            planned = place.plan(table, mode)
            last = place.database.dialect.name
            write(place, planned, *[[(code, 1)] for code in ("a", "b")[: 2 if last == "mysql" else 1]])
            try:
                for code in ("y", "z"):
                    write(place, planned, [(code, 1)])
            except ConfigError as error:
                assert name.format(table.name) in str(error)  # noqa: PT017 - one of two ways
            except Exception as error:
                failure = place.database.classify(error)
                assert failure.kind in {"table", "config"}, failure
                assert name.format(table.name) in failure.reason + failure.hint
            else:
                raise AssertionError("a number was found")
            if isinstance(mode, Upsert):
                write(place, planned, [("a", 2)])


@pytest.mark.parametrize("kind", ["integer", "varchar(20)"])
def test_numbers_are_drawn_in_the_order_in_which_keys_first_came(place: Place, kind: str) -> None:
    vendor = place.database.dialect.name
    text = kind != "integer"
    b, a, c, d = ("b", "a", "c", "d") if text else (7, 3, 9, 1)
    rows = [(b, 1), (a, 1), (c, 1), (b, 2), (d, 2), (a, 3), (b, 4)]
    both = [*rows[:4], Gone((a,)), *rows[4:], Gone((c,)), (b, 5)]
    cases: list[tuple[Mode, list[Any], list[Any]]] = [
        (Upsert(keys=("code",), delete_on_tombstone=True), rows, [b, a, c, d]),
        (Upsert(keys=("code",), delete_on_tombstone=True), both, [b, d, a]),
        (Upsert(keys=("code",), newer_by="n"), rows, [b, a, c, d]),
        (Merge(keys=("code",), add=("n",)), rows, [b, a, c, d]),
        (Append(), rows[:3], [b, a, c]),
    ]
    for mode, events, order in cases:
        for cut in [[events], [events[:5], events[5:]], singly(events)][: 1 if vendor == "sqlserver" else 3]:
            table = place.table(
                sa.Column("code", sa.String(20) if text else sa.Integer), sa.Column("n", sa.Integer), sa.UniqueConstraint("code")
            )
            number = SMALL[vendor][0].format(table.name)
            place.run(f"CREATE TABLE {table.name} ({number}, code {kind} UNIQUE, n integer DEFAULT 0)")
            write(place, place.plan(table, mode), *cut)
            assert [code for _, code, _ in numbers(place, table)] == order, (mode, cut)


def test_a_number_is_used_up_by_a_row_that_is_deleted_again(place: Place) -> None:
    events = [
        ("a", 1),
        Gone(b"a"),
        ("a", 2),
        ("b", 1),
        ("a", 3),
        Gone(b"b"),
        Gone(b"x"),
        ("c", 5),
        ("d", 1),
        Gone(b"d"),
        ("e", 1),
    ]
    halves = [[events[:n], events[n:]] for n in range(1, len(events))]
    for cut in [singly(events), [events], *(halves if place.database.dialect.name == "sqlite" else [])]:
        table = numbered(place, SMALL[place.database.dialect.name][0])
        write(place, place.plan(table, Upsert(keys=("code",), delete_on_tombstone=True)), *cut)
        assert numbers(place, table) == [(2, "a", 3), (4, "c", 5), (6, "e", 1)], cut
