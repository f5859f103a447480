"""Rows that need each other: a row is bad only if it is refused beside all good rows of its transaction."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Append, Merge, SqlTarget, Upsert
from sinks.writer.writer import Writer
from tests.conformance.place import ON_THREE, Place
from waxwing.batch import Batch, Columns, Delete, Stream
from waxwing.change import Start
from waxwing.databases.ledger import schema
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Mode

STREAM = Stream("flow", "topic", "topic-id", 0)
_flows = iter(range(1_000_000))


class Case:
    """A table under a target of its own, and what became of the messages."""

    def __init__(self, place: Place, table: sa.Table, mode: Mode, **settings: Any) -> None:
        self.place, self.table = place, table
        text = place.url.render_as_string(hide_password=False)
        self.target = SqlTarget(SqlSettings(database_url=SecretStr(text), flush_interval_s=0.0, **settings), table, mode)
        self.target.place.database, self.target.place.engine = place.database, place.engine
        self.stream = STREAM._replace(flow=f"neighbours{next(_flows)}")
        self.target.bind(self.stream.flow, "step")
        self.target.prepare()
        self.target.begin([Start(self.stream, 0, None)])
        self._next = 0

    def batch(self, records: Sequence[Any], *, whole: bool = False) -> Batch[Any]:
        """One message a record; bytes are the key of a tombstone."""
        size, first = len(records), self._next
        self._next += size
        messages = Columns(range(first, first + size), [b"k"] * size, [b"v"] * size, [0] * size, [()] * size)
        at = [n for n, record in enumerate(records) if not isinstance(record, bytes)]
        gone = [Delete(n, record) for n, record in enumerate(records) if isinstance(record, bytes)]
        rows = [records[n] for n in at]
        return Batch(self.stream, "lane-000", first, first + size, messages, rows, at, (), gone, whole=whole)

    def write(self, *batches: Batch[Any]) -> None:
        writer = Writer(self.target, "lane-000")
        try:
            for batch in batches:
                writer.put(batch)
            writer.flush()
        finally:
            writer.close()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.place.read(self.table)

    def letters(self) -> list[int]:
        t = schema.dead_letters
        with self.place.engine.connect() as connection:
            query = sa.select(t.c.source_offset).where(t.c.flow == self.stream.flow).order_by(t.c.source_offset, t.c.row_index)
            return list(connection.scalars(query))


def node(place: Place, **options: Any) -> sa.Table:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("parent", sa.Integer))
    table.append_constraint(sa.ForeignKeyConstraint(["parent"], [table.c.id], **options))
    return table


MODES: dict[str, Mode] = {
    "append": Append(),
    "upsert": Upsert(keys=("id",), delete_on_tombstone=True),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_row_is_bad_only_if_it_fails_beside_its_neighbours(place: Place, mode: str) -> None:
    case = Case(place, node(place), MODES[mode])
    case.write(case.batch([(2, 1), (1, None), (3, 99)]))
    assert (case.rows(), case.letters()) == ([(1, None), (2, 1)], [2])
    # A chain whose links come the wrong way round, over two batches, and one that hangs on a bad row.
    case.write(case.batch([(13, 12), (12, 11), (20, 98)]), case.batch([(21, 20), (11, 10), (10, 1)]))
    assert (case.rows()[2:], case.letters()) == ([(10, 1), (11, 10), (12, 11), (13, 12)], [2, 5, 6])
    # Rows of one batch as a whole (live windows, closed windows).
    case.write(case.batch([(33, 32), (32, 31), (31, None), (34, 97)], whole=True))
    assert (case.rows()[6:], len(case.letters())) == ([(31, None), (32, 31), (33, 32)], 4)


@ON_THREE
def test_a_row_that_was_replaced_does_not_come_back(place: Place) -> None:
    case = Case(place, node(place), MODES["upsert"])
    case.write(case.batch([(2, 1), (2, None), (1, None), (3, 99), (4, 96), (4, 1)]))
    assert (case.rows(), case.letters()) == ([(1, None), (2, None), (4, 1)], [3])


@ON_THREE
def test_deletes_that_need_another_row_to_go_first(place: Place) -> None:
    case = Case(place, node(place), MODES["upsert"])
    case.write(case.batch([(1, None), (2, 1), (5, None), (6, 5)]))
    case.write(case.batch([b"1", b"2", b"5", (9, 95)]))
    assert (case.rows(), case.letters()) == ([(5, None), (6, 5)], [6, 7])
    case.write(case.batch([b"5", (6, None), (8, 94)]))
    assert (case.rows(), case.letters()) == ([(6, None)], [6, 7, 10])


@ON_THREE
def test_merged_rows_that_need_each_other(place: Place) -> None:
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("parent", sa.Integer),
        sa.Column("n", sa.Integer),
    )
    table.append_constraint(sa.ForeignKeyConstraint(["parent"], [table.c.id]))
    case = Case(place, table, Merge(keys=("id",), add=("n",)))
    case.write(case.batch([(2, 1, 5), (1, None, 1), (2, 1, 7), (3, 99, 1)], whole=True))
    assert (case.rows(), len(case.letters())) == ([(1, None, 1), (2, 1, 12)], 1)


@pytest.mark.parametrize("place", ["postgresql", "sqlserver"], indirect=True)
def test_two_rows_that_need_each_other(place: Place) -> None:
    """Where the database checks a statement as a whole, or at the end. (InnoDB and SQLite go row by row.)"""
    case = Case(place, node(place), Append())
    case.write(case.batch([(1, 2), (5, 99), (2, 1), (6, 98), (3, 2), (4, 97)]))
    assert (case.rows(), case.letters()) == ([(1, 2), (2, 1), (3, 2)], [1, 3, 5])


@ON_THREE
def test_many_bad_rows_among_many_that_need_others(place: Place) -> None:
    """A tree in any order, and every tenth row bad: exactly these, and what hangs on them."""
    size, chance = 30 if place.database.dialect.name == "sqlserver" else 100, random.Random(7)
    rows: list[tuple[int, int | None]] = [(n, chance.randrange(1, n) if n > 1 else None) for n in range(1, size)]
    bad = {row for row in rows if row[0] % 10 == 0}
    rows = [(one, 10_000 + one if (one, parent) in bad else parent) for one, parent in rows]
    good: set[int] = set()
    for one, parent in rows:
        if parent is None or parent in good:
            good.add(one)
    chance.shuffle(rows)
    case = Case(place, node(place), Append(), bad_ratio_max=1.0)
    case.write(case.batch(rows))
    assert [row[0] for row in case.rows()] == sorted(good)
    assert case.letters() == [at for at, row in enumerate(rows) if row[0] not in good]


_LACKS = "NEW.parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {t} WHERE id = NEW.parent)"
_REFUSES = {
    "postgresql": f"""
        CREATE FUNCTION f_{{t}}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF {_LACKS} THEN RAISE 'no parent'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER r_{{t}} BEFORE INSERT ON {{t}} FOR EACH ROW EXECUTE FUNCTION f_{{t}}()""",
    "mysql": f"""
        CREATE TRIGGER r_{{t}} BEFORE INSERT ON {{t}} FOR EACH ROW
        BEGIN IF {_LACKS} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no parent'; END IF; END""",
    "sqlite": f"CREATE TRIGGER r_{{t}} BEFORE INSERT ON {{t}} WHEN {_LACKS} BEGIN SELECT RAISE(ROLLBACK, 'no parent'); END",
    "sqlserver": """
        CREATE TRIGGER r_{t} ON {t} AFTER INSERT AS
        IF EXISTS (SELECT 1 FROM inserted i WHERE i.parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {t} x WHERE x.id = i.parent))
        BEGIN RAISERROR('no parent', 16, 1); ROLLBACK; END""",
}


