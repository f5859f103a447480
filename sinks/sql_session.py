"""One partition's connection to an SQL database: the transaction that takes a change in."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from typing_extensions import override

from sinks import step_store
from sinks.ownership import OwnedSession, progress
from sinks.rows import Rows
from sinks.step_store import Step
from waxwing.databases import ledger
from waxwing.databases.base import Database, Plan
from waxwing.errors import TargetError, TransientError, WaxwingError
from waxwing.target import Change

if TYPE_CHECKING:
    from sinks.sql import SqlTarget


class SqlSession(OwnedSession):
    """One connection, used by one thread."""

    def __init__(
        self, engine: sa.Engine, database: Database, plan: Plan, brought: Sequence[str], target: SqlTarget, token: str
    ) -> None:
        super().__init__(engine, database, target, token)
        self._rows = Rows(plan, brought, database.dialect)
        self._bulk = database.bulk(plan)
        self._letters_again = False

    @override
    def write(self, change: Change, *, dry_run: bool = False) -> None:
        try:
            self._write(change, dry_run=dry_run)
        except _LettersAgain:
            self._write(change, dry_run=dry_run)

    def _write(self, change: Change, *, dry_run: bool) -> None:
        rows, deletes, before = self._rows.of(change)
        with self._errors():
            if getattr(self._connection.connection, "dbapi_connection", None) is None:
                # A rollback of an earlier attempt found the transaction ended by the server (a trigger may), and closed it.
                raise TransientError(f"{self._name}: the server ended the transaction, and its connection was closed.")
            transaction = self._connection.begin()
            try:
                # Set now and released right before COMMIT: proof that the transaction is still the same one
                # (a server may end it inside, and the next statement would silently begin another).
                whole = self._connection.begin_nested()
                if self._move(change):
                    return
                if deletes:
                    self._bulk.replace(self._connection, rows, deletes, before)
                elif rows:
                    self._bulk.write(self._connection, rows)
                if change.dead_letters:
                    self._bury(change)
                self._database.check_deferred(self._connection)
                whole.commit()
                if not dry_run:
                    self._committing = True
                    transaction.commit()
            finally:
                if transaction.is_active:
                    # It must not hide the error that brought us here; the connection goes with it.
                    with contextlib.suppress(Exception):
                        transaction.rollback()

    def _bury(self, change: Change) -> None:
        """Store the dead letters. Those of an earlier step of this name, which the operator kept, give way to their like."""
        if self._letters_again:
            places = ((letter.stream, letter.offset, letter.row) for letter in change.dead_letters)
            step_store.delete_letters(self._connection, Step(self._flow, self._step), places)
        most = self._database.value_bytes_max(self._connection)
        letters = [ledger.dead_letter_row(self._step, letter, most) for letter in change.dead_letters]
        try:
            self._connection.execute(ledger.dead_letters.insert(), letters)
        except sa.exc.IntegrityError as error:
            if self._letters_again:
                raise
            self._letters_again = True
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
