"""The table is altered while the flow runs: it is looked at again before a row is blamed, or changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from sinks import Append, Upsert
from sinks.writer.writer import Writer
from tests.conformance.place import ON_THREE, Place
from tests.conformance.tables.test_neighbours import Case
from waxwing.errors import ConfigError
from waxwing.tables.modes import Mode
from waxwing.tables.plan import Nature

ALTER = {
    "postgresql": "ALTER TABLE {t} ALTER COLUMN {c} TYPE {kind}",
    "mysql": "ALTER TABLE {t} MODIFY {c} {kind}",
    "sqlserver": "ALTER TABLE {t} ALTER COLUMN {c} {kind}",
}


def table_of(place: Place, text: int) -> sa.Table:
    """A table whose column t is shorter than the flow's Table says."""
    wanted = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("t", sa.String(50)),
        sa.Column("n", sa.Numeric(12, 4)),
    )
    narrow = place.table(
        *(sa.Column(c.name, sa.String(text) if c.name == "t" else c.type, primary_key=c.primary_key) for c in wanted.c),
        name=wanted.name,
    )
    with place.engine.begin() as connection:
        narrow.create(connection)
    return wanted


# SQLite has no lengths, and alters no column.
@pytest.mark.parametrize(
    ("place", "mode"),
    [
        pytest.param(place, mode, id=f"{type(mode).__name__.lower()}-{place}")
        for place in ("postgresql", "mariadb", "sqlserver")
        for mode in (Append(), Upsert(keys=("id",)))
        if (place, mode) != ("sqlserver", Append())  # its test server takes its time, and the rule is the same
    ],
    indirect=["place"],
)
def test_a_table_that_is_altered_is_looked_at_again(place: Place, mode: Mode) -> None:
    dialect = place.database.dialect.name
    case = Case(place, table_of(place, 10), mode)
    one = Decimal("1.5")
    writer = Writer(case.target, "lane-000")

    def write(*records: tuple[int, str, Decimal]) -> None:
        writer.put(case.batch(records))
        writer.flush()

    def alter(column: str, kind: str) -> None:
        place.run(ALTER[dialect].format(t=case.table.name, c=column, kind=kind))

    write((1, "a" * 20, one), (2, "b", one))
    assert case.letters() == [0]
    if mode != Append():
        write((2, "b", one), (3, "c" * 10, one))  # through the staging table, where there is one
    else:
        write((3, "c" * 10, one), (5, "b", one))
    # Wider: what fits now is written, and nothing else is a dead letter.
    alter("t", "varchar(30)" if dialect != "sqlserver" else "nvarchar(30)")
    write((4, "d" * 20, one), (6, "e" * 31, one), (7, "f", Decimal("1.2345")))
    assert case.letters() == [0, 5]
    # Fewer decimals: nothing is rounded in silence. The flow stops, for its Table asks for more.
    alter("n", "decimal(12, 2)")
    with pytest.raises(ConfigError, match=r"does not fit.* n "):
        write((8, "g", Decimal("1.2345")))
    writer.close()
    rows = {row[0]: row[1:] for row in case.rows()}
    assert (rows[4][0], 8 in rows, case.letters()) == ("d" * 20, False, [0, 5])


def test_a_column_that_nobody_fills_is_the_tables_fault(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("t", sa.String(50)))
    case = Case(place, table, Upsert(keys=("id",)))
    writer = Writer(case.target, "lane-000")
    writer.put(case.batch([(1, "a")]))
    writer.flush()
    if place.database.dialect.name == "sqlite":
        place.run(
            f"DROP TABLE {table.name}",
            f"CREATE TABLE {table.name} (id INTEGER PRIMARY KEY, t VARCHAR(50), more INTEGER NOT NULL)",
        )
    else:
        place.run(f"DELETE FROM {table.name}", f"ALTER TABLE {table.name} ADD more int NOT NULL")
    writer.put(case.batch([(1, "a"), (2, "b")]))
    with pytest.raises(ConfigError, match="column more is NOT NULL without a default, and rows do not bring it"):
        writer.flush()
    writer.close()
    assert case.letters() == []


def test_a_column_that_is_gone_is_left_out(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("t", sa.String(50)))
    case = Case(place, table, Append())
    writer = Writer(case.target, "lane-000")
    writer.put(case.batch([(1, "a")]))
    writer.flush()
    place.run(f"ALTER TABLE {table.name} DROP COLUMN t")
    writer.put(case.batch([(2, "b")]))
    writer.flush()
    writer.close()
    with place.engine.connect() as connection:
        assert connection.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all() == [1, 2]
    assert case.letters() == []


@contextlib.contextmanager
def running(case: Case) -> Iterator[Callable[..., None]]:
    """Write records, in a transaction for each call."""
    writer = Writer(case.target, "lane-000")

    def write(*records: Any) -> None:
        writer.put(case.batch(records))
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


def nature(case: Case) -> Nature:
    looked = case.target.tables.looked_at("").looked
    assert looked is not None
    return looked.plan.nature


