"""Events of keys, written as a session writes them: rows and tombstones in order, in transactions cut anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.conformance.place import Place
from waxwing.batch import Batch, Columns, Delete, Stream
from waxwing.change import Change
from waxwing.tables.plan import Plan
from waxwing.tables.rows import RowMaker

STREAM = Stream("flow", "topic", "topic-id", 0)


class Gone:
    """A tombstone in place of a row: raw bytes, a dict of the key's columns, or a tuple of the table's."""

    def __init__(self, key: Any) -> None:
        self.key = tuple(key.values()) if isinstance(key, dict) else key
        self.names = tuple(key) if isinstance(key, dict) else ()

    def __repr__(self) -> str:
        return f"Gone({self.key!r})"


def change(events: Sequence[Any]) -> Change:
    size = len(events)
    messages = Columns(range(size), [b"k"] * size, [None] * size, [0] * size, [()] * size)
    at = [n for n, event in enumerate(events) if not isinstance(event, Gone)]
    deletes = [Delete(n, event.key, event.names) for n, event in enumerate(events) if isinstance(event, Gone)]
    return Change([Batch(STREAM, "lane", 0, size, messages, [events[n] for n in at], at, [], deletes)], {}, {})


def write(place: Place, planned: Plan, *transactions: Sequence[Any], staged: bool = False) -> None:
    """Each in a transaction of its own, over one connection."""
    rows = RowMaker(planned, [column.name for column in planned.columns], place.database.dialect)
    bulk = place.bulk(planned, staged=staged)
    with place.engine.connect() as connection:
        try:
            for events in transactions:
                written = rows.of(change(events))
                with connection.begin():
                    if written.deletes:
                        bulk.replace(connection, *written)
                    elif written.rows:
                        bulk.write(connection, written.rows)
                    place.database.check_deferred(connection)
        except BaseException:
            connection.invalidate()
            raise


def singly(events: Iterable[Any]) -> list[list[Any]]:
    return [[event] for event in events]
