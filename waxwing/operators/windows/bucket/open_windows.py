"""Open windows of a bucket that have a length, and closed ones that can still be corrected."""

from __future__ import annotations

from collections.abc import Mapping

from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.bucket.window import Table, Window
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Group
from waxwing.operators.windows.rows import Rows, rows_of_window


class OpenWindows:
    """Windows by their end.

    Args:
        definition: the windows.
        held: those that were open.
        dropped_to: up to where windows were given up under another grace: they are not opened again.
        passed: the middle of a calendar's last window that was written and given up, whatever rules its zone will have.
    """

    def __init__(self, definition: Windows, held: Mapping[int, Window], dropped_to: int = NEVER, passed: int = NEVER) -> None:
        self._definition, self.dropped_to, self.passed = definition, dropped_to, passed
        self.held = dict(held)

    def __len__(self) -> int:
        return sum(len(window.on_time.ids) + len(window.grace.ids) for window in self.held.values())

    def tables(self) -> list[Table]:
        """All that they hold."""
        return [table for window in self.held.values() for table in (window.on_time, window.grace)]

    def is_given_up(self, end: int, closed_to: int) -> bool:
        """Is its grace over?"""
        return end <= max(closed_to - self._definition.grace_us, self.dropped_to)

    def fold(self, group: Group, closed_to: int, place: int) -> int:
        """Add entries to their window, which is not given up; how many are left out, since that one is not whole."""
        end = group.end_us
        window = self.held.get(end)
        if window is None:
            start = self._definition.start_of(end)
            if end <= closed_to and start < place:
                return len(group.keys)
            window = self.held[end] = Window((start, end), Table(self._definition.parts), Table(self._definition.parts))
            if end <= closed_to:
                window.close()
        if window.size is not None:
            window.correct(group.keys, group.states)
        else:
            (window.grace if group.grace else window.on_time).merge(group.keys, group.states, distinct=group.distinct)
        return 0

    def close(self, closed_to: int, place: int, rows: Rows) -> int:
        """Add the rows of windows that end up to there; how many are left out, of windows that began before the place."""
        final_to, left_out = closed_to - self._definition.grace_us, 0
        for end in sorted(end for end in self.held if end <= closed_to):
            window = self.held[end]
            if window.size is None and window.span[0] < place:
                left_out += len(window.on_time.ids.keys() | window.grace.ids.keys())
                del self.held[end]
                continue
            if window.size is None:
                rows.extend(rows_of_window(self._definition, window.span, list(window.on_time.ids), window.on_time.columns))
                window.close()
            if end <= final_to:
                self._correct(rows, window)
                del self.held[end]
                if self._definition.by_calendar:
                    self.passed = max(self.passed, window.middle)
        return left_out

    def correct(self, rows: Rows) -> None:
        """Add a row of everything that changed since it was written."""
        for _, window in sorted(self.held.items()):
            if window.changed:
                self._correct(rows, window)

    def _correct(self, rows: Rows, window: Window) -> None:
        numbers, revisions = window.corrections()
        if numbers:
            keys = list(window.on_time.ids)
            columns = [[column[n] for n in numbers] for column in window.on_time.columns]
            rows.extend(rows_of_window(self._definition, window.span, [keys[n] for n in numbers], columns, revisions))
