"""The bulk path of PostgreSQL: rows by COPY, straight into the table or through a staging table.

Measured on an orders row: straight COPY of new keys is 1.2 to 1.6 times as fast as staging. Where 1 % of each batch
exists, always trying the straight way halves the speed and doubles the table (dead rows); trying it ever more rarely costs 5 %.
Staging sorted by key is as fast as unsorted, and takes row locks in one order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import Bulk
from waxwing.databases.postgresql import catalog
from waxwing.databases.postgresql.csv import COPY_OPTIONS, SA_DIALECT, CopyCsv
from waxwing.databases.postgresql.errors import failure_of
from waxwing.databases.postgresql.upsert import NUMBER, Staged
from waxwing.errors import ConfigError
from waxwing.tables.merging import means
from waxwing.tables.modes import Keyed
from waxwing.tables.plan import Plan

# After a straight COPY met an existing key, so many writes go the staging way before the next trial; each
# trial that fails again (it costs a wasted COPY, and dead rows) doubles the number.
STAGING_WRITES_MIN = 16
STAGING_WRITES_MAX = 4_096
# So few values go in one INSERT: a COPY takes two round trips, a staging table five.
FEW_VALUES_MAX = 400

Row = tuple[Any, ...]


class CopyBulk(Bulk):
    """COPY for one table over one connection."""

    def __init__(self, plan: Plan) -> None:
        self._plan, nature = plan, plan.nature
        self._format = CopyCsv(plan.columns)
        self._copy_table = _copy_into(SA_DIALECT.identifier_preparer.format_table(plan.table), plan.columns)
        # COPY can't calculate, and draws a number for a row that is there already.
        always = means(plan.table, plan.mode) or nature.rows_numbered
        self._staging_left = math.inf if always else 0
        self._staging_writes = STAGING_WRITES_MIN
        self._staged: Staged | None = None
        self._few: tuple[str, str] | None = None
        if isinstance(plan.mode, Keyed):
            self._staged = staged = Staged(plan, plan.mode)
            numbered = (NUMBER, *plan.columns) if staged.numbered else plan.columns
            self._stage_format, self._copy_stage = CopyCsv(numbered), _copy_into(staged.rows, numbered)
            gone = (NUMBER, *plan.keys)
            self._gone_format, self._copy_gone = CopyCsv(gone), _copy_into(staged.gone, gone)
            self._one_by_one = False  # have keys come that only a trigger makes one?
            self._few = staged.around_values

    @override
    def write(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        if not rows:
            return
        driver = connection.connection.driver_connection
        assert driver is not None
        try:
            with driver.cursor() as cursor:
                if self._few and len(rows) * len(self._plan.columns) <= FEW_VALUES_MAX:
                    cursor.execute(*_inserting(self._few, self._format.values(rows)))
                elif self._staged is None:
                    _copy(cursor, self._copy_table, self._format.encode(rows))
                elif self._staging_left > 0 or not self._straight(cursor, self._format.encode(rows)):
                    self._staging_left -= 1
                    self._stage(cursor, self._staged, rows)
                    self._merge(cursor, self._staged)
        except psycopg.errors.NumericValueOutOfRange as error:
            self._look_at_sequences(connection, error)
            raise

    @override
    def delete(self, connection: sa.Connection, keys: Sequence[Row]) -> None:
        self._delete(connection, keys, [0] * len(keys))

    @override
    def replace(self, connection: sa.Connection, rows: Sequence[Row], deletes: Sequence[Row], before: Sequence[int]) -> None:
        nature, staged = self._plan.nature, self._staged
        if nature.keys_exact or not nature.rows_alone or nature.rows_numbered or not rows or staged is None:
            super().replace(connection, rows, deletes, before)
            return
        # Only the server knows which of them are of one key: rows have odd numbers, so that a delete stands between two.
        driver = connection.connection.driver_connection
        assert driver is not None
        self._delete(connection, deletes, [2 * number for number in before])
        with driver.cursor() as cursor:
            self._stage(cursor, staged, rows)
            _saved(cursor, staged.merge_left, staged.left_one_by_one)

    def _stage(self, cursor: psycopg.Cursor[Any], staged: Staged, rows: Sequence[Row]) -> None:
        _make(cursor, staged.make_rows)
        if staged.numbered:
            rows = _numbered(range(1, 2 * len(rows), 2), rows)
        _copy(cursor, self._copy_stage, self._stage_format.encode(rows))

    def _merge(self, cursor: psycopg.Cursor[Any], staged: Staged) -> None:
        if not staged.folds:
            cursor.execute(staged.merge)
        elif self._one_by_one:
            cursor.execute(staged.one_by_one)
        else:
            self._one_by_one = not _saved(cursor, staged.merge, staged.one_by_one)

    def _straight(self, cursor: psycopg.Cursor[Any], data: Sequence[bytes]) -> bool:
        """Try to COPY into the table itself; False, with nothing written, when a key exists."""
        cursor.execute(b"SAVEPOINT waxwing_copy")
        try:
            _copy(cursor, self._copy_table, data)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            cursor.execute(b"ROLLBACK TO SAVEPOINT waxwing_copy")
            self._staging_left = self._staging_writes
            self._staging_writes = min(2 * self._staging_writes, STAGING_WRITES_MAX)
            return False
        cursor.execute(b"RELEASE SAVEPOINT waxwing_copy")
        self._staging_writes = STAGING_WRITES_MIN
        return True

    def _delete(self, connection: sa.Connection, keys: Sequence[Row], numbers: Sequence[int]) -> None:
        if not keys or self._staged is None:
            return
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            _make(cursor, self._staged.make_gone)
            _copy(cursor, self._copy_gone, self._gone_format.encode(_numbered(numbers, keys)))
            cursor.execute(self._staged.delete)

    def _look_at_sequences(self, connection: sa.Connection, error: psycopg.Error) -> None:
        """A number beyond a column's range, where the rows have been checked: one that a sequence drew?"""
        if not self._plan.nature.rows_numbered:
            return
        with connection.engine.connect() as other:
            if passed := catalog.passed_its_end(other, self._plan):
                raise ConfigError(
                    f"Table {self._plan.table.fullname}: the numbers have run out: {passed}.",
                    hint="ALTER TABLE ... ALTER COLUMN ... TYPE bigint, then start again. Nothing was written.",
                ) from error


