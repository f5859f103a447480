"""Waxwing's own tables: made where they are missing, carried over where an earlier release made them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa

from waxwing import log
from waxwing.databases import address
from waxwing.databases.base import Database
from waxwing.databases.ledger import schema
from waxwing.databases.ledger.migration import Migration
from waxwing.errors import ConfigError, RightsError, TransientError, TryLater


def make(connection: sa.Connection, database: Database, stale_s: float) -> None:
    """Make what is missing, carry over what is of an earlier version. Under the schema lock; the version's row alone decides.

    Two processes may do so at once, where the database has no such lock: the later one may have to call again.

    Raises:
        ConfigError: the tables were made by a newer Waxwing; or they have to be carried over, and rights lack: what to run.
        TryLater: they have to be carried over, and a process of an earlier release is alive.
        TransientError: they have to be carried over, and others hold locks, or have read them in a transaction.
    """
    versions = _versions(connection)
    if versions and max(versions) > schema.SCHEMA_VERSION:
        raise ConfigError(
            f"Waxwing's own tables in {_place(connection)} have schema version {max(versions)}, this Waxwing knows version "
            f"{schema.SCHEMA_VERSION}.",
            hint="Run the Waxwing that made them, or a newer one.",
        )
    if versions and min(versions) < schema.SCHEMA_VERSION:
        _migrate(connection, database, stale_s)
    elif not versions and _there(connection):
        # Whoever made them was ended before it wrote the version, so they are empty; some may have an earlier release's columns.
        schema.schema_version.create(connection, checkfirst=True)
        for statement in Migration(connection, database.dialect).statements():
            connection.execute(statement)
        versions = {schema.SCHEMA_VERSION}
    _make_missing(connection)
    if not versions:
        connection.execute(schema.schema_version.insert().values(version=schema.SCHEMA_VERSION))


def demand_carried_over(connection: sa.Connection) -> None:
    """For who only looks, or changes a little: what has no way back is begun by a flow's start alone.

    Raises:
        ConfigError: the tables were made by an earlier release, and no flow of this one has started on them yet.
    """
    if (versions := _versions(connection)) and min(versions) < schema.SCHEMA_VERSION:
        raise ConfigError(
            f"Waxwing's own tables in {_place(connection)} are of an earlier release; a flow's first start carries them over.",
            hint="Start the flow, then ask again; or ask by the release that made them.",
        )


def _versions(connection: sa.Connection) -> set[int]:
    if not sa.inspect(connection).has_table(schema.schema_version.name):
        return set()
    return set(connection.scalars(sa.select(schema.schema_version.c.version)))


def _there(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names()) & schema.metadata.tables.keys()


def _make_missing(connection: sa.Connection) -> None:
    there = _there(connection)
    lacking = [table for table in schema.metadata.sorted_tables if table.name not in there]
    if lacking:
        schema.metadata.create_all(connection, tables=lacking)
        names = ", ".join(table.name for table in lacking)
        log.info("table_made", f"Waxwing's own tables are made, in {_place(connection)}: {names}.")


def _migrate(connection: sa.Connection, database: Database, stale_s: float) -> None:
    migration = Migration(connection, database.dialect)
    where = f"Waxwing's own tables in {_place(connection)}"
    if alive := migration.alive(round(stale_s * 1000)):
        flow, place = alive
        raise TryLater(
            f"{where} are of an earlier release, and a process of it is alive: flow {flow} ({place}).",
            hint=f"They are carried over once no such process is left. Stop it; after a kill, wait {stale_s:.0f} s.",
        )
    log.info("tables_carried_over", f"{where} are of an earlier release: they are carried over. There is no way back.")
    done = 0
    try:
        for statement in migration.statements():
            connection.execute(statement)
            done += 1
    except sa.exc.DBAPIError as error:
        failure = database.classify(error)
        if isinstance(failure.error(where), RightsError):
            connection.rollback()
            if done == 1:  # only the version was written, and some servers have kept it: the earlier release may go on
                with connection.engine.begin() as other:
                    versions = schema.schema_version
                    other.execute(versions.delete().where(versions.c.version == schema.SCHEMA_VERSION))
            # (No RightsError: what the user would need in a run is not asked for before they are carried over.)
            raise ConfigError(
                f"{where} are of an earlier release, and this user may not carry them over ({failure.reason}).",
                hint="Let somebody who may (who owns them) run, in this order, while nothing runs on them: "
                + " ".join(f"{text};" for text in _texts(connection, database)),
            ) from error
        if failure.locked:
            raise TransientError(
                f"{where} are of an earlier release, and others keep them from being carried over ({failure.reason}).",
                hint=_who(connection, database),
                locked=True,
                contended=failure.contended,
            ) from error
        raise
    log.info("tables_carried_over", f"{where} are carried over.")


def _who(connection: sa.Connection, database: Database) -> str:
    """Who may keep a table from being altered."""
    found = ""
    with contextlib.suppress(Exception), connection.engine.connect() as other:
        found = database.blockers(other)
    return f"End {found or 'whatever has read them in a transaction that is open yet'}; the next start goes on from there."


def _texts(connection: sa.Connection, database: Database) -> Iterator[str]:
    """The statements as somebody would type them."""
    with connection.engine.connect() as other:
        for statement in Migration(other, database.dialect).statements():
            compiled = statement.compile(other, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]  # all compile
            yield " ".join(str(compiled).split())


def _place(connection: sa.Connection) -> str:
    return address.place(connection.engine.url)