@ON_THREE
def test_a_trigger_that_looks_at_other_rows(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("parent", sa.Integer))
    case = Case(place, table, Append())
    case.place.run(_REFUSES[place.database.dialect.name].format(t=table.name))
    case.write(case.batch([(2, 1), (3, 2), (1, None), (4, 99), (6, 4), (5, 1)]))
    assert (case.rows(), case.letters()) == ([(1, None), (2, 1), (3, 2), (5, 1)], [3, 4])


def test_constraints_that_wait_for_the_end(postgresql_place: Place) -> None:
    place = postgresql_place
    case = Case(place, node(place, deferrable=True, initially="DEFERRED"), MODES["upsert"])
    case.write(case.batch([(2, 1), (1, None), (7, 8), (3, 99), (8, 7)]))
    assert (case.rows(), case.letters()) == ([(1, None), (2, 1), (7, 8), (8, 7)], [3])
    case = Case(place, node(place, deferrable=True, initially="DEFERRED"), MODES["upsert"])
    case.write(case.batch([(1, 2), (9, 99), (2, 3), (8, 98), (3, 1), (4, 1)]))  # three in a circle, and one that hangs on it
    assert (case.rows(), case.letters()) == ([(1, 2), (2, 3), (3, 1), (4, 1)], [1, 3])
    # Two values that change places.
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("seat", sa.Integer))
    table.append_constraint(sa.UniqueConstraint("seat", deferrable=True, initially="DEFERRED"))
    table.append_constraint(sa.CheckConstraint("seat > 0"))
    case = Case(place, table, MODES["upsert"])
    case.write(case.batch([(1, 10), (2, 20), (3, 30)]))
    case.write(case.batch([(1, 20), (4, -1), (3, 40), (2, 10), (5, 40), (6, -1)]))
    assert (case.rows(), case.letters()) == ([(1, 20), (2, 10), (3, 40)], [4, 7, 8])


