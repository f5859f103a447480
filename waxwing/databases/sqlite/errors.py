"""What the result codes of SQLite mean, extended ones included: https://www.sqlite.org/rescode.html."""

from __future__ import annotations

import re
import sqlite3

from waxwing.databases.refusals import DAMAGED_HINT, UNKNOWN, Failure, Meaning

_BUSY = Meaning("transient", "Another process writes to the file.")
_READONLY = Meaning(
    "permission", "The user of this process must be able to write the file and its folder (where -wal and -shm files are made)."
)
_OPEN = Meaning("permission", "The folder must exist, and this process be able to write the file and into the folder.")
_FULL = Meaning(
    "later",
    "Free disk space (or raise the quota, or PRAGMA max_page_count) where the file is, then start again: the flow goes on from "
    "the stored positions. A table with AUTOINCREMENT says the same when its numbers are at their end.",
)
_DISK = Meaning("later", "The file can't be read or written: look at its disk, and whether that is full; then start again.")
_DAMAGED = Meaning("table", f"{DAMAGED_HINT} (PRAGMA integrity_check.)")
_BUG = Meaning("statement")

# An extended code (the primary one in its lowest eight bits) wins over its primary one.
CODES: dict[int, Meaning] = {
    sqlite3.SQLITE_ERROR: Meaning("table"),  # no such table or column; and much else: see _TEXTS
    sqlite3.SQLITE_INTERNAL: Meaning("later", "An error within SQLite: check the disk and the file (PRAGMA integrity_check)."),
    sqlite3.SQLITE_PERM: _READONLY,
    sqlite3.SQLITE_ABORT: Meaning("transient"),
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_NOMEM: Meaning("transient"),
    sqlite3.SQLITE_READONLY: _READONLY,
    sqlite3.SQLITE_READONLY_DBMOVED: Meaning("config", "The file was moved or deleted meanwhile: put it back, or start again."),
    sqlite3.SQLITE_INTERRUPT: Meaning("transient", too_large=True),
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_IOERR_NOMEM: Meaning("transient"),
    sqlite3.SQLITE_IOERR_BLOCKED: _BUSY,
    sqlite3.SQLITE_IOERR_LOCK: _DISK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTFOUND: _BUG,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CANTOPEN: _OPEN,
    sqlite3.SQLITE_PROTOCOL: Meaning("transient"),  # a race for the locks of the write-ahead log
    sqlite3.SQLITE_EMPTY: _BUG,
    sqlite3.SQLITE_SCHEMA: Meaning("transient"),  # the schema changed under the statement
    sqlite3.SQLITE_TOOBIG: Meaning("row"),
    sqlite3.SQLITE_CONSTRAINT: Meaning("row"),
    sqlite3.SQLITE_MISMATCH: Meaning("row"),
    sqlite3.SQLITE_MISUSE: _BUG,
    sqlite3.SQLITE_NOLFS: Meaning("later", "The file has reached what its file system takes: move it to another one."),
    sqlite3.SQLITE_AUTH: Meaning("permission"),
    sqlite3.SQLITE_FORMAT: _BUG,
    sqlite3.SQLITE_RANGE: _BUG,
    sqlite3.SQLITE_NOTADB: Meaning("config", "The file is no SQLite database: choose another one."),
    sqlite3.SQLITE_NOTICE: _BUG,
    sqlite3.SQLITE_WARNING: _BUG,
}

# SQLITE_ERROR says everything that has no code of its own, so that its text must tell.
_TEXTS = (
    # What a CHECK, a generated column or a trigger makes of a row's values.
    (re.compile(r"malformed JSON|JSON (cannot|path)|integer overflow|out of range|regexp|LIKE or GLOB"), Meaning("row")),
    (re.compile(r"syntax error|incomplete input|unrecognized token|wrong number of arguments"), _BUG),
    (re.compile(r"no such savepoint|no transaction is active|within a transaction"), Meaning("transient")),
)
FOREIGN_KEY = "the foreign key"  # which of them, it does not say
_CHECK = re.compile(r"CHECK constraint failed: (.*)", re.DOTALL)
_UNIQUE = re.compile(r"UNIQUE constraint failed: (?!index )(.*)", re.DOTALL)
_NULL = re.compile(r"NOT NULL constraint failed: .*\.([^.]+)$")


def meaning(code: int) -> Meaning:
    """What a result code means."""
    return CODES.get(code) or CODES.get(code & 0xFF) or UNKNOWN


def failure_of(cause: BaseException) -> Failure | None:
    """What an error of the standard library's module means; None if it is another's."""
    if isinstance(cause, OverflowError | sqlite3.DataError) and not hasattr(cause, "sqlite_errorcode"):
        return Failure("row", type(cause).__name__, str(cause))
    if not isinstance(cause, sqlite3.Error):
        return None
    code, text = getattr(cause, "sqlite_errorcode", None), str(cause)
    if code is None:
        # The module's own: of a closed connection, or of a value that it can't bind.
        own = Meaning("transient") if "closed" in text else Meaning("row") if "binding parameter" in text else UNKNOWN
        return own.failure(type(cause).__name__, text)
    found = meaning(code)
    if code == sqlite3.SQLITE_ERROR:
        found = next((told for pattern, told in _TEXTS if pattern.search(text)), found)
    null = _NULL.search(text) if code == sqlite3.SQLITE_CONSTRAINT_NOTNULL else None
    check = _CHECK.search(text) if code == sqlite3.SQLITE_CONSTRAINT_CHECK else _UNIQUE.search(text)
    constraint = FOREIGN_KEY if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY else check[1] if check else ""
    return found.failure(cause.sqlite_errorname, text)._replace(column=null[1] if null else "", constraint=constraint)
