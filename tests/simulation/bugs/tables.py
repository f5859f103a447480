"""Bugs of steps that write several tables, and delete by keys of two columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sinks.sql.session
from sinks.sql.routing import Routed, routed
from sinks.sql.session import Writes
from tests.simulation.bugs.planted import Planted
from tests.simulation.parts import Parts
from tests.simulation.steps.tables import TABLES, Key, TablesSession
from tests.simulation.truth import Row
from waxwing.batch import Delete
from waxwing.change import Change
from waxwing.errors import RowError
from waxwing.ledger.store import Transaction
from waxwing.tables import keys, rows
from waxwing.tables.rows import RowMaker, Written


class OthersApart(TablesSession):
    """Rows of all tables but the first are committed before."""

    def write_rows(self, transaction: Transaction, prepared: Writes) -> None:
        made: list[Any] = list(prepared)
        first = [one for one in made if one[0].name == made[0][0].name]
        if others := [one for one in made if one not in first]:
            with self._store.transaction() as own:
                super().write_rows(own, others)
                own.commit()
        super().write_rows(transaction, first)


class JoinsLate(TablesSession):
    """Which tables there are is asked before those that join have joined."""

    def _routed(self, change: Change) -> Any:
        names = self._of_step.names
        return [(name, part) for name, part in super()._routed(change) if name in names]


class BlamesByTable(TablesSession):
    """The numbers of rows that do not fit are those within their table."""

    def _writes(self, change: Change) -> Writes:
        for name, part in self._routed(change):
            try:
                self._table(name).rows.of(part.change)
            except RowError as error:
                raise RowError(error.message, bad=error.bad) from error
        return super()._writes(change)


class OneTableRefused(TablesSession):
    """A part of what was refused is written, as only the first table's is."""

    def _writes(self, change: Change) -> Writes:
        out: Writes = []
        for name, part in self._routed(change):
            made = self._table(name)
            try:
                out.append((made, made.rows.of(part.change)))
            except RowError as error:
                if not out:
                    raise part.refused(error) from error
        return out


class DeletesByFirstColumn(TablesSession):
    def _write(self, opened: Any, table: str, key: Key, row: Row | None) -> None:
        for b in (key[1],) if row is not None else (key[0], key[0] ^ 1):
            super()._write(opened, table, (key[0], b), row)


class NamesIgnored(keys.Deletes):
    def _key(self, delete: Delete) -> keys.Key:
        return super()._key(delete._replace(names=()))


def table_ignored(change: Change, names: Sequence[str]) -> Mapping[str, Routed]:
    def of_first(batch: Any) -> Any:
        return replace(batch, deletes=[delete._replace(table=TABLES[0]) for delete in batch.deletes])

    return routed(replace(change, batches=[of_first(batch) for batch in change.batches]), names)


def deletes_before_rows(self: RowMaker, events: Iterable[tuple[Any, Any]]) -> Written:
    found = list(events)
    last = {row[:2]: row for row, _ in found if row is not None}
    gone = [key for row, key in found if row is None]
    return Written(list(last.values()), gone, [0] * len(gone))


def of_first_column(columns: Sequence[Any], at: Sequence[int]) -> Callable[[Any], Any]:
    return keys.identity(columns[:1], at[:1])


PLANTED = {
    "others-apart": Planted("rows of a second table are written in a transaction of their own", Parts(tables=OthersApart)),
    "joins-late": Planted("a table that joins loses the rows that it joins with", Parts(tables=JoinsLate)),
    "blames-by-table": Planted(
        "a dead letter is of another table's row: numbers are those within the table", Parts(tables=BlamesByTable)
    ),
    "one-table-refused": Planted("what one table refuses is not said of the others", Parts(tables=OneTableRefused)),
    "deletes-by-first-column": Planted(
        "a delete takes all rows that have the key's first column", Parts(tables=DeletesByFirstColumn)
    ),
    "names-ignored": Planted(
        "which columns a delete's key names is passed over", Parts(replaced=((rows, "Deletes", NamesIgnored),))
    ),
    "table-ignored": Planted(
        "which table a delete names is passed over", Parts(replaced=((sinks.sql.session, "routed", table_ignored),))
    ),
    "deletes-before-rows": Planted(
        "deletes stand before the rows that they delete", Parts(replaced=((RowMaker, "_deletes_first", deletes_before_rows),))
    ),
    "one-key-column": Planted(
        "rows are one that have the key's first column alike", Parts(replaced=((rows, "identity", of_first_column),))
    ),
}