@ON_THREE  # SQL Server's upsert joins on the keys' columns, and needs no index to be right
def test_a_key_that_is_dropped_ends_the_upsert(place: Place) -> None:
    of_table = place.database.dialect.name == "mysql"
    table = place.table(sa.Column("id", sa.Integer), sa.Column("t", sa.String(50)))
    sa.Index(f"u_{table.name}", table.c.id, unique=True)
    case = Case(place, table, Upsert(keys=("id",)))
    with running(case) as write:
        write((1, "a"))
        place.run(f"DROP INDEX u_{table.name}" + (f" ON {table.name}" if of_table else ""))
        with pytest.raises(ConfigError, match=r"no primary key, unique constraint or unique index on \(id\)"):
            write((1, "b"), (2, "b"))
    assert (case.rows(), case.letters()) == ([(1, "a")], [])


@pytest.mark.parametrize("place", ["postgresql", "mariadb"], indirect=True)
def test_a_primary_key_that_is_dropped_or_deferred_ends_the_upsert(place: Place) -> None:
    def dropped(table: sa.Table) -> str:
        return f"ALTER TABLE {table.name} DROP " + (
            "PRIMARY KEY" if place.database.dialect.name == "mysql" else f"CONSTRAINT {table.name}_pkey"
        )

    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("t", sa.String(50)))
    case = Case(place, table, Upsert(keys=("id",)))
    with running(case) as write:
        write((1, "a"))
        place.run(dropped(table))
        with pytest.raises(ConfigError, match=r"no primary key, unique constraint or unique index on \(id\)"):
            write((2, "b"))  # new keys alone: no conflict is asked for
    assert (case.rows(), case.letters()) == ([(1, "a")], [])
    if place.database.dialect.name == "mysql":
        return
    place.run(f"ALTER TABLE {table.name} ADD PRIMARY KEY (id)")
    case = Case(place, table, Upsert(keys=("id",)))
    with running(case) as write:
        write((1, "b"))
        place.run(dropped(table), f"ALTER TABLE {table.name} ADD PRIMARY KEY (id) DEFERRABLE")
        with pytest.raises(ConfigError, match="deferrable"):
            write((1, "c"), (3, "c"))
    assert (case.rows(), case.letters()) == ([(1, "b")], [])


@pytest.mark.parametrize("place", ["postgresql", "mariadb"], indirect=True)
def test_a_label_that_is_added_is_taken(place: Place) -> None:
    name = place.table().name
    kind = sa.Enum("a", "b", "c", name=f"e_{name}")
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("e", kind), name=name)
    if postgresql := place.database.dialect.name == "postgresql":
        place.run(f"CREATE TYPE e_{name} AS ENUM ('a', 'b')")
    labels = f"e_{name}" if postgresql else "enum('a', 'b')"
    place.run(f"CREATE TABLE {name} (id integer PRIMARY KEY, e {labels})")
    case = Case(place, table, Append())
    with running(case) as write:
        write((1, "a"), (2, "c"))
        assert case.letters() == [1]
        place.run(f"ALTER TYPE e_{name} ADD VALUE 'c'" if postgresql else f"ALTER TABLE {name} MODIFY e enum('a', 'b', 'c')")
        write((3, "c"), (4, "b"))
    assert (case.rows(), case.letters()) == ([(1, "a"), (3, "c"), (4, "b")], [1])


@pytest.mark.parametrize("place", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("mode", [Append(), Upsert(keys=("id",))], ids=["append", "upsert"])
def test_a_table_that_no_longer_outlives_a_crash_is_left_alone(place: Place, mode: Mode) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("t", sa.String(50)))
    case = Case(place, table, mode)
    with running(case) as write:
        write((1, "a"))
        mysql = place.database.dialect.name == "mysql"
        place.run(f"ALTER TABLE {table.name} " + ("ENGINE=MyISAM" if mysql else "SET UNLOGGED"))
        with pytest.raises(ConfigError, match="MyISAM" if mysql else "UNLOGGED"):
            write((1, "b") if mode != Append() else (3, "b"), (2, "b"))
    # Nothing stays there, though MyISAM takes nothing back.
    assert (case.rows(), case.letters()) == ([(1, "a")], [])


TRIGGER = {
    "sqlite": "CREATE TRIGGER g_{t} AFTER DELETE ON {t} BEGIN SELECT 1; END",
    "postgresql": "CREATE FUNCTION g_{t}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
    "CREATE TRIGGER g_{t} AFTER DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION g_{t}()",
    "mysql": "CREATE TRIGGER g_{t} AFTER DELETE ON {t} FOR EACH ROW SET @waxwing_test = 1",
    "sqlserver": "CREATE TRIGGER g_{t} ON {t} AFTER DELETE AS BEGIN SET NOCOUNT ON END",
}


