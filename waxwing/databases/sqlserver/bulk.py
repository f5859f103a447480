"""The bulk path of SQL Server: all rows as one JSON parameter, staged and merged in one request.

Never MERGE, which races and deadlocks. Measured on an orders row: 12 times plain executemany, 3 times fast_executemany,
at a sixth of the client's CPU. Where the server has no OPENJSON, or does not read binaries as hex, rows go through a
temporary table that fast_executemany fills (`waxwing_raw`); from there on it is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import sqlalchemy as sa
from typing_extensions import override

from waxwing.databases.base import Bulk
from waxwing.databases.refusals import encodes
from waxwing.databases.sqlserver import driver as sqlserver_driver
from waxwing.databases.sqlserver.columns import BINARY, NVARCHAR_MAX, StoredColumn, stored_columns
from waxwing.databases.sqlserver.errors import numbers
from waxwing.databases.sqlserver.sql import Statements
from waxwing.tables.modes import Append, Merge
from waxwing.tables.plan import Plan, columns_of

What = Literal["append", "upsert", "upsert_distinct", "replace", "merge", "merge_distinct"]
_DUPLICATE = {2601, 2627}
# Up to here pyodbc binds a text as it stands. Longer ones it would send in parts, which takes a request more.
_BOUND_BYTES_MAX = 1 << 30


@dataclass
class Abilities:
    """What the server can, found by trying when the first connection is made: the level that a server reports can mislead."""

    known: bool = False
    openjson: bool = False
    unescapes: bool = False  # else only JSON without backslashes is read as it was meant
    long_texts: bool = False  # else texts of JSON are cut at 4,000 characters
    binary_from_hex: bool = False

    def probe(self, connection: Any) -> None:
        """Ask over a connection of the driver, outside of any transaction."""
        for name, query in (
            ("openjson", "SELECT COUNT(*) FROM OPENJSON(N'[[1]]') WITH (n int '$[0]') WHERE n = 1"),
            ("unescapes", "SELECT COUNT(*) FROM OPENJSON(N'[[\"a\\\\b\"]]') WITH (v nvarchar(9) '$[0]') WHERE v = N'a\\b'"),
            (
                "long_texts",
                (
                    "DECLARE @long nvarchar(max) = REPLICATE(CAST(N'x' AS nvarchar(max)), 9000); SELECT COUNT(*) "
                    "FROM OPENJSON(N'[[\"' + @long + N'\"]]') WITH (v nvarchar(max) '$[0]') WHERE LEN(v) = 9000"
                ),
            ),
            ("binary_from_hex", "SELECT COUNT(*) WHERE CONVERT(varbinary(max), N'41', 2) = 0x41"),
        ):
            try:
                setattr(self, name, connection.execute(query).fetchval() == 1)
            except sqlserver_driver.load().Error:  # no such function, or syntax: an older server, or an older database level
                setattr(self, name, False)
            connection.rollback()
        self.known = True


class KeyRace(Exception):
    """Another writer inserted a key between our look and our insert: the transaction is to be tried again."""


class SQLServerBulk(Bulk):
    """Statements for one table over one connection; the table's own columns are looked up at the first write."""

    def __init__(self, plan: Plan, abilities: Abilities) -> None:
        self._plan, self._abilities = plan, abilities
        self._columns: list[StoredColumn] = []
        self._built: dict[bool, Statements] = {}
        self._through_raw = False  # also set by tests, to go the way of older servers
        self._cursors: dict[What, Any] = {}  # each with its statement prepared
        self._driver: Any = None  # the connection that they are of

    def _statements(self, connection: sa.Connection, *, raw: bool) -> Statements:
        if not self._columns:
            self._columns = stored_columns(connection, self._plan)
            binary = any(column.kind in BINARY for column in self._columns)
            self._through_raw |= not self._abilities.openjson or (binary and not self._abilities.binary_from_hex)
        raw |= self._through_raw
        if raw not in self._built:
            self._built[raw] = Statements(self._plan, self._columns, through_raw=raw)
        return self._built[raw]

    @override
    def write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        columns, numbers = columns_of(rows), range(len(rows))
        own = [numbers] if self._plan.nature.rows_numbered else []
        if isinstance(self._plan.mode, Append):
            self._run(connection, "append", len(own), [*own, *columns])
            return
        merges = isinstance(self._plan.mode, Merge)
        if self._is_distinct(connection, columns):
            self._upsert(connection, "merge_distinct" if merges else "upsert_distinct", len(own), [*own, *columns])
        else:
            self._upsert(connection, "merge" if merges else "upsert", 1, [numbers, *columns])

    def _is_distinct(self, connection: sa.Connection, columns: Sequence[Sequence[Any]]) -> bool:
        """Has each row a key of its own, by all that the table's columns pass over? False where only the server can tell."""
        keys = self._statements(connection, raw=False).keys
        compared = []
        for key in keys:
            if (values := key.compared(columns[self._columns.index(key)])) is None:
                return False
            compared.append(values)
        return len(set(zip(*compared, strict=True))) == len(columns[0])

    @override
    def delete(self, connection: sa.Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        self._replace(connection, [], keys, [0] * len(keys))

    @override
    def replace(
        self,
        connection: sa.Connection,
        rows: Sequence[tuple[Any, ...]],
        deletes: Sequence[tuple[Any, ...]],
        before: Sequence[int],
    ) -> None:
        if self._plan.nature.rows_alone and not self._plan.nature.rows_numbered:
            self._replace(connection, rows, deletes, before)
        else:
            super().replace(connection, rows, deletes, before)

    def _replace(
        self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]], deletes: Sequence[Any], before: Sequence[int]
    ) -> None:
        """All at once: of each key the last row stands, on which the deletes before it have had their effect."""
        keys = self._statements(connection, raw=False).keys
        # Where each column's value stands in a delete's key, None being its last and only.
        at = [keys.index(column) if column in keys else -1 for column in self._columns]
        # Their order is what counts: rows have odd numbers, so that a delete stands between two of them.
        gone = [
            (2 * after, 1, *((*values, None)[number] for number in at))
            for values, after in zip(deletes, before, strict=True)
            if all(key.holds(value) for key, value in zip(keys, values, strict=True))
        ]
        kept = [(2 * number + 1, 0, *row) for number, row in enumerate(rows)]
        if gone or kept:
            self._upsert(connection, "replace", 2, list(zip(*gone, *kept, strict=True)))

    def _upsert(self, connection: sa.Connection, what: What, own: int, values: Sequence[Sequence[Any]]) -> None:
        driver, duplicate = connection.connection.driver_connection, sqlserver_driver.load().IntegrityError
        assert driver is not None
        try:
            self._run(connection, what, own, values)
        except duplicate as error:
            if not _DUPLICATE.intersection(number for number, _ in numbers(str(error.args[-1]))):
                raise
            # The key of the upsert, by another writer's race, or another unique constraint? Once more tells: the other
            # writer has committed, since our insert waited for it, so its row is now updated and nothing is wrong.
            driver.rollback()
            try:
                self._run(connection, what, own, values)
            except duplicate:
                raise error from None
            finally:
                driver.rollback()
            raise KeyRace from error

    def _run(self, connection: sa.Connection, what: What, own: int, values: Sequence[Sequence[Any]]) -> None:
        """A statement over rows that are given as columns; the first `own` of them are integers of ours."""
        raw = self._through_raw
        statement: str = getattr(self._statements(connection, raw=raw), what)
        raw = self._through_raw  # known now
        payload = "" if raw else self._json(own, values)
        if not raw and not self._is_read(payload, values):
            raw, statement = True, getattr(self._statements(connection, raw=True), what)
        driver = connection.connection.driver_connection
        assert driver is not None
        if raw:
            with contextlib.closing(driver.cursor()) as cursor:  # (pyodbc's own way, `with cursor:`, would commit)
                self._fill_raw(cursor, own, values)
                cursor.execute(statement)
                _read_to_the_end(cursor)
            return
        cursor = self._prepared(driver, what)
        try:
            cursor.execute(statement, payload)  # the same text on the same cursor is prepared once
            _read_to_the_end(cursor)
        except BaseException:
            self._cursors.clear()
            raise

    def _prepared(self, driver: Any, what: What) -> Any:
        if self._driver is not driver:
            self._driver = driver
            self._cursors.clear()
            driver.maxwrite = _BOUND_BYTES_MAX
        if what not in self._cursors:
            self._cursors[what] = cursor = driver.cursor()
            cursor.setinputsizes([(sqlserver_driver.load().SQL_WVARCHAR, 0, 0)])  # nvarchar(max)
        return self._cursors[what]

    def _is_read(self, payload: str, values: Sequence[Sequence[Any]]) -> bool:
        """Does the server read this JSON as it was meant? Microsoft's own does always."""
        if not self._abilities.unescapes and "\\" in payload:
            return False
        return self._abilities.long_texts or not any(
            isinstance(value, str) and len(value) > NVARCHAR_MAX for each in values for value in each
        )

    @encodes
    def _json(self, own: int, values: Sequence[Sequence[Any]]) -> str:
        return orjson.dumps(list(zip(*self._encoded(own, values, as_json=True), strict=True))).decode()

    @encodes
    def _encoded(self, own: int, values: Sequence[Sequence[Any]], *, as_json: bool) -> list[Sequence[Any]]:
        encoders = [*[None] * own, *(column.encoder(as_json=as_json) for column in self._columns)]
        return [each if encode is None else encode(each) for encode, each in zip(encoders, values, strict=True)]

    def _fill_raw(self, cursor: Any, own: int, values: Sequence[Sequence[Any]]) -> None:
        binary = [*[False] * own, *(column.kind in BINARY for column in self._columns)]
        columns = [
            each if flag else [None if value is None else str(value) for value in each]
            for flag, each in zip(binary, self._encoded(own, values, as_json=False), strict=True)
        ]
        cursor.execute(Statements.make_raw(binary))
        cursor.fast_executemany = True
        # Told, so that the driver need not ask the server: it would do so with Python's lock in its hand.
        kinds = sqlserver_driver.load()
        cursor.setinputsizes([(kinds.SQL_VARBINARY if flag else kinds.SQL_WVARCHAR, 0, 0) for flag in binary])
        cursor.executemany(Statements.insert_raw(len(columns)), list(zip(*columns, strict=True)))


def _read_to_the_end(cursor: Any) -> None:
    while cursor.nextset():  # an error of a later statement shows only when its result is asked for
        pass
