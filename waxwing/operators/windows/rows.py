"""What comes out of windows, rows by column; and a window that is open, by column too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from waxwing.batch import Stream
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.parts import Part

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows by column. `names` are those of the definition: window_start and window_end (microseconds since 1970), the key's
    fields, the aggregates, and the revision: 0, and 1 more with every correction. The last of a (window, key) counts.
    """

    names: tuple[str, ...]
    columns: list[list[Any]]

    def __len__(self) -> int:
        return len(self.columns[0])

    def tuples(self) -> Iterator[tuple[Any, ...]]:
        """Row by row."""
        return zip(*self.columns, strict=True)

    def extend(self, other: Rows) -> None:
        """Add the rows of another."""
        for column, more in zip(self.columns, other.columns, strict=True):
            column.extend(more)


class LateEntries(NamedTuple):
    """Aggregates of a partition's records for windows that were closed for good meanwhile (see idle partitions)."""

    stream: Stream
    rows: Rows


def instant(time_us: int) -> datetime:
    """Microseconds since 1970 as a datetime in UTC."""
    return EPOCH + timedelta(microseconds=time_us)


def make_rows(
    definition: Windows,
    starts: Sequence[int],
    ends: Sequence[int],
    keys: Sequence[Any],
    states: Sequence[Sequence[Any]],
    revisions: Sequence[int],
) -> Rows:
    """Rows of keys and states."""
    by = definition.by
    fields = [list(keys)] if len(by) == 1 else [list(column) for column in zip(*keys, strict=True)] if keys else [[] for _ in by]
    return Rows(definition.names, [list(starts), list(ends), *fields, *definition.results(states), list(revisions)])


class Table:
    """Keys, each with a number, and a column of states per part."""

    __slots__ = ("columns", "ids", "parts")

    def __init__(self, parts: tuple[Part, ...], keys: Sequence[Any] = (), columns: list[list[Any]] | None = None) -> None:
        self.parts = parts
        self.ids: defaultdict[Any, int] = defaultdict(count(len(keys)).__next__, zip(keys, range(len(keys)), strict=True))
        self.columns: list[list[Any]] = [[] for _ in self.parts] if columns is None else columns

    def merge(self, keys: Sequence[Any], states: Sequence[Sequence[Any]]) -> list[int]:
        """Merge the states into those of the keys; return the keys' numbers."""
        known = len(self.ids)
        at = list(map(self.ids.__getitem__, keys))
        size = len(self.ids)
        if size == known + len(keys):  # all are new, as where a window's keys come by one partition only
            for part, column, more in zip(self.parts, self.columns, states, strict=True):
                part.begin(column, more)
            return at
        for part, column, more in zip(self.parts, self.columns, states, strict=True):
            if len(column) < size:
                column.extend([part.nothing] * (size - len(column)))
            part.merge(column, at, more)
        return at


class Window:
    """One window: its entries on time, and those within the grace, which are kept apart until it closes.

    Behind its close (`size` is then the number of keys that were written) entries go together, and `changed` are the numbers
    of keys to correct; `revisions` holds the next revision of each that was corrected.
    """

    __slots__ = ("changed", "grace", "on_time", "revisions", "size")

    def __init__(self, on_time: Table, grace: Table) -> None:
        self.on_time, self.grace = on_time, grace
        self.size: int | None = None
        self.changed: set[int] = set()
        self.revisions: dict[int, int] = {}

    def close(self) -> None:
        """The entries on time are written; from now on there are only corrections."""
        self.size = len(self.on_time.ids)
        grace, self.grace = self.grace, Table(self.grace.parts)
        self.correct(list(grace.ids), grace.columns)

    def correct(self, keys: Sequence[Any], states: Sequence[Sequence[Any]]) -> None:
        """Entries for the closed window."""
        self.changed.update(self.on_time.merge(keys, states))

    def corrections(self) -> tuple[list[int], list[int]]:
        """Numbers and revisions of the keys that changed; they count as written then."""
        assert self.size is not None
        numbers = sorted(self.changed)
        revisions = [self.revisions.get(n, 1 if n < self.size else 0) for n in numbers]
        self.revisions.update(zip(numbers, (revision + 1 for revision in revisions), strict=True))
        self.changed = set()
        return numbers, revisions
