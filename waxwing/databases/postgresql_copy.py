"""The bulk path of PostgreSQL: rows by COPY, straight into the table or through a staging table.

Measured on an orders row: straight COPY of new keys is 1.2 to 1.6 times as fast as staging. Where 1 % of each batch
exists, always trying the straight way halves the speed and doubles the table (dead rows); trying it ever more rarely costs 5 %.
Staging sorted by key is as fast as unsorted, and takes row locks in one order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import count
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from typing_extensions import override

from waxwing.databases.base import Bulk, Keyed, Merge, Plan, keys_of
from waxwing.databases.columns import kind_of
from waxwing.databases.merging import SPARE_DIGITS, Mean, means, quotients
from waxwing.databases.on_conflict import TARGET, collation, merged_values, on_conflict
from waxwing.databases.postgresql_csv import COPY_OPTIONS, SA_DIALECT, CopyCsv

# After a straight COPY met an existing key, so many writes go the staging way before the next trial; each
# trial that fails again (it costs a wasted COPY, and dead rows) doubles the number.
STAGING_WRITES_MIN = 16
STAGING_WRITES_MAX = 4_096

# Whatever the locale of the database: as Python compares, and faster than any locale.
_BY_CODE_POINT = '"C"'


class CopyBulk(Bulk):
    """COPY for one table over one connection.

    The staging table is a temporary one, so that it needs no clearing up after a crash, and ON COMMIT DELETE ROWS, so
    that it costs no dead rows: emptied by truncation when the transaction ends. IF NOT EXISTS in every transaction,
    since one that is rolled back may have made it.
    """

    def __init__(self, plan: Plan) -> None:
        names = SA_DIALECT.identifier_preparer
        self._format = CopyCsv(plan.columns)
        self._key = plan.table.c[plan.mode.keys[0]] if isinstance(plan.mode, Keyed) else None
        table = names.format_table(plan.table)
        columns = ", ".join(names.quote(column.name) for column in plan.columns)
        self._copy_table = f"COPY {table} ({columns}) {COPY_OPTIONS}".encode()
        # COPY can't calculate: where there are means, rows are always staged.
        self._staging_left = math.inf if means(plan.table, plan.mode) else 0
        self._staging_writes = STAGING_WRITES_MIN
        if isinstance(plan.mode, Keyed):
            self._stage = stage = f"pg_temp.waxwing_stage_{zlib.crc32(f'{table}({columns})'.encode()):08x}"
            self._copy_stage = f"COPY {stage} ({columns}) {COPY_OPTIONS}".encode()
            # One round trip. The DELETE is for a second write in one transaction; usually there is nothing to delete.
            self._make_stage = (
                f"CREATE TEMP TABLE IF NOT EXISTS {stage.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS "  # noqa: S608 - names are quoted
                f"AS SELECT {columns} FROM {table} WITH NO DATA; DELETE FROM {stage}"
            ).encode()
            self._merge: bytes | None = _merge(plan, stage).encode()
        else:
            self._merge = None

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        data = self._format.encode(rows)
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            if self._merge is None:
                _copy(cursor, self._copy_table, data)
            elif self._staging_left > 0 or not self._straight(cursor, data):
                self._staging_left -= 1
                cursor.execute(self._make_stage)
                _copy(cursor, self._copy_stage, data)
                self._merge_stage(cursor, self._merge)

    def _merge_stage(self, cursor: psycopg.Cursor[Any], statement: bytes) -> None:
        cursor.execute(statement)

    def _straight(self, cursor: psycopg.Cursor[Any], data: Sequence[bytes]) -> bool:
        """Try to COPY into the table itself; False, with nothing written, when a key exists."""
        cursor.execute(b"SAVEPOINT waxwing_copy")
        try:
            _copy(cursor, self._copy_table, data)
        except psycopg.errors.UniqueViolation:
            cursor.execute(b"ROLLBACK TO SAVEPOINT waxwing_copy")
            self._staging_left = self._staging_writes
            self._staging_writes = min(2 * self._staging_writes, STAGING_WRITES_MAX)
            return False
        cursor.execute(b"RELEASE SAVEPOINT waxwing_copy")
        self._staging_writes = STAGING_WRITES_MIN
        return True

    @override
    def delete(self, connection: sa.Connection, keys: Sequence[Any]) -> None:
        if not keys or self._key is None:
            return
        # An array of unbounded text: a cast to varchar(n) would cut a key, and delete another row.
        kind = sa.Text() if kind_of(self._key) == "text" else self._key.type
        values = sa.bindparam("keys", list(keys), type_=postgresql.ARRAY(kind))
        connection.execute(sa.delete(self._key.table).where(self._key == sa.any_(values)))


class MergeBulk(CopyBulk):
    """COPY, and merging from the staging table.

    Keys that Python tells apart may be one here (citext, a collation that passes over capitals). A statement can't merge two
    rows into one; so these go one after the other, in as many rounds as there are spellings of a key.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        assert self._merge is not None
        assert isinstance(plan.mode, Merge)
        self._folds = False  # have such keys come?
        self._plan = plan
        self._merge = b"SAVEPOINT waxwing_merge; %b; RELEASE SAVEPOINT waxwing_merge" % self._merge

    @override
    def _merge_stage(self, cursor: psycopg.Cursor[Any], statement: bytes) -> None:
        if not self._folds:
            try:
                cursor.execute(statement)
                return
            except psycopg.errors.CardinalityViolation:
                cursor.execute(b"ROLLBACK TO SAVEPOINT waxwing_merge")
                self._folds = True
        for number in count(1):
            cursor.execute(self._of_round(number))
            if not cursor.rowcount:
                return

    def _of_round(self, number: int) -> bytes:
        keys = ", ".join(SA_DIALECT.identifier_preparer.quote(key) for key in keys_of(self._plan.mode))
        numbered = f"*, row_number() OVER (PARTITION BY {keys} ORDER BY ctid) AS waxwing_round"
        rows = f"(SELECT {numbered} FROM {self._stage}) AS waxwing_rounds WHERE waxwing_round = {number}"  # noqa: S608 - quoted
        return _merge(self._plan, rows).encode()


