"""One partition's connection to an SQL database: rows into any number of tables, and dry runs."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from typing_extensions import override

from sinks.ledger import LedgerSession, LedgerTarget
from sinks.sql.routing import routed
from sinks.sql.rows_of_table import TableRows
from sinks.sql.tables import SqlTables
from waxwing.batch import Batch
from waxwing.change import Change, Order
from waxwing.databases.ledger.store import SqlStore
from waxwing.databases.ledger.transaction import SqlTransaction
from waxwing.errors import RowError, TableError
from waxwing.ledger.store import Transaction
from waxwing.tables.rows import Written

# What one transaction writes: by table, and one after the other.
Writes = list[tuple[TableRows, Written]]


class SqlSession(LedgerSession):
    """One connection, used by one thread."""

    takes_deletes = True

    def __init__(self, target: LedgerTarget, tables: SqlTables, store: SqlStore, token: str) -> None:
        super().__init__(target, store, token)
        self._of_step, self._sql = tables, store
        self._database = store.database
        self._trial: Trial | None = None
        self._tables: dict[str, TableRows] = {}
        self._sent: TableRows | None = None  # what was written last: where a refusal comes from

    def _table(self, name: str) -> TableRows:
        if (rows := self._tables.get(name)) is None:
            rows = self._tables[name] = TableRows(self._of_step.looked_at(name), self._sql)
        return rows

    # -- before a transaction ------------------------------------------------------------------------

    @override
    def prepared(self, change: Change) -> Writes:
        return [one for part in _parts(change) for one in self._writes(part)]

    def _writes(self, change: Change) -> Writes:
        if not self._of_step.several:
            rows = self._table("")
            return [(rows, rows.rows.of(change))]
        out: Writes = []
        bad: dict[int, str] = {}
        for name, part in self._routed(change):
            rows = self._table(name)
            try:
                out.append((rows, rows.rows.of(part.change)))
            except RowError as error:
                bad |= part.refused(error).bad
        if bad:
            raise RowError(f"{len(bad)} rows do not fit their tables", bad=bad)
        return out

    def _routed(self, change: Change) -> Any:
        parts = routed(change, self._of_step.names)
        for name in parts:
            self._table(name)  # one that joins is made before the transaction
        return [(name, parts[name]) for name in self._of_step.names if name in parts]

    @override
    def order(self, change: Change) -> Order:
        if not self._of_step.several:
            return self._table("").rows.order(change)
        keys: dict[int, Any] = {}
        replaces = True
        for name, part in self._routed(change):
            order = self._table(name).rows.order(part.change)
            replaces &= order.replaces
            keys |= {n: (name, None if order.keys is None else order.keys[at]) for at, n in enumerate(part.numbers)}
        return Order([keys[n] for n in sorted(keys)], replaces) if keys else Order()

    # -- in it ---------------------------------------------------------------------------------------

    @override
    def write_rows(self, transaction: Transaction, prepared: Writes) -> None:
        connection = cast("SqlTransaction", transaction).connection
        for rows, written in prepared:
            if written.rows or written.deletes:
                rows.held = rows.hold(connection)
        for rows, written in prepared:
            self._sent = rows
            rows.send(connection, written)

    @override
    def check_rows(self, transaction: Transaction, prepared: Writes) -> None:
        connection = cast("SqlTransaction", transaction).connection
        for rows in {id(rows): rows for rows, written in prepared if written.rows or written.deletes}.values():
            if not rows.held:
                rows.check_shape(connection)  # it can't be altered any more: this transaction has written to it

    @override
    def commit(self, change: Change) -> None:
        self._end_trial()
        try:
            super().commit(change)
        except (RowError, TableError) as error:
            self._look_again(error)  # before a row is blamed, or the table
            raise

    def _look_again(self, refusal: RowError | TableError, *, only_where_doubtful: bool = False) -> None:
        rows = self._sent
        if rows is not None and (not only_where_doubtful or rows.may_be_blamed(refusal)):
            self._end_trial()
            rows.look_again(refusal)

    # -- dry runs --------------------------------------------------------------------------------

    @override
    def attempt(self, change: Change) -> None:
        try:
            if change.parts is None or not self._database.dialect.savepoints:
                self._end_trial()
                super().attempt(change)
            else:
                with self._sql.errors():
                    self._try(change, list(change.parts))
        except (RowError, TableError) as error:
            self._look_again(error, only_where_doubtful=True)
            raise

    def _try(self, change: Change, parts: list[list[Batch[Any]]]) -> None:
        """Write the parts behind those that the trial holds, and leave it open: the next one may begin with the same."""
        if self._trial is None or self._trial.before is not change.before or not self._trial.begins(parts):
            self._begin_trial(change)
        try:
            self._add(parts, change)
        except Exception as error:
            # Has the transaction ended with the refusal, or unseen before it, and with it what the row needs? Once more.
            if self._trial is not None or self._database.classify(error).kind != "row":
                raise
            self._begin_trial(change)
            self._add(parts, change)

    def _begin_trial(self, change: Change) -> None:
        self._end_trial()
        stack = contextlib.ExitStack()
        transaction = stack.enter_context(self._sql.begun())
        self._trial = Trial(change.before, stack, transaction)
        try:
            self._ledger.move(transaction, change, self._owner)
            for rows in self._tables.values():
                rows.hold(transaction.connection)
            self.bury(transaction, change)
        except BaseException:
            self._end_trial()
            raise

    def _add(self, parts: Sequence[list[Batch[Any]]], change: Change) -> None:
        assert self._trial is not None
        connection = self._trial.transaction.connection
        for part in parts[len(self._trial.parts) :]:
            writes = self._writes(replace(change, batches=part))
            before = connection.begin_nested()
            try:
                for rows, written in writes:
                    self._sent = rows
                    rows.send(connection, written)
                self._database.check_deferred(connection)
                before.commit()
            except BaseException:
                rolled_back = False
                with contextlib.suppress(Exception):  # it must not hide the error that brought us here
                    before.rollback()
                    rolled_back = True
                if not rolled_back:  # the server, or a trigger, has ended the transaction
                    self._end_trial()
                raise
            self._trial.parts.append(part)

    def _end_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.stack.close()

    @override
    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._end_trial()
        super().close()


@dataclass
class Trial:
    """A transaction that is never committed, with the parts that it holds."""

    before: Any  # of the change that began it
    stack: contextlib.ExitStack
    transaction: SqlTransaction
    parts: list[list[Batch[Any]]] = field(default_factory=list)

    def begins(self, parts: list[list[Batch[Any]]]) -> bool:
        """Do these parts begin with those that it holds?"""
        held = self.parts
        return len(held) <= len(parts) and all(map(operator.is_, held, parts))


def _parts(change: Change) -> Iterator[Change]:
    """What is written one after the other."""
    return iter([change] if change.parts is None else [replace(change, batches=part) for part in change.parts])
