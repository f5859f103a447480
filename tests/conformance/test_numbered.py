"""Keys that no upsert can go by, and tables that number their rows themselves."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from sinks import Append, Merge, Upsert
from tests.conformance.keyed import Gone, write
from tests.conformance.place import Place
from waxwing.errors import ConfigError

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
    ],
    "mysql": ["number tinyint AUTO_INCREMENT PRIMARY KEY", "number tinyint UNIQUE DEFAULT nextval({0}_s)"],
    "sqlite": ["number integer PRIMARY KEY AUTOINCREMENT"],
    "sqlserver": ["number tinyint IDENTITY(1, 1) PRIMARY KEY"],
}
PREPARED = {"mysql": ["CREATE SEQUENCE {0}_s MAXVALUE 120 CACHE 0"]}


def numbered(place: Place, kind: str) -> sa.Table:
    vendor = place.database.dialect.name
    table = coded(place)
    if "nextval" in kind:
        place.run(*(statement.format(table.name) for statement in PREPARED[vendor]))
    place.run(f"CREATE TABLE {table.name} ({kind.format(table.name)}, code varchar(20) UNIQUE, n integer DEFAULT 0)")
    if kind == "number smallint":  # drawn by a function behind a default
        place.run(
            f"CREATE SEQUENCE {table.name}_s",
            f"CREATE FUNCTION {table.name}_f() RETURNS integer LANGUAGE sql "
            f"AS $$ SELECT CAST(nextval('{table.name}_s') AS integer) $$",
            f"ALTER TABLE {table.name} ALTER number SET DEFAULT {table.name}_f()",
        )
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
    ],
    "mysql": [("number tinyint AUTO_INCREMENT PRIMARY KEY", "ALTER TABLE {0} AUTO_INCREMENT = 126", "number")],
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
