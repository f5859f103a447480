"""The raw limits: a bare driver that writes the same rows into the same table, made ready beforehand.

`payload` turns rows into what the driver is given and is not timed; `insert` and `upsert` are one transaction each. Nothing is
decoded, checked or remembered, and the statements are the plainest of their kind. `along` are statements of the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import orjson
import psycopg
import pymysql
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from waxwing.databases import database_for
from waxwing.databases.mysql.literals import Literals
from waxwing.databases.postgresql.csv import COPY_OPTIONS, CopyCsv
from waxwing.databases.sqlite.database import CACHE_KIB, CHECKPOINT_PAGES
from waxwing.databases.sqlite.insert import INSERT_ROWS_MAX, ValuesBulk
from waxwing.tables.modes import Upsert
from waxwing.tables.plan import Plan, columns_of

Rows = Sequence[tuple[Any, ...]]
MYSQL_STATEMENT_BYTES_MAX = 8_000_000
_MSSQL: sa.Dialect = mssql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are not annotated


class Raw(Protocol):
    """A connection of the bare driver."""

    def payload(self, rows: Rows) -> Any: ...
    def insert(self, payload: Any) -> None: ...
    def upsert(self, payload: Any, along: Sequence[str] = ()) -> None: ...
    def close(self) -> None: ...


def _sets(plan: Plan, value: str) -> str:
    """What an upsert sets: `value` is what a column becomes, by its name; and what the table keeps of itself."""
    keys = {key.name for key in plan.keys}
    changed = [column.name for column in plan.columns if column.name not in keys]
    kept = [f"{column.name} = CURRENT_TIMESTAMP" for column in plan.touched]
    return ", ".join([*(f"{name} = {value.format(name)}" for name in changed), *kept])


def _names(plan: Plan) -> tuple[str, str, str]:
    """The table, its columns, its keys. (Names of ours, that need no quotes.)"""
    assert isinstance(plan.mode, Upsert)
    return plan.table.name, ", ".join(column.name for column in plan.columns), ", ".join(plan.mode.keys)


class PostgreSQLRaw:
    """COPY; for existing keys COPY into a temporary table and one INSERT .. ON CONFLICT."""

    def __init__(self, url: str, plan: Plan) -> None:
        self._connection = psycopg.connect(url)
        self._text = CopyCsv(plan.columns)
        table, columns, keys = _names(plan)
        self._copy = f"COPY {table} ({columns}) {COPY_OPTIONS}".encode()
        self._copy_stage = f"COPY stage ({columns}) {COPY_OPTIONS}".encode()
        self._merge = (
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM stage "
            f"ON CONFLICT ({keys}) DO UPDATE SET {_sets(plan, 'EXCLUDED.{}')}"
        ).encode()
        make = f"CREATE TEMP TABLE stage ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} WITH NO DATA"
        self._connection.execute(make.encode())
        self._connection.commit()

    def payload(self, rows: Rows) -> list[bytes]:
        return self._text.encode(rows)

    def insert(self, payload: list[bytes]) -> None:
        with self._connection.cursor().copy(self._copy) as copy:
            for part in payload:
                copy.write(part)
        self._connection.commit()

    def upsert(self, payload: list[bytes], along: Sequence[str] = ()) -> None:
        with self._connection.cursor() as cursor:
            with cursor.copy(self._copy_stage) as copy:
                for part in payload:
                    copy.write(part)
            cursor.execute(self._merge)
            for statement in along:
                cursor.execute(statement.encode())
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


class MySQLRaw:
    """INSERT of 5,000 rows of literals; for existing keys with ON DUPLICATE KEY UPDATE."""

    def __init__(self, url: str, plan: Plan) -> None:
        parts = sa.make_url(url)
        self._connection: Any = pymysql.connect(
            host=parts.host, port=parts.port or 3306, user=parts.username, password=parts.password or "", database=parts.database
        )
        self._literals = Literals(plan.columns)
        table, columns, _ = _names(plan)
        self._head = f"INSERT INTO {table} ({columns}) VALUES ".encode()
        self._tail = f" ON DUPLICATE KEY UPDATE {_sets(plan, 'VALUES({})')}".encode()

    def payload(self, rows: Rows) -> list[bytes]:
        step = max(1, min(5_000, MYSQL_STATEMENT_BYTES_MAX * len(rows) // len(self._literals.encode(rows))))
        return [self._literals.encode(rows[first : first + step]) for first in range(0, len(rows), step)]

    def insert(self, payload: list[bytes]) -> None:
        for lines in payload:
            self._connection.query(self._head + lines)
        self._connection.commit()

    def upsert(self, payload: list[bytes], along: Sequence[str] = ()) -> None:
        for lines in payload:
            self._connection.query(self._head + lines + self._tail)
        for statement in along:
            self._connection.query(statement)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


class SQLiteRaw:
    """INSERT of many rows of parameters, with Waxwing's own settings of the file (the defaults are half as fast)."""

    def __init__(self, url: str, plan: Plan) -> None:
        self._file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE_KIB}"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._bulk = ValuesBulk(plan)
        table, columns, keys = _names(plan)
        self._width = len(plan.columns)
        self._rows_max = min(INSERT_ROWS_MAX, 32_766 // self._width)
        self._head = f"INSERT INTO {table} ({columns}) VALUES "
        self._tail = f" ON CONFLICT ({keys}) DO UPDATE SET {_sets(plan, 'excluded.{}')}"

    def payload(self, rows: Rows) -> list[tuple[Any, ...]]:
        stored = self._bulk.stored(rows)
        steps = range(0, len(stored), self._rows_max)
        return [tuple(chain.from_iterable(stored[first : first + self._rows_max])) for first in steps]

    def insert(self, payload: list[tuple[Any, ...]]) -> None:
        self._write(payload, "")

    def upsert(self, payload: list[tuple[Any, ...]], along: Sequence[str] = ()) -> None:
        self._write(payload, self._tail, along)

    def _write(self, payload: list[tuple[Any, ...]], tail: str, along: Sequence[str] = ()) -> None:
        self._file.execute("BEGIN IMMEDIATE")
        one = f"({', '.join('?' * self._width)})"
        for values in payload:
            self._file.execute(self._head + ", ".join([one] * (len(values) // self._width)) + tail, values)
        for statement in along:
            self._file.execute(statement)
        self._file.execute("COMMIT")

    def close(self) -> None:
        self._file.close()


class SQLServerRaw:
    """All rows as one JSON parameter (the fastest way that pyodbc has); for existing keys staged, then UPDATE and INSERT."""

    def __init__(self, url: str, plan: Plan) -> None:
        self._engine = database_for(sa.make_url(url)).engine(
            sa.make_url(url), connect_timeout_s=10, lock_timeout_s=60, statement_timeout_s=600
        )
        self._connection: Any = self._engine.raw_connection()
        self._cursor = self._connection.cursor()
        self._json = [isinstance(column.type, sa.JSON) for column in plan.columns]
        table, columns, keys = _names(plan)
        types = [
            "nvarchar(max)" if json else column.type.compile(dialect=_MSSQL)
            for column, json in zip(plan.columns, self._json, strict=True)
        ]
        fields = ", ".join(
            f"{column.name} {kind} '$[{n}]'" for n, (column, kind) in enumerate(zip(plan.columns, types, strict=True))
        )
        source = f"SELECT {columns} FROM OPENJSON(?) WITH ({fields})"
        same = " AND ".join(f"t.{key} = s.{key}" for key in keys.split(", "))
        self._insert = f"SET NOCOUNT ON; INSERT INTO {table} ({columns}) {source}"
        self._upsert = (
            f"SET NOCOUNT ON; SELECT * INTO #stage FROM ({source}) AS j; "
            f"UPDATE t SET {_sets(plan, 's.{}')} FROM #stage AS s JOIN {table} AS t ON {same}; "
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM #stage AS s "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {same}); DROP TABLE #stage"
        )

    def payload(self, rows: Rows) -> str:
        columns = [
            [orjson.dumps(value).decode() for value in column] if json else column
            for column, json in zip(columns_of(rows), self._json, strict=True)
        ]
        return orjson.dumps(list(zip(*columns, strict=True)), default=str).decode()

    def insert(self, payload: str) -> None:
        self._run(self._insert, payload)

    def upsert(self, payload: str, along: Sequence[str] = ()) -> None:
        self._run(self._upsert, payload, along)

    def _run(self, statement: str, payload: str, along: Sequence[str] = ()) -> None:
        self._cursor.execute(statement, payload)
        while self._cursor.nextset():  # the error of a later statement shows when it is asked for
            pass
        for more in along:
            self._cursor.execute(more)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()
