"""A window that is open: its keys, each with a number, and columns of states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any

from waxwing.operators.windows.aggregates.parts import Part


class Table:
    """Keys, each with a number, and a column of states per part."""

    __slots__ = ("columns", "ids", "parts")

    def __init__(self, parts: tuple[Part, ...], keys: Sequence[Any] = (), columns: list[list[Any]] | None = None) -> None:
        self.parts = parts
        self.ids: defaultdict[Any, int] = defaultdict(None, zip(keys, range(len(keys)), strict=True))
        self.columns: list[list[Any]] = [[] for _ in self.parts] if columns is None else columns

    def merge(self, keys: Sequence[Any], states: Sequence[Sequence[Any]], *, distinct: bool = False) -> Sequence[int]:
        """Merge the states into those of the keys (`distinct`: none is there twice); return the keys' numbers."""
        ids, known = self.ids, len(self.ids)
        if distinct and ids.keys().isdisjoint(keys):  # all are new, as where a window's keys come by one partition only
            new = range(known, known + len(keys))
            ids.update(zip(keys, new, strict=True))
            for part, column, more in zip(self.parts, self.columns, states, strict=True):
                part.begin(column, more)
            return new
        ids.default_factory = count(known).__next__
        at = list(map(ids.__getitem__, keys))
        size = len(ids)
        for part, column, more in zip(self.parts, self.columns, states, strict=True):
            if len(column) < size:
                column.extend([part.nothing] * (size - len(column)))
            part.merge(column, at, more)
        return at


class Window:
    """One window: where its rows say that it begins and ends, its entries on time, and those within the grace, which are kept
    apart until it closes.

    Behind its close (`size` is then the number of keys that were written) entries go together, and `changed` are the numbers
    of keys to correct; `revisions` holds the next revision of each that was corrected.
    """

    __slots__ = ("changed", "grace", "on_time", "revisions", "size", "span")

    def __init__(self, span: tuple[int, int], on_time: Table, grace: Table) -> None:
        self.span, self.on_time, self.grace = span, on_time, grace
        self.size: int | None = None
        self.changed: set[int] = set()
        self.revisions: dict[int, int] = {}

    @property
    def middle(self) -> int:
        """Whatever a zone's rules move its start and end by, hours, this is in the window of the same days."""
        return sum(self.span) // 2

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
