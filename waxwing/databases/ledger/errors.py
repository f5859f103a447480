"""A driver's errors as ours, of one target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa

from waxwing.databases import address
from waxwing.databases.base import Database
from waxwing.errors import WaxwingError
from waxwing.ledger.store import Race


@contextlib.contextmanager
def translated(database: Database, name: str, url_setting: str) -> Iterator[None]:
    """Errors of the driver as ours, of the target `name`, whose URL that setting gave.

    An error that blames a row comes out as SQLAlchemy's DBAPIError, for the caller to read.
    """
    try:
        yield
    except (WaxwingError, Race):
        raise
    except Exception as error:
        failure = database.classify(error)
        if address.was_connecting(error):
            failure = failure.of_connecting(database.dialect.name)
        if (ours := failure.error(name)) is not None:
            ours.hint = ours.hint.replace("DATABASE_URL", url_setting)
            raise ours from error
        if isinstance(error, sa.exc.DBAPIError):
            raise
        raise sa.exc.DBAPIError("", None, error) from error
