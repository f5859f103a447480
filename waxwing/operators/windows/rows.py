"""What comes out of windows: rows by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from waxwing.batch import Stream
from waxwing.operators.windows.definition import Windows

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


def no_rows(definition: Windows) -> Rows:
    """To be extended."""
    return make_rows(definition, [], [], [], [[] for _ in definition.parts], [])


def rows_of_window(
    definition: Windows,
    span: tuple[int, int],
    keys: Sequence[Any],
    states: Sequence[Sequence[Any]],
    revisions: Sequence[int] | None = None,
) -> Rows:
    """Rows of one window, from here to there; by default none is a correction."""
    size = len(keys)
    starts, ends = ([at] * size for at in span)
    return make_rows(definition, starts, ends, keys, states, [0] * size if revisions is None else revisions)


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
