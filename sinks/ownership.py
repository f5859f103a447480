"""Who owns a step's positions in an SQL database: generations, heartbeats, take-over; and a driver's errors as ours."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from typing_extensions import override

from waxwing.batch import Stream
from waxwing.databases import address, ledger, letters
from waxwing.databases.base import Database
from waxwing.errors import ConfigError, Fenced, RowError, TransientError, WaxwingError
from waxwing.target import Position, Session

if TYPE_CHECKING:
    from sinks.sql import SqlTarget

# While an earlier owner may be alive, its heartbeat is looked at this often.
OWNER_POLL_S = 0.2
# How long an owner that has gone is kept in waxwing_owners, for whoever wants to know who wrote when: a week.
OWNER_KEPT_MS = 7 * 86_400_000
progress, owners = ledger.progress, ledger.owners


class OwnedSession(Session):
    """A connection of one thread, as an owner of positions."""

    def __init__(self, engine: sa.Engine, database: Database, target: SqlTarget, token: str) -> None:
        self._database, self._name, self._token = database, target.name, token
        self._url_setting = target.url_setting
        self._flow, self._step = target.flow, target.step
        self._stale_s = target.settings.owner_stale_s
        self._statement_timeout_s = target.statement_timeout_s
        self._now_ms: sa.ColumnElement[int] = sa.literal_column(database.dialect.now_ms_sql, sa.BigInteger)
        self._committing = False
        with self._errors():
            self._connection = engine.connect()
        try:
            with self._errors():
                self._generation = self._draw()
        except BaseException:
            self.close()
            raise

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return sa.and_(ledger.of_step(owners, self._flow, self._step), owners.c.token == self._token)

    def _draw(self) -> int:
        """This owner's generation: one above every one known. A later session of the same token finds its own."""
        while True:
            try:
                with self._connection.begin():
                    return self._drawn(self._connection)
            except sa.exc.IntegrityError:
                continue  # a sibling drew the same number at this moment

    def _drawn(self, connection: sa.Connection) -> int:
        if (mine := connection.scalar(sa.select(owners.c.generation).where(self._mine))) is not None:
            return int(mine)
        known = [
            connection.scalar(sa.select(sa.func.max(column)).where(ledger.of_step(column.table, self._flow, self._step)))
            for column in (owners.c.generation, progress.c.owner)
        ]
        generation = 1 + max(int(number or 0) for number in known)
        place = letters.held(f"{socket.gethostname()} pid {os.getpid()}", "ascii")[:255]
        values = {"flow": self._flow, "step": self._step, "generation": generation, "token": self._token, "place": place}
        connection.execute(owners.insert().values(heartbeat_ms=self._now_ms, **values))
        # Owners that are long gone; the positions' own numbers keep the count from falling.
        old = sa.and_(ledger.of_step(owners, self._flow, self._step), owners.c.heartbeat_ms < self._now_ms - OWNER_KEPT_MS)
        connection.execute(owners.delete().where(old))
        return generation

    @override
    def take_over(self, stream: Stream) -> Position:
        give_up_s = time.monotonic() + 2 * self._stale_s + 1
        while True:
            alive = ""
            with self._errors(lock_hint=True), self._connection.begin():
                row = self._locked(stream)
                if row.owner_token == self._token:
                    return ledger.position(row)
                if row.owner >= self._generation:
                    raise self._fenced(stream, row)
                alive = self._alive(row)
                if not alive:
                    self._connection.execute(
                        progress.update()
                        # The number once more: a server that silently ended the transaction has let go of the row, too.
                        .where(ledger.of_stream(self._step, stream), progress.c.owner < self._generation)
                        .values(owner=self._generation, owner_token=self._token, version=progress.c.version + 1)
                    )
            if not alive:
                continue  # read once more: what stands there now is ours
            if time.monotonic() > give_up_s:
                raise Fenced(
                    f"{stream}: another process of flow {self._flow} is alive and owns its position in {self._name} ({alive}).",
                    hint="Stop that one first; do not start two deployments of one flow.",
                    step=self._step,
                )
            self.heartbeat()
            time.sleep(OWNER_POLL_S)

    def _alive(self, row: Any) -> str:
        """Where the row's owner runs, if its heartbeat is fresh; else empty."""
        fresh = owners.c.heartbeat_ms > self._now_ms - int(self._stale_s * 1000)
        where = sa.and_(
            ledger.of_step(owners, self._flow, self._step), owners.c.generation == row.owner, owners.c.token == row.owner_token
        )
        return str(self._connection.scalar(sa.select(owners.c.place).where(where, fresh)) or "")

    def _locked(self, stream: Stream) -> Any:
        row = self._connection.execute(
            ledger.locking(sa.select(progress).where(ledger.of_stream(self._step, stream)))
        ).one_or_none()
        if row is None:
            raise ConfigError(
                f"Step {self._step} has no position for {stream}.",
                hint="Give the target to the source as well: feeds=[target].",
                step=self._step,
            )
        return row

    def _fenced(self, stream: Stream, row: Any) -> Fenced:
        return Fenced(
            f"{stream}: another process has taken over its position in {self._name} "
            f"(generation {row.owner}, ours is {self._generation}).",
            hint="Nothing was written after that. The other process goes on; do not restart this one.",
            step=self._step,
        )

    @override
    def heartbeat(self) -> None:
        with self._errors(), self._connection.begin():
            self._connection.execute(owners.update().where(self._mine).values(heartbeat_ms=self._now_ms))

    @override
    def release(self) -> None:
        # A courtesy to the next start, which would otherwise wait until the heartbeat is stale.
        with contextlib.suppress(Exception), self._connection.begin():
            self._connection.execute(owners.update().where(self._mine).values(heartbeat_ms=0))

    @override
    def close(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()

    @contextlib.contextmanager
    def _errors(self, *, lock_hint: bool = False) -> Iterator[None]:
        self._committing = False
        try:
            with translated(self._database, self._name, self._url_setting):
                yield
        except TransientError as error:
            error.committing = self._committing
            # Its one row is no large transaction: it was cut off while it waited, before the lock's own time limit told.
            if lock_hint and (error.locked or error.too_large) and (blockers := self._blockers()):
                error.hint = f"Locks are held by: {blockers}."
            raise
        except sa.exc.DBAPIError as error:
            failure = self._database.classify(error)
            raise RowError(f"{failure.reason} ({failure.code})", column=failure.column) from error

    def _blockers(self) -> str:
        with contextlib.suppress(Exception), self._connection.engine.connect() as other:
            blockers = self._database.blockers(other)
            self._database.end_overdue(other, self._statement_timeout_s)
            return blockers
        return ""


@contextlib.contextmanager
def translated(database: Database, name: str, url_setting: str) -> Iterator[None]:
    """Errors of the driver as ours, of the target `name`, whose URL that setting gave.

    An error that blames a row comes out as SQLAlchemy's DBAPIError, for the caller to read.
    """
    try:
        yield
    except WaxwingError:
        raise
    except Exception as error:
        failure = database.classify(error)
        if address.was_connecting(error):
            failure = failure.of_connecting(database.dialect.name)
        if (ours := failure.error(name)) is not None:
            ours.hint = ours.hint.replace("DATABASE_URL", url_setting)
            raise ours from error
        if isinstance(error, sa.exc.DBAPIError):
            raise
        raise sa.exc.DBAPIError("", None, error) from error
