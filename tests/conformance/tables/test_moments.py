"""Times of an hour that comes twice, as versions, extremes and keys: by their instant, wherever a batch ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from sinks import Merge, Upsert
from sinks.memory.rows import ByName, InTable
from tests.conformance.keys.keyed import Gone, change, singly, write
from tests.conformance.place import Place
from waxwing.tables.modes import Mode

ZONED = pytest.mark.parametrize("place", ["postgresql", "sqlserver"], indirect=True)  # the others keep no zones
BERLIN = ZoneInfo("Europe/Berlin")
EARLY = datetime(2026, 10, 25, 2, 50, tzinfo=BERLIN)  # 00:50 UTC
LATE = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)  # 01:10 UTC
BETWEEN = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
SECOND = datetime(2026, 10, 25, 2, 50, tzinfo=BERLIN, fold=1)  # 01:50 UTC; on the wall as EARLY


def columns(kind: sa.types.TypeEngine[Any]) -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", kind),
        sa.Column("high", kind),
        sa.Column("n", sa.Integer),
    ]


def in_utc(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted((tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row) for row in rows), key=str)


def in_memory(table: sa.Table, mode: Mode, *transactions: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What the memory target has then: the same with the table's columns as by names alone."""
    names = [column.name for column in table.c]
    declared, named = InTable(table, mode, None), ByName(mode)
    for events in transactions:
        declared.write(change(events), dry_run=False)
        by_name = [event if isinstance(event, Gone) else dict(zip(names, event, strict=True)) for event in events]
        named.write(change(by_name), dry_run=False)
    assert in_utc([tuple(row[name] for name in names) for row in named.rows]) == in_utc(declared.rows)
    return declared.rows


@ZONED
def test_the_newest_and_the_extremes_of_an_hour_that_comes_twice(place: Place) -> None:
    moments = [BETWEEN, LATE, EARLY, SECOND, EARLY]
    newest, merged = Upsert(keys=("id",), newer_by="at"), Merge(keys=("id",), least=("at",), greatest=("high",))
    # SQL Server's test server takes its time: there one order, in which both ways are wrong by the clock on the wall.
    for first in range(len(moments)) if place.database.dialect.name == "postgresql" else [0]:
        events = [(1, at, at, n) for n, at in enumerate([*moments[first:], *moments[:first]])]
        last = next(n for _, at, _, n in events if at is SECOND)
        at = SECOND.astimezone(UTC)
        for mode, right in ((newest, (1, at, at, last)), (merged, (1, EARLY.astimezone(UTC), at, events[-1][3]))):
            for cut in ([events], singly(events), [events[:2], events[2:]]):
                table = place.table(*columns(sa.DateTime(timezone=True)))
                write(place, place.plan(table, mode), *cut)
                assert in_utc(place.read(table)) == [right], (first, mode)
                assert in_utc(in_memory(table, mode, *cut)) == [right]


@ZONED
def test_an_instant_is_one_key_whatever_its_zone(place: Place) -> None:
    """And two that look alike are two."""
    elsewhere = SECOND.astimezone(timezone(timedelta(hours=-7)))
    events = [(EARLY, 1), (SECOND, 2), (SECOND.astimezone(UTC), 3), (elsewhere, 4), Gone((EARLY,)), (EARLY, 5), (LATE, 6)]
    gone = [*events, Gone((elsewhere,)), Gone({"at": LATE.astimezone(UTC)})]
    all_rows = [(EARLY.astimezone(UTC), 5), (LATE.astimezone(UTC), 6), (SECOND.astimezone(UTC), 4)]
    for mode, came, right in (
        (Upsert(keys=("at",), delete_on_tombstone=True), events, all_rows),
        (Upsert(keys=("at",), delete_on_tombstone=True), gone, all_rows[:1]),
        (
            Merge(keys=("at",), add=("n",)),
            [event for event in events if type(event) is tuple],
            [(all_rows[0][0], 6), all_rows[1], (all_rows[2][0], 9)],
        ),
    ):
        for cut in ([came], singly(came)):
            table = place.table(sa.Column("at", sa.DateTime(timezone=True), primary_key=True), sa.Column("n", sa.Integer))
            write(place, place.plan(table, mode), *cut)
            assert in_utc(place.read(table)) == right
            assert in_utc(in_memory(table, mode, *cut)) == right


def test_a_time_of_day_is_one_key_with_its_zone(postgresql_place: Place) -> None:
    noon, west = time(12, 0, tzinfo=UTC), time(9, 0, tzinfo=timezone(timedelta(hours=1)))
    east = time(10, 0, tzinfo=timezone(timedelta(hours=2)))
    assert west == east  # to Python
    events = [
        (west, 1),
        (east, 2),
        (west, 3),
        (noon, 4),
        Gone((west,)),
        (west, 5),
        Gone((noon,)),
    ]
    for cut in ([events], singly(events)):
        table = postgresql_place.table(sa.Column("at", sa.Time(timezone=True), primary_key=True), sa.Column("n", sa.Integer))
        mode = Upsert(keys=("at",), delete_on_tombstone=True)
        write(postgresql_place, postgresql_place.plan(table, mode), *cut)
        assert sorted(map(str, postgresql_place.read(table))) == sorted(map(str, [(west, 5), (east, 2)]))
        assert sorted(map(str, in_memory(table, mode, *cut))) == sorted(map(str, [(west, 5), (east, 2)]))
