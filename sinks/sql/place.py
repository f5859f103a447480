"""An SQL database as the place of a ledger: how it is reached, and what its errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

import sqlalchemy as sa

from sinks.ledger.target import RACES_MAX
from waxwing.databases import address, database_for
from waxwing.databases.ledger.errors import translated
from waxwing.databases.ledger.store import SqlStore
from waxwing.errors import ConfigError, TransientError
from waxwing.ledger.store import Race, Step
from waxwing.settings import DatabaseSettings
from waxwing.settings.reading import setting_of

T = TypeVar("T")


class SqlPlace:
    """One database, as one user reaches it.

    Args:
        settings: where it is, and time limits.

    Raises:
        ConfigError: no such database, or its URL can't be meant so.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        text = settings.database_url.get_secret_value()
        if not text:
            raise ConfigError(f"{settings.name_of('database_url')} is not given.", hint=f"Set it, such as {address.EXAMPLE}.")
        self.setting = settings.given_by("database_url") or setting_of(text)
        self.url = address.parsed(text, self.setting or "DATABASE_URL")
        self.statement_timeout_s = settings.database_statement_timeout_s
        with address.named(self.setting):
            self.database = database_for(self.url)
            self.engine = self.database.engine(
                self.url,
                connect_timeout_s=settings.database_connect_timeout_s,
                lock_timeout_s=settings.database_lock_timeout_s,
                statement_timeout_s=settings.database_statement_timeout_s,
            )
        address.note_connecting(self.engine)

    def __str__(self) -> str:
        """Without user and password."""
        return f"{self.database.dialect.name} at {address.place(self.url)}"

    @property
    def identity(self) -> Hashable:
        """What two of one database have in common."""
        return address.resolved(self.url, self.database.dialect.port_default)

    @property
    def url_setting(self) -> str:
        """The setting that gave the URL."""
        return self.setting or f"DATABASE_URL (or wherever the URL of {self} comes from)"

    def store(self, step: Step, name: str, *, briefly: bool = False) -> SqlStore:
        """A connection for a step's ledger; `name` is the target's."""
        return SqlStore(self.engine, self.database, step, name, self.url_setting, briefly=briefly)

    def in_transaction(self, name: str, call: Callable[[sa.Connection], T]) -> T:
        """What the call returns, committed; another process may make the same at the same time."""
        for _ in range(RACES_MAX):
            try:
                with self.errors(name), self.engine.begin() as connection:
                    return call(connection)
            except Race as error:
                race = error
        raise TransientError(f"{name}: {race}") from race

    @contextlib.contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Errors outside of a change: no row is to blame."""
        try:
            with translated(self.database, name, self.url_setting):
                yield
        except TransientError as error:
            # Locks that keep even a start waiting may be a frozen process's.
            if not address.was_connecting(error.__cause__):
                self.end_overdue(self.statement_timeout_s)
            raise
        except sa.exc.IntegrityError as error:
            raise Race(str(error.orig)) from error
        except sa.exc.DBAPIError as error:
            failure = self.database.classify(error)
            raise ConfigError(
                f"{name}: {failure.reason} ({failure.code}).",
                hint="No row was written yet: a trigger of the database itself (on CREATE TABLE) or of Waxwing's tables refuses "
                "it. Let it pass, or make the tables as a user for whom it does.",
            ) from error

    def end_overdue(self, seconds: float) -> None:
        """End sessions that hold Waxwing's positions for longer, where the server itself does not. Never raises."""
        with contextlib.suppress(Exception), self.engine.connect() as other:
            self.database.end_overdue(other, seconds)
