"""The tables that a step writes: one, or several by the names that records give; some join while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import sqlalchemy as sa

from sinks.ledger import LedgerTarget
from sinks.sql import kept
from sinks.sql.place import SqlPlace
from sinks.sql.table import SqlTable, renamed
from waxwing.databases import rights
from waxwing.databases.base import Need
from waxwing.databases.ledger import schema
from waxwing.databases.ledger.making import make
from waxwing.errors import ConfigError, RightsError
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Mode

# A table and its mode, by the name that records give.
Tables = Mapping[str, tuple[sa.Table, Mode]] | Callable[[str], tuple[sa.Table, Mode]]


class SqlTables:
    """A step's tables.

    Attributes:
        several: whether records say which.
        renamed_from: what `DATABASE_TABLE` names otherwise, else "".

    Raises:
        ConfigError: no mode for the one, or one for several.
    """

    def __init__(
        self,
        target: LedgerTarget,
        place: SqlPlace,
        settings: SqlSettings,
        given: sa.Table | Tables,
        mode: Mode | None,
        columns: Sequence[str] | None,
    ) -> None:
        self._target, self._place, self._stale_s = target, place, settings.owner_stale_s
        self.several = not isinstance(given, sa.Table)
        self._more = given if callable(given) else None
        self._by_name: dict[str, SqlTable] = {}
        self._joining = threading.RLock()
        self._prepared = False
        self.renamed_from = ""
        if isinstance(given, sa.Table):
            if mode is None:
                raise ConfigError("SqlTarget: the mode is missing.", hint="Give it Append(), Upsert(keys=...) or Merge(...).")
            self.renamed_from = given.fullname if settings.database_table else ""
            self._by_name[""] = SqlTable(place, renamed(given, settings.database_table), mode, columns)
            return
        if mode is not None or columns is not None or settings.database_table:
            raise ConfigError(
                "SqlTarget: mode, columns and DATABASE_TABLE are for one table, and there are several.",
                hint='Give each table its own: {"name": (table, Append()), ...}.',
            )
        for name, (one, its_mode) in given.items() if isinstance(given, Mapping) else ():
            self._by_name[name] = SqlTable(place, one, its_mode)

    def __str__(self) -> str:
        """In messages."""
        if len(self._by_name) == 1:
            return next(iter(self._by_name.values())).name
        return f"{len(self._by_name)} tables in {self._place}" if self._by_name else f"tables in {self._place}"

    @property
    def names(self) -> Sequence[str]:
        """What records call them, in the order in which they are written."""
        return list(self._by_name)

    @property
    def one(self) -> SqlTable:
        """The only one."""
        return self._by_name[""]

    @property
    def all(self) -> Sequence[SqlTable]:
        """Those that have joined so far."""
        return list(self._by_name.values())

    def kept_names(self, connection: sa.Connection) -> list[str]:
        """As the ledger remembers them."""
        return [self._kept_name(connection, table) for table in self.all]

    def _kept_name(self, connection: sa.Connection, table: SqlTable) -> str:
        return kept.table_name(connection, table.table, self._place.database.dialect)

    # -- made, or looked at --------------------------------------------------------------------------

    def prepare_once(self) -> None:
        """Make or check them, if that has not been done."""
        with self._joining:
            if not self._prepared:
                self.prepare()

    def prepare(self) -> None:
        """Make or check them, and Waxwing's own; under the schema lock.

        Raises:
            ConfigError: one does not fit, or can't be written exactly once.
            RightsError: rights are missing.
        """

        def prepare(connection: sa.Connection) -> None:
            self._place.database.lock_schema(connection)
            make(connection, self._place.database, self._stale_s)
            written_before = bool(self._written_before(connection))
            for number, table in enumerate(self.all):
                table.prepare(connection, self._needs() if number == 0 else (), written_before=written_before)

        self._preparing(prepare, self.all)
        self._prepared = True

    def _preparing(self, prepare: Callable[[sa.Connection], None], tables: Sequence[SqlTable]) -> None:
        try:
            self._place.in_transaction(str(self), prepare)
        except RightsError as error:
            # On the way, somebody's table may not be read: look at all of them before anything is said.
            for table in tables:
                look = partial(table.all_lacking, more=self._needs())
                if (lacking := self._place.in_transaction(str(self), look)) is not None:
                    raise lacking from error
            raise

    def _written_before(self, connection: sa.Connection) -> int:
        of_step = schema.of_step(schema.progress, self._target.own_step)
        return int(connection.scalar(sa.select(sa.func.count()).select_from(schema.progress).where(of_step)) or 0)

    def _needs(self) -> Sequence[Need]:
        """The rights on Waxwing's own tables that a run needs."""
        of_state = rights.of_own(rights.OWN_OF_WINDOWS) if self._target.keeps_state else ()
        return [*rights.of_own(rights.OWN), *of_state]

    def looked_at(self, name: str) -> SqlTable:
        """A table that was looked at: at the start, or now, after it was altered, or since it joins.

        Raises:
            ConfigError: there is no table of this name.
        """
        with self._joining:
            if (table := self._by_name.get(name)) is None:
                table = self._joined(name)
            with table.looking:
                if table.looked is None:
                    self.prepare()
            return table

    def _joined(self, name: str) -> SqlTable:
        if self._more is None:
            raise ConfigError(
                f"Step {self._target.step}: a record goes into table {name!r}, and there are {', '.join(self._by_name)}.",
                hint="Give SqlTarget all tables by name, or a function that makes one of a name.",
            )
        table = SqlTable(self._place, *self._more(name))

        def join(connection: sa.Connection) -> None:
            self._place.database.lock_schema(connection)
            table.prepare(connection, self._needs(), written_before=False)
            kept.remember(connection, self._target.own_step, [self._kept_name(connection, table)])

        self._preparing(join, [table])
        self._by_name[name] = table
        return table
