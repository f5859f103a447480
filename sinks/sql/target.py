"""The SQL target: rows, dead letters and positions in one transaction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.schema import SchemaConst
from typing_extensions import override

from sinks.misfits import check_keys, check_records, check_window_rows
from sinks.sql import step_store, window_store
from sinks.sql.ownership import SqlOwners, translated
from sinks.sql.session import Looked, SqlSession
from sinks.sql.step_store import Step
from waxwing.batch import Stream
from waxwing.databases import address, database_for, ledger, letters, rights
from waxwing.databases.base import Need
from waxwing.databases.ddl import ensure
from waxwing.errors import ConfigError, RightsError, TransientError
from waxwing.operators.windows import Windows
from waxwing.settings import SqlSettings
from waxwing.settings.reading import setting_of
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Append, Merge, Mode
from waxwing.tables.planning import plan
from waxwing.target import Position, Start, Target, sources_of

T = TypeVar("T")

# Several processes may make tables or first positions at once; all but one are refused, and look again.
RACES_MAX = 8


class SqlTarget(Target):
    """A table of an SQL database, with Waxwing's own tables beside it.

    Args:
        settings: where the database is (`database_url`), time limits, how batches become transactions.
        table: made when missing, else checked at the start. `database_table` overrides its name.
        mode: Append(), Upsert(keys=...) or Merge(keys=..., add=...).
        columns: which columns records bring; by default all but those that the database keeps itself
            (server defaults, computed, identity).

    Parallelism: one connection and one writer per lane; SQLite: one for all.
    Delivery: exactly once: positions move in the rows' own transaction, by compare-and-set (tests/faults/test_window_storm.py).

    Raises:
        ConfigError: no such database, a column type it can't keep exactly, a table that does not fit.
    """

    def __init__(self, settings: SqlSettings, table: sa.Table, mode: Mode, *, columns: Sequence[str] | None = None) -> None:
        super().__init__(settings)
        self.statement_timeout_s = settings.database_statement_timeout_s
        text = settings.database_url.get_secret_value()
        if not text:
            raise ConfigError(f"{settings.name_of('database_url')} is not given.", hint=f"Set it, such as {address.EXAMPLE}.")
        self.setting = settings.given_by("database_url") or setting_of(text)
        self._url = address.parsed(text, self.setting or "DATABASE_URL")
        with address.named(self.setting):
            self._database = database_for(self._url)
        self._table = _renamed(table, settings.database_table)
        self._renamed_from = table.fullname if settings.database_table else ""
        self._mode = mode
        self._wanted = plan(self._table, mode, columns=columns, dialect=self._database.dialect)
        self._owners: SqlOwners | None = None
        self._looked: Looked | None = None
        # Has a session met dead letters of an earlier step of this name? (All do as the first, whose connection may be gone.)
        self.letters_again = False
        self._looking = threading.RLock()  # sessions of several lanes may find the table altered at once
        with address.named(self.setting):
            self._engine = self._database.engine(
                self._url,
                connect_timeout_s=settings.database_connect_timeout_s,
                lock_timeout_s=settings.database_lock_timeout_s,
                statement_timeout_s=settings.database_statement_timeout_s,
            )
        address.note_connecting(self._engine)

    @property
    def place(self) -> str:
        """The database, without user and password."""
        return f"{self._database.dialect.name} at {address.place(self._url)}"

    @property
    @override
    def store(self) -> Hashable:
        return address.resolved(self._url, self._database.dialect.port_default)

    @property
    def url_setting(self) -> str:
        """The setting that gave the URL."""
        return self.setting or f"DATABASE_URL (or wherever the URL of {self.place} comes from)"

    @property
    @override
    def resume_command(self) -> str:
        elsewhere = "" if self.setting else f" (with DATABASE_URL set to {self.place})"
        return f"{super().resume_command}{elsewhere}"

    @property
    @override
    def name(self) -> str:
        return f"{self._table.fullname} in {self.place}"

    @property
    def table(self) -> sa.Table:
        """The table that is written."""
        return self._table

    @property
    @override
    def savepoints(self) -> bool:
        return self._database.dialect.savepoints

    @property
    @override
    def columns(self) -> Sequence[str]:
        return [column.name for column in self._wanted.columns]

    @override
    def check_records(self, kind: Any) -> None:
        check_records(kind, self._wanted.columns, self._database.dialect, self._table.fullname)

    @override
    def check_keys(self, kind: Any) -> None:
        check_keys(kind, self._wanted, self._database.dialect)

    def check_window_rows(self, windows: Windows, kind: Any, fixed: Mapping[str, Any]) -> None:
        """Raises ConfigError for windows over such records of which the table takes not one row."""
        check_window_rows(windows, kind, self._wanted.columns, fixed, self._database.dialect, self._table.fullname)

    @property
    @override
    def parts_max(self) -> int | None:
        return self._database.dialect.writers_max

    @property
    @override
    def transaction_s(self) -> float:
        return self._database.dialect.transaction_s

    # -- at the start ----------------------------------------------------------------------------

    @override
    def bind(self, flow: str, step: str, flow_targets: dict[str, Target] | None = None) -> None:
        check_names(flow, step, self._database.dialect)
        for other in (flow_targets or {}).values():
            if self._renamed_from and isinstance(other, SqlTarget) and other._renamed_from not in ("", self._renamed_from):
                raise ConfigError(
                    f"DATABASE_TABLE names one table, and the flow writes two: {other._renamed_from} and {self._renamed_from}.",
                    hint="Unset it, and give the tables their names in the flow.",
                )
        super().bind(flow, step, flow_targets)

    @override
    def records(self) -> SqlOwners:
        if self._owners is None or self._owners.step != (self.flow, self.step):
            self._owners = SqlOwners(self, lambda: self._engine, lambda: self._database)
        return self._owners

    def prepared(self) -> None:
        """Make or check the tables, if that has not been done: where no source was given this target."""
        self._look()

    @override
    def prepare(self) -> None:
        def prepare(connection: sa.Connection) -> Looked:
            self._database.lock_schema(connection)
            ledger.make(connection)
            found = ensure(connection, self._wanted, self._database, written_before=bool(self._positions(connection)))
            refusals = self._database.refusals_of(connection, [self._table, *ledger.metadata.sorted_tables])
            if refusals:
                raise ConfigError(f"{self.name} can't be written exactly once: {'; '.join(dict.fromkeys(refusals))}.")
            needs = [*self._needs(), *self._database.more_needs(found)]
            if lacking := rights.missing(connection, self._database, needs):
                raise self._lacking(lacking)
            return Looked(found, self._database.shape(connection, self._table))

        try:
            self._looked = self._in_transaction(prepare)
        except RightsError as error:
            # On the way, somebody's table may not be read: look at all of them before anything is said.
            lacking = self._in_transaction(lambda connection: rights.missing(connection, self._database, self._needs()))
            raise (self._lacking(lacking) if lacking else error) from error

    def _needs(self) -> Sequence[Need]:
        """The rights that a run needs."""
        return [*rights.of_own(rights.OWN), *rights.of_plan(self._wanted, self._database)]

    def _lacking(self, why: Sequence[str]) -> RightsError:
        return RightsError(
            f"{self.name} can't be written by this user: {'; '.join(why)}.",
            hint=f"Grant it to the user of {self.setting or 'DATABASE_URL'} (or mend what else is named), then start again.",
        )

    @override
    def steps(self) -> Mapping[str, int]:
        step = ledger.progress.c.step
        query = sa.select(step, sa.func.count()).where(ledger.progress.c.flow == self.flow).group_by(step)
        return self._in_transaction(lambda connection: {row[0]: row[1] for row in connection.execute(query)})

    @override
    def alive(self, steps: Collection[str]) -> str:
        now_ms: sa.ColumnElement[int] = sa.literal_column(self._database.dialect.now_ms_sql, sa.BigInteger)
        stale_s = self.settings.owner_stale_s

        def alive(connection: sa.Connection) -> str:
            return next(filter(None, (ledger.alive(connection, self.flow, step, now_ms, stale_s) for step in steps)), "")

        return self._in_transaction(alive)

    @property
    def own_step(self) -> Step:
        """The step that it serves."""
        return Step(self.flow, self.step)

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        return self._in_transaction(
            lambda connection: step_store.taken_elsewhere(connection, self.own_step, self._table, self._database.dialect, streams)
        )

    @property
    @override
    def again(self) -> str:
        if isinstance(self._mode, Append):
            return "every row would stand there twice"
        if isinstance(self._mode, Merge):
            return "every record would be added a second time"
        return "rows are written over, and what has changed since then is lost"

    def _remember_table(self, connection: sa.Connection) -> None:
        def name_of(target: SqlTarget) -> str:
            return step_store.table_name(connection, target.table, self._database.dialect)

        others = {
            step: name_of(target)
            for step, target in self._flow_targets.items()
            if step != self.step and isinstance(target, SqlTarget) and target.store == self.store
        }
        step_store.remember_table(connection, self.own_step, name_of(self), others)

    @override
    def positions(self) -> Sequence[Position]:
        return self._in_transaction(self._positions)

    def _positions(self, connection: sa.Connection) -> list[Position]:
        return step_store.positions(connection, self.own_step)

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        def begin(connection: sa.Connection) -> list[Position]:
            self._check_sources(connection, starts)
            self._check_kept(connection)
            self._remember_table(connection)
            held = {position.stream: position for position in self._positions(connection)}
            missing = [start for start in starts if start.stream not in held]
            if missing:
                connection.execute(ledger.progress.insert(), [self._first(start) for start in missing])
                self._begun(connection, missing)
            for start in starts:
                if start.stream in held and _may_end(held[start.stream], start.offset_end):
                    self._update(connection, start.stream, offset_end=start.offset_end)
            return [position for position in self._positions(connection) if position.stream.source in sources_of(starts)]

        return self._in_transaction(begin)

    def _check_sources(self, connection: sa.Connection, starts: Sequence[Start]) -> None:
        """Raises ConfigError for a name that can't be kept (Kafka's are ASCII, others may have any)."""
        encoding = self._database.text_encoding(connection)
        for source in sources_of(starts):
            if letters.held(source, encoding) != source:
                raise ConfigError(
                    f"The source's name {source!r} can't be stored in {self.name}, whose texts are in {encoding}.",
                    hint="Give the source another name, or take a database in UTF-8.",
                )

    def _begun(self, connection: sa.Connection, starts: Sequence[Start]) -> None:
        """These streams begin, in the same transaction."""

    def _check_kept(self, connection: sa.Connection) -> None:
        """Raises ConfigError for a step that did something else so far."""
        kept = window_store.kept(connection, self.flow, self.step)
        if kept is not None and kept.buckets:
            raise self._anew(f"So far step {self.step} wrote windows into {self.name} when they had closed.")

    def _anew(self, message: str) -> ConfigError:
        return ConfigError(
            message,
            hint=f"Go back to that; or begin anew: empty the table, forget the step (waxwing step drop {self.flow} {self.step}), "
            "and start.",
        )

    def _first(self, start: Start) -> dict[str, Any]:
        stream = start.stream
        return {
            "flow": self.flow,
            "step": self.step,
            "topic_id": stream.source_id,
            "topic_partition": stream.partition,
            "topic": stream.source,
            "offset_start": start.offset_start,
            "offset_next": start.offset_start,
            "offset_end": start.offset_end,
            "version": 0,
            "owner": 0,
            "owner_token": "",
            "records_seen": 0,
            "records_bad": 0,
            "bad_run": 0,
            "limits_from": 0,
        }

    def _update(self, connection: sa.Connection, stream: Stream, **values: Any) -> int:
        version = ledger.progress.c.version + 1
        changed = ledger.progress.update().where(ledger.of_stream(self.step, stream)).values(version=version, **values)
        return connection.execute(changed).rowcount

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        def jump(connection: sa.Connection) -> None:
            self._update(connection, stream, offset_next=offset)
            # Records read again bring their dead letters again.
            letters = ledger.dead_letters
            again = sa.and_(
                ledger.of_step(letters, self.flow, self.step),
                letters.c.topic_id == stream.source_id,
                letters.c.topic_partition == stream.partition,
                letters.c.topic_offset >= offset,
            )
            connection.execute(letters.delete().where(again))

        self._in_transaction(jump)

    # -- for the sink partition ------------------------------------------------------------------

    @override
    def connect(self, part: str, token: str) -> SqlSession:
        return SqlSession(self._engine, self._database, self._look(), self, token)

    def _look(self) -> Looked:
        """What was found at the start, or is found now: after the table was altered, or where no source was given this target."""
        with self._looking:
            if self._looked is None:
                self.prepare()
            assert self._looked is not None
            return self._looked

    def forget(self, shape: tuple[object, ...]) -> None:
        """The table has no longer this shape."""
        with self._looking:
            if self._looked is not None and self._looked.shape == shape:
                self._looked = None

    def _in_transaction(self, call: Callable[[sa.Connection], T]) -> T:
        for race in range(RACES_MAX):
            try:
                with self._errors(), self._engine.begin() as connection:
                    return call(connection)
            except _Race as error:
                if race == RACES_MAX - 1:
                    raise TransientError(f"{self.name}: {error}") from error
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with translated(self._database, self.name, self.url_setting):
                yield
        except TransientError as error:
            # Locks that keep even a start waiting may be a frozen process's.
            if not address.was_connecting(error.__cause__):
                with contextlib.suppress(Exception), self._engine.connect() as other:
                    self._database.end_overdue(other, self.statement_timeout_s)
            raise
        except sa.exc.IntegrityError as error:
            raise _Race(str(error.orig)) from error
        except sa.exc.DBAPIError as error:
            failure = self._database.classify(error)
            raise ConfigError(
                f"{self.name}: {failure.reason} ({failure.code}).",
                hint="No row was written yet: a trigger of the database itself (on CREATE TABLE) or of Waxwing's tables refuses "
                "it. Let it pass, or make the tables as a user for whom it does.",
            ) from error


def check_names(flow: str, step: str, dialect: Dialect) -> None:
    """Raises ConfigError for a name that can't be a key of the stored positions."""
    for what, text, most in (("flow", flow, ledger.FLOW_CHARACTERS_MAX), ("step", step, ledger.STEP_CHARACTERS_MAX)):
        if len(text) > most or not text.isascii():
            raise ConfigError(
                f"The {what} name {text!r} must be ASCII, of {most} characters at most: it is a key of the stored positions."
            )
        if text != text.rstrip(" ") and not dialect.name_blanks_kept:
            raise ConfigError(
                f"The {what} name {text!r} ends in a blank, which {dialect.name} passes over.", hint="Give it another name."
            )


def _may_end(held: Position, offset_end: int | None) -> bool:
    """May the stored end be replaced? An unfinished one stays: another process of this run may just have stored it."""
    unfinished = held.offset_end is not None and held.offset_next < held.offset_end
    return held.offset_end != offset_end and (offset_end is None or not unfinished)


class _Race(Exception):
    """Another process made the same thing first."""


def _renamed(table: sa.Table, name: str) -> sa.Table:
    """The table under the name that a setting gives (`schema.table` or `table`)."""
    if not name:
        return table
    schema, _, bare = name.rpartition(".")
    return table.to_metadata(sa.MetaData(), schema=schema or SchemaConst.RETAIN_SCHEMA, name=bare)
