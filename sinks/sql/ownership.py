"""Who owns a step's positions in an SQL database: the owners' records, take-over; and a driver's errors as ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from typing_extensions import override

from waxwing.batch import Stream
from waxwing.databases import address, ledger, letters
from waxwing.databases.base import Database
from waxwing.errors import ConfigError, Fenced, RowError, TransientError, WaxwingError
from waxwing.ownership import Member, Record, Records, alive, is_lost, is_rival, run_of
from waxwing.target import UNFED_HINT, Position, Session

if TYPE_CHECKING:
    from sinks.sql.target import SqlTarget

T = TypeVar("T")

# A stale owner's lock is waited for so long; then its session is ended, and it is waited for once more.
BRIEFLY_S = 1.0
# How long an owner that has gone is kept in waxwing_owners, for whoever wants to know who wrote when: a week.
OWNER_KEPT_MS = 7 * 86_400_000
progress, owners = ledger.progress, ledger.owners


class SqlOwners(Records):
    """The rows of one step in waxwing_owners, over a connection of their own. Thread-safe.

    An owner's number (generation) only rises, by one with every owner: its primary key lets one of two that take at once win.
    """

    def __init__(self, target: SqlTarget, engine: Callable[[], sa.Engine], database: Callable[[], Database]) -> None:
        self._target, self._engine, self._database_now = target, engine, database
        self.step = target.flow, target.step
        self.name = f"{target.step}: {target.name}"
        self.stale_ms = target.settings.owner_stale_s * 1000
        self.generation, self._place = 0, ""  # ours
        self._now_ms: sa.ColumnElement[int] = sa.literal_column(database().dialect.now_ms_sql, sa.BigInteger)
        self._of_step = ledger.of_step(owners, *self.step)
        self._lock = threading.RLock()
        self._connection: sa.Connection | None = None

    @property
    def _database(self) -> Database:
        return self._database_now()

    @override
    def ask(self) -> Sequence[Record]:
        self._target.prepared()
        return self._in_transaction(self.records)

    def records(self, connection: sa.Connection) -> list[Record]:
        """All records of the step."""
        age = (self._now_ms - owners.c.heartbeat_ms).label("age")
        query = sa.select(owners.c.generation, owners.c.token, owners.c.place, owners.c.heartbeat_ms, age).where(self._of_step)
        return [Record(*row) for row in connection.execute(query)]

    @override
    def take(self, me: Member, token: str, seen: Mapping[str, Sequence[Record]], robbed: Collection[str]) -> set[str] | None:
        before = {record.token: record.heartbeat_ms for record in seen[self.name]}

        def take(connection: sa.Connection) -> set[str] | None:
            # Before the records: whoever takes a position has its record there by then.
            of_step = ledger.of_step(progress, *self.step)
            highest = int(connection.scalar(sa.select(sa.func.max(progress.c.owner)).where(of_step)) or 0)
            now = self.records(connection)
            waited, dead = alive({**seen, self.name: now}.values(), me, self.stale_ms, robbed)
            if waited or any(is_lost(record, me) for record in now):
                return None
            rivals = [record for record in now if is_rival(record, me, self.stale_ms)]
            for record in rivals:
                if not self._rob(connection, record, me, robbed, before):
                    return None
            generation = 1 + max([highest, *(record.generation for record in now)])
            self._vacate(connection, now, rivals, token, generation)
            self._insert(connection, generation, me, token)
            return dead | {run_of(record, me) for record in rivals}

        try:
            try:
                return self._in_transaction(take)
            except TransientError as error:
                if not error.locked and not error.too_large:
                    raise
            self._end_sessions()
            return self._in_transaction(take)
        except sa.exc.IntegrityError:
            return None  # another one drew the same number at this moment

    def _rob(
        self, connection: sa.Connection, record: Record, me: Member, robbed: Collection[str], before: dict[str, int]
    ) -> bool:
        """Take the target from an owner; False: it beats again, or was not there when it was asked for."""
        where = sa.and_(self._of_step, owners.c.token == record.token)
        if record.member.run == me.run and me.reused:  # of an earlier start of this mesh
            where = sa.and_(where, owners.c.heartbeat_ms == record.heartbeat_ms)
            return connection.execute(owners.delete().where(where)).rowcount == 1
        if record.heartbeat_ms <= 0:
            return True
        known = run_of(record, me) in robbed or record.fresh(self.stale_ms)  # fresh: of a mesh that another process holds up
        if not known and before.get(record.token) != record.heartbeat_ms:
            return False
        still = owners.c.heartbeat_ms > 0 if known else owners.c.heartbeat_ms == record.heartbeat_ms
        lost = owners.update().where(where, still).values(heartbeat_ms=-self._now_ms)
        return connection.execute(lost).rowcount == 1

    def _vacate(
        self, connection: sa.Connection, now: Sequence[Record], rivals: Sequence[Record], token: str, generation: int
    ) -> None:
        """Positions of all but this start's own processes are nobody's from here on: whoever held them is fenced.

        They bear our number: a process of an earlier release takes only what has a lower one than its own.
        """
        taken = {record.token for record in rivals}
        ours = [token, *(record.token for record in now if record.token not in taken)]
        of_step = ledger.of_step(progress, *self.step)
        others = progress.update().where(of_step, progress.c.owner_token.not_in(ours))
        connection.execute(others.values(owner=generation, owner_token="", version=progress.c.version + 1))

    def _insert(self, connection: sa.Connection, generation: int, me: Member, token: str) -> None:
        """Our record, with a number above every one known: a restored database has owners with higher ones."""
        connection.execute(owners.delete().where(self._of_step, owners.c.token == token))
        place = letters.held(me.place, "ascii")[-255:]
        self._insert_row(connection, generation, token, place)
        # Owners that are long gone; the positions' own numbers keep the count from falling.
        kept = self._now_ms - OWNER_KEPT_MS
        stopped = sa.and_(owners.c.heartbeat_ms >= 0, owners.c.heartbeat_ms < kept)
        lost = sa.and_(owners.c.heartbeat_ms < 0, -owners.c.heartbeat_ms < kept)
        connection.execute(owners.delete().where(self._of_step, sa.or_(stopped, lost)))
        self.generation, self._place = generation, place

    def _insert_row(self, connection: sa.Connection, generation: int, token: str, place: str) -> None:
        flow, step = self.step
        values = {"flow": flow, "step": step, "generation": generation, "token": token, "place": place}
        connection.execute(owners.insert().values(heartbeat_ms=self._now_ms, **values))

    def _end_sessions(self) -> None:
        """End what holds the positions of an owner that was found stale: its process is frozen, and holds them for ever."""
        with contextlib.suppress(Exception), self._engine().connect() as other:
            self._database.end_overdue(other, self.stale_ms / 1000)

    def blockers(self) -> str:
        """Who holds locks, for a message."""
        with contextlib.suppress(Exception), self._engine().connect() as other:
            return self._database.blockers(other)
        return ""

    @override
    def beat(self, token: str) -> bool:
        def beat(connection: sa.Connection) -> bool:
            mine = owners.update().where(self._of_step, owners.c.token == token, owners.c.heartbeat_ms > 0)
            if connection.execute(mine.values(heartbeat_ms=self._now_ms)).rowcount == 1:
                return True
            if any(record.generation >= self.generation for record in self.records(connection)):
                return False
            self._insert_row(connection, self.generation, token, self._place)  # somebody cleaned up
            return True

        try:
            return self._in_transaction(beat)
        except sa.exc.IntegrityError:  # another one drew our number at this moment
            return self._in_transaction(beat)

    @override
    def release(self, token: str) -> None:
        # Over the connection that there is: a courtesy is no reason to wait for a server.
        if self._connection is None or not self._lock.acquire(timeout=1.0):
            return
        try:
            with contextlib.suppress(Exception):
                mine = owners.update().where(self._of_step, owners.c.token == token, owners.c.heartbeat_ms > 0)
                with self._connection.begin():
                    self._connection.execute(mine.values(heartbeat_ms=0))
        finally:
            self._drop()
            self._lock.release()

    def _in_transaction(self, call: Callable[[sa.Connection], T]) -> T:
        with self._lock:
            try:
                with translated(self._database, self._target.name, self._target.url_setting):
                    if self._connection is None:
                        self._connection = self._engine().connect()
                        self._wait_briefly(self._connection)
                    with self._connection.begin() as transaction:
                        if (done := call(self._connection)) is None:
                            transaction.rollback()  # somebody else's records may have been changed by then
                        return done
            except BaseException:
                self._drop()
                raise

    def _wait_briefly(self, connection: sa.Connection) -> None:
        text = self._database.dialect.lock_wait_sql.format(seconds=round(BRIEFLY_S), milliseconds=round(BRIEFLY_S * 1000))
        cursor = connection.connection.cursor()
        cursor.execute(text)
        cursor.close()
        connection.connection.commit()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()


class OwnedSession(Session):
    """A connection of one thread, as an owner of positions."""

    def __init__(self, engine: sa.Engine, database: Database, target: SqlTarget, token: str) -> None:
        self._database, self._name, self._token = database, target.name, token
        self._url_setting = target.url_setting
        self._flow, self._step = target.flow, target.step
        self._statement_timeout_s = target.statement_timeout_s
        self._owners = target.records()
        self._committing = False
        with self._errors():
            self._connection = engine.connect()

    @property
    def _generation(self) -> int:
        return self._owners.generation

    @override
    def take_over(self, stream: Stream) -> Position:
        with self._errors(lock_hint=True), self._connection.begin():
            row = self._locked(stream)
            if row.owner_token == self._token:
                return ledger.position(row)
            records = {record.token: record for record in self._owners.records(self._connection)}
            mine, holder = records.get(self._token), records.get(row.owner_token)
            if mine is None or mine.lost:
                raise self._fenced(stream, row)
            if mine.released:
                raise TransientError(f"{stream}: this process has let go of its targets.")
            if holder is not None and holder.member.run != mine.member.run and holder.fresh(self._owners.stale_ms):
                raise TransientError(f"{stream}: another process of flow {self._flow} is alive and owns it ({holder.place}).")
            self._connection.execute(
                progress.update()
                # Its owner once more: a server that silently ended the transaction has let go of the row, too.
                .where(ledger.of_stream(self._step, stream), progress.c.owner_token == row.owner_token)
                .values(owner=self._generation, owner_token=self._token, version=progress.c.version + 1)
            )
        with self._errors(), self._connection.begin():
            row = self._locked(stream)
            if row.owner_token != self._token:
                raise TransientError(f"{stream}: another process has just taken it over.")
            return ledger.position(row)

    def _locked(self, stream: Stream) -> Any:
        row = self._connection.execute(
            ledger.locking(sa.select(progress).where(ledger.of_stream(self._step, stream)))
        ).one_or_none()
        if row is None:
            raise ConfigError(
                f"Step {self._step} has no position for {stream}.",
                hint=UNFED_HINT,
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
            if lock_hint and (error.locked or error.too_large) and (blockers := self._owners.blockers()):
                error.hint = f"Locks are held by: {blockers}."
            raise
        except sa.exc.DBAPIError as error:
            failure = self._database.classify(error)
            raise RowError(f"{failure.reason} ({failure.code})", column=failure.column, constraint=failure.constraint) from error


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
