"""What the memory target holds, written by the rules of the SQL targets: checked, folded, deleted and merged alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import chain
from operator import itemgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from typing_extensions import override

from sinks.misfits import check_keys, check_records
from waxwing.batch import Delete
from waxwing.change import Change
from waxwing.errors import ConfigError, RowError
from waxwing.tables.columns import checks
from waxwing.tables.dialect import MEMORY as DIALECT
from waxwing.tables.keys import identity
from waxwing.tables.merging import fields_of, merge_records
from waxwing.tables.modes import Append, Keyed, Merge, Mode, Upsert, keys_of
from waxwing.tables.plan import Nature
from waxwing.tables.planning import plan
from waxwing.tables.rows import NO_DELETES, NO_ROW, RowMaker, greater_moment
from waxwing.tables.values.moments import moment

_exact = Context(prec=2_000)
Row = dict[str, Any]


class KeptRows(ABC):
    """The rows of a memory target. Used under its lock."""

    @abstractmethod
    def write(self, change: Change, *, dry_run: bool) -> None:
        """Take a change in, or nothing of it.

        Raises:
            RowError: rows that can't be stored.
        """

    def check_records(self, kind: Any) -> None:  # noqa: B027 - without a table any record is taken
        """Refuse a type of records of which not one could be written."""

    def check_keys(self, kind: Any) -> None:  # noqa: B027 - likewise
        """Refuse a way of reading keys by which not one could be a key of the table."""

    def misfits(self, records: Sequence[Any]) -> dict[int, str]:  # noqa: ARG002 - likewise
        """By their numbers the reasons of the records that could not be rows."""
        return {}

    @property
    @abstractmethod
    def rows(self) -> list[Any]:
        """What was written."""


class InTable(KeptRows):
    """Rows of a declared table, as an SQL target writes them."""

    def __init__(self, table: sa.Table, mode: Mode, columns: Sequence[str] | None) -> None:
        wanted = plan(table, mode, dialect=DIALECT, columns=columns)
        self._plan = replace(wanted, nature=Nature(keys_exact=True, rows_alone=True, rows_numbered=False))
        self._mode = mode
        self._names = [column.name for column in self._plan.columns]
        self._records = RowMaker(self._plan, self._names, DIALECT)
        self._checks = dict(zip(self._names, checks(self._plan, DIALECT), strict=True))
        # Where every row is inserted the primary key may not come twice, if rows bring it.
        key = [column for column in self._plan.columns if column.primary_key] if isinstance(mode, Append) else self._plan.keys
        whole = isinstance(mode, Keyed) or len(key) == len(table.primary_key.columns)
        self._identity = identity(key, range(len(key))) if key and whole else None
        self._key = [column.name for column in key]
        self._held: dict[Any, Row] = {}

    @override
    def check_records(self, kind: Any) -> None:
        check_records(kind, self._plan.columns, DIALECT, self._plan.table.fullname)

    @override
    def check_keys(self, kind: Any) -> None:
        check_keys(kind, self._plan, DIALECT)

    @override
    def misfits(self, records: Sequence[Any]) -> dict[int, str]:
        return self._records.misfits(records)

    @property
    @override
    def rows(self) -> list[Any]:
        return [tuple([row.get(column.name) for column in self._plan.table.c]) for row in self._held.values()]

    @override
    def write(self, change: Change, *, dry_run: bool) -> None:
        written = self._records.of(change)
        changed: dict[Any, Row | None] = {}
        stands = 0
        for key, before in zip(written.deletes, written.before, strict=True):
            self._put(written.rows[stands:before], changed)
            stands = before
            assert self._identity is not None
            changed[self._identity(key)] = None
        self._put(written.rows[stands:], changed)
        if dry_run:
            return
        for this, row in changed.items():
            if row is None:
                self._held.pop(this, None)
            else:
                self._held[this] = row

    def _put(self, rows: Iterable[tuple[Any, ...]], changed: dict[Any, Row | None]) -> None:
        for number, values in enumerate(rows):
            row = dict(zip(self._names, values, strict=True))
            if self._identity is None:
                changed[len(self._held) + len(changed)] = row
                continue
            this = self._identity(tuple([row[name] for name in self._key]))
            held = changed[this] if this in changed else self._held.get(this)
            if held is None:
                changed[this] = self._merged(None, row)
            elif isinstance(self._mode, Append):
                raise RowError("duplicate key", bad={number: f"a row of this key ({', '.join(self._key)}) is there already"})
            elif isinstance(self._mode, Merge):
                changed[this] = self._merged(held, row)
            elif self._mode.newer_by is None or greater_moment(row[self._mode.newer_by], held[self._mode.newer_by]):
                changed[this] = {**held, **row}

    def _merged(self, held: Row | None, row: Row) -> Row:
        if not isinstance(self._mode, Merge):
            return row
        out = merge_records(self._mode, held, row)
        for name in self._mode.add:
            for reason in self._checks[name]([out[name]]).values():
                raise RowError(f"column {name}: {reason}, as a sum")
        for name, (total, number) in self._mode.mean.items():
            scale = getattr(self._plan.table.c[name].type, "scale", None)
            if out[name] is not None and scale is not None:
                exact = _exact.divide(Decimal(out[total]), Decimal(out[number]))
                out[name] = exact.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _exact)
        return out


class ByName(KeptRows):
    """Records as they come; where the mode has keys these are found by name."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._list: list[Any] = []
        self._keyed: dict[Any, Any] = {}

    @property
    @override
    def rows(self) -> list[Any]:
        return list(self._keyed.values()) if isinstance(self._mode, Keyed) else self._list

    @override
    def misfits(self, records: Sequence[Any]) -> dict[int, str]:
        return {number: reason for number, record in enumerate(records) if (reason := self._why_not(record))}

    @override
    def write(self, change: Change, *, dry_run: bool) -> None:
        records = list(chain.from_iterable(batch.records for batch in change.batches))
        bad = self.misfits(records)
        deletes = list(chain.from_iterable(batch.deletes for batch in change.batches))
        if not (isinstance(self._mode, Upsert) and self._mode.delete_on_tombstone):
            bad |= dict.fromkeys(range(len(records), len(records) + len(deletes)), NO_DELETES)
        if bad:
            raise RowError(f"{len(bad)} records can't be rows", bad=bad)
        if dry_run:
            return
        for batch in change.batches:
            events: list[tuple[int, int, Any]] = [(at, 0, record) for at, record in zip(batch.at, batch.records, strict=True)]
            events += [(delete.at, 1, delete) for delete in batch.deletes]
            for _, is_delete, what in sorted(events, key=itemgetter(0, 1)):
                self._delete(what) if is_delete else self._put(what)

    def _why_not(self, record: Any) -> str | None:
        if record is None:
            return NO_ROW
        if not isinstance(self._mode, Keyed):
            return None
        if isinstance(record, tuple) and not hasattr(record, "_fields"):
            raise ConfigError(
                f"MemoryTarget({type(self._mode).__name__}(...)) finds keys by name, and these rows are plain tuples.",
                hint="Give it the table as well, MemoryTarget(..., table=table); or dicts or objects.",
            )
        newer = self._mode.newer_by if isinstance(self._mode, Upsert) else None
        needed = [*self._mode.keys, *([newer] if newer else []), *(self._mode.merged if isinstance(self._mode, Merge) else ())]
        there = record.keys() if isinstance(record, Mapping) else fields_of(type(record))
        if lacking := [name for name in needed if name not in there]:
            if isinstance(record, Mapping):
                return "; ".join(f"no value for column {name}" for name in lacking)
            raise ConfigError(f"Records of type {type(record).__name__} have no {', '.join(lacking)}.", hint="Add the fields.")
        if null := [name for name in self._mode.keys if _get(record)(name) is None]:
            return f"column {null[0]}: null, which the column does not take"
        return None

    def _put(self, record: Any) -> None:
        if not isinstance(self._mode, Keyed):
            self._list.append(record)
            return
        get = _get(record)
        key = tuple([moment(get(name)) for name in self._mode.keys])
        held = self._keyed.get(key)
        if isinstance(self._mode, Merge):
            self._keyed[key] = merge_records(self._mode, held, record)
        elif (
            held is None
            or self._mode.newer_by is None
            or greater_moment(get(self._mode.newer_by), _get(held)(self._mode.newer_by))
        ):
            self._keyed[key] = record

    def _delete(self, delete: Delete) -> None:
        key = delete.key
        if isinstance(key, tuple):
            values = dict(zip(delete.names or keys_of(self._mode), key, strict=True))
            self._keyed.pop(tuple([moment(values.get(name)) for name in keys_of(self._mode)]), None)
        else:  # of the only key column, whose type nobody has declared
            for value in _readings(key):
                self._keyed.pop((value,), None)


def _get(record: Any) -> Callable[[str], Any]:
    return record.__getitem__ if isinstance(record, Mapping) else lambda name: getattr(record, name)


def _readings(key: bytes) -> list[Any]:
    """All that a column may hold where a message's key stands for it."""
    out: list[Any] = [key]
    if key.removeprefix(b"-").isdigit():
        out.append(int(key))
    try:
        out.append(key.decode())
        out.append(UUID(out[-1]))
    except ValueError:
        pass
    return out
