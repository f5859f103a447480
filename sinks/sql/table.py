"""One table that a step writes: what is wanted of it, and what was found when it was looked at."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql.schema import SchemaConst

from sinks.sql.place import SqlPlace
from waxwing.databases import rights
from waxwing.databases.base import Need
from waxwing.databases.ddl import ensure
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError, RightsError
from waxwing.tables.modes import Mode
from waxwing.tables.plan import Plan
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker


class Looked(NamedTuple):
    """What was found when a table was looked at: what is written, and what tells that it was altered since."""

    plan: Plan
    shape: tuple[object, ...]


class SqlTable:
    """A table in a database.

    Args:
        place: the database.
        table: made when missing, else checked.
        mode: Append(), Upsert(keys=...) or Merge(keys=..., add=...).
        columns: which columns records bring; by default all but those that the database keeps itself.

    Raises:
        ConfigError: a column type that it can't keep exactly, a table that does not fit the mode.
    """

    def __init__(self, place: SqlPlace, table: sa.Table, mode: Mode, columns: Sequence[str] | None = None) -> None:
        self.place, self.table, self.mode = place, table, mode
        self.wanted = plan(table, mode, columns=columns, dialect=place.database.dialect)
        self.looked: Looked | None = None
        self.looking = threading.RLock()  # sessions of several lanes may find it altered at once
        self._judged: tuple[Plan, RowMaker] | None = None

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.table.fullname} in {self.place}"

    @property
    def columns(self) -> Sequence[str]:
        """Names of what rows bring."""
        return [column.name for column in self.wanted.columns]

    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        """What can't be a row of it, as it was last found; before that, as it is declared."""
        looked, judged = self.looked, self._judged
        found = looked.plan if looked is not None else judged[0] if judged is not None else self.wanted
        if judged is None or judged[0] is not found:
            self._judged = judged = found, RowMaker(found, self.columns, self.place.database.dialect)
        return judged[1].misfits(records)

    def prepare(self, connection: sa.Connection, more: Sequence[Need] = (), *, written_before: bool) -> None:
        """Make it, or check it as it stands; under the schema lock. `more` are rights that are needed beside those on its rows.

        Raises:
            ConfigError: it does not fit, or can't be written exactly once.
            RightsError: a right is missing.
        """
        database = self.place.database
        found = ensure(connection, self.wanted, database, written_before=written_before)
        if refusals := database.refusals_of(connection, [self.table, *schema.metadata.sorted_tables]):
            raise ConfigError(f"{self.name} can't be written exactly once: {'; '.join(dict.fromkeys(refusals))}.")
        needs = [*more, *self._needs(), *database.more_needs(found)]
        if lacking := rights.missing(connection, database, needs):
            raise self._lacking(lacking)
        self.looked = Looked(found, database.shape(connection, self.table))

    def all_lacking(self, connection: sa.Connection, more: Sequence[Need] = ()) -> RightsError | None:
        """Every right that is missing, where the first one kept others from being looked at."""
        lacking = rights.missing(connection, self.place.database, [*more, *self._needs()])
        return self._lacking(lacking) if lacking else None

    def _needs(self) -> Sequence[Need]:
        return list(rights.of_plan(self.wanted, self.place.database))

    def _lacking(self, why: Sequence[str]) -> RightsError:
        return RightsError(
            f"{self.name} can't be written by this user: {'; '.join(why)}.",
            hint=f"Grant it to the user of {self.place.setting or 'DATABASE_URL'} (or mend what else is named), then start "
            "again.",
        )

    def forget(self, shape: tuple[object, ...]) -> None:
        """It has no longer this shape."""
        with self.looking:
            if self.looked is not None and self.looked.shape == shape:
                self.looked = None


def renamed(table: sa.Table, name: str) -> sa.Table:
    """The table under the name that a setting gives (`schema.table` or `table`)."""
    if not name:
        return table
    schema_name, _, bare = name.rpartition(".")
    return table.to_metadata(sa.MetaData(), schema=schema_name or SchemaConst.RETAIN_SCHEMA, name=bare)