class MergeBulk(CopyBulk):
    """COPY, and merging from the staging table.

    Keys that Python tells apart may be one here (citext, a collation that passes over capitals). A statement can't merge two
    rows into one; so these go one after the other, in as many rounds as there are spellings of a key.
    """

    @override
    def _merge(self, cursor: psycopg.Cursor[Any], staged: Staged) -> None:
        if not staged.folds or self._one_by_one:
            super()._merge(cursor, staged)
            return
        cursor.execute(b"%b; SAVEPOINT waxwing_merge" % staged.rounds)
        [(rounds,)] = cursor.fetchall()
        try:
            for number in range(1, rounds + 1):
                cursor.execute(staged.round(number) if rounds > 1 else staged.merge)
        except psycopg.errors.CardinalityViolation:
            cursor.execute(b"ROLLBACK TO SAVEPOINT waxwing_merge")
            cursor.execute(staged.one_by_one)
            self._one_by_one = True
        cursor.execute(b"RELEASE SAVEPOINT waxwing_merge")


def _make(cursor: psycopg.Cursor[Any], statement: bytes) -> None:
    """Make a staging table: no row is to blame where that is refused."""
    try:
        cursor.execute(statement)
    except psycopg.Error as error:
        failure = failure_of(error)
        if failure.kind != "row":
            raise
        raise ConfigError(
            f"No temporary table can be made, which rows go through: {failure.reason} ({failure.code}).",
            hint="An event trigger of the database refuses it: let it pass temporary tables. Nothing was written.",
        ) from error


def _saved(cursor: psycopg.Cursor[Any], statement: bytes, otherwise: bytes) -> bool:
    """Run a statement; or another one, and give False, where the server finds that two rows of it meet the same stored row."""
    try:
        cursor.execute(b"SAVEPOINT waxwing_merge; %b; RELEASE SAVEPOINT waxwing_merge" % statement)
    except psycopg.errors.CardinalityViolation:
        cursor.execute(b"ROLLBACK TO SAVEPOINT waxwing_merge")
        cursor.execute(b"%b; RELEASE SAVEPOINT waxwing_merge" % otherwise)
        return False
    return True


def _inserting(around: tuple[str, str], rows: Sequence[Sequence[str | None]]) -> tuple[bytes, list[str | None]]:
    """The statement with so many rows, and their values."""
    row = f"({', '.join(['%s'] * len(rows[0]))})"
    statement = f"{around[0]} {', '.join([row] * len(rows))} {around[1]}"
    return statement.encode(), [value for values in rows for value in values]


def _numbered(numbers: Sequence[int], rows: Sequence[Row]) -> list[Row]:
    return [(number, *row) for number, row in zip(numbers, rows, strict=True)]


def _copy_into(table: str, columns: Sequence[sa.Column[Any]]) -> bytes:
    names = ", ".join(SA_DIALECT.identifier_preparer.quote(column.name) for column in columns)
    return f"COPY {table} ({names}) {COPY_OPTIONS}".encode()


def _copy(cursor: psycopg.Cursor[Any], statement: bytes, data: Sequence[bytes]) -> None:
    with cursor.copy(statement) as copy:
        for part in data:
            copy.write(part)
