"""One partition's connection to an SQL database: the transaction that takes a change in."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from typing_extensions import override

from sinks.sql import step_store
from sinks.sql.ownership import OwnedSession, progress
from sinks.sql.step_store import Step
from waxwing.batch import Batch
from waxwing.databases import ledger, letters
from waxwing.databases.base import Database
from waxwing.errors import RowError, TableAltered, TableError, TargetError, TransientError, WaxwingError
from waxwing.tables.plan import Plan
from waxwing.tables.rows import Rows, Written
from waxwing.target import Change, Order

if TYPE_CHECKING:
    from sinks.sql.target import SqlTarget


class Looked(NamedTuple):
    """What was found when the table was looked at: what is written, and what tells that it was altered since."""

    plan: Plan
    shape: tuple[object, ...]


class SqlSession(OwnedSession):
    """One connection, used by one thread."""

    def __init__(self, engine: sa.Engine, database: Database, looked: Looked, target: SqlTarget, token: str) -> None:
        self._trial: Trial | None = None
        super().__init__(engine, database, target, token)
        self._target, self._shape = target, looked.shape
        self._rows = Rows(looked.plan, target.columns, database.dialect)
        self._bulk = database.bulk(looked.plan)
        self._brought = {name.lower() for name in looked.plan.changed}
        self._looks_at_rows: set[str] = set()  # constraints of which this is known

    @override
    def order(self, change: Change) -> Order:
        return self._rows.order(change)

    @override
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        write = self._try if dry_run else self._write
        try:
            try:
                write(change)
            except _LettersAgain:
                write(change)
        except (RowError, TableError) as error:
            if not dry_run or self._may_be_the_table(error):
                self._look_again(error)  # before a row is blamed, or the table
            raise

    def _write(self, change: Change) -> None:
        writes = [self._rows.of(part) for part in _parts(change)]
        with self._errors(), self._begun() as transaction:
            # Set now and released right before COMMIT: proof that the transaction is still the same one
            # (a server may end it inside, and the next statement would silently begin another).
            whole = self._connection.begin_nested()
            if self._move(change):
                return
            writing = any(written.rows or written.deletes for written in writes)
            held = writing and self._hold()
            for written in writes:
                self._send(written)
            self._bury(change)
            self._database.check_deferred(self._connection)
            if writing and not held:
                self._check_shape(self._connection)  # it can't be altered any more: this transaction has written to it
            whole.commit()
            self._committing = True
            transaction.commit()

    def _send(self, written: Written) -> None:
        rows, deletes, before = written
        if deletes:
            self._bulk.replace(self._connection, rows, deletes, before)
        elif rows:
            self._bulk.write(self._connection, rows)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[sa.RootTransaction]:
        """A transaction that is rolled back, unless it was committed."""
        self._end_trial()
        if self._is_closed():
            raise TransientError(f"{self._name}: the server ended the transaction, and its connection was closed.")
        transaction = self._connection.begin()
        try:
            yield transaction
        finally:
            _roll_back(transaction)

    def _is_closed(self) -> bool:
        """Did the rollback of an earlier attempt find the transaction ended by the server (a trigger may), and close it?"""
        return getattr(self._connection.connection, "dbapi_connection", None) is None

    # -- dry runs --------------------------------------------------------------------------------

    def _try(self, change: Change) -> None:
        """Write the parts behind those that the trial holds, and leave it open: the next one may begin with the same."""
        with self._errors():
            if change.parts is None or not self._database.dialect.savepoints:
                self._try_at_once(change)
                return
            parts = list(change.parts)
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

    def _try_at_once(self, change: Change) -> None:
        writes = [self._rows.of(part) for part in _parts(change)]
        with self._begun():
            whole = self._connection.begin_nested()
            self._move(change)
            self._hold()
            for written in writes:
                self._send(written)
            self._bury(change)
            self._database.check_deferred(self._connection)
            whole.commit()

    def _begin_trial(self, change: Change) -> None:
        self._end_trial()
        stack = contextlib.ExitStack()
        stack.enter_context(self._begun())
        self._trial = Trial(change.before, stack)
        try:
            self._move(change)
            self._hold()
            self._bury(change)
        except BaseException:
            self._end_trial()
            raise

    def _add(self, parts: Sequence[list[Batch[Any]]], change: Change) -> None:
        assert self._trial is not None
        for part in parts[len(self._trial.parts) :]:
            written = self._rows.of(replace(change, batches=part))
            before = self._connection.begin_nested()
            try:
                self._send(written)
                self._database.check_deferred(self._connection)
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

    # -- the table's shape -----------------------------------------------------------------------

    def _may_be_the_table(self, refusal: RowError | TableError) -> bool:
        """Does it name a column, or a constraint, that may have nothing to do with what rows bring?"""
        null, constraint = _named(refusal)
        return bool(null and null not in self._brought) or bool(constraint and constraint not in self._looks_at_rows)

    def _look_again(self, refusal: RowError | TableError) -> None:
        """Look whether the table is as it was when the plan was made.

        Raises:
            TableAltered: it is not; the next session has a plan for what it is now.
            TableError: it refuses what stands in columns that the flow does not bring.
        """
        null, constraint = _named(refusal)
        told = hint = ""
        with self._errors(), self._looking() as connection:
            self._check_shape(connection, refusal)
            if not self._may_be_the_table(refusal):
                return
            if constraint:
                columns = self._database.constrained(connection, self._target.table, constraint)
                if columns is None or any(name.lower() in self._brought for name in columns):
                    self._looks_at_rows.add(constraint)
                else:
                    names = ", ".join(sorted(columns)) or "there are none"
                    told = f"rows bring none of the columns that {constraint} looks at ({names})"
                    hint = "Give them defaults that it takes (a sequence: behind the highest number), or alter the constraint"
            elif null in {column.name.lower() for column in self._database.columns(connection, self._target.table)}:
                told = f"rows do not bring the column {null}"
                hint = "Give the column a default that is no null (or look at what a trigger makes of it)"
        if told:
            raise TableError(f"{self._name}: {refusal.message}; {told}.", hint=f"{hint}, then start again.") from refusal

    @contextlib.contextmanager
    def _looking(self) -> Iterator[sa.Connection]:
        if not self._is_closed():
            with self._begun():
                yield self._connection
        else:  # with a new one, or the next attempt would end here again
            with self._connection.engine.connect() as connection:
                yield connection

    def _hold(self) -> bool:
        """Hold the table as it is before it is written, where that must be; is it as the plan was made for?"""
        if held := self._bulk.hold(self._connection):
            self._check_shape(self._connection)
        return held

    def _check_shape(self, connection: sa.Connection, cause: Exception | None = None) -> None:
        shape = self._database.shape(connection, self._target.table)
        if shape != self._shape and shape:  # one that is gone altogether is not made anew
            self._target.forget(self._shape)
            raise TableAltered(f"{self._name}: the table was altered; looking at it again.") from cause

    # -- positions -------------------------------------------------------------------------------

    def _bury(self, change: Change) -> None:
        """Store the dead letters. Those of an earlier step of this name, which the operator kept, give way to their like."""
        if not change.dead_letters:
            return
        if self._target.letters_again:
            places = ((letter.stream, letter.offset, letter.row) for letter in change.dead_letters)
            step_store.delete_letters(self._connection, Step(self._flow, self._step), places)
        most, encoding = self._database.value_bytes_max(self._connection), self._database.text_encoding(self._connection)
        try:
            for some in letters.statements(self._step, change.dead_letters, bytes_max=most, encoding=encoding):
                self._connection.execute(ledger.dead_letters.insert(), some)
        except sa.exc.IntegrityError as error:
            if self._target.letters_again:
                raise
            self._target.letters_again = True
            raise _LettersAgain from error

    def _move(self, change: Change) -> bool:
        """Move the positions by compare-and-set, first of all: it takes the locks and fences.

        Returns True when an earlier COMMIT of this change, whose outcome was unknown, did succeed.
        """
        done = 0
        for number, (stream, before) in enumerate(change.before.items()):
            after = change.after[stream]
            moved = self._connection.execute(
                progress.update()
                .where(
                    ledger.of_stream(self._step, stream),
                    progress.c.offset_next == before.offset_next,
                    progress.c.owner == self._generation,
                    progress.c.owner_token == self._token,
                )
                .values(
                    offset_next=after.offset_next,
                    version=progress.c.version + 1,
                    records_seen=after.records_seen,
                    records_bad=after.records_bad,
                    bad_run=after.bad_run,
                )
            ).rowcount
            if moved == 1:
                continue
            row = self._locked(stream)
            if row.owner_token != self._token:
                raise self._fenced(stream, row)
            if change.in_doubt and row.offset_next == after.offset_next and done == number:
                done += 1
                continue
            raise TargetError(
                f"{stream}: the stored position in {self._name} is {row.offset_next}, expected was {before.offset_next}; "
                "somebody else changed it.",
                hint="Nothing was written. Find out who writes to waxwing_progress, then start again.",
                step=self._step,
            )
        if done not in (0, len(change.before)):
            raise TargetError(f"{self._name}: one transaction stands half committed; this database can't be trusted.")
        return done > 0


class _LettersAgain(WaxwingError):
    """There is a dead letter of this key already: a step of this name began anew, and its former letters were kept."""

    def __init__(self) -> None:
        super().__init__("A dead letter is there already.")


@dataclass
class Trial:
    """A transaction that is never committed, with the parts that it holds."""

    before: Any  # of the change that began it
    stack: contextlib.ExitStack
    parts: list[list[Batch[Any]]] = field(default_factory=list)

    def begins(self, parts: list[list[Batch[Any]]]) -> bool:
        """Do these parts begin with those that it holds?"""
        held = self.parts
        return len(held) <= len(parts) and all(map(operator.is_, held, parts))


def _named(refusal: RowError | TableError) -> tuple[str, str]:
    """The column that takes no null, and the constraint, which a refusal names; empty where it names none."""
    return str(refusal.context.get("column") or "").lower(), str(refusal.context.get("constraint") or "")


def _parts(change: Change) -> list[Change]:
    """What is written one after the other."""
    return [change] if change.parts is None else [replace(change, batches=part) for part in change.parts]


def _roll_back(transaction: sa.Transaction) -> None:
    if transaction.is_active:
        # It must not hide the error that brought us here; the connection goes with it.
        with contextlib.suppress(Exception):
            transaction.rollback()
