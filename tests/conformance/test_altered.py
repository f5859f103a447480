"""The table is altered while the flow runs: it is looked at again before a row is blamed, or changed."""

from __future__ import annotations

from decimal import Decimal

import pytest
import sqlalchemy as sa

from sinks import Append, Upsert
from sinks.writer import Writer
from tests.conformance.place import Place
from tests.conformance.test_neighbours import Case
from waxwing.databases.base import Mode
from waxwing.errors import ConfigError

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
@pytest.mark.parametrize("place", ["postgresql", "mariadb", "sqlserver"], indirect=True)
@pytest.mark.parametrize("mode", [Append(), Upsert(keys=("id",))], ids=["append", "upsert"])
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
