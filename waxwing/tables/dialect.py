"""Dialect: what one database holds and how it behaves, as far as rows have to be fitted to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Limits and habits of one database. No defaults: a new field makes every database answer."""

    name: str
    drivername: str  # of the SQLAlchemy URL, such as "postgresql+psycopg"
    backends: tuple[str, ...]  # the URL schemes (before any "+") that mean this database
    port_default: int | None  # where a server listens unless its URL says otherwise
    writers_max: int | None  # how many connections may write at once
    transaction_s: float  # about how long a transaction should take
    identifier_bytes_max: int
    identifier_refused: str  # characters that names can't have
    parameters_max: int  # bound parameters of one statement
    lock_wait_sql: str  # makes a session wait for locks so long at most ({seconds}, {milliseconds})
    text_prefix: str  # before the quotes of a literal of Unicode text
    locking_read: str  # what follows a table in a locking read, where it has no FOR UPDATE
    rename_column_sql: str  # of {table}, from {old} to {new}
    now_ms_sql: str  # the server's clock, epoch milliseconds
    text_nul: bool  # may text hold U+0000
    text_utf16: bool  # are lengths of text counted in UTF-16 units, of which characters beyond U+FFFF take two
    decimal_digits_max: int  # digits that a decimal column keeps exactly
    timezone_kept: bool  # does a zoned timestamp column keep the instant
    time_timezone_kept: bool  # is there a time of day with a zone
    float_nan: bool  # may a float be NaN
    float_infinity: bool  # may a float be infinite
    lengths_kept: bool  # are lengths, precisions and integer widths of columns enforced
    case_sensitive: bool  # are "id" and "ID" two columns
    collation_exact: str  # for people: a collation that takes no two texts for one (in SQL Server but for blanks at the end)
    upsert_sets_all: bool  # does an upsert set the key's columns as well, and read every column where it compares versions
    integer_key_automatic: bool  # does a single integer primary key without a default number itself
    # Whether a column of the type JSON keeps a number that stands alone, by its text; None: all of them
    json_number_kept: Callable[[str], bool] | None
    savepoints: bool  # does a transaction go on behind a refused statement, from a savepoint before it
    name_blanks_kept: bool  # are texts two that differ by blanks at the end alone, in the exact collation of Waxwing's own tables
    char_blanks_kept: bool  # does CHAR keep blanks at the end of a value that fills it
    times_are_text: bool  # are dates and times stored as text, so that a column of text is one of them
    untyped_columns: bool  # may a column have no type at all, and keep what it is given


# Memory keeps whatever Python has, as exactly as the most exact of the databases.
MEMORY = Dialect(
    name="memory",
    drivername="memory",
    backends=("memory",),
    port_default=None,
    writers_max=None,
    transaction_s=0.1,
    identifier_bytes_max=1_000,
    identifier_refused="",
    parameters_max=1_000_000,
    lock_wait_sql="",
    text_prefix="",
    locking_read="",
    rename_column_sql="",
    now_ms_sql="",
    text_nul=True,
    text_utf16=False,
    decimal_digits_max=1_000,
    timezone_kept=True,
    time_timezone_kept=True,
    float_nan=True,
    float_infinity=True,
    lengths_kept=True,
    case_sensitive=True,
    collation_exact="",
    upsert_sets_all=False,
    integer_key_automatic=True,
    json_number_kept=None,
    savepoints=False,
    name_blanks_kept=True,
    char_blanks_kept=True,
    times_are_text=False,
    untyped_columns=True,
)
