"""A transaction of a ledger in an SQL database: the primitives as statements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.databases.base import Database
from waxwing.databases.ledger import letters, schema
from waxwing.databases.ledger.schema import dead_letters, of_step, of_stream, owners, progress, state, windows
from waxwing.databases.plain import Bound
from waxwing.ledger.members import Member, Record
from waxwing.ledger.store import OwnersTransaction, Race, Step, Stored
from waxwing.ledger.windows import STATE_HEAD_BYTES, Defined, dump_streams, load_streams

# No server takes values of any size.
STATE_PART_BYTES = 1_000_000
# Keys of dead letters in one statement: each is two comparisons, and SQLite nests no more than 1,000.
LETTERS_AT_ONCE = 200


class SqlTransaction(OwnersTransaction):
    """The tables of one step, over a connection inside a transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        database: Database,
        step: Step,
        outer: sa.RootTransaction,
        pending: list[Bound] | None = None,
    ) -> None:
        self._connection, self._database, self.step, self._outer = connection, database, step, outer
        # What begins it goes with its first statement.
        self._pending = pending or []
        if pending is None and database.begin_sql:
            self._pending.append(Bound(database.begin_sql))
        self._whole: sa.NestedTransaction | None = None
        self.committing = False  # has COMMIT been sent?
        self._now_ms: sa.ColumnElement[int] = sa.literal_column(database.dialect.now_ms_sql, sa.BigInteger)

    @override
    def of(self, step: Step) -> SqlTransaction:
        self._together()
        return SqlTransaction(self._connection, self._database, step, self._outer, [])

    @property
    def connection(self) -> sa.Connection:
        """Inside the transaction."""
        if self._pending:
            self._together()
        return self._connection

    def _together(self, *statements: Bound) -> list[int]:
        pending, self._pending = self._pending, []
        every = [*pending, *statements]
        return self._database.together(self._connection, every)[len(pending) :] if every else []

    # -- positions -----------------------------------------------------------------------------------

    @override
    def positions(self) -> list[Stored]:
        query = sa.select(progress).where(of_step(progress, self.step))
        return [schema.stored(row) for row in self.connection.execute(query)]

    @override
    def steps(self) -> Mapping[str, int]:
        query = sa.select(progress.c.step, sa.func.count()).where(progress.c.flow == self.step.flow).group_by(progress.c.step)
        return {row[0]: row[1] for row in self.connection.execute(query)}

    @override
    def locked(self, stream: Stream) -> Stored | None:
        query = schema.locking(sa.select(progress).where(of_stream(progress, self.step, stream)), self._database.dialect)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else schema.stored(row)

    @override
    def add(self, positions: Sequence[Position], generation: int = 0) -> None:
        if positions:
            self._insert(progress, [schema.values_of(self.step, position, generation) for position in positions])

    @override
    def compare_and_set(self, seen: Stored, to: Stored) -> bool:
        return self.compare_and_set_all([(seen, to)]) is None

    @override
    def compare_and_set_all(self, moves: Sequence[tuple[Stored, Stored]]) -> Stored | None:
        changed = self._together(*(self._moving(seen, to) for seen, to in moves))
        return next((seen for (seen, _), rows in zip(moves, changed, strict=True) if rows != 1), None)

    def _moving(self, seen: Stored, to: Stored) -> Bound:
        stream, token = seen.position.stream, seen.position.token
        # A token that stays is not set again: a null among the parameters costs some drivers a question about its type.
        moves = schema.MOVED if to.position.token == token else (*schema.MOVED, *schema.TOKEN)
        values: dict[str, Any] = {"seen_flow": self.step.flow, "seen_step": self.step.name, "seen_source_id": stream.source_id}
        values |= {"seen_source_partition": stream.partition, "seen_offset_next": seen.position.offset_next}
        values |= {"seen_owner": seen.generation, "seen_owner_token": seen.token, "owner": to.generation, "owner_token": to.token}
        values |= {name: getattr(to.position, name) for name in moves}
        if token is not None:
            values["seen_token"] = token
        moving = self._database.statements.of(("move", moves, token is None), lambda: _move(moves, token), self._connection)
        return moving.bound(values)

    @override
    def remove(self, seen: Stored) -> None:
        for table in (state, progress):
            self.connection.execute(table.delete().where(of_stream(table, self.step, seen.position.stream)))

    @override
    def amend(self, stream: Stream, **values: Any) -> None:
        changed = progress.update().where(of_stream(progress, self.step, stream))
        self.connection.execute(changed.values(version=progress.c.version + 1, **values))

    # -- dead letters and state ----------------------------------------------------------------------

    @override
    def bury(self, letters_: Sequence[DeadLetter]) -> None:
        most, encoding = self._database.value_bytes_max(self.connection), self._database.text_encoding(self.connection)
        for some in letters.statements(self.step.name, letters_, bytes_max=most, encoding=encoding):
            self._insert(dead_letters, some)

    @override
    def unbury(self, letters_: Sequence[DeadLetter]) -> None:
        of_streams: dict[Stream, list[tuple[int, int]]] = {}
        for letter in letters_:
            of_streams.setdefault(letter.stream, []).append((letter.offset, letter.row))
        c = dead_letters.c
        for stream, keys in of_streams.items():
            for first in range(0, len(keys), LETTERS_AT_ONCE):
                some = keys[first : first + LETTERS_AT_ONCE]
                at = [sa.and_(c.source_offset == offset, c.row_index == row) for offset, row in some]
                where = of_stream(dead_letters, self.step, stream)
                self.connection.execute(dead_letters.delete().where(where, sa.or_(*at)))

    @override
    def unbury_from(self, stream: Stream, offset: int) -> None:
        where = of_stream(dead_letters, self.step, stream)
        self.connection.execute(dead_letters.delete().where(where, dead_letters.c.source_offset >= offset))

    @override
    def letter_offset_max(self, source_id: str) -> int | None:
        last = sa.select(sa.func.max(dead_letters.c.source_offset))
        found = self.connection.scalar(last.where(of_step(dead_letters, self.step), dead_letters.c.source_id == source_id))
        return None if found is None else int(found)

    @override
    def state(self, stream: Stream) -> bytes:
        parts = sa.select(state.c.state).where(of_stream(state, self.step, stream)).order_by(state.c.part)
        return b"".join(self.connection.scalars(parts))

    @override
    def keep(self, stream: Stream, state_: bytes) -> None:
        self.connection.execute(state.delete().where(of_stream(state, self.step, stream)))
        # The head lies in the first part as a whole.
        size = max(STATE_HEAD_BYTES, min(STATE_PART_BYTES, self._database.value_bytes_max(self.connection)))
        key = {"flow": self.step.flow, "step": self.step.name, "source_id": stream.source_id}
        key["source_partition"] = stream.partition  # type: ignore[assignment]  # one dict of all values
        for number, first in enumerate(range(0, len(state_), size)):
            self.connection.execute(state.insert().values(part=number, state=state_[first : first + size], **key))

    @override
    def heads(self, source_id: str) -> list[bytes]:
        first = sa.select(state.c.state).where(of_step(state, self.step), state.c.source_id == source_id, state.c.part == 0)
        return [bytes(head) for head in self.connection.scalars(first.order_by(state.c.source_partition))]

    @override
    def defined(self, *, lock: bool = False) -> Defined | None:
        query = sa.select(windows).where(of_step(windows, self.step))
        row = self.connection.execute(schema.locking(query, self._database.dialect) if lock else query).one_or_none()
        return None if row is None else Defined(row.buckets, row.definition, load_streams(self.step.flow, row.streams))

    @override
    def define(self, defined: Defined) -> None:
        values = {"buckets": defined.buckets, "definition": defined.text, "streams": dump_streams(defined.streams)}
        there = sa.select(windows.c.buckets).where(of_step(windows, self.step))
        if self.connection.execute(there).first() is not None:
            self.connection.execute(windows.update().where(of_step(windows, self.step)).values(**values))
        else:
            self._insert(windows, [{"flow": self.step.flow, "step": self.step.name, **values}])

    # -- owners --------------------------------------------------------------------------------------

    @override
    def owners(self) -> list[Record]:
        age = (self._now_ms - owners.c.heartbeat_ms).label("age")
        query = sa.select(owners, age).where(of_step(owners, self.step))
        return [schema.record(row) for row in self.connection.execute(query)]

    @override
    def generation_max(self) -> int:
        highest = sa.select(sa.func.max(progress.c.owner)).where(of_step(progress, self.step))
        return int(self.connection.scalar(highest) or 0)

    @override
    def add_owner(self, generation: int, token: str, member: Member) -> None:
        values = {"flow": self.step.flow, "step": self.step.name, "generation": generation, "token": token}
        values |= {"run": member.run, "process": member.process, "process_token": member.own}
        values["place"] = letters.held(member.place, "ascii")[: schema.PLACE_CHARACTERS_MAX]
        self._insert(owners, [{**values, "heartbeat_ms": self._now_ms}])

    @override
    def forget_owner(self, token: str, heartbeat_ms: int | None = None) -> bool:
        return self.connection.execute(owners.delete().where(self._owner(token, heartbeat_ms))).rowcount == 1

    @override
    def forget_owners(self, older_than_ms: int) -> None:
        kept = self._now_ms - older_than_ms
        stopped = sa.and_(owners.c.heartbeat_ms >= 0, owners.c.heartbeat_ms < kept)
        lost = sa.and_(owners.c.heartbeat_ms < 0, -owners.c.heartbeat_ms < kept)
        self.connection.execute(owners.delete().where(of_step(owners, self.step), sa.or_(stopped, lost)))

    @override
    def set_lost(self, token: str, heartbeat_ms: int | None = None) -> bool:
        beats = self._owner(token, heartbeat_ms), owners.c.heartbeat_ms > 0
        return self.connection.execute(owners.update().where(*beats).values(heartbeat_ms=-self._now_ms)).rowcount == 1

    @override
    def beat(self, token: str) -> bool:
        mine = owners.update().where(self._owner(token), owners.c.heartbeat_ms > 0)
        return self.connection.execute(mine.values(heartbeat_ms=self._now_ms)).rowcount == 1

    @override
    def stop(self, token: str) -> None:
        self.connection.execute(owners.update().where(self._owner(token), owners.c.heartbeat_ms > 0).values(heartbeat_ms=0))

    def _owner(self, token: str, heartbeat_ms: int | None = None) -> sa.ColumnElement[bool]:
        exactly = [] if heartbeat_ms is None else [owners.c.heartbeat_ms == heartbeat_ms]
        return sa.and_(of_step(owners, self.step), owners.c.token == token, *exactly)

    @override
    def vacate(self, keep: Collection[str], generation: int) -> None:
        others = progress.update().where(of_step(progress, self.step), progress.c.owner_token.not_in(keep))
        self.connection.execute(others.values(owner=generation, owner_token="", version=progress.c.version + 1))

    # -- the transaction itself ----------------------------------------------------------------------

    def _insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            if len(rows) == 1:
                self.connection.execute(table.insert().values(**rows[0]))
            else:
                self.connection.execute(table.insert(), list(rows))
        except sa.exc.IntegrityError as error:
            raise Race(str(error.orig)) from error

    @override
    def guard(self) -> None:
        if self._database.dialect.savepoints:
            self._pending.append(Bound("SAVEPOINT waxwing_whole"))
        else:
            self._whole = self.connection.begin_nested()

    @override
    def prove(self) -> None:
        # What a server ended inside has no such savepoint; the next statement would silently have begun another transaction.
        if self._whole is None:
            self._together(*self._proof())
        else:
            self._whole.commit()

    def _proof(self) -> list[Bound]:
        deferred = self._database.deferred_sql
        return [*([Bound(deferred)] if deferred else []), Bound("RELEASE SAVEPOINT waxwing_whole")]

    @override
    def finish(self) -> None:
        if not self._database.commit_sql:
            super().finish()
            return
        self.committing = True
        try:
            self._together(*self._proof(), Bound(self._database.commit_sql))
        except BaseException:
            self.committing = not self._database.stands_in_error(self._connection)
            raise
        self._outer.commit()  # nothing is left to do

    @override
    def commit(self) -> None:
        self._together()
        self.committing = True
        self._outer.commit()


def _move(moves: Sequence[str], token: bytes | None) -> sa.Update:
    """The compare-and-set: `seen_` is in front of what has to stand there."""
    seen = ["flow", "step", "source_id", "source_partition", "offset_next", "owner", "owner_token"]
    where = [progress.c[name] == sa.bindparam(f"seen_{name}") for name in seen]
    where.append(progress.c.token.is_(None) if token is None else progress.c.token == sa.bindparam("seen_token"))
    values: dict[str, Any] = {name: sa.bindparam(name) for name in (*moves, "owner", "owner_token")}
    # The version always changes: some servers count the rows that an update changes, and not those that it finds.
    return progress.update().where(*where).values(**values, version=progress.c.version + 1)
