"""Others update the same rows without pause: the flow's rows get through."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from sinks import Upsert
from tests.conformance.place import Place
from tests.conformance.tables.test_neighbours import Case

ROWS, RIVALS, LOCKED = 40, 3, 5


@pytest.fixture(params=["postgresql", "mariadb"])
def contested(request: pytest.FixtureRequest) -> Place:
    name = f"{request.param}_place"
    found: Place = request.getfixturevalue(name)
    return found


@contextlib.contextmanager
def rivals(place: Place, table: sa.Table) -> Iterator[list[int]]:
    """Threads that each lock a few rows one by one, in any order, commit, and begin again; how often, and a while between."""
    stop, rounds = threading.Event(), [0] * RIVALS

    def fight(number: int) -> None:
        chance = random.Random(number)
        with place.engine.connect() as connection:
            while not stop.is_set():
                with contextlib.suppress(sa.exc.DBAPIError), connection.begin():
                    for row in chance.sample(range(ROWS), LOCKED):
                        connection.execute(table.update().where(table.c.id == row).values(rival=table.c.rival + 1))
                    rounds[number] += 1

    threads = [threading.Thread(target=fight, args=(number,)) for number in range(RIVALS)]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_rivals_that_update_the_same_rows_without_pause_starve_nobody(contested: Place) -> None:
    table = contested.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("ours", sa.Integer),
        sa.Column("rival", sa.Integer, server_default="0", nullable=False),
    )
    case = Case(contested, table, Upsert(keys=("id",)))
    case.write(case.batch([{"id": n, "ours": 0} for n in range(ROWS)]))
    chance = random.Random(9)
    with rivals(contested, table) as rounds:
        case.write(case.batch([{"id": n, "ours": 1} for n in chance.sample(range(ROWS), ROWS)]))
    assert min(rounds) > 0
    assert [row[:2] for row in case.rows()] == [(n, 1) for n in range(ROWS)]
    assert case.letters() == []