def test_an_exclusion_condemns_the_later_row_only(postgresql_place: Place) -> None:
    place = postgresql_place
    table = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("low", sa.Integer),
        sa.Column("high", sa.Integer),
    )
    case = Case(place, table, Append())
    place.run(f"ALTER TABLE {table.name} ADD EXCLUDE USING gist (int4range(low, high) WITH &&)")
    case.write(case.batch([(1, 0, 5), (2, 3, 8), (3, 6, 9), (4, 8, 20), (5, 9, 12)]))
    assert (case.rows(), case.letters()) == ([(1, 0, 5), (3, 6, 9), (5, 9, 12)], [1, 3])


def test_a_row_does_not_come_back_behind_one_whose_key_is_equal_for_the_table_only(mariadb_place: Place) -> None:
    place = mariadb_place
    table = place.table(sa.Column("id", sa.String(10), primary_key=True), sa.Column("parent", sa.String(10)))
    place.run(
        f"CREATE TABLE {table.name} (id varchar(10) PRIMARY KEY, parent varchar(10), "
        f"FOREIGN KEY (parent) REFERENCES {table.name} (id)) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    )
    case = Case(place, table, MODES["upsert"])
    case.write(case.batch([("a", "z"), ("A", None), ("z", None), ("q", "none")]))
    assert [parent for _, parent in case.rows()] == [None, None]
    assert case.letters()[-1] == 3


def test_a_key_that_takes_nulls_is_kept_where_another_unique_key_is_met(mariadb_place: Place) -> None:
    table = mariadb_place.table(sa.Column("id", sa.Integer), sa.Column("seat", sa.String(10)), sa.UniqueConstraint("id"))
    mariadb_place.run(f"CREATE TABLE {table.name} (id int NULL UNIQUE, seat varchar(10) UNIQUE)")
    case = Case(mariadb_place, table, MODES["upsert"], bad_ratio_max=1.0)
    case.write(case.batch([(1, "a"), (2, "b")]))
    case.write(case.batch([(3, "a"), (2, "c")]))
    assert (case.rows(), case.letters()) == ([(1, "a"), (2, "c")], [2])


@ON_THREE
def test_a_row_that_another_unique_key_refuses_is_taken_where_its_transaction_makes_room(place: Place) -> None:
    def seats() -> Case:
        key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
        case = Case(place, place.table(key, sa.Column("seat", sa.String(10), unique=True)), MODES["upsert"], bad_ratio_max=1.0)
        case.write(case.batch([(1, "a")]))
        return case

    case = seats()  # the seat gets free behind it
    case.write(case.batch([(2, "a"), (1, "b")]))
    assert (case.rows(), case.letters()) == ([(1, "b"), (2, "a")], [])
    case = seats()  # in another transaction: nobody can know
    case.write(case.batch([(2, "a")]))
    case.write(case.batch([(1, "b")]))
    assert (case.rows(), case.letters()) == ([(1, "b")], [1])
    case = seats()  # who fits where it stands goes before one that has to be tried again
    case.write(case.batch([(2, "a"), (1, "b"), (3, "a")]))
    assert (case.rows(), case.letters()) == ([(1, "b"), (3, "a")], [1])
