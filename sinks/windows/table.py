"""How rows of windows become rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.operators.windows import Max, Min, Rows, Windows
from waxwing.operators.windows.definition import END, REVISION, SECOND_US, START
from waxwing.operators.windows.rows import instant
from waxwing.tables.columns import kind_of

_NUMBERS = frozenset({int, float, Decimal})
_COMPARED: dict[str, frozenset[type]] = {
    **dict.fromkeys(("integer", "decimal", "float"), _NUMBERS),
    "date": frozenset({date}),
    "datetime": frozenset({datetime}),
}


class WindowTable:
    """Which columns of the table windows fill, and with what.

    Args:
        table: its columns are named as those of the windows: the key's fields and the aggregates all of them; window_start,
            window_end and revision as you like. Starts and ends go into DateTime columns (UTC), integers (epoch seconds) or,
            of windows of whole days, Date columns: a calendar's are those of its zone, of others those of UTC.
        windows: the windows.
        fixed: columns that have one value in all rows, for several kinds of windows in one table.
        names: columns of yours in the place of window_start, window_end and revision: {"window_start": "minute"}.
            The only DateTime (or such a Date) column of the primary key that nothing else fills needs no saying: it holds the
            window's start.

    Raises:
        ConfigError: the table does not fit the windows.
    """

    def __init__(
        self,
        table: sa.Table,
        windows: Windows,
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._windows, self.fixed = windows, dict(fixed or {})
        self._own = self._check_own(table, dict(names or {}))
        self._start, self._end = (self._own.get(name, name) for name in (START, END))
        self.keys = tuple(column.name for column in table.primary_key)
        filled = [*(self._own.get(name, name) for name in windows.names), *self.fixed]
        self._check_names(table, [*windows.by, *windows.aggregates, *self.fixed], filled)
        no_nulls = [name for name in windows.by if table.c[name].primary_key or not table.c[name].nullable]
        if windows.null_keys == "group" and no_nulls:
            raise ConfigError(
                f"Table {table.name}: {', '.join(no_nulls)} can't be null, and the windows group nulls.",
                hint=f'Say what stands for a null: Windows(null_keys={{"{no_nulls[0]}": ""}}), or take null_keys="reject".',
            )
        self.names = [name for name in filled if name in table.c]
        self._times = {name: self._time_of(table.c[name]) for name in (self._start, self._end) if name in table.c}
        self._kinds = {name: kind_of(table.c[name]) for name in windows.aggregates}

    def _check_own(self, table: sa.Table, names: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in names if name not in (START, END, REVISION)]:
            raise ConfigError(
                f"names={names!r}: {', '.join(map(str, wrong))} is not what windows call a column.",
                hint=f"Name columns of yours for {START}, {END} or {REVISION}; others are called as the windows define them.",
            )
        if lacking := [name for name in names.values() if name not in table.c]:
            raise ConfigError(
                f"names={names!r}: table {table.name} has no column {', '.join(map(str, lacking))}.",
                hint=f"It has {', '.join(column.name for column in table.c)}.",
            )
        taken = [*self._windows.by, *self._windows.aggregates, *self.fixed, *names.values()]
        if twice := sorted({name for name in names.values() if taken.count(name) > 1}):
            raise ConfigError(
                f"names={names!r}: column {', '.join(twice)} would be filled twice.",
                hint="Name a column that nothing else fills.",
            )
        time_keys = [column.name for column in table.primary_key if self._is_moment(column)]
        unfilled = [name for name in time_keys if name not in {*taken, START, END, REVISION}]
        if START not in table.c and START not in names and len(unfilled) == 1:
            names[START] = unfilled[0]  # a moment in the key that nothing else could give
        return names

    def _is_moment(self, column: sa.Column[Any]) -> bool:
        return isinstance(column.type, sa.DateTime) or (isinstance(column.type, sa.Date) and self._windows.whole_days)

    def compared(self) -> dict[str, frozenset[type]]:
        """By field of a Min or Max the types of values that its column takes."""
        out: dict[str, frozenset[type]] = {}
        for name, aggregate in self._windows.aggregates.items():
            if isinstance(aggregate, Min | Max) and (takes := _COMPARED.get(self._kinds[name])):
                out[aggregate.field] = takes & out.get(aggregate.field, takes)
        return out

    def _check_names(self, table: sa.Table, demanded: Sequence[str], names: Sequence[str]) -> None:
        if lacking := [name for name in demanded if name not in table.c]:
            raise ConfigError(
                f"Table {table.name} lacks columns that its windows fill: {', '.join(lacking)}.",
                hint=f"The windows have {', '.join(names)}.",
            )
        if strange := [name for name in self.keys if name not in names]:
            raise ConfigError(
                f"The windows of table {table.name} do not fill all of its primary key: they lack {', '.join(strange)}.",
                hint=f"They have {', '.join(names)}. fixed={{...}} gives a column one value in all rows; "
                f'names={{"{START}": "{strange[0]}"}} lets it hold the window\'s start.',
            )
        if not self.keys:
            return
        missing = [name for name in self._windows.by if name not in self.keys]
        if self._start not in self.keys and (self._end not in self.keys or self._windows.gap_us is not None):
            missing.insert(0, self._start)
        if missing:
            raise ConfigError(
                f"The primary key of table {table.name} lacks {', '.join(missing)}: rows would overwrite each other.",
                hint=f"Let it be {self._start} with all of the windows' key: {', '.join([self._start, *self._windows.by])}.",
            )

    def _time_of(self, column: sa.Column[Any]) -> Callable[[int], Any]:
        if isinstance(column.type, sa.DateTime):
            zone = UTC if column.type.timezone else None
            return lambda time_us: instant(time_us).replace(tzinfo=zone)
        if isinstance(column.type, sa.Date) and self._windows.whole_days:
            return self._windows.day
        if isinstance(column.type, sa.Integer) and self._windows.whole_seconds:
            return lambda time_us: time_us // SECOND_US
        raise ConfigError(
            f"Column {column.name} ({column.type!r}) can't keep a window's time.",
            hint="Declare it DateTime, or, for windows of whole seconds, BigInteger (epoch seconds), or, of whole days, Date.",
        )

    def tuples(self, rows: Rows, order: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows, with the columns in this order."""
        columns = {self._own.get(name, name): column for name, column in zip(rows.names, rows.columns, strict=True)}
        for name, convert in self._times.items():
            made = {time_us: convert(time_us) for time_us in set(columns[name])}
            columns[name] = [made[time_us] for time_us in columns[name]]
        columns |= {name: [value] * len(rows) for name, value in self.fixed.items()}
        return list(zip(*(columns[name] for name in order), strict=True))