def test_triggers_and_unique_keys_that_come_and_go_are_seen(place: Place) -> None:
    dialect = place.database.dialect.name
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    case = Case(place, table, Upsert(keys=("id",), delete_on_tombstone=True))
    of_table = f" ON {table.name}" if dialect in {"mysql", "sqlserver"} else ""
    statements = (
        TRIGGER[dialect].format(t=table.name),
        f"DROP TRIGGER g_{table.name}" + (f" ON {table.name}" if dialect == "postgresql" else ""),
        f"CREATE UNIQUE INDEX n_{table.name} ON {table.name} (n)",
        f"DROP INDEX n_{table.name}{of_table}",
    )
    seen = []
    with running(case) as write:
        # SQL Server's test server takes many seconds for each.
        for statement in ("", *(statements if dialect != "sqlserver" else statements[:1])):
            if statement:
                place.run(statement)
            write((1, 1))
            seen.append(nature(case).rows_alone)
    assert seen == [True, False, True, False, True][: len(seen)]
    assert (case.rows(), case.letters()) == ([(1, 1)], [])


def test_a_constraint_that_looks_at_nothing_that_rows_bring_is_the_tables_fault(place: Place) -> None:
    dialect, t = place.database.dialect.name, place.table().name
    column = {"sqlserver": "ADD more int DEFAULT 0"}.get(dialect, "ADD COLUMN more int DEFAULT 0")
    other = place.table(sa.Column("id", sa.Integer, primary_key=True))
    with place.engine.begin() as connection:
        other.create(connection)
    check = f"ADD CONSTRAINT ck_{t} CHECK (more > 0)"
    key = f"ADD CONSTRAINT fk_{t} FOREIGN KEY (more) REFERENCES {other.name} (id)"
    altered = {
        # SQLite adds constraints with their columns only.
        "sqlite": [
            f"{column} CONSTRAINT ck_{t} CHECK (more > 0)",
            f"{column} CHECK (more > 0)",
            f"RENAME TO {t}_old; CREATE TABLE {t} (id int PRIMARY KEY, n int, more int DEFAULT 0 REFERENCES {other.name} (id))",
        ],
        "mysql": [f"{column}, {check}", f"{column}, {key}", f"{column} CHECK (more > 0)"],
        "postgresql": [f"{column}, {check}", f"{column}, {key}"],
        "sqlserver": [f"{column} CONSTRAINT ck_{t} CHECK (more > 0)"],
    }[dialect]
    for number, statement in enumerate(altered):
        table = place.table(
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("n", sa.Integer, sa.CheckConstraint("n < 100")),
        )
        case = Case(place, table, Upsert(keys=("id",)) if number else Append())
        with running(case) as write:
            write((1, 1), (2, 1), (3, 200))  # of what rows bring it is a row's
            place.run(f"DELETE FROM {table.name}", *f"ALTER TABLE {table.name} {statement.replace(t, table.name)}".split("; "))
            with pytest.raises(ConfigError, match=r"rows bring none of the columns that .* looks at .more."):
                write((4, 300), (5, 1), (6, 2))  # whatever else is refused beside it
        assert (case.rows(), case.letters()) == ([], [2]), statement


def test_a_unique_key_of_which_rows_bring_nothing_is_the_tables_fault(place: Place) -> None:
    dialect = place.database.dialect.name
    made = {"one for all": "id int PRIMARY KEY, n int, more int DEFAULT 1, CONSTRAINT {t}_more UNIQUE (more)"}
    if dialect in {"postgresql", "mysql"}:
        made["a sequence behind the rows"] = "id int UNIQUE, n int, more int PRIMARY KEY DEFAULT nextval({s})"
    for name, columns in made.items():
        for mode in (Append(), Upsert(keys=("id",))):
            if dialect == "mysql" and mode != Append():
                continue  # which key an upsert has met, it does not say
            table = place.table(
                sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
                sa.Column("n", sa.Integer, sa.CheckConstraint("n < 100")),
            )
            sequence = f"'{table.name}_s'" if dialect == "postgresql" else f"{table.name}_s"
            place.run(
                *([f"CREATE SEQUENCE {table.name}_s"] if "{s}" in columns else []),
                f"CREATE TABLE {table.name} ({columns.format(t=table.name, s=sequence)})",
                f"INSERT INTO {table.name} (id, n, more) VALUES (1, 1, 1), (2, 1, 2), (3, 1, 3)",
            )
            case = Case(place, table, mode)
            with (
                running(case) as write,
                pytest.raises(ConfigError, match=r"rows bring none of the columns that .* looks at .more."),
            ):
                write((4, 1), (5, 2))
            assert (len(case.rows()), case.letters()) == (3, []), name


@ON_THREE
def test_a_constraint_on_what_is_made_of_a_row_is_the_rows(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    place.run(
        f"CREATE TABLE {table.name} (id int NOT NULL PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, "
        f"CONSTRAINT ck_{table.name} CHECK (twice < 100))"
    )
    case = Case(place, table, Append())
    with running(case) as write:
        write((1, 1), (2, 60), (3, 2))
    assert (case.rows(), case.letters()) == ([(1, 1), (3, 2)], [1])
