"""The error tree, split by what the caller has to do.

WaxwingError
├── ConfigError       a setting, a table or a permission is wrong                     exit 78
│   ├── TableError        the database's table does not take what the flow brings
│   └── RightsError       a right is missing
├── TransientError    try again, bounded                                              exit 75
│   └── TableAltered      the table was altered while the flow runs
├── RowError          some rows can't be stored: they go to the dead letters
└── StopError         stop; nothing of the current transaction was written
    ├── TargetError   the target refuses what should be right: a bug                  exit 70
    ├── TryLater      no room: somebody has to mend that, the data waits              exit 75
    ├── DataError     the data and the stored positions do not fit                    exit 65
    │   ├── OffsetGap       a batch does not follow the one before it
    │   ├── DataLoss        the log no longer, or not yet, holds the stored position
    │   └── BadRowsLimit    too many bad rows: the table or the producer is wrong
    └── Fenced        another owner has the positions                                 exit 76
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from waxwing.secrets import scrub

# Exit codes: sysexits.h where it has one (65 EX_DATAERR, 70 EX_SOFTWARE, 75 EX_TEMPFAIL,
# 78 EX_CONFIG); 76 is ours (EX_PROTOCOL there).
EXIT_OK = 0
EXIT_DATA = 65
EXIT_BUG = 70
EXIT_TRY_AGAIN = 75
EXIT_FENCED = 76
EXIT_CONFIG = 78


class WaxwingError(Exception):
    """Base of all errors of Waxwing.

    `hint` says what to do. `context` holds what it concerns (step, topic, partition, offsets);
    it never holds a password. Errors pickle: they cross processes.
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.__dict__))

    def __str__(self) -> str:
        return scrub(f"{self.message} {self.hint}".rstrip())


def _rebuild(cls: type[WaxwingError], message: str, state: dict[str, Any]) -> WaxwingError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(WaxwingError):
    """A setting, a table, a name or a permission is wrong: the flow can't start, or go on."""

    exit_code = EXIT_CONFIG


class TableError(ConfigError):
    """The database's table, or what hangs on it, does not take what the flow brings; it may have changed since the start."""


class RightsError(ConfigError):
    """A right is missing: on a table, a schema, a file."""


class TransientError(WaxwingError):
    """The same call may succeed later: connection lost, deadlock, lock time-out, broker away.

    `committing`: the outcome of a COMMIT is unknown. `too_large`: a smaller transaction may do. `locked`: others hold locks.
    `contended`: others are in the way, by locks or a deadlock.
    """

    exit_code = EXIT_TRY_AGAIN

    def __init__(
        self,
        message: str,
        *,
        committing: bool = False,
        too_large: bool = False,
        locked: bool = False,
        contended: bool = False,
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.committing = committing
        self.too_large = too_large
        self.locked = locked
        self.contended = contended


class TableAltered(TransientError):
    """The table is no longer as it was when it was looked at: a new session looks at it again."""


class RowError(WaxwingError):
    """Rows that the target can't take.

    `bad` maps the row's number (0-based, counted over the records of all batches of the
    change) to the reason; empty when the target only knows that some row is bad.
    """

    exit_code = EXIT_DATA

    def __init__(self, message: str, *, bad: Mapping[int, str] | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.bad = dict(bad or {})


class StopError(WaxwingError):
    """Stop the flow; nothing of the current transaction was written."""


class TargetError(StopError):
    """The target refuses, and neither time nor a row is to blame."""


class TryLater(StopError):
    """The target has no room (a full disk, a quota), or can't read its own files: somebody has to mend that first."""

    exit_code = EXIT_TRY_AGAIN


class DataError(StopError):
    """The data and the stored positions do not fit."""

    exit_code = EXIT_DATA


class OffsetGap(DataError):
    """A batch does not start where the batch before it, or the stored position, ended."""


class DataLoss(DataError):
    """The log's start has passed the stored position, its end lies below it, or the topic is a new one."""


class BadRowsLimit(DataError):
    """More bad rows than the limits allow."""


class Fenced(StopError):
    """Another owner has taken, or holds, the positions."""

    exit_code = EXIT_FENCED


def is_disk_full(error: BaseException) -> bool:
    """Does the operating system say that there is no room, or no more of a quota?"""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
