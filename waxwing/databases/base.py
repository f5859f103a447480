"""What a database is to Waxwing: a frozen description, an engine, and its bulk path. One file a database fills it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.databases.catalog import Found, Types
from waxwing.databases.refusals import Failure, of_python
from waxwing.errors import ConfigError

# A session that does nothing inside a transaction for so long is of a process that is frozen or gone: the server ends it.
IDLE_MAX_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Append:
    """Insert every row. A row that breaks a unique key is a bad row."""


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """Insert, or update the row of the same key.

    Args:
        keys: the key columns: a primary key or unique constraint of the table.
        newer_by: a column that must be greater than the stored row's (strictly) for the row to be written.
        delete_on_tombstone: a message with a key and a null value deletes the row of that key: the one that `parse` has
            decoded, or else the message's key, as UTF-8 text, in the single key column. Not together with `newer_by`.
    """

    keys: tuple[str, ...]
    newer_by: str | None = None
    delete_on_tombstone: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for what contradicts itself, whatever the target."""
        if self.delete_on_tombstone and self.newer_by:
            raise ConfigError("delete_on_tombstone takes no newer_by: a tombstone brings a key and no version.")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Insert, or merge into the row of the same key: for rows that are parts of a whole, such as totals of a batch.

    A null on one side gives the other side, as SQL's aggregates skip nulls. Columns that are named nowhere here are set to
    the new value. Sums are exact for integers and decimals; floats depend on the order in which they are added. A sum that
    its column can't hold makes a bad row.

    Args:
        keys: the key columns: a primary key or unique constraint of the table.
        add: numbers that become stored + new.
        least: numbers, dates or timestamps of which the smaller stays.
        greatest: those of which the greater stays.
        mean: column -> (sum, count), both among `add`: the database sets it to stored sum / stored count, rounded to the
            column's decimals, half away from zero; null where nothing was counted. Rows do not bring it. (SQLite divides
            floats, and may round what lies exactly between two values either way.)
    """

    keys: tuple[str, ...]
    add: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    greatest: tuple[str, ...] = ()
    mean: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def merged(self) -> tuple[str, ...]:
        """The columns that rows bring and that are merged."""
        return (*self.add, *self.least, *self.greatest)


# Modes with one row per key.
Keyed = Upsert | Merge
Mode = Append | Keyed


def keys_of(mode: Mode) -> tuple[str, ...]:
    """The key columns of a mode; none where every row is inserted."""
    return mode.keys if isinstance(mode, Keyed) else ()


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


class Nature(NamedTuple):
    """What the table in the database does with rows, as far as it matters for how they are written; asked once.

    keys_exact: keys are equal where Python says so: no collation, type or trigger takes two for one.
    rows_alone: what becomes of a row depends on rows of its own key alone: no trigger, no other unique key that two rows might
        share (but for the table's own numbers), no reference into the table itself.
    rows_numbered: it gives new rows numbers that they do not bring (a sequence, an identity). They may run out, and are drawn in
        the order in which the rows' keys came.
    """

    keys_exact: bool
    rows_alone: bool
    rows_numbered: bool


# Before anybody has asked.
UNASKED = Nature(keys_exact=False, rows_alone=False, rows_numbered=False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is written, decided once: the table, the columns that rows bring, the mode.

    `columns` are in the order of the row tuples. `touched` are columns that the database sets itself
    on update (SQLAlchemy `onupdate=func.now()`), rendered into the UPDATE part.
    """

    table: sa.Table
    columns: tuple[sa.Column[Any], ...]
    mode: Mode
    touched: tuple[sa.Column[Any], ...]
    nature: Nature = UNASKED

    @property
    def changed(self) -> set[str]:
        """Names of the columns that the statements set."""
        made = self.mode.mean if isinstance(self.mode, Merge) else ()
        return {*(column.name for column in (*self.columns, *self.touched)), *made}

    @property
    def keys(self) -> tuple[sa.Column[Any], ...]:
        """The key columns, as they are written; none where every row is inserted."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in keys_of(self.mode))


class Block(list[tuple[Any, ...]]):
    """Rows that are known by column as well: whoever checked them has turned them already, and that costs."""

    def __init__(self, rows: Iterable[tuple[Any, ...]], columns: Sequence[Sequence[Any]]) -> None:
        super().__init__(rows)
        self.columns = columns


def columns_of(rows: Sequence[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """Rows, by column."""
    return list(rows.columns) if isinstance(rows, Block) else list(zip(*rows, strict=True))


class Bulk(ABC):
    """The bulk path of one table over one connection. Called inside the caller's transaction.

    Errors of the driver come out as they are (or wrapped by SQLAlchemy); `Database.classify` reads them.
    """

    def hold(self, connection: sa.Connection) -> bool:  # noqa: ARG002 - most take back whatever they wrote
        """Keep the table from being altered until the transaction ends, and write nothing. False: writing does that, soon enough.

        Not where a rollback may leave rows in the table, by what it has become.
        """
        return False

    @abstractmethod
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Append, upsert or merge rows (column order of the plan), as if one after the other.

        Where keys are exact none comes twice. Else the table may take two for one ("a" and "A" under a collation that passes over
        capitals, blanks at the end), or two are equal: then the later row stands, or the newer one.
        """

    @abstractmethod
    def delete(self, connection: sa.Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        """Delete the rows of these keys, each a tuple in the order of the mode's keys."""

    def replace(
        self,
        connection: sa.Connection,
        rows: Sequence[tuple[Any, ...]],
        deletes: Sequence[tuple[Any, ...]],
        before: Sequence[int],
    ) -> None:
        """Delete and write what came in one order: `before[i]` of the rows stand before the i-th delete.

        Here in that order, run by run. Where nothing can tell, all deletes stand before all rows, and that is two runs.
        """
        done = 0
        for after, run in groupby(zip(before, deletes, strict=True), itemgetter(0)):
            if done < after:
                self.write(connection, rows[done:after])
            self.delete(connection, [key for _, key in run])
            done = after
        if done < len(rows):
            self.write(connection, rows[done:] if done else rows)


# Far above any message of Kafka's that is meant, and below what servers and drivers take (1 GB, of which escapes take half).
VALUE_BYTES_MAX = 256_000_000


class Need(NamedTuple):
    """A right on a table that is there; `columns`: those that it is needed for, none where it is one of whole rows."""

    right: str
    table: sa.Table
    columns: Sequence[sa.Column[Any]]


class Database(ABC):
    """One database product."""

    dialect: Dialect
    types: Types  # of the database's whole catalog
    # One text a session; None where the database does not know who holds its locks.
    blockers_sql: sa.TextClause | None = None

    @abstractmethod
    def engine(self, url: sa.URL, *, connect_timeout_s: float, lock_timeout_s: float, statement_timeout_s: float) -> sa.Engine:
        """An engine without a pool whose connections are READ COMMITTED and carry the server-side limits."""

    @abstractmethod
    def bulk(self, plan: Plan) -> Bulk:
        """The bulk path for a plan. Made once per connection (it may keep staging tables on it)."""

    def classify(self, error: BaseException) -> Failure:
        """What an error of the driver (or SQLAlchemy's wrapper of it) means."""
        cause = getattr(error, "orig", None) or error
        return self.of_driver(cause) or of_python(cause)

    @abstractmethod
    def of_driver(self, cause: BaseException) -> Failure | None:
        """What an error means that the driver raised; None if it did not. Codes that stand in no table are `unknown`."""

    @abstractmethod
    def columns(self, connection: sa.Connection, table: sa.Table) -> list[Found]:
        """The columns of an existing table, by the database's table of types."""

    def lock_schema(self, connection: sa.Connection) -> None:  # noqa: B027 - one writer at a time needs no lock
        """Let one process at a time make tables, until the end of the transaction."""

    def value_bytes_max(self, connection: sa.Connection) -> int:  # noqa: ARG002 - some have a limit of the connection
        """How many bytes of a dead letter's key, value and headers, or of a window's state, may stand in one statement."""
        return VALUE_BYTES_MAX

    def text_encoding(self, connection: sa.Connection) -> str | None:  # noqa: ARG002 - most hold all of Unicode
        """Python's name of the encoding of the database's texts, for what we write of our own; None: all of Unicode."""
        return None

    @abstractmethod
    def shape(self, connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        """What tells that the table was altered, in anything that a plan rests on, or that it is refused for. Empty: it is gone.

        Columns with their types and labels, constraints and unique keys, triggers, and whether it is kept through a crash.
        A cheap question, asked in every transaction that writes rows.
        """

    @abstractmethod
    def constrained(self, connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
        """The columns that a CHECK, unique or foreign key of the table looks at, as `Failure.constraint` names it.

        None: nobody knows, or others may say what stands there (triggers, generated columns); or it is of another table.
        """

    def check_deferred(self, connection: sa.Connection) -> None:  # noqa: B027 - most have no constraint that waits for COMMIT
        """Make deferred constraints speak now, before COMMIT; they go on to wait."""

    def blockers(self, connection: sa.Connection) -> str:
        """Who holds locks on Waxwing's tables now, for the message of a lock time-out; empty if unknown."""
        return "" if self.blockers_sql is None else "; ".join(connection.scalars(self.blockers_sql))

    def end_overdue(self, connection: sa.Connection, statement_timeout_s: float) -> None:  # noqa: B027 - most end them themselves
        """End sessions that hold Waxwing's positions beyond the statement time limit, where the server itself does not."""

    @abstractmethod
    def nature(self, connection: sa.Connection, plan: Plan) -> Nature:
        """What the existing table does with rows of this plan."""

    @abstractmethod
    def key_problems(self, connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
        """Why an upsert can't go by these columns of the existing table: what is unique on them, by name, and can't be gone by.

        Empty: it can. None: nothing unique is on them.
        """

    @abstractmethod
    def lacking(self, connection: sa.Connection, need: Need) -> Sequence[str] | None:
        """None where the user has the right; else the columns that it is missing for (all, where it is one of the table's)."""

    def more_needs(self, plan: Plan) -> Sequence[Need]:  # noqa: ARG002 - most have none
        """Rights that writing this plan needs beside those on its rows, once the table is known."""
        return ()

    def obstacles(self, connection: sa.Connection, need: Need) -> Sequence[str]:  # noqa: ARG002 - most have none
        """Why the server would refuse this all the same, as the table stands."""
        return ()

    @abstractmethod
    def refusals(self, connection: sa.Connection, table: sa.Table) -> list[str]:
        """Why this existing table can't be used exactly once (UNLOGGED, no transactions, ...). Empty: fine."""

    def refusals_of(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> list[str]:
        """The same for several tables; where each question costs, they are one."""
        return [why for table in tables for why in self.refusals(connection, table)]
