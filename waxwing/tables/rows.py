"""Records to rows: tuples in the column order of the plan, checked, the last of each key kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from types import NoneType
from typing import Any, NamedTuple

import msgspec

from waxwing.change import Change, Order
from waxwing.errors import ConfigError, RowError
from waxwing.tables.columns import checks
from waxwing.tables.dialect import Dialect
from waxwing.tables.keys import Deletes, folded, identity, is_zoned
from waxwing.tables.merging import fields_of, merger
from waxwing.tables.modes import Append, Merge, Upsert
from waxwing.tables.plan import Plan, columns_of
from waxwing.tables.values.moments import moment

Row = tuple[Any, ...]
_MISSING = object()
CHECKED_AT_ONCE = 1_000
NO_DELETES = "a tombstone (null value), and this target does not delete"
NO_ROW = "None, where a row is needed (to write none, leave the record out by waxwing.operators.filter)"


class Written(NamedTuple):
    """What a change writes: rows, keys to delete (tuples), and how many of the rows stand before each delete."""

    rows: list[Row]
    deletes: list[Row]
    before: list[int]


class RowMaker:
    """Turns a change's records into rows to write and keys to delete. Everything is decided once, from the table.

    Args:
        plan: what is written.
        brought: names of the columns that records bring: the plan's, and those that the existing table lacks.
        dialect: limits of the database.
    """

    def __init__(self, plan: Plan, brought: Sequence[str], dialect: Dialect) -> None:
        self._plan = plan
        self._brought = tuple(brought)
        self._checks = checks(plan, dialect)
        self._names = [column.name for column in plan.columns]
        written = [self._brought.index(name) for name in self._names]
        self._keep = None if len(written) == len(self._brought) else _tuples(itemgetter, written)
        self._readers: dict[type, Callable[[Sequence[Any]], list[Row]]] = {}
        mode = plan.mode
        self._identity = identity(plan.keys, [self._names.index(key.name) for key in plan.keys]) if plan.keys else None
        self._newer: int | None = None
        self._deletes: Deletes | None = None
        self._merged: Callable[[list[Row]], list[Row]] | None = None
        if isinstance(mode, Merge):
            zoned = {column.name for column in plan.columns if is_zoned(column)}
            self._merged = merger(
                mode, self._names, self._identity, exact=plan.nature.keys_exact, zoned=zoned, numbered=plan.nature.rows_numbered
            )
        if isinstance(mode, Upsert):
            self._newer = None if mode.newer_by is None else self._names.index(mode.newer_by)
            self._newer_zoned = mode.newer_by is not None and is_zoned(plan.table.c[mode.newer_by])
            if mode.delete_on_tombstone:
                self._deletes = Deletes(plan, dialect)

    def of(self, change: Change) -> Written:
        """Rows to write and keys to delete; where keys are exact none comes twice among rows between which nothing is deleted.

        They stand in the order of their messages, because a database may take keys for one that are two here ("a" and "A" under
        a collation that passes over capitals, trailing blanks). Only it can tell, and so it keeps the last of those itself.
        Where keys are exact, and rows of different keys do not touch each other, all deletes stand first: a key that was
        deleted and made anew is deleted, then made.

        Where the table numbers rows and keys are exact, each stands where its key first came: new ones draw their numbers in that
        order, wherever a transaction ends.

        Raises:
            RowError: with the number and the reason of each row that the columns can't hold.
        """
        bad: dict[int, str] = {}
        rows = self._checked((batch.records for batch in change.batches), bad)
        deletes = self._deletes_of(change, len(rows), bad)
        if bad:
            raise RowError(f"{len(bad)} rows do not fit the table {self._plan.table.name}", bad=bad)
        if isinstance(self._plan.mode, Append):
            return Written(rows, [], [])
        if self._merged is not None:
            return Written(self._fitting(self._merged(rows), len(rows)), [], [])
        if deletes:
            nature = self._plan.nature
            # (One that draws a number and is deleted again has used it up.)
            in_any_order = nature.keys_exact and nature.rows_alone and not nature.rows_numbered
            return (self._deletes_first if in_any_order else self._in_order)(_events(change, rows, deletes))
        last = self._last(rows)
        if change.by_key and self._plan.nature.keys_exact and not self._plan.nature.rows_numbered:
            return Written(self._by_key(last), [], [])
        return Written(last, [], [])

    def misfits(self, records: Sequence[Any]) -> dict[int, str]:
        """By their numbers the reasons of the records that the columns can't hold: those that `of` gives."""
        bad: dict[int, str] = {}
        self._checked((records,), bad)
        return bad

    def order(self, change: Change) -> Order:
        """In which order the rows and deletes have to be written."""
        if not isinstance(self._plan.mode, Upsert) or self._newer is not None or self._identity is None:
            return Order()
        bad: dict[int, str] = {}
        rows = [row for batch in change.batches for row in self._rows(batch.records, 0, bad)]
        deletes = map(self._deletes.identity, self._deletes_of(change, len(rows), bad)) if self._deletes else ()
        keys = [*map(self._identity, rows), *deletes]
        # Which keys the table takes for one, only it can tell: none of those that might be is passed.
        exact = self._plan.nature.keys_exact
        return Order(keys if exact else list(map(folded, keys)), replaces=exact)

    # -- records to tuples ---------------------------------------------------------------------

    def _checked(self, runs: Iterable[Sequence[Any]], bad: dict[int, str]) -> list[Row]:
        """The rows of these records; of those that can't be held the reasons are added.

        Piece by piece, so that values which were just made are still in the processor's cache when they are looked at.
        """
        out: list[Row] = []
        for records in runs:
            for first in range(0, len(records), CHECKED_AT_ONCE):
                rows = self._rows(records[first : first + CHECKED_AT_ONCE], len(out), bad)
                for name, check, values in zip(self._names, self._checks, columns_of(rows), strict=True):
                    for number, reason in check(values).items():
                        bad.setdefault(len(out) + number, f"column {name}: {reason}")
                out += rows
        return out

    def _rows(self, records: Sequence[Any], first: int, bad: dict[int, str]) -> list[Row]:
        """The records as tuples; the first of them has this number."""
        kinds = set(map(type, records))
        for kind in kinds - self._readers.keys():
            self._readers[kind] = self._reader(kind)
        try:
            if len(kinds) == 1:
                rows = self._readers[kinds.pop()](records)
            else:
                rows = [self._readers[type(record)]((record,))[0] for record in records]
        except (KeyError, ValueError):
            rows = self._one_by_one(records, first, bad)
        return rows if self._keep is None else self._keep(rows)

    def _reader(self, kind: type) -> Callable[[Sequence[Any]], list[Row]]:
        """How records of this type become tuples; chosen once per type."""
        width = len(self._brought)
        if issubclass(kind, Mapping):
            read = _tuples(itemgetter, self._brought)

            def mappings(records: Sequence[Any]) -> list[Row]:
                if set(map(len, records)) != {width}:
                    raise ValueError
                return read(records)

            return mappings
        if issubclass(kind, tuple) and not hasattr(kind, "_fields"):

            def tuples(records: Sequence[Any]) -> list[Row]:
                if set(map(len, records)) != {width}:
                    raise ValueError
                return list(records)

            return tuples
        if kind is NoneType:

            def refused(records: Sequence[Any]) -> list[Row]:
                raise ValueError(records)  # then they are looked at one by one

            return refused
        fields = fields_of(kind)
        lacking = [name for name in self._brought if name not in fields]
        if lacking:
            raise ConfigError(
                f"Records of type {kind.__name__} have no {', '.join(lacking)}, which the table {self._plan.table.name} has.",
                hint="Add the fields, or name the columns to write: SqlTarget(..., columns=[...]).",
            )
        if issubclass(kind, msgspec.Struct) and kind.__struct_fields__ == self._brought:
            return lambda records: list(map(msgspec.structs.astuple, records))
        return _tuples(attrgetter, self._brought)

    def _one_by_one(self, records: Sequence[Any], first: int, bad: dict[int, str]) -> list[Row]:
        """Rows with missing or unknown columns among them: nullable ones are filled, others make the row bad."""
        columns = {name: self._plan.table.c.get(name) for name in self._brought}
        blank = tuple(None for _ in self._brought)
        rows = []
        for number, record in enumerate(records, first):
            if not isinstance(record, Mapping):
                if record is None:
                    bad[number] = NO_ROW
                    rows.append(blank)
                elif isinstance(record, tuple) and len(record) != len(self._brought):
                    bad[number] = f"a row of {len(record)} values for {len(self._brought)} columns"
                    rows.append(blank)
                else:
                    rows.append(self._readers[type(record)]((record,))[0])
                continue
            unknown = sorted(map(str, record.keys() - columns.keys()))
            lacking = [
                name
                for name, column in columns.items()
                if name not in record and column is not None and not (column.nullable and column.default is None)
            ]
            if unknown or lacking:
                bad[number] = "; ".join(
                    [f"the table has no column {name}" for name in unknown] + [f"no value for column {name}" for name in lacking]
                )
            rows.append(tuple(record.get(name) for name in self._brought))
        return rows

    def _fitting(self, merged: list[Row], brought: int) -> list[Row]:
        """The merged rows. Of those that fit alone, the sum may not: then nobody knows which of them is to blame."""
        if len(merged) < brought:
            for name, check, values in zip(self._names, self._checks, zip(*merged, strict=True), strict=True):
                for reason in check(values).values():
                    raise RowError(f"column {name}: {reason}, as a sum")
        return merged

    # -- the last of each key ------------------------------------------------------------------

    def _last(self, rows: list[Row]) -> list[Row]:
        key, newer = self._identity, self._newer
        assert key is not None
        if not self._plan.nature.keys_exact:
            return rows  # which of them are of one key is for the database to tell, and how the first of them writes it
        if newer is None:
            if len(set(map(key, rows))) == len(rows):
                return rows
            if self._plan.nature.rows_numbered:
                return list({key(row): row for row in rows}.values())
            last: dict[Any, Row] = {}
            for row in reversed(rows):
                last.setdefault(key(row), row)
            return list(last.values())[::-1]
        newest: dict[Any, Row] = {}
        is_newer = greater_moment if self._newer_zoned else greater
        for row in rows:
            held = newest.get(key(row), _MISSING)
            # Strictly greater wins, here as in the database, so that batch boundaries change nothing.
            if held is _MISSING or is_newer(row[newer], held[newer]):  # type: ignore[index]  # a Row, not _MISSING
                if not self._plan.nature.rows_numbered:
                    newest.pop(key(row), None)  # to the end, where it stands among the messages
                newest[key(row)] = row
        return list(newest.values())

    def _by_key(self, rows: list[Row]) -> list[Row]:
        identity = self._identity
        assert identity is not None
        try:
            return sorted(rows, key=identity)
        except TypeError:  # keys without an order
            return sorted(rows, key=lambda row: repr(identity(row)))

    # -- deletes -------------------------------------------------------------------------------

    def _deletes_of(self, change: Change, first: int, bad: dict[int, str]) -> list[Row]:
        deletes = list(chain.from_iterable(batch.deletes for batch in change.batches))
        if self._deletes is None:
            bad |= dict.fromkeys(range(first, first + len(deletes)), NO_DELETES)
            return []
        return self._deletes.keys(deletes, first, bad)

    def _deletes_first(self, events: Iterable[tuple[Row | None, Row]]) -> Written:
        """Keys that were deleted at some time, and of each key the last row that was not deleted afterwards."""
        identity, identity_of_key = self._identity, self._deletes and self._deletes.identity
        assert identity is not None
        assert identity_of_key
        gone: dict[Any, Row] = {}
        last: dict[Any, Row] = {}
        for row, key in events:
            this = identity_of_key(key) if row is None else identity(row)
            if row is None:
                last.pop(this, None)
                gone[this] = key
            else:
                last[this] = row
        return Written(list(last.values()), list(gone.values()), [0] * len(gone))

    def _in_order(self, events: Iterable[tuple[Row | None, Row]]) -> Written:
        """All deletes where they stand, and of the rows between two of them the last of each key."""
        out = Written([], [], [])
        for deleting, run in groupby(events, lambda event: event[0] is None):
            if deleting:
                keys = [key for _, key in run]
                out.deletes.extend(keys)
                out.before.extend([len(out.rows)] * len(keys))
            else:
                out.rows.extend(self._last([row for row, _ in run if row is not None]))
        return out


def _events(change: Change, rows: list[Row], deletes: list[Row]) -> Iterator[tuple[Row | None, Row]]:
    """Rows, and deletes with their keys, in message order."""
    row, delete = iter(rows), iter(deletes)
    for batch in change.batches:
        for _, is_delete in sorted([(at, 0) for at in batch.at] + [(gone.at, 1) for gone in batch.deletes]):
            yield (None, next(delete)) if is_delete else (next(row), ())


def _tuples(getter: Any, names: Sequence[Any]) -> Callable[[Sequence[Any]], list[Row]]:
    get = getter(*names)
    if len(names) == 1:  # then the getter returns the bare value
        return lambda records: [(get(record),) for record in records]
    return lambda records: list(map(get, records))


def greater(new: Any, old: Any) -> bool:
    """Is a version newer than the stored one? Strictly; a null never is, and gives way to any other."""
    return new is not None and (old is None or new > old)


def greater_moment(new: Any, old: Any) -> bool:
    """The same of values among which times with a zone may be."""
    return greater(moment(new), moment(old))
