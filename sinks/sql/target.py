"""The SQL target: rows, dead letters and positions in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import LedgerTarget
from sinks.misfits import check_keys, check_records, check_window_rows
from sinks.sql import kept
from sinks.sql.place import SqlPlace
from sinks.sql.session import SqlSession
from sinks.sql.table import SqlTable, renamed
from waxwing.batch import Stream
from waxwing.change import Size, Start, sources_of
from waxwing.databases import rights
from waxwing.databases.base import Need
from waxwing.databases.ledger import letters, schema
from waxwing.databases.ledger.making import make
from waxwing.databases.ledger.store import SqlStore
from waxwing.databases.ledger.transaction import SqlTransaction
from waxwing.errors import ConfigError, RightsError, RowError, TransientError
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import Windows
from waxwing.settings import SqlSettings
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Append, Merge, Mode
from waxwing.target import Target

T = TypeVar("T")

# A table and its mode, by the name that records give.
Tables = Mapping[str, tuple[sa.Table, Mode]] | Callable[[str], tuple[sa.Table, Mode]]


class SqlTarget(LedgerTarget):
    """One table of an SQL database, or several, with Waxwing's own tables beside them.

    Args:
        settings: where the database is (`database_url`), time limits, how batches become transactions.
        table: made when missing, else checked at the start. `database_table` overrides its name. Or several, by name, each with
            its mode: records are then Into(name, record), and all of a transaction's are written in it, tables in this order.
            Or a function that gives a name's table and mode: it is asked when a name first comes, and the table joins.
        mode: Append(), Upsert(keys=...) or Merge(keys=..., add=...); of the one table.
        columns: which columns records bring; by default all but those that the database keeps itself
            (server defaults, computed, identity).

    Parallelism: one connection and one writer per lane; SQLite: one for all.
    Delivery: exactly once: positions move in the rows' transaction, by compare-and-set (tests/faults/storm/test_window_storm.py).

    Raises:
        ConfigError: no such database, a column type it can't keep exactly, a table that does not fit.
    """

    def __init__(
        self,
        settings: SqlSettings,
        table: sa.Table | Tables,
        mode: Mode | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings)
        self.place = SqlPlace(settings)
        self.statement_timeout_s = settings.database_statement_timeout_s
        self.several = not isinstance(table, sa.Table)
        self._more = table if callable(table) else None
        self._tables: dict[str, SqlTable] = {}
        self._joining = threading.RLock()
        self._renamed_from = ""
        self._prepared = False
        if isinstance(table, sa.Table):
            if mode is None:
                raise ConfigError("SqlTarget: the mode is missing.", hint="Give it Append(), Upsert(keys=...) or Merge(...).")
            self._renamed_from = table.fullname if settings.database_table else ""
            self.table_given = table
            self._tables[""] = SqlTable(self.place, renamed(table, settings.database_table), mode, columns)
            return
        if mode is not None or columns is not None or settings.database_table:
            raise ConfigError(
                "SqlTarget: mode, columns and DATABASE_TABLE are for one table, and there are several.",
                hint='Give each table its own: {"name": (table, Append()), ...}.',
            )
        for name, (one, its_mode) in table.items() if isinstance(table, Mapping) else ():
            self._tables[name] = SqlTable(self.place, one, its_mode)

    @property
    @override
    def store(self) -> Hashable:
        return self.place.identity

    @property
    @override
    def resume_command(self) -> str:
        elsewhere = "" if self.place.setting else f" (with DATABASE_URL set to {self.place})"
        return f"{super().resume_command}{elsewhere}"

    @property
    @override
    def name(self) -> str:
        if len(self._tables) == 1:
            return next(iter(self._tables.values())).name
        return f"{len(self._tables)} tables in {self.place}" if self._tables else f"tables in {self.place}"

    @property
    def table_names(self) -> Sequence[str]:
        """What records call the tables, in the order in which they are written."""
        return list(self._tables)

    @property
    def _one(self) -> SqlTable:
        return self._tables[""]

    @property
    def _dialect(self) -> Dialect:
        return self.place.database.dialect

    @property
    @override
    def columns(self) -> Sequence[str]:
        return [] if self.several else self._one.columns

    @override
    def check_records(self, kind: Any) -> None:
        if not self.several:
            check_records(kind, self._one.wanted.columns, self._dialect, self._one.table.fullname)

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        if self.several or self.folds_windows:
            raise ConfigError(
                f"Records can't be judged for {self.name}: {'it has several tables' if self.several else 'it folds windows'}.",
                hint="Give check the target (or the sa.Table) of one table whose rows the records are.",
            )
        return self._one.misfits(records)

    @override
    def check_keys(self, kind: Any) -> None:
        if not self.several:
            check_keys(kind, self._one.wanted, self._dialect)

    def check_window_rows(self, windows: Windows, kind: Any, fixed: Mapping[str, Any]) -> None:
        """Raises ConfigError for windows over such records of which the table takes not one row."""
        check_window_rows(windows, kind, self._one.wanted.columns, fixed, self._dialect, self._one.table.fullname)

    @property
    @override
    def parts_max(self) -> int | None:
        return self._dialect.writers_max

    @property
    @override
    def size(self) -> Size:
        return super().size._replace(commit_s=self._dialect.transaction_s)

    @property
    @override
    def resends(self) -> bool:
        return not self._dialect.savepoints

    @override
    def owners(self) -> LedgerOwners:
        owners = super().owners()
        assert owners is not None  # a database's are
        return owners

    # -- at the start ----------------------------------------------------------------------------

    @override
    def bind(self, flow: str, step: str, flow_targets: dict[str, Target] | None = None) -> None:
        check_names(flow, step, self._dialect)
        for other in (flow_targets or {}).values():
            if self._renamed_from and isinstance(other, SqlTarget) and other._renamed_from not in ("", self._renamed_from):
                raise ConfigError(
                    f"DATABASE_TABLE names one table, and the flow writes two: {other._renamed_from} and {self._renamed_from}.",
                    hint="Unset it, and give the tables their names in the flow.",
                )
        super().bind(flow, step, flow_targets)

    @override
    def open_store(self, *, briefly: bool = False) -> SqlStore:
        return self.place.store(self.own_step, self.name, briefly=briefly)

    @override
    def end_sessions(self) -> None:
        self.place.end_overdue(self.settings.owner_stale_s)

    @override
    def prepared(self) -> None:
        with self._joining:
            if not self._prepared:
                self.prepare()

    @override
    def prepare(self) -> None:
        def prepare(connection: sa.Connection) -> None:
            self.place.database.lock_schema(connection)
            make(connection, self.place.database, self.settings.owner_stale_s)
            written_before = bool(self._written_before(connection))
            for number, table in enumerate(self._tables.values()):
                table.prepare(connection, self._needs() if number == 0 else (), written_before=written_before)

        self._preparing(prepare, list(self._tables.values()))
        self._prepared = True

    def _preparing(self, prepare: Callable[[sa.Connection], None], tables: Sequence[SqlTable]) -> None:
        try:
            self.place.in_transaction(self.name, prepare)
        except RightsError as error:
            # On the way, somebody's table may not be read: look at all of them before anything is said.
            for table in tables:
                look = partial(table.all_lacking, more=self._needs())
                if (lacking := self.place.in_transaction(self.name, look)) is not None:
                    raise lacking from error
            raise

    def _written_before(self, connection: sa.Connection) -> int:
        of_step = schema.of_step(schema.progress, self.own_step)
        return int(connection.scalar(sa.select(sa.func.count()).select_from(schema.progress).where(of_step)) or 0)

    def _needs(self) -> Sequence[Need]:
        """The rights on Waxwing's own tables that a run needs."""
        of_state = rights.of_own(rights.OWN_OF_WINDOWS) if self.keeps_state else ()
        return [*rights.of_own(rights.OWN), *of_state]

    def looked_at(self, name: str) -> SqlTable:
        """A table that was looked at: at the start, or now, after it was altered, or since it joins.

        Raises:
            ConfigError: there is no table of this name.
        """
        with self._joining:
            if (table := self._tables.get(name)) is None:
                table = self._joined(name)
            with table.looking:
                if table.looked is None:
                    self.prepare()
            return table

    def _joined(self, name: str) -> SqlTable:
        if self._more is None:
            raise ConfigError(
                f"Step {self.step}: a record goes into table {name!r}, and there are {', '.join(self._tables)}.",
                hint="Give SqlTarget all tables by name, or a function that makes one of a name.",
            )
        table = SqlTable(self.place, *self._more(name))

        def join(connection: sa.Connection) -> None:
            self.place.database.lock_schema(connection)
            table.prepare(connection, self._needs(), written_before=False)
            kept.remember(connection, self.own_step, [kept.table_name(connection, table.table, self._dialect)])

        self._preparing(join, [table])
        self._tables[name] = table
        return table

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        tables = [table.table for table in self._tables.values()]
        return self.place.in_transaction(
            self.name, lambda connection: kept.taken_elsewhere(connection, self.own_step, tables, self._dialect, streams)
        )

    @property
    @override
    def again(self) -> str:
        modes = [table.mode for table in self._tables.values()]
        if any(isinstance(mode, Append) for mode in modes):
            return "every row would stand there twice"
        if any(isinstance(mode, Merge) for mode in modes):
            return "every record would be added a second time"
        return "rows are written over, and what has changed since then is lost"

    @override
    def in_transaction(self, call: Callable[[Transaction], T]) -> T:
        try:
            return super().in_transaction(call)
        except TransientError:
            self.place.end_overdue(self.statement_timeout_s)
            raise
        except RowError as error:
            raise ConfigError(
                f"{self.name}: {error.message}.",
                hint="No row was written yet: a trigger of Waxwing's tables refuses it. Let it pass.",
            ) from error

    @override
    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        super().beginning(transaction, starts)
        connection = cast("SqlTransaction", transaction).connection
        self._check_sources(connection, starts)
        names = [kept.table_name(connection, table.table, self._dialect) for table in self._tables.values()]
        if self.several:
            kept.remember(connection, self.own_step, names)
        else:
            kept.remember_only(connection, self.own_step, names[0], self._others(connection))

    def _others(self, connection: sa.Connection) -> Mapping[str, str]:
        """The one table that each other step here writes."""
        return {
            step: kept.table_name(connection, target._one.table, self._dialect)
            for step, target in self._flow_targets.items()
            if step != self.step and isinstance(target, SqlTarget) and not target.several and target.store == self.store
        }

    def _check_sources(self, connection: sa.Connection, starts: Sequence[Start]) -> None:
        """Raises ConfigError for a name that can't be kept (Kafka's are ASCII, others may have any)."""
        encoding = self.place.database.text_encoding(connection)
        for source in sources_of(starts):
            if letters.held(source, encoding) != source:
                raise ConfigError(
                    f"The source's name {source!r} can't be stored in {self.name}, whose texts are in {encoding}.",
                    hint="Give the source another name, or take a database in UTF-8.",
                )

    # -- for the sink partition ------------------------------------------------------------------

    @override
    def connect(self, part: str, token: str) -> SqlSession:
        self.prepared()
        return SqlSession(self, self.open_store(), token)


def check_names(flow: str, step: str, dialect: Dialect) -> None:
    """Raises ConfigError for a name that can't be a key of the stored positions."""
    for what, text, most in (("flow", flow, schema.FLOW_CHARACTERS_MAX), ("step", step, schema.STEP_CHARACTERS_MAX)):
        if len(text) > most or not text.isascii():
            raise ConfigError(
                f"The {what} name {text!r} must be ASCII, of {most} characters at most: it is a key of the stored positions."
            )
        if text != text.rstrip(" ") and not dialect.name_blanks_kept:
            raise ConfigError(
                f"The {what} name {text!r} ends in a blank, which {dialect.name} passes over.", hint="Give it another name."
            )
