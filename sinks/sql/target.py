"""The SQL target: rows, dead letters and positions in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import LedgerTarget
from sinks.misfits import check_keys, check_records, check_window_rows
from sinks.sql import kept
from sinks.sql.place import SqlPlace
from sinks.sql.session import SqlSession
from sinks.sql.tables import SqlTables, Tables
from waxwing.batch import Stream
from waxwing.change import Size, Start, sources_of
from waxwing.databases.ledger import letters, schema
from waxwing.databases.ledger.store import SqlStore
from waxwing.databases.ledger.transaction import SqlTransaction
from waxwing.errors import ConfigError, RowError, TransientError
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import Windows
from waxwing.settings import SqlSettings
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Append, Merge, Mode
from waxwing.target import Target

T = TypeVar("T")


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
        self.tables = SqlTables(self, self.place, settings, table, mode, columns)
        if isinstance(table, sa.Table):
            self.table_given = table

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
        return str(self.tables)

    @property
    def _dialect(self) -> Dialect:
        return self.place.database.dialect

    @property
    @override
    def columns(self) -> Sequence[str]:
        return [] if self.tables.several else self.tables.one.columns

    @override
    def check_records(self, kind: Any) -> None:
        if not self.tables.several:
            check_records(kind, self.tables.one.wanted.columns, self._dialect, self.tables.one.table.fullname)

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        if self.tables.several or self.folds_windows:
            why = "it has several tables" if self.tables.several else "it folds windows"
            raise ConfigError(
                f"Records can't be judged for {self.name}: {why}.",
                hint="Give check the target (or the sa.Table) of one table whose rows the records are.",
            )
        return self.tables.one.misfits(records)

    @override
    def check_keys(self, kind: Any) -> None:
        if not self.tables.several:
            check_keys(kind, self.tables.one.wanted, self._dialect)

    def check_window_rows(self, windows: Windows, kind: Any, fixed: Mapping[str, Any]) -> None:
        """Raises ConfigError for windows over such records of which the table takes not one row."""
        check_window_rows(windows, kind, self.tables.one.wanted.columns, fixed, self._dialect, self.tables.one.table.fullname)

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
            before = other.tables.renamed_from if isinstance(other, SqlTarget) else ""
            if before and self.tables.renamed_from not in ("", before):
                raise ConfigError(
                    f"DATABASE_TABLE names one table, and the flow writes two: {before} and {self.tables.renamed_from}.",
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
    def prepare_once(self) -> None:
        self.tables.prepare_once()

    @override
    def prepare(self) -> None:
        self.tables.prepare()

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        tables = [table.table for table in self.tables.all]
        return self.place.in_transaction(
            self.name, lambda connection: kept.taken_elsewhere(connection, self.own_step, tables, self._dialect, streams)
        )

    @override
    def forgets(self, flow: str, step: str) -> str:
        return f"waxwing step drop {flow} {step}"

    @override
    def renames(self, old: str, new: str) -> str:
        return f"Carry its positions over: waxwing flow rename {old} {new}."

    @property
    @override
    def again(self) -> str:
        modes = [table.mode for table in self.tables.all]
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
        names = self.tables.kept_names(connection)
        if self.tables.several:
            kept.remember(connection, self.own_step, names)
        else:
            kept.remember_only(connection, self.own_step, names[0], self._others(connection))

    def _others(self, connection: sa.Connection) -> Mapping[str, str]:
        """The one table that each other step here writes."""
        return {
            step: target.tables.kept_names(connection)[0]
            for step, target in self._flow_targets.items()
            if step != self.step and isinstance(target, SqlTarget) and not target.tables.several and target.store == self.store
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
        self.prepare_once()
        return SqlSession(self, self.tables, self.open_store(), token)


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
