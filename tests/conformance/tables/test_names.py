"""Names of tables and columns: reserved, in mixed case, with every kind of quote, and too long."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.conformance.place import Place
from waxwing.errors import ConfigError
from waxwing.tables.modes import Append, Upsert
from waxwing.tables.planning import plan

NAMES = ["order", "Select", "MixedCase", "with space", "ünï", "None"]
NAMES += ['quo"te', "a'b", "brack]et", "[both]", "back`tick", "per%cent", "%s", "%(x)s", "col:on", "dot.ted"]


@pytest.mark.parametrize("staged", [False, True], ids=["straight", "staged"])
@pytest.mark.parametrize("part", range(4))
def test_any_name_can_be_written(place: Place, part: int, staged: bool) -> None:
    """Four names a table, each of which is a key, another column, and one that the database sets."""
    refused = place.database.dialect.identifier_refused
    names = [name for name in NAMES[part::4] if not any(letter in name for letter in refused)]
    table = place.table(
        *(sa.Column(name, sa.String(20), primary_key=True) for name in names),
        *(sa.Column(f"{name} 2", sa.Integer) for name in names),
        *(sa.Column(f"{name} 3", sa.DateTime, server_default=sa.func.now(), onupdate=sa.func.now()) for name in names),
        name=f"{names[0]}{int(staged)}",
    )
    mode = Upsert(keys=tuple(names), newer_by=f"{names[0]} 2")
    planned = place.plan(table, mode)

    def row(key: str, value: int) -> tuple[str | int, ...]:
        return (*(key for _ in names), *(value for _ in names))

    place.write(planned, [row("a", 1), row("b", 1)], [row("a", 2)], staged=staged)
    assert place.plan(table, mode) == planned
    with place.engine.begin() as connection:
        place.bulk(planned).delete(connection, [tuple("b" for _ in names)])
        written = sa.select(*(table.c[name] for name in names), *(table.c[f"{name} 2"] for name in names))
        assert [tuple(each) for each in connection.execute(written)] == [row("a", 2)]


def test_a_name_that_a_database_can_t_have_is_refused(place: Place) -> None:
    for letter in place.database.dialect.identifier_refused:
        with pytest.raises(ConfigError, match="not usable in"):
            place.plan(place.table(sa.Column(f"a{letter}", sa.Integer)), Append())


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
