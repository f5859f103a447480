"""Windows in an SQL database: closed rows, positions and open state in one transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.sql import step_store, window_store
from sinks.sql.session import SqlSession
from sinks.sql.target import SqlTarget
from sinks.windows.table import WindowTable
from sinks.windows.target import Streams, WindowTarget, add_starts
from waxwing.batch import Stream
from waxwing.databases import ledger, rights
from waxwing.databases.base import Need
from waxwing.databases.folding import folding
from waxwing.errors import ConfigError
from waxwing.operators.windows import Bucket, Held, Rows, Windows
from waxwing.operators.windows.rebucket import rebucket as rebucket_states
from waxwing.settings import SqlWindowSettings
from waxwing.tables.modes import Append, Upsert
from waxwing.target import Change, Position, Start, sources_of

progress, windows, window_state = ledger.progress, ledger.windows, ledger.window_state


class SqlWindows(SqlTarget, WindowTarget):
    """A table of closed windows, with their open state beside it.

    With a primary key a corrected window replaces its row; without one the correction is one more row.

    Args:
        settings: where the database is, how often buckets are written, how many there are. `database_table` has no say in it.
        table: made when missing, else checked at the start; for fixed and names see WindowTable.
        windows: the windows.

    Parallelism: one connection and one writer per bucket; SQLite: one bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one transaction, by compare-and-set
        (tests/faults/test_window_storm.py).

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
        names: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(settings, SqlWindowSettings):
            raise ConfigError(
                f"{type(settings).__name__} lacks the settings of windows.",
                hint="Let it inherit KafkaSettings, SqlWindowSettings.",
            )
        self.windows, self.window_settings = windows, settings
        self._begun_here: set[str] = set()  # by the source's name
        self._window_table = WindowTable(table, windows, fixed, names)
        keys = self._window_table.keys
        own = settings.model_copy(update={"database_table": ""})
        super().__init__(own, table, Upsert(keys=keys) if keys else Append(), columns=self._window_table.names)
        self.window_buckets = 1 if self.parts_max == 1 else settings.window_buckets

    @property
    @override
    def again(self) -> str:
        return "its windows are written over, those whose records the topic no longer holds by partial totals, or a second time"

    @override
    def check_types(self, kind: Any) -> None:
        super().check_types(kind)
        self.check_window_rows(self.windows, kind, self._window_table.fixed)

    @override
    def _needs(self) -> Sequence[Need]:
        return [*super()._needs(), *rights.of_own(rights.OWN_OF_WINDOWS)]

    @override
    def rows_of(self, rows: Rows) -> list[tuple[Any, ...]]:
        return self._window_table.tuples(rows, self.columns)

    # -- at the start ----------------------------------------------------------------------------

    @override
    def prepare(self) -> None:
        super().prepare()
        keys = [name for name in self.windows.by if name in self._window_table.keys]
        if folded := self._in_transaction(lambda connection: folding(connection, self._table, keys)):
            raise ConfigError(
                f"{self.name} takes keys for equal that differ ({', '.join(folded)}), so that one window would replace another.",
                hint=f"Give the columns an exact collation ({self._database.dialect.collation_exact}), or take SqlLiveWindows, "
                "which adds such keys up.",
            )

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        sources = sources_of(starts)
        self._begun_here |= sources

        def begin(connection: sa.Connection) -> list[Position]:
            self._check_sources(connection, starts)
            self._remember_table(connection)
            row = window_store.kept(connection, self.flow, self.step, lock=True)
            if not row.buckets if row else ledger.positions_of(connection, self.flow, self.step):
                raise self._anew(f"So far step {self.step} wrote {self.name} as records came, not when windows had closed.")
            if row is None:
                streams = add_starts({}, [], starts)
                state = self.first_state(starts)
                self._insert(connection, streams, state)
                held = [Bucket.positions(state)] * self.window_buckets
            else:
                self._check(row)
                window_store.rename(connection, self.flow, self.step, row, self.windows)
                streams, held = self._kept(connection, row)
                if (more := self._now_read(add_starts(streams, held, starts), starts)) != streams:
                    streams = more
                    changed = windows.update().where(ledger.of_step(windows, self.flow, self.step))
                    connection.execute(changed.values(streams=window_store.dump_streams(streams)))
            return [position for position in self.opened(streams, held) if position.stream.source in sources]

        return self._in_transaction(begin)

    def _now_read(self, streams: Streams, starts: Sequence[Start]) -> Streams:
        """The streams, those marked that are read: of these sources those given, of another one what was said when it began."""
        given = {start.stream for start in starts}
        of_others = self.of_others(starts, self._begun_here)
        return {s: one._replace(read=s in given or (one.read and of_others(s.source))) for s, one in streams.items()}

    @override
    def read_streams(self) -> frozenset[Stream]:
        return frozenset(stream for stream, one in self._streams().items() if one.read)

    @override
    def limits_from(self) -> Mapping[Stream, int]:
        return {stream: one.limits_from for stream, one in self._streams().items() if one.read}

    def _streams(self) -> Streams:
        """As stored: a process may have buckets and read nothing itself."""

        def read(connection: sa.Connection) -> Streams:
            return window_store.load_streams(self.flow, window_store.kept(connection, self.flow, self.step).streams)

        return self._in_transaction(read)

    def _check(self, row: Any) -> None:
        if not self.windows.means_the_same(row.definition):
            raise self._anew(
                f"The windows kept in {self.name} are of another definition: {row.definition}; now it is {self.windows.text}."
            )
        if row.buckets != self.window_buckets:
            raise ConfigError(
                f"The windows kept in {self.name} are in {row.buckets} buckets, not {self.window_buckets}.",
                hint=f"Set WINDOW_BUCKETS={row.buckets}, or divide them anew: waxwing rebucket MODULE (of the flow).",
            )

    def _insert(self, connection: sa.Connection, streams: Streams, state: bytes) -> None:
        # First of all, so that of two processes that begin at once one is refused here.
        first = {"buckets": self.window_buckets, "definition": self.windows.text, "streams": window_store.dump_streams(streams)}
        connection.execute(windows.insert().values(flow=self.flow, step=self.step, **first))
        emission = step_store.emission_after(connection, self.own_step)
        for number in range(self.window_buckets):
            connection.execute(progress.insert().values(**self._first(Start(self.bucket_stream(number), emission, None))))
            window_store.save(connection, self.flow, self.step, number, state, self._part_bytes(connection))

    def _part_bytes(self, connection: sa.Connection) -> int:
        return window_store.part_bytes(self._database.value_bytes_max(connection))

    @override
    def _positions(self, connection: sa.Connection) -> list[Position]:
        row = window_store.kept(connection, self.flow, self.step)
        return [] if row is None else self.opened(*self._kept(connection, row))

    def _kept(self, connection: sa.Connection, row: Any) -> tuple[Streams, list[dict[Stream, Held]]]:
        return window_store.load_streams(self.flow, row.streams), window_store.held(connection, self.flow, self.step)

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        now_us = time.time_ns() // 1_000

        def jump(connection: sa.Connection) -> None:
            row = window_store.kept(connection, self.flow, self.step, lock=True)
            offset_start = window_store.load_streams(self.flow, row.streams)[stream].offset_start
            for number in range(self.window_buckets):
                bucket = Bucket.load(self.windows, window_store.load(connection, self.flow, self.step, number))
                bucket.jump(stream, offset, now_us, offset_start=offset_start, stood_at=stood_at)
                self._update(connection, self.bucket_stream(number), offset_next=progress.c.offset_next + 1)
                window_store.save(connection, self.flow, self.step, number, bucket.pack(), self._part_bytes(connection))

        self._in_transaction(jump)
        self.positions()  # lanes begin where it stands now

    def rebucket(self) -> int:
        """Divide what is kept into WINDOW_BUCKETS buckets, while the flow does not run. Returns how many there were.

        Raises:
            ConfigError: the buckets do not stand at the same positions, or the flow runs.
        """

        def rebucket(connection: sa.Connection) -> int:
            row = window_store.kept(connection, self.flow, self.step)
            if row is None or row.buckets == self.window_buckets:
                return self.window_buckets
            of_step = ledger.of_step(progress, self.flow, self.step)
            buckets = connection.execute(ledger.locking(sa.select(progress).where(of_step))).all()
            now_ms: sa.ColumnElement[int] = sa.literal_column(self._database.dialect.now_ms_sql, sa.BigInteger)
            if alive := ledger.alive(connection, self.flow, self.step, now_ms, self.settings.owner_stale_s):
                raise ConfigError(
                    f"Flow {self.flow} runs ({alive}).",
                    hint=f"Stop it first; after a kill, wait {self.settings.owner_stale_s:.0f} s.",
                )
            old = [window_store.load(connection, self.flow, self.step, number) for number in range(row.buckets)]
            states = rebucket_states(self.windows, old, self.window_buckets)
            gone = 0
            for bucket in buckets:  # as they were read: whoever moved one meanwhile wins
                at = sa.and_(progress.c.topic_partition == bucket.topic_partition, progress.c.version == bucket.version)
                gone += connection.execute(progress.delete().where(of_step, at)).rowcount
            if gone != row.buckets:
                raise ConfigError(f"Flow {self.flow} runs.", hint="Stop it first.")
            connection.execute(window_state.delete().where(ledger.of_step(window_state, self.flow, self.step)))
            # Emissions and owners are counted on, so that no dead letter's key comes twice, and no earlier owner comes back.
            emissions, owner = max(one.offset_next for one in buckets), max(one.owner for one in buckets)
            for number, state in enumerate(states):
                first = self._first(Start(self.bucket_stream(number), emissions, None)) | {"owner": owner}
                connection.execute(progress.insert().values(**first))
                window_store.save(connection, self.flow, self.step, number, state, self._part_bytes(connection))
            changed = windows.update().where(ledger.of_step(windows, self.flow, self.step))
            connection.execute(changed.values(buckets=self.window_buckets))
            return int(row.buckets)

        return self._in_transaction(rebucket)

    @override
    def connect(self, part: str, token: str) -> SqlSession:
        return WindowSession(self._engine, self._database, self._look(), self, token)


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
                most = window_store.part_bytes(self._database.value_bytes_max(self._connection))
                window_store.save(self._connection, self._flow, self._step, stream.partition, after.state, most)
        return done