def _copy(cursor: psycopg.Cursor[Any], statement: bytes, data: Sequence[bytes]) -> None:
    with cursor.copy(statement) as copy:
        for part in data:
            copy.write(part)


def _merge(plan: Plan, source: str) -> str:
    """INSERT .. SELECT .. ON CONFLICT, from the staging table."""
    quote, mode = SA_DIALECT.identifier_preparer.quote, plan.mode
    assert isinstance(mode, Keyed)
    names = [quote(column.name) for column in plan.columns]
    values, merged = list(names), None
    if isinstance(mode, Merge):
        merged = merged_values(plan, mode, SA_DIALECT, lambda _, total: total, _mean)
        names += map(quote, mode.mean)
        values += [_mean(mean, quote(mean.total.name), quote(mean.number.name)) for mean in quotients(plan)]
    # In one order, so that two writers of the same keys wait for each other instead of deadlocking.
    order = ", ".join(f"{quote(key)}{collation(plan.table.c[key], _BY_CODE_POINT)}" for key in mode.keys)
    conflict = on_conflict(plan, mode, SA_DIALECT, by_code_point=_BY_CODE_POINT, merged=merged)
    table = SA_DIALECT.identifier_preparer.format_table(plan.table)
    return (
        f"INSERT INTO {table} AS {TARGET} ({', '.join(names)}) OVERRIDING SYSTEM VALUE "  # noqa: S608 - names are quoted
        f"SELECT {', '.join(values)} FROM {source} ORDER BY {order} {conflict}"
    )


def _mean(mean: Mean, total: str, number: str) -> str:
    if mean.floats:
        return f"CAST({total} AS double precision) / nullif({number}, 0)"
    # The zeros say how many digits the quotient gets.
    return f"({total} + 0.{'0' * (mean.decimals + SPARE_DIGITS)}) / nullif({number}, 0)"
