"""The T-SQL of the bulk path, made once per table: readable, and recorded in tests/waxwing/databases/sqlserver.sql."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from waxwing.databases.merging import MeanColumn, becomes, quotients
from waxwing.databases.sqlserver.columns import BINARY, SA_DIALECT, StoredColumn
from waxwing.databases.sqlserver.dialect import KEY_COLLATION
from waxwing.tables.columns import kind_of
from waxwing.tables.modes import Keyed, Merge, Upsert, keys_of
from waxwing.tables.plan import Plan

# Without join hints a large batch would be merged by a scan, which locks what is none of its business; so each key is sought,
# in the stage's order, and two writers of the same keys wait for each other instead of deadlocking.
_SEEK = "OPTION (LOOP JOIN, FORCE ORDER)"
_LOCKED = "WITH (UPDLOCK, ROWLOCK)"


class Statements:
    """What is sent for one plan, given the table's columns as they stand in the database."""

    def __init__(self, plan: Plan, columns: Sequence[StoredColumn], *, through_raw: bool) -> None:
        self.columns = list(columns)
        self._raw = through_raw
        self._plan = plan
        self._table = SA_DIALECT.identifier_preparer.format_table(plan.table)
        self._numbered = plan.nature.rows_numbered
        self.keys = [next(c for c in columns if c.column.name == key) for key in keys_of(plan.mode)]
        self.append = self._batch(self._identity(self._append()))
        # `distinct`: of rows that were found to have one key each, which the server need not look for once more.
        self.upsert = self.upsert_distinct = self.replace = self.merge = self.merge_distinct = ""
        if isinstance(plan.mode, Upsert):
            self.upsert = self._batch(self._upsert(plan.mode))
            self.upsert_distinct = self._batch(self._upsert(plan.mode, distinct=True))
            self.replace = self._batch(self._upsert(plan.mode, deletes=True))
        if isinstance(plan.mode, Merge):
            self.merge = self._batch(self._merge(plan.mode))
            self.merge_distinct = self._batch(self._merge(plan.mode, distinct=True))

    @staticmethod
    def _batch(statements: Sequence[str]) -> str:
        # NOCOUNT: a count would come first, and hide the error of a later statement until it is asked for.
        return ";\n".join(["SET NOCOUNT ON", *statements, "SET NOCOUNT OFF"])

    # -- where rows come from ------------------------------------------------------------------------

    def _source(self, extra: Sequence[str] = ()) -> str:
        """The rows as a table named j: columns as they are carried, before them our own integers."""
        wanted = [*((name, "int") for name in extra), *((column.name, column.carried) for column in self.columns)]
        if self._raw:
            fields = [f"CAST(r.c{number} AS {kind}) AS {name}" for number, (name, kind) in enumerate(wanted)]
            for number, column in enumerate(self.columns, len(extra)):
                if column.kind in BINARY:
                    fields[number] = f"r.c{number} AS {column.name}"
            return f"(SELECT {', '.join(fields)} FROM #waxwing_raw AS r) AS j"  # noqa: S608 - quoted
        fields = [f"{name} {kind} '$[{number}]'" for number, (name, kind) in enumerate(wanted)]
        return f"OPENJSON(?) WITH ({', '.join(fields)}) AS j"

    def _value(self, column: StoredColumn) -> str:
        return f"j.{column.name}" if self._raw and column.kind in BINARY else column.value("j")

    @staticmethod
    def make_raw(binary: Sequence[bool]) -> str:
        """The table that fast_executemany fills: text and bytes as they come."""
        columns = ", ".join(f"c{number} {'varbinary' if flag else 'nvarchar'}(max)" for number, flag in enumerate(binary))
        return f"IF OBJECT_ID('tempdb..#waxwing_raw') IS NOT NULL DROP TABLE #waxwing_raw; CREATE TABLE #waxwing_raw ({columns})"

    @staticmethod
    def insert_raw(width: int) -> str:
        return f"INSERT INTO #waxwing_raw VALUES ({', '.join('?' * width)})"  # noqa: S608 - a number

    # -- what is done with them ----------------------------------------------------------------------

    def _identity(self, statements: Sequence[str]) -> list[str]:
        """Numbers that rows bring for an identity column have to be allowed."""
        if not any(column.identity for column in self.columns):
            return list(statements)
        switch = f"SET IDENTITY_INSERT {self._table}"
        return [f"{switch} ON", *statements, f"{switch} OFF"]

    def _append(self) -> list[str]:
        values = ", ".join(self._value(column) for column in self.columns)
        order = "\nORDER BY j.waxwing_n" if self._numbered else ""
        source = self._source(["waxwing_n"] if self._numbered else [])
        return [f"INSERT INTO {self._table} ({self._names()})\nSELECT {values}\nFROM {source}{order}"]

    def _in_order(self) -> str:
        """The order of new rows: where they draw numbers that of their messages, else one that all writers have."""
        return "s.waxwing_n" if self._numbered else ", ".join(f"s.{key.name}" for key in self.keys)

    def _upsert(self, mode: Upsert, *, deletes: bool = False, distinct: bool = False) -> list[str]:
        on = " AND ".join(f"t.{key.name} = s.{key.name}" for key in self.keys)
        out = self._stage(mode, deletes=deletes, distinct=distinct)
        if deletes:
            gone = f"DELETE t\nFROM #waxwing_stage AS s INNER JOIN {self._table} AS t {_LOCKED} ON {on}"
            # What is deleted and then made anew is deleted, too.
            out += [f"{gone}\nWHERE s.waxwing_deleted = 1\n{_SEEK}", "DELETE FROM #waxwing_stage WHERE waxwing_gone = 1"]
        sets = self._sets(mode)
        # (With triggers, or beside other unique keys, more than the keys would have to be thought of.)
        counts = bool(sets) and mode.newer_by is None and self._plan.nature.rows_alone
        if sets:
            out += ["DECLARE @updated int"] if counts else []
            out.append(
                f"UPDATE t\nSET {sets}\nFROM #waxwing_stage AS s INNER JOIN {self._table} AS t {_LOCKED} ON {on}"
                f"{self._newer(mode)}\n{_SEEK}"
            )
        order = self._in_order()
        values = ", ".join(f"s.{column.name}" for column in self.columns)
        insert = (
            f"INSERT INTO {self._table} ({self._names()})\nSELECT {values}\nFROM #waxwing_stage AS s\n"  # noqa: S608 - quoted
            f"WHERE NOT EXISTS (SELECT 1 FROM {self._table} AS t {_LOCKED} WHERE {on})\nORDER BY {order}\n{_SEEK}"
        )
        if counts:  # where all were there, none is looked for again
            out.append("SET @updated = @@ROWCOUNT")
            insert = f"IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)\n{insert}"  # noqa: S608 - quoted
        return [*out, *self._identity([insert]), "DROP TABLE #waxwing_stage"]

    def _merge(self, mode: Merge, *, distinct: bool = False) -> list[str]:
        quote = SA_DIALECT.identifier_preparer.quote_identifier
        means = quotients(self._plan)
        names = [column.column.name for column in self.columns]
        values = becomes(mode, names, lambda name: f"t.{quote(name)}", lambda name: f"s.{quote(name)}")
        values |= {m.column.name: _mean(m, values[m.total.name], values[m.number.name]) for m in means}
        sets = [f"{quote(name)} = {value}" for name, value in values.items()]
        sets += [f"{quote(column.name)} = {_set_on_update(column)}" for column in self._plan.touched]
        on = " AND ".join(f"t.{key.name} = s.{key.name}" for key in self.keys)
        update = (
            f"UPDATE t\nSET {', '.join(sets)}\nFROM #waxwing_stage AS s INNER JOIN {self._table} AS t {_LOCKED} ON {on}\n{_SEEK}"
        )
        order = self._in_order()
        firsts = [f"s.{column.name}" for column in self.columns]
        firsts += [_mean(m, f"s.{quote(m.total.name)}", f"s.{quote(m.number.name)}") for m in means]
        columns = ", ".join([self._names(), *(quote(m.column.name) for m in means)])
        insert = (
            f"INSERT INTO {self._table} ({columns})\nSELECT {', '.join(firsts)}\nFROM #waxwing_stage AS s\n"  # noqa: S608 - quoted
            f"WHERE NOT EXISTS (SELECT 1 FROM {self._table} AS t {_LOCKED} WHERE {on})\nORDER BY {order}\n{_SEEK}"
        )
        return [
            *self._stage(mode, distinct=distinct),
            "DECLARE @merged int",
            update,
            "SET @merged = @@ROWCOUNT",
            *self._identity([insert, "SET @merged = @merged + @@ROWCOUNT"]),
            # A key that another writer inserts between our two statements would be neither updated nor inserted.
            "IF @merged <> (SELECT COUNT(*) FROM #waxwing_stage)\n  THROW 51903, N'Another writer inserted a key meanwhile.', 1",
            "DROP TABLE #waxwing_stage",
        ]

    def _names(self) -> str:
        return ", ".join(column.name for column in self.columns)

    def _stage(self, mode: Keyed, *, deletes: bool = False, distinct: bool = False) -> list[str]:
        """The rows as the target's columns would hold them, one for each key, sorted by key."""
        own = [*(["waxwing_n"] if self._numbered or not distinct else []), *(["waxwing_gone"] if deletes else [])]
        found = [*own, *(["waxwing_deleted"] if deletes else [])]
        declared = [f"{name} int NOT NULL" for name in found]
        declared += [f"{c.name} {c.type} {'NOT NULL' if c in self.keys else 'NULL'}" for c in self.columns]
        key = ", ".join(column.name for column in self.keys)
        names = ", ".join([*found, self._names()])
        values = ", ".join([*(f"j.{name}" for name in found), *(self._value(column) for column in self.columns)])
        source = self._source(own)
        if not distinct:
            # Keys that Python tells apart may be one here (capitals, trailing blanks): the last of them stands, or the newest,
            # or what they are together.
            same = ", ".join(f"j.{c.name}" if self._raw and c.kind in BINARY else c.key("j") for c in self.keys)
            first = "j.waxwing_n"
            if deletes:
                gone = "MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END)"
                source = f"(SELECT j.*, {gone} OVER (PARTITION BY {same}) AS waxwing_until\n  FROM {source}) AS j"  # noqa: S608 - quoted
                first = "CASE WHEN j.waxwing_n > j.waxwing_until THEN 0 ELSE 1 END, j.waxwing_n"
            window = f"PARTITION BY {same} ORDER BY {first}"
            ours = [f"j.{name}" for name in own]
            if self._numbered:
                ours[0] = f"FIRST_VALUE(j.waxwing_n) OVER ({window}) AS waxwing_n"
            fields = ", ".join([*ours, *(self._folded(column, mode, same, window) for column in self.columns)])
            if deletes:
                fields += ", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted"
            last = "j.waxwing_n DESC"
            if isinstance(mode, Upsert) and mode.newer_by is not None:
                version = next(c for c in self.columns if c.column.name == mode.newer_by)
                last = f"{self._value(version)}{_by_code_point(version)} DESC, j.waxwing_n"
            numbered = f"ROW_NUMBER() OVER (PARTITION BY {same} ORDER BY {last}) AS waxwing_last"
            source = f"(SELECT {fields}, {numbered}\n  FROM {source}) AS j\nWHERE j.waxwing_last = 1"  # noqa: S608 - quoted
        return [
            f"CREATE TABLE #waxwing_stage ({', '.join(declared)}, PRIMARY KEY ({key}))",
            f"INSERT INTO #waxwing_stage ({names})\nSELECT {values}\nFROM {source}",
        ]

    def _folded(self, column: StoredColumn, mode: Keyed, same: str, window: str) -> str:
        """A column of one row out of several whose key is the same here. The key is written as in the first of them."""
        if column.folds and column in self.keys:
            return f"FIRST_VALUE(j.{column.name}) OVER ({window}) AS {column.name}"
        if isinstance(mode, Merge):
            ways = {**dict.fromkeys(mode.add, "SUM"), **dict.fromkeys(mode.least, "MIN"), **dict.fromkeys(mode.greatest, "MAX")}
            if way := ways.get(column.column.name):
                return f"{way}({self._value(column)}) OVER (PARTITION BY {same}) AS {column.name}"
        return f"j.{column.name}"

    def _sets(self, mode: Upsert) -> str:
        sets = [f"{column.name} = s.{column.name}" for column in self.columns if column.column.name not in mode.keys]
        if sets:  # a table of key columns alone has nothing to update
            quote = SA_DIALECT.identifier_preparer.quote_identifier
            sets += [f"{quote(column.name)} = {_set_on_update(column)}" for column in self._plan.touched]
        return ", ".join(sets)

    def _newer(self, mode: Upsert) -> str:
        if mode.newer_by is None:
            return ""
        version = next(column for column in self.columns if column.column.name == mode.newer_by)
        name, collate = version.name, _by_code_point(version)
        return f"\nWHERE t.{name} < s.{name}{collate} OR (t.{name} IS NULL AND s.{name} IS NOT NULL)"


def _mean(mean: MeanColumn, total: str, number: str) -> str:
    if mean.floats:
        return f"CAST({total} AS float) / NULLIF({number}, 0)"
    # As wide as an integer can be and no wider: what is left of 38 digits is what the quotient gets behind the point.
    total = f"CAST({total} AS decimal(19, 0))" if kind_of(mean.total) == "integer" else total
    return f"{total} / CAST(NULLIF({number}, 0) AS decimal(19, 0))"


def _by_code_point(column: StoredColumn) -> str:
    """Text versions are ordered as Python orders them."""
    return f" COLLATE {KEY_COLLATION}" if kind_of(column.column) == "text" else ""


def _set_on_update(column: sa.Column[Any]) -> str:
    assert isinstance(column.onupdate, sa.ColumnDefault)
    return str(column.onupdate.arg.compile(dialect=SA_DIALECT, compile_kwargs={"literal_binds": True}))
