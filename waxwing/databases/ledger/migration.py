"""From schema version 1 to 2, as a list of statements, each harmless twice: some servers commit each by itself.

What is renamed keeps its rows, however many. A process of an earlier release that comes back finds neither the columns of its
positions nor those of its owner's record: it can move nothing, and say of nothing that it is alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import sqlalchemy as sa

from waxwing.databases.ledger import schema
from waxwing.ledger.windows import BUCKETS_SOURCE
from waxwing.tables.dialect import Dialect

# Tables of version 1 that are no more; and one that has other columns by now.
_old = sa.MetaData()
old_steps = sa.Table("waxwing_steps", _old, sa.Column("flow"), sa.Column("step"), sa.Column("table_name"))
old_state = sa.Table("waxwing_window_state", _old, *(sa.Column(name) for name in ("flow", "step", "bucket", "part", "state")))
old_owners = sa.Table("waxwing_owners", _old, *(sa.Column(name) for name in ("flow", "place", "heartbeat_ms")))

# By table, the columns of version 1 that bear other names.
_RENAMED = {
    schema.progress: {"topic": "source", "topic_id": "source_id", "topic_partition": "source_partition"},
    schema.dead_letters: {
        "topic": "source",
        "topic_id": "source_id",
        "topic_partition": "source_partition",
        "topic_offset": "source_offset",
    },
}
_ADDED = {
    schema.progress: ("token", "token_offset", "rows_seen", "rows_bad", "rows_bad_run"),
    schema.dead_letters: ("replayed_at",),
}


def table_key(name: str) -> str:
    """The key of a table's name in waxwing_tables."""
    return blake2b(name.encode(), digest_size=16).hexdigest()


class Migration:
    """What is left to do, in a database whose tables have version 1.

    Args:
        connection: to look at them by.
        dialect: of the database.
    """

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection, self._dialect = connection, dialect

    def alive(self, stale_ms: int) -> tuple[str, str] | None:
        """Flow and place of an owner of version 1 whose heartbeat is fresh."""
        if "place" not in self._columns(old_owners.name) or "run" in self._columns(old_owners.name):
            return None
        now_ms: sa.ColumnElement[int] = sa.literal_column(self._dialect.now_ms_sql, sa.BigInteger)
        beats = old_owners.c.heartbeat_ms > now_ms - stale_ms
        row = self._connection.execute(sa.select(old_owners.c.flow, old_owners.c.place).where(beats)).first()
        return None if row is None else (row[0], row[1])

    def statements(self) -> Iterator[sa.Executable]:
        """What is left, one after the other: to be run as they come, for they look at what is there."""
        versions = schema.schema_version
        if schema.SCHEMA_VERSION not in self._connection.scalars(sa.select(versions.c.version)).all():
            yield versions.insert().values(version=schema.SCHEMA_VERSION)  # from here on earlier releases refuse to start
        for table, renamed in _RENAMED.items():
            yield from self._altered(table, renamed)
        if not self._has(schema.owners) or "run" not in self._columns(schema.owners.name):
            if self._has(schema.owners):
                yield _drop(schema.owners)
            yield sa.schema.CreateTable(schema.owners)
        yield from self._tables()
        yield from self._state()
        yield versions.delete().where(versions.c.version != schema.SCHEMA_VERSION)

    def _altered(self, table: sa.Table, renamed: dict[str, str]) -> Iterator[sa.Executable]:
        columns = self._columns(table.name)  # looked at once: each question is dear on some servers
        if not columns:
            return
        for old, new in renamed.items():
            if old in columns and new not in columns:
                yield sa.text(self._dialect.rename_column_sql.format(table=table.name, old=old, new=new))
        for name in _ADDED[table]:
            if name not in columns:
                column = sa.schema.CreateColumn(table.c[name]).compile(dialect=self._connection.dialect)
                yield sa.text(f"ALTER TABLE {table.name} ADD {column}".replace(":", "\\:"))

    def _tables(self) -> Iterator[sa.Executable]:
        """A row a table in place of one a step. Of a release before there was any the step has none until it runs again."""
        if not self._has(schema.tables):
            yield sa.schema.CreateTable(schema.tables)
        if not self._has(old_steps):
            return
        there = self._has(schema.tables)  # not yet, where the statements are only told
        held = {(row.flow, row.step) for row in self._connection.execute(sa.select(schema.tables))} if there else set()
        for row in self._connection.execute(sa.select(old_steps)).all():
            if (row.flow, row.step) not in held:
                key = table_key(row.table_name)
                yield schema.tables.insert().values(flow=row.flow, step=row.step, table_key=key, table_name=row.table_name)
        yield _drop(old_steps)

    def _state(self) -> Iterator[sa.Executable]:
        if not self._has(schema.state):
            yield sa.schema.CreateTable(schema.state)
        if not self._has(old_state):
            return
        o, new = old_state.c, schema.state.c
        rows = sa.select(o.flow, o.step, sa.literal_column(f"'{BUCKETS_SOURCE}'"), o.bucket, o.part, o.state)
        # What is there stays, whatever the old table holds: an earlier release that starts meanwhile makes an empty one anew.
        there = sa.and_(new.flow == o.flow, new.step == o.step, new.source_partition == o.bucket, new.part == o.part)
        rows = rows.where(~sa.exists().where(there))
        names = ["flow", "step", "source_id", "source_partition", "part", "state"]
        yield schema.state.insert().from_select(names, rows)
        yield _drop(old_state)

    def _has(self, table: sa.Table) -> bool:
        # By its name in the list: MySQL refuses the question for a table that is not there to who may not make it.
        return table.name in sa.inspect(self._connection).get_table_names()

    def _columns(self, table: str) -> set[str]:
        inspector = sa.inspect(self._connection)
        return {column["name"] for column in inspector.get_columns(table)} if table in inspector.get_table_names() else set()


def _drop(table: sa.Table) -> sa.Executable:
    return sa.schema.DropTable(table)
