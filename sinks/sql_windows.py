"""Windows in an SQL database: closed rows, positions and open state in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.sql import SqlTarget
from sinks.sql_session import SqlSession
from sinks.window_target import Streams, WindowTarget, add_starts, dump_streams, load_streams
from waxwing.batch import Stream
from waxwing.databases import ledger
from waxwing.databases.base import Append, Upsert
from waxwing.errors import ConfigError
from waxwing.operators.windows import Bucket, Held, Rows, Windows
from waxwing.operators.windows.definition import END, SECOND_US, START
from waxwing.operators.windows.rows import instant
from waxwing.settings import SqlWindowSettings
from waxwing.target import Change, Position, Start

progress, windows, window_state = ledger.progress, ledger.windows, ledger.window_state

# The state is kept in parts: no server takes statements of any size.
PART_BYTES = 1_000_000


class SqlWindows(SqlTarget, WindowTarget):
    """A table of closed windows, with their open state beside it.

    The table's columns are named as those of the windows: the key's fields and the aggregates all of them; window_start,
    window_end and revision as you like. Starts and ends are written to DateTime columns (UTC) or to integer ones (epoch seconds).
    With a primary key a corrected window replaces its row; without one the correction is one more row.

    Args:
        settings: where the database is, how often buckets are written, how many there are.
        table: made when missing, else checked at the start. `database_table` has no say in it.
        windows: the windows.
        fixed: columns that have one value in all rows, for several kinds of windows in one table.

    Parallelism: one connection and one writer per bucket; SQLite: one bucket.
    Delivery: exactly once: a bucket's rows, late records, positions and open state are one transaction, by compare-and-set.

    Raises:
        ConfigError: a table that does not fit the windows.
    """

    def __init__(
        self, settings: SqlWindowSettings, table: sa.Table, windows: Windows, *, fixed: Mapping[str, Any] | None = None
    ) -> None:
        self.windows, self._fixed = windows, dict(fixed or {})
        keys = tuple(column.name for column in table.primary_key)
        names = [*windows.names, *self._fixed]
        demanded = [*windows.by, *windows.aggregates, *self._fixed, *keys]
        if wrong := [name for name in demanded if name not in table.c or name not in names]:
            raise ConfigError(
                f"Table {table.name} and its windows differ in: {', '.join(dict.fromkeys(wrong))}.",
                hint=f"The windows have {', '.join(names)}.",
            )
        self._written = [name for name in names if name in table.c]
        mode = Upsert(keys=keys) if keys else Append()
        super().__init__(settings.model_copy(update={"database_table": ""}), table, mode, columns=self._written)
        self.window_settings = settings
        self.window_buckets = 1 if self.parts_max == 1 else settings.window_buckets
        self._times = {name: self._time_of(table.c[name]) for name in (START, END) if name in table.c}

    def _time_of(self, column: sa.Column[Any]) -> Any:
        if isinstance(column.type, sa.DateTime):
            zone = UTC if column.type.timezone else None
            return lambda time_us: instant(time_us).replace(tzinfo=zone)
        lengths = (self.windows.length_us, self.windows.every_us)
        if isinstance(column.type, sa.Integer) and not any(length % SECOND_US for length in lengths) and lengths[0]:
            return lambda time_us: time_us // SECOND_US
        raise ConfigError(
            f"Column {column.name} ({column.type!r}) can't keep a window's time.",
            hint="Declare it DateTime, or, for windows of whole seconds, BigInteger (epoch seconds).",
        )

    @override
    def rows_of(self, rows: Rows) -> list[tuple[Any, ...]]:
        columns = dict(zip(rows.names, rows.columns, strict=True))
        for name, convert in self._times.items():
            made = {time_us: convert(time_us) for time_us in set(columns[name])}
            columns[name] = [made[time_us] for time_us in columns[name]]
        columns |= {name: [value] * len(rows) for name, value in self._fixed.items()}
        # The columns of the plan stand in the table's order.
        return list(zip(*(columns[name] for name in self.columns), strict=True))

    # -- at the start ----------------------------------------------------------------------------

    @override
    def begin(self, topic: str, starts: Sequence[Start]) -> Sequence[Position]:
        def begin(connection: sa.Connection) -> list[Position]:
            row = connection.execute(self._row().with_for_update()).one_or_none()
            if row is None:
                streams = add_starts({}, [], starts)
                self._insert(connection, streams, self.first_state(starts))
                held = self._held(connection)
            else:
                self._check(row)
                streams, held = load_streams(self.flow, row.streams), self._held(connection)
                if (more := add_starts(streams, held, starts)) != streams:
                    streams = more
                    changed = windows.update().where(ledger.of_step(windows, self.flow, self.step))
                    connection.execute(changed.values(streams=dump_streams(streams)))
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
                hint=f"Set WINDOW_BUCKETS={row.buckets}; the number is fixed once a flow has begun.",
            )

    def _insert(self, connection: sa.Connection, streams: Streams, state: bytes) -> None:
        of = {"flow": self.flow, "step": self.step}
        # First of all, so that of two processes that begin at once one is refused here.
        first = {"buckets": self.window_buckets, "definition": self.windows.text, "streams": dump_streams(streams)}
        connection.execute(windows.insert().values(**of, **first))
        for number in range(self.window_buckets):
            connection.execute(progress.insert().values(**self._first(Start(self.bucket_stream(number), 0, None))))
            save(connection, of, number, state)

    def _held(self, connection: sa.Connection) -> list[dict[Stream, Held]]:
        """How far each bucket has come: the head of its state says so."""
        t = window_state
        query = sa.select(t.c.state).where(ledger.of_step(t, self.flow, self.step), t.c.part == 0).order_by(t.c.bucket)
        return [Bucket.positions(state) for state in connection.scalars(query)]

    @override
    def _positions(self, connection: sa.Connection) -> list[Position]:
        row = connection.execute(self._row()).one_or_none()
        return [] if row is None else self.opened(load_streams(self.flow, row.streams), self._held(connection))

    @override
    def jump(self, stream: Stream, offset: int) -> None:
        def jump(connection: sa.Connection) -> None:
            of = {"flow": self.flow, "step": self.step}
            for number in range(self.window_buckets):
                bucket = Bucket.load(self.windows, load(connection, of, number))
                bucket.jump(stream, offset)
                self._update(connection, self.bucket_stream(number), offset_next=progress.c.offset_next + 1)
                save(connection, of, number, bucket.pack())

        self._in_transaction(jump)

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
            return position._replace(state=load(self._connection, self._of, stream.partition))

    @override
    def _move(self, change: Change) -> bool:
        done = super()._move(change)
        if not done:
            for stream, after in change.after.items():
                assert after.state is not None
                save(self._connection, self._of, stream.partition, after.state)
        return done

    @property
    def _of(self) -> dict[str, Any]:
        return {"flow": self._flow, "step": self._step}


def save(connection: sa.Connection, of: Mapping[str, Any], bucket: int, state: bytes) -> None:
    """Write a bucket's state, in parts."""
    parts = [state[first : first + PART_BYTES] for first in range(0, len(state), PART_BYTES)]
    where = sa.and_(ledger.of_step(window_state, of["flow"], of["step"]), window_state.c.bucket == bucket)
    connection.execute(window_state.delete().where(where))
    for number, part in enumerate(parts):
        connection.execute(window_state.insert().values(**of, bucket=bucket, part=number, state=part))


def load(connection: sa.Connection, of: Mapping[str, Any], bucket: int) -> bytes:
    """A bucket's state."""
    where = sa.and_(ledger.of_step(window_state, of["flow"], of["step"]), window_state.c.bucket == bucket)
    return b"".join(connection.scalars(sa.select(window_state.c.state).where(where).order_by(window_state.c.part)))
