"""What the refusals of databases mean: the kinds that all of them share, and the error that each kind becomes.

Each database has one table, from its vendor's own list of codes. What stands in none is `unknown`: it stops the flow with the
code and what to do, and blames no row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import sqlalchemy as sa

from waxwing.errors import ConfigError, RightsError, TableError, TargetError, TransientError, TryLater, WaxwingError, is_disk_full

Kind = Literal[
    "transient",  # the same may succeed soon: it is tried again, bounded
    "later",  # somebody has to make room, or mend the server's disk or memory, before it can succeed
    "row",  # a row is to blame: it is looked for, and becomes a dead letter
    "table",  # the table, or what hangs on it, does not take what the flow brings; it may have changed since the start
    "permission",  # a right is missing
    "config",  # login, address, options, the server's version or settings
    "statement",  # a statement of ours is wrong: a bug
    "unknown",  # stands in no table
]

LOCKED = "Another session holds the lock."
DEADLOCK = "Another session waited for this one, and this one for it: one of the two had to give way."

# What to do, where a code has no hint of its own.
HINTS: Mapping[Kind, str] = {
    "transient": "It may pass by itself: the next start goes on from the stored positions.",
    "later": "Nothing was written. See the server's log, mend that, and start again: the flow goes on from the stored positions.",
    "row": "The row becomes a dead letter.",
    "table": "Nothing was written. Compare the table, its triggers and constraints with the flow's Table, then start again.",
    "permission": "Grant it, then start again.",
    "config": "Check DATABASE_URL, and the server's settings.",
    "statement": "This is a bug of Waxwing: please report it, with the code. Nothing was written.",
    "unknown": "Waxwing does not know this code, and so it stops and blames no row. Look it up in the database's own list, "
    "mend its cause, and start again: nothing was written, and the flow goes on from the stored positions.",
}
DISK_HINT = "Free disk space on the database server, then start again: the flow goes on from the stored positions."
ADDRESS_HINT = "Check host and port in DATABASE_URL."
DAMAGED_HINT = "It is damaged: let the database check and repair it, or restore a copy."


class Failure(NamedTuple):
    """What an error of the driver means.

    `code` is the vendor's own. `column`: the column that takes no null, of a row's error that names it (of a column that the
    flow does not bring it is the table's fault). `constraint`: the CHECK or key that refuses the row, likewise.
    """

    kind: Kind
    code: str
    reason: str
    hint: str = ""
    too_large: bool = False  # a smaller transaction may do
    column: str = ""
    constraint: str = ""

    @property
    def locked(self) -> bool:
        """Did it wait for another session's lock in vain?"""
        return self.hint == LOCKED

    @property
    def contended(self) -> bool:
        """Are others in its way, who are less so the fewer rows it locks?"""
        return self.hint in (LOCKED, DEADLOCK)

    def of_connecting(self, product: str) -> Failure:
        """The same, met before anything could be asked: what answers in no way that is known is another server than was meant."""
        kind: Kind = self.kind if self.kind in ("transient", "later", "permission") else "config"
        return self._replace(kind=kind, hint=self.hint or f"{ADDRESS_HINT} Does {product} listen there?")

    def error(self, name: str) -> WaxwingError | None:
        """The error to raise, of the target `name`; None for a row's."""
        message, hint = f"{name}: {self.reason} ({self.code}).", self.hint or HINTS[self.kind]
        if self.kind == "transient":
            return TransientError(message, hint=hint, too_large=self.too_large, locked=self.locked, contended=self.contended)
        kinds: dict[Kind, type[WaxwingError]] = {
            "later": TryLater,
            "table": TableError,
            "permission": RightsError,
            "statement": TargetError,
        }
        return None if self.kind == "row" else kinds.get(self.kind, ConfigError)(message, hint=hint)


class Meaning(NamedTuple):
    """A line of a vendor's table."""

    kind: Kind
    hint: str = ""
    too_large: bool = False

    def failure(self, code: object, reason: str) -> Failure:
        """The failure of this meaning."""
        return Failure(self.kind, str(code), " ".join(reason.split()), self.hint, self.too_large)


UNKNOWN = Meaning("unknown")


class BadValue(Exception):
    """A value that can't be written as its column's type asks: its row is to blame."""


def of_python(cause: BaseException) -> Failure:
    """What an error means that is none of the driver's."""
    code, reason = type(cause).__name__, str(cause)
    if isinstance(cause, BadValue):
        return Failure("row", code, reason)
    if isinstance(cause, UnicodeEncodeError):
        return Failure("row", code, "text that is no Unicode, or that the column's character set lacks")
    if isinstance(cause, sa.exc.PendingRollbackError):  # SQLAlchemy has seen the connection end, and says so of every later call
        return Failure("transient", code, reason)
    if is_disk_full(cause):
        return Failure("later", code, reason, DISK_HINT)
    if isinstance(cause, sa.exc.CompileError | sa.exc.ArgumentError | sa.exc.NoSuchModuleError):
        return Failure("table", code, reason, "The flow's Table says something that this database has no words for: correct it.")
    return Failure("statement", code, reason)


P = ParamSpec("P")
T = TypeVar("T")


def encodes(call: Callable[P, T]) -> Callable[P, T]:
    """For what turns rows into what the driver sends: an error blames a row, never the options of the URL or the server."""

    @functools.wraps(call)
    def encoded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except UnicodeEncodeError:
            raise
        except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            raise BadValue(f"{type(error).__name__}: {error}") from error

    return encoded
