"""One step that writes several tables: one position and one transaction for all, and tables that join while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Append, Into, SqlTarget, Upsert
from sinks.sql.tables import Tables
from sinks.writer.writer import Writer
from tests.conformance.place import ON_THREE, Place
from waxwing.batch import Batch, Columns, Delete, Stream
from waxwing.change import Start
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Mode

STREAM = Stream("several", "topic", "topic-id", 0)
_flows = iter(range(1_000_000))


class Case:
    """A target of several tables, and what became of its records."""

    def __init__(self, place: Place, tables: Tables) -> None:
        self.place = place
        text = place.url.render_as_string(hide_password=False)
        self.target = SqlTarget(SqlSettings(database_url=SecretStr(text), flush_interval_s=0.0), tables)
        self.target.place.database, self.target.place.engine = place.database, place.engine
        self.stream = STREAM._replace(flow=f"several{next(_flows)}")
        self.target.bind(self.stream.flow, "step")
        self.target.prepare()
        self.target.begin([Start(self.stream, 0, None)])

    def write(self, *records: Into | Delete) -> None:
        """One message each, in one transaction."""
        size = len(records)
        messages = Columns(range(size), [b"k"] * size, [b"v"] * size, [0] * size, [()] * size)
        at = [n for n, record in enumerate(records) if not isinstance(record, Delete)]
        gone = [record._replace(at=n) for n, record in enumerate(records) if isinstance(record, Delete)]
        batch: Batch[Any] = Batch(self.stream, "lane-000", 0, size, messages, [records[n] for n in at], at, (), gone)
        writer = Writer(self.target, "lane-000")
        try:
            writer.put(batch)
            writer.flush()
        finally:
            writer.close()

    def of_ledger(self, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
        query = sa.select(*(table.c[name] for name in columns)).where(table.c.flow == self.stream.flow)
        with self.place.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(query))


def parents_and_children(place: Place) -> tuple[sa.Table, sa.Table]:
    parents = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("name", sa.String(5)))
    children = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("parent", sa.Integer),
        sa.Column("n", sa.Integer, sa.CheckConstraint("n >= 0")),
    )
    children.append_constraint(sa.ForeignKeyConstraint(["parent"], [parents.c.id]))
    return parents, children


def test_a_record_says_which_table_it_goes_into(place: Place) -> None:
    parents, children = parents_and_children(place)
    keyed: Callable[..., Mode] = lambda **more: Upsert(keys=("id",), **more)  # noqa: E731 - a name for three uses
    case = Case(place, {"parents": (parents, keyed()), "children": (children, keyed(delete_on_tombstone=True))})
    case.write(
        Into("children", (10, 1, 5)),  # its parent comes behind it, and in the table that is written first
        Into("parents", (1, "one")),
        Into("children", (11, 1, -1)),  # the database refuses it
        Into("parents", (2, "too long")),  # the client does
        Into("children", (12, 2, 1)),  # so that this one has no parent
        Into("children", (13, 1, 1)),
        Delete(0, (13,), table="children"),
        Into("parents", (1, "uno")),
    )
    assert place.read(parents) == [(1, "uno")]
    assert place.read(children) == [(10, 1, 5)]
    letters = case.of_ledger(schema.dead_letters, "source_offset", "stage")
    assert letters == [(2, "sink"), (3, "sink"), (4, "sink")]
    assert case.of_ledger(schema.progress, "offset_next", "records_bad") == [(8, 3)]
    assert len(case.of_ledger(schema.tables, "table_name")) == 2
    engine = place.engine
    with engine.begin() as connection:
        connection.execute(children.delete())
        connection.execute(parents.delete())


@ON_THREE
def test_tables_join_while_it_runs(place: Place) -> None:
    made: dict[str, sa.Table] = {}

    def table_of(name: str) -> tuple[sa.Table, Mode]:
        columns = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.String(9))
        made[name] = place.table(*columns)
        return made[name], Append()

    case = Case(place, table_of)
    case.write(Into("a", (1, "x")), Into("b", (1, "y")), Into("a", (2, "z")), Into("a", (2, "again")))
    assert [place.read(made[name]) for name in ("a", "b")] == [[(1, "x"), (2, "z")], [(1, "y")]]
    assert case.of_ledger(schema.dead_letters, "source_offset") == [(3,)]
    names = {name.lstrip(".") for (name,) in case.of_ledger(schema.tables, "table_name")}
    assert names == {made["a"].name, made["b"].name}


@ON_THREE
@pytest.mark.parametrize(
    ("record", "told"),
    [
        (Into("c", (1,)), "a record goes into table 'c', and there are a, b"),
        ((1,), r"A record of type tuple does not say which table it goes into. Give Into\(table, record\); tables are: a, b"),
    ],
)
def test_a_record_of_no_table_ends_the_flow_with_what_to_do(place: Place, record: Any, told: str) -> None:
    tables = {name: (place.table(sa.Column("id", sa.Integer)), Append()) for name in ("a", "b")}
    case = Case(place, tables)
    with pytest.raises(ConfigError, match=told):
        case.write(record)
    assert case.of_ledger(schema.progress, "offset_next") == [(0,)]


def test_one_table_has_a_mode_and_several_have_their_own(place: Place) -> None:
    settings = SqlSettings(database_url=SecretStr(place.url.render_as_string(hide_password=False)))
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    with pytest.raises(ConfigError, match="the mode is missing"):
        SqlTarget(settings, table)
    with pytest.raises(ConfigError, match="are for one table, and there are several"):
        SqlTarget(settings, {"a": (table, Append())}, Append())
