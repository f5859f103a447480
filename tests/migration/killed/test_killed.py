"""A start that carries tables over is killed at its every step, by kill -9: the next one does it, and the flow goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.recompute import plain_engine
from tests.migration.dump import Database, content, run
from tests.migration.going_on import differences, go_on, visited
from tests.migration.killed.starts import COMMIT, Starts
from tests.servers.process import until

KILLS_MAX = 200


@pytest.fixture(scope="module")
def starts() -> Iterator[Starts]:
    with Starts() as out:
        yield out


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("database", kinds, indirect=True)


@on("sqlite", "postgresql")
def test_where_all_is_one_transaction_nothing_was_done(database: Database, starts: Starts, anew: dict[str, Any]) -> None:
    facts, url = database.whole("9766af2", "on_close")
    before = content(url)
    steps: list[str] = []
    while step := starts.killed(url, len(steps)):
        steps.append(step)
        # (The list of what is left starts anew each time, so that nothing of it was kept: `steps` names each statement once.)
        if len(steps) % 8 == 0 or step == COMMIT:
            assert content(url) == before, steps
    assert steps[0].startswith("INSERT INTO waxwing_schema")
    assert steps[-1] == COMMIT
    assert len([step for step in steps if step.startswith("ALTER TABLE ")]) == 13
    assert content(url)["waxwing_schema"] == [(2,)]
    go_on(facts, url)
    _equal(facts, url, anew)


@on("mariadb")
def test_where_each_statement_is_kept_the_next_start_goes_on(database: Database, starts: Starts, anew: dict[str, Any]) -> None:
    whole = database.old("12ee004")
    assert starts.killed(whole, KILLS_MAX) is None
    facts, url = database.whole("12ee004", "on_close")
    seen, number, kills = [content(url)], 1, 0
    step: str | None = ""
    # Each start does one statement more, and is killed before the next; every other one while the server is about it.
    for kills in range(KILLS_MAX):
        sent = kills % 2 == 1
        if not (step := starts.killed(url, number - sent, sent=sent)):
            break
        until(lambda: _is_alone(url), timeout_s=60, what="the server has ended what was sent")
        found = content(url)
        number = number + 1 if found in seen else 1  # rows go with who wrote them: it has to come further
        if number == 1:
            seen.append(found)
        # An earlier release that starts now makes what it misses, before it looks at the version: the highest counts.
        assert max(found["waxwing_schema"]) == (2,) or kills < 3
        run(url, *(text for name, text in database.made("12ee004").items() if name not in found))
    assert not step
    assert kills > len(seen) > 20  # 13 ALTER TABLE, and eight that make, fill and drop tables
    assert content(url) == content(whole)
    go_on(facts, url)
    _equal(facts, url, anew)


def _is_alone(url: str) -> bool:
    engine = plain_engine(url)
    with engine.connect() as connection:
        query = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        others = connection.exec_driver_sql(query).scalar()
    engine.dispose()
    return others == 0


def _equal(facts: Any, url: str, anew: dict[str, Any]) -> None:
    rows, sums = differences(facts, url)
    assert rows.equal, rows
    assert sums.equal, sums
    assert rows.dead_letters > 20
    assert visited(url) == anew
