"""Windows in an SQL database: closed rows, positions and open state in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks import window_store
from sinks.sql import SqlTarget
from sinks.sql_session import SqlSession
from sinks.window_table import WindowTable
from sinks.window_target import Streams, WindowTarget, add_starts
from waxwing.batch import Stream
from waxwing.databases import ledger
from waxwing.databases.base import Append, Upsert
from waxwing.errors import ConfigError
from waxwing.operators.windows import Bucket, Held, Rows, Windows
from waxwing.operators.windows.rebucket import rebucket as rebucket_states
from waxwing.settings import SqlWindowSettings
from waxwing.target import Change, Position, Start

progress, windows, window_state = ledger.progress, ledger.windows, ledger.window_state


class SqlWindows(SqlTarget, WindowTarget):
    """A table of closed windows, with their open state beside it.

    With a primary key a corrected window replaces its row; without one the correction is one more row.

    Args:
        settings: where the database is, how often buckets are written, how many there are. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed see WindowTable.
        windows: the windows.

    Parallelism: one connection and one writer per bucket; SQLite: one bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one transaction, by compare-and-set.

    Raises:
        ConfigError: a table that does not fit the windows.
    """

    def __init__(
        self,
        settings: SqlWindowSettings,
        table: sa.Table,
        windows: Windows,
        *,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.windows, self.window_settings = windows, settings
        self._window_table = WindowTable(table, windows, fixed)
        keys = self._window_table.keys
        own = settings.model_copy(update={"database_table": ""})
        super().__init__(own, table, Upsert(keys=keys) if keys else Append(), columns=self._window_table.names)
        self.window_buckets = 1 if self.parts_max == 1 else settings.window_buckets

    @override
    def rows_of(self, rows: Rows) -> list[tuple[Any, ...]]:
        return self._window_table.tuples(rows, self.columns)

    # -- at the start ----------------------------------------------------------------------------

    @override
    def begin(self, topic: str, starts: Sequence[Start]) -> Sequence[Position]:
        def begin(connection: sa.Connection) -> list[Position]:
            row = connection.execute(
                self._row().with_for_update().with_hint(windows, "WITH (UPDLOCK, ROWLOCK)", "mssql")
            ).one_or_none()
            if row is None:
                streams = add_starts({}, [], starts)
                state = self.first_state(starts)
                self._insert(connection, streams, state)
                held = [Bucket.positions(state)] * self.window_buckets
            else:
                self._check(row)
                streams, held = self._kept(connection, row)
                if (more := add_starts(streams, held, starts)) != streams:
                    streams = more
                    changed = windows.update().where(ledger.of_step(windows, self.flow, self.step))
                    connection.execute(changed.values(streams=window_store.dump_streams(streams)))
            return [position for position in self.opened(streams, held) if position.stream.topic == topic]

        return self._in_transaction(begin)

    def _row(self) -> sa.Select[Any]:
        return sa.select(windows).where(ledger.of_step(windows, self.flow, self.step))

    def _check(self, row: Any) -> None:
        if row.definition != self.windows.text:
            raise ConfigError(
                f"The windows kept in {self.name} are of another definition: {row.definition}; now it is {self.windows.text}.",
                hint="Go back to that definition, or give the new one a step name of its own, which begins anew.",
            )
        if row.buckets != self.window_buckets:
            raise ConfigError(
                f"The windows kept in {self.name} are in {row.buckets} buckets, not {self.window_buckets}.",
                hint=f"Set WINDOW_BUCKETS={row.buckets}, or divide them anew: waxwing rebucket {self.flow}",
            )

    def _insert(self, connection: sa.Connection, streams: Streams, state: bytes) -> None:
        # First of all, so that of two processes that begin at once one is refused here.
        first = {"buckets": self.window_buckets, "definition": self.windows.text, "streams": window_store.dump_streams(streams)}
        connection.execute(windows.insert().values(flow=self.flow, step=self.step, **first))
        for number in range(self.window_buckets):
            connection.execute(progress.insert().values(**self._first(Start(self.bucket_stream(number), 0, None))))
            window_store.save(connection, self.flow, self.step, number, state)

    @override
    def _positions(self, connection: sa.Connection) -> list[Position]:
        row = connection.execute(self._row()).one_or_none()
        return [] if row is None else self.opened(*self._kept(connection, row))

    def _kept(self, connection: sa.Connection, row: Any) -> tuple[Streams, list[dict[Stream, Held]]]:
        return window_store.load_streams(self.flow, row.streams), window_store.held(connection, self.flow, self.step)

    @override
    def jump(self, stream: Stream, offset: int) -> None:
        def jump(connection: sa.Connection) -> None:
            for number in range(self.window_buckets):
                bucket = Bucket.load(self.windows, window_store.load(connection, self.flow, self.step, number))
                bucket.jump(stream, offset)
                self._update(connection, self.bucket_stream(number), offset_next=progress.c.offset_next + 1)
                window_store.save(connection, self.flow, self.step, number, bucket.pack())

        self._in_transaction(jump)

    def rebucket(self) -> int:
        """Divide what is kept into WINDOW_BUCKETS buckets, while the flow does not run. Returns how many there were.

        Raises:
            ConfigError: the buckets do not stand at the same positions, or somebody is writing them.
        """

        def rebucket(connection: sa.Connection) -> int:
            row = connection.execute(self._row()).one_or_none()
            if row is None or row.buckets == self.window_buckets:
                return self.window_buckets
            old = [window_store.load(connection, self.flow, self.step, number) for number in range(row.buckets)]
            states = rebucket_states(self.windows, old, self.window_buckets)
            where = ledger.of_step(progress, self.flow, self.step)
            emissions = connection.scalar(sa.select(sa.func.max(progress.c.offset_next)).where(where))
            owner = connection.scalar(sa.select(sa.func.max(progress.c.owner)).where(where))
            for table in (progress, window_state):
                connection.execute(table.delete().where(ledger.of_step(table, self.flow, self.step)))
            for number, state in enumerate(states):
                # Emissions and owners are counted on, so that no dead letter's key comes twice, and no earlier owner comes back.
                first = self._first(Start(self.bucket_stream(number), emissions, None)) | {"owner": owner}
                connection.execute(progress.insert().values(**first))
                window_store.save(connection, self.flow, self.step, number, state)
            changed = windows.update().where(ledger.of_step(windows, self.flow, self.step))
            connection.execute(changed.values(buckets=self.window_buckets))
            return int(row.buckets)

        return self._in_transaction(rebucket)

    @override
    def connect(self, part: str, token: str) -> SqlSession:
        if self._plan is None:
            self.prepare()
        assert self._plan is not None
        return WindowSession(self._engine, self._database, self._plan, self.columns, self, token)


class WindowSession(SqlSession):
    """A bucket's connection: its position is the number of its emissions, and its state moves with it."""

    @override
    def take_over(self, stream: Stream) -> Position:
        position = super().take_over(stream)
        # The bucket is ours now, so nobody else can change what is read here.
        with self._errors(), self._connection.begin():
            return position._replace(state=window_store.load(self._connection, self._flow, self._step, stream.partition))

    @override
    def _move(self, change: Change) -> bool:
        done = super()._move(change)
        if not done:
            for stream, after in change.after.items():
                assert after.state is not None
                window_store.save(self._connection, self._flow, self._step, stream.partition, after.state)
        return done
