"""Names of tables and columns: reserved, in mixed case, with every kind of quote, and too long."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.conformance.place import Place
from waxwing.databases.base import Append, Upsert
from waxwing.databases.tables import plan
from waxwing.errors import ConfigError

NAMES = ["order", "Select", "MixedCase", "with space", "ünï", "None"]
NAMES += ['quo"te', "a'b", "brack]et", "[both]", "back`tick", "per%cent", "%s", "%(x)s", "col:on", "dot.ted"]


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_written(place: Place, name: str, staged: bool) -> None:
    table = place.table(
        sa.Column(name, sa.String(20), primary_key=True),
        sa.Column(f"{name} 2", sa.Integer),
        sa.Column(f"{name} 3", sa.DateTime, server_default=sa.func.now(), onupdate=sa.func.now()),
        name=f"{name}{int(staged)}",
    )
    mode = Upsert(keys=(name,), newer_by=f"{name} 2")
    if any(letter in name for letter in place.database.dialect.identifier_refused):
        with pytest.raises(ConfigError, match="not usable in"):
            place.plan(table, mode)
        return
    planned = place.plan(table, mode)
    place.write(planned, [("a", 1), ("b", 1)], [("a", 2)], staged=staged)
    assert place.plan(table, mode) == planned
    with place.engine.begin() as connection:
        place.bulk(planned).delete(connection, [("b",)])
        assert [tuple(row) for row in connection.execute(sa.select(table.c[name], table.c[f"{name} 2"]))] == [("a", 2)]


def test_names_up_to_the_limit_work_and_longer_ones_are_refused(place: Place) -> None:
    most = place.database.dialect.identifier_bytes_max
    longest = "é" * (most // 2) + "x" * (most % 2)
    table = place.table(sa.Column(longest, sa.Integer, primary_key=True), sa.Column("v", sa.Text), name=longest)
    if not place.compatible_only():
        place.write(place.plan(table, Upsert(keys=(longest,))), [(1, "a")], staged=True)
        assert place.read(table) == [(1, "a")]
    for table in (
        place.table(sa.Column("n", sa.Integer), name=f"{longest}x"),
        place.table(sa.Column(f"{longest}x", sa.Integer)),
        place.table(sa.Column("n", sa.Integer), sa.Index(f"{longest}x", "n")),
        place.table(sa.Column("n", sa.Integer), schema=f"{longest}x"),
    ):
        with pytest.raises(ConfigError, match=f"has {most + 1} bytes, .* takes {most}"):
            plan(table, Append(), dialect=place.database.dialect)


def test_names_that_differ_by_capitals_alone(place: Place) -> None:
    table = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("ID", sa.Integer))
    if place.database.dialect.case_sensitive:
        place.write(place.plan(table, Upsert(keys=("id",))), [(1, 2)], [(1, 3)])
        assert place.read(table) == [(1, 3)]
    else:
        with pytest.raises(ConfigError, match="differ by capitals alone"):
            place.plan(table, Append())
