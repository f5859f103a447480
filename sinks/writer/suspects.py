"""Which rows of a refused transaction are bad: the search for them.

A database refuses a transaction and seldom names the row; and a row that it refuses alone may be good beside another one: a
foreign key to a row of the same transaction, a deferred or exclusion constraint, a trigger that looks at other rows. So nothing
is blamed for what it does alone. In dry runs, rows join those that were found good, in the order of their messages; who is
refused is suspected. Suspects are tried again behind all that are good, until a round changes nothing; then together, since
two may need each other. Who is left is bad: it was refused with every good row present.

It takes about 2 log2(rows / bad) dry runs for each bad row and never more than a few for each row. Where a session keeps what
a dry run has written while it goes on with the next one, each costs what it adds; else what was found good is sent again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, TypeVar

from sinks.writer.isolation import Units
from waxwing.batch import Batch
from waxwing.change import Order
from waxwing.errors import BadRowsLimit, RowError

# Tries of several suspects together, and rows that these may send beyond four times the transaction.
TOGETHER_TRIES_MAX = 500
TOGETHER_ROWS = 3_000
# Of so many suspects any group is tried (2**8 of them).
ANY_GROUP_MAX = 8
# Where each attempt sends all parts again, that many are made one.
RESENT_PARTS_MAX = 3

T = TypeVar("T")
Parts = list[list[Batch[Any]]]
# What a writer's thread does, as a generator: it yields, holding the writer's lock, how many seconds to wait for that at most.
Steps = Generator[float, None, T]


class Search:
    """The search in one transaction's rows.

    Args:
        batches: what the transaction was to take in.
        attempt: a dry run that writes these parts one after the other; the refusal, or None.
        limits: raises BadRowsLimit if rows of these numbers are too many to be bad.
        order: in which rows have to be written.
        resends: does an attempt send again what it has in common with the one before?

    Attributes:
        parts: the good rows, as they were written one after the other.
        bad: the reason for each bad row, by its number as in RowError.bad.
    """

    def __init__(
        self,
        batches: list[Batch[Any]],
        attempt: Callable[[Parts], Steps[RowError | None]],
        limits: Callable[[Mapping[int, str]], object],
        order: Order,
        *,
        resends: bool,
    ) -> None:
        self._units, self._attempt, self._limits = Units(batches), attempt, limits
        self._keys = None if order.keys is None else [order.keys[number] for number in self._units.numbers]
        self._replaces, self._resends = order.replaces, resends
        self.parts: Parts = []
        self._placed: list[list[int]] = []  # the units of each part
        self._last: dict[Hashable, int] = {}  # the last good unit of each key
        self._suspects: dict[int, str] = {}  # by unit
        self._tried: dict[int, int] = {}  # beside how many parts each suspect was refused
        self._judged_at: float = 1  # so many suspects are held against the limits

    @property
    def bad(self) -> dict[int, str]:
        return {self._units.numbers[unit]: reason for unit, reason in sorted(self._suspects.items())}

    def run(self) -> Steps[None]:
        """Steps of the writer, as `attempt` makes them.

        Raises:
            BadRowsLimit: too many of the rows are bad.
        """
        yield from self._in_order()
        while True:
            yield from self._behind()
            if not (yield from self._together()):
                return

    # -- one attempt -----------------------------------------------------------------------------

    def _fits(self, units: Sequence[int]) -> Steps[str]:
        """Do these fit behind all that are good? Then they are the next part; else the reason."""
        part = self._units.only(units)
        refusal: RowError | None = yield from self._attempt([*self.parts, part])
        if refusal is not None:
            return refusal.message or "refused"
        self.parts.append(part)
        self._place(list(units))
        if self._resends and len(self.parts) > RESENT_PARTS_MAX:
            yield from self._join()
        return ""

    def _join(self) -> Steps[None]:
        """All that is good as one part, if that fits as well: many would be sent again and again."""
        units = sorted(chain.from_iterable(self._placed))
        part = self._units.only(units)
        if (yield from self._attempt([part])) is None:
            self._begin_with(part, units)
        else:
            self._resends = False

    def _begin_with(self, part: list[Batch[Any]], units: list[int]) -> None:
        added = len(self.parts)
        self.parts, self._placed = [part], []
        self._place(units)
        self._tried = {unit: 1 if tried == added else 0 for unit, tried in self._tried.items()}

    def _place(self, units: list[int]) -> None:
        self._placed.append(units)
        for unit in units:
            self._suspects.pop(unit, None)
            if self._keys is not None:
                self._last[self._keys[unit]] = max(unit, self._last.get(self._keys[unit], unit))

    def _suspect(self, unit: int, reason: str) -> None:
        self._suspects[unit], self._tried[unit] = reason, len(self.parts)

    # -- in order --------------------------------------------------------------------------------

    def _in_order(self) -> Steps[None]:
        todo = _halves(range(len(self._units)))[::-1]
        while todo:
            part = todo.pop()
            if not (reason := (yield from self._fits(part))):
                continue
            if len(part) > 1:
                todo += _halves(part)[::-1]
                continue
            self._suspect(part[0], reason)
            if len(self._suspects) >= self._judged_at:
                self._judged_at = len(self._suspects) + min(len(self._suspects), 256)
                try:
                    self._limits(self.bad)
                except BadRowsLimit:
                    if not (yield from self._may_be_rescued(todo[::-1])):
                        raise
                    self._judged_at = math.inf  # it costs more now, but nobody is blamed for what comes late

    def _may_be_rescued(self, later: Iterable[Sequence[int]]) -> Steps[bool]:
        """Is one of the suspects good beside rows that come later? Looks at as many of those as are suspected, from the end."""
        found: Parts = []
        todo, misses = list(later), 0
        while todo and misses < len(self._suspects):
            part = todo.pop()
            chosen = self._units.only(part)
            if (yield from self._attempt([*self.parts, *found, chosen])) is None:
                found.append(chosen)
            elif len(part) > 1:
                todo += _halves(part)
            else:
                misses += 1
        tried = len(self.parts) if not found else math.inf
        todo = [[unit for unit in self._suspects if self._tried[unit] < tried]]
        while todo:
            chunk = todo.pop()
            if chunk and (yield from self._attempt([*self.parts, *found, self._units.only(chunk)])) is None:
                return True
            if len(chunk) > 1:
                todo += _halves(chunk)
        return False

    # -- once more -------------------------------------------------------------------------------

    def _behind(self) -> Steps[None]:
        """Suspects behind the good ones: from the last to the first, then the other way, until nothing changes."""
        changed, step = True, -1
        while changed:
            changed = False
            todo = [self._free()[::step]]
            while todo:
                chunk = [unit for unit in todo.pop() if self._tried[unit] < len(self.parts) and not self._is_passed(unit)]
                if not chunk:
                    continue
                if not (reason := (yield from self._fits(sorted(chunk)))):
                    changed = True
                elif len(chunk) > 1:
                    todo += _halves(chunk)[::-1]
                else:
                    self._suspect(chunk[0], reason)
            changed |= yield from self._in_their_places()
            step = -step

    def _free(self) -> list[int]:
        """Suspects that may stand behind all others: no later row has their key. (Where it replaces them, that is all.)"""
        if self._keys is None:
            return sorted(self._suspects)
        if self._replaces:
            for unit in [unit for unit in self._suspects if self._is_passed(unit) and not self._units.is_delete(unit)]:
                del self._suspects[unit]  # as it would be among its neighbours
        return sorted(unit for unit in self._suspects if not self._is_passed(unit))

    def _is_passed(self, unit: int) -> bool:
        return self._keys is not None and self._last.get(self._keys[unit], -1) > unit

    def _in_their_places(self) -> Steps[bool]:
        """Suspects that may not stand behind: each among all that are good, as one write in message order."""
        spent, changed = 0, False
        for unit in sorted(self._suspects):
            if not self._is_passed(unit) or self._tried[unit] >= len(self.parts):
                continue
            merged = sorted([unit, *chain.from_iterable(self._placed)])
            spent += len(merged)
            if spent > TOGETHER_ROWS + 4 * len(self._units):
                break
            part = self._units.only(merged)
            refusal: RowError | None = yield from self._attempt([part])
            if refusal is None:
                self._begin_with(part, merged)
                self._tried = dict.fromkeys(self._tried, 0)
                changed = True
            else:
                self._suspect(unit, refusal.message or "refused")
        return changed

    def _together(self) -> Steps[bool]:
        """Several suspects at once: they may need each other. True if some were good."""
        suspects, spent = self._free(), 0
        resent = sum(map(len, self._placed)) if self._resends else 0
        for tries, chosen in enumerate(_groups(len(suspects))):
            spent += len(chosen) + resent
            if tries >= TOGETHER_TRIES_MAX or spent > TOGETHER_ROWS + 4 * len(self._units):
                return False
            if not (yield from self._fits([suspects[n] for n in chosen])):
                return True
        return False


def _halves(units: Sequence[int]) -> list[Any]:
    """Two halves; a single one stays alone."""
    middle = len(units) // 2
    return [units[:middle], units[middle:]] if middle else [units]


def _groups(size: int) -> Iterator[Sequence[int]]:
    """Groups of two and more: all, all but one; then of few any, the small ones first; else neighbours, any two."""
    every = range(size)
    if size > 1:
        yield every
    for one in every if size > 2 else ():
        yield [n for n in every if n != one]
    if size <= ANY_GROUP_MAX:
        for length in range(2, size - 1):
            yield from combinations(every, length)
        return
    for length in range(2, size - 1):
        for first in range(size - length + 1):
            yield every[first : first + length]
    for distance in range(2, size):
        for first in range(size - distance):
            yield [first, first + distance]
