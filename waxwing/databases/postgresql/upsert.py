"""The SQL by which rows get from PostgreSQL's staging table into the table, made once."""

from __future__ import annotations

import zlib

import sqlalchemy as sa

from waxwing.databases.merging import SPARE_DIGITS, MeanColumn, quotients
from waxwing.databases.on_conflict import TARGET, Replacement, change, collation, merged_values, on_conflict
from waxwing.databases.postgresql.csv import SA_DIALECT
from waxwing.tables.modes import Keyed, Merge, Upsert
from waxwing.tables.plan import Plan

# Whatever the locale of the database: as Python compares, and faster than any locale.
_BY_CODE_POINT = '"C"'
_quote = SA_DIALECT.identifier_preparer.quote

# Where a row stands among those that are written, and where a delete stands between them.
NUMBER: sa.Column[int] = sa.Column("waxwing_n", sa.Integer)


class Staged:
    """Two staging tables: rows, and keys to delete. Where keys are not exact each row has a number, for the order.

    They are temporary ones, so that they need no clearing up after a crash, and ON COMMIT DELETE ROWS, so that they cost no dead
    rows: emptied by truncation when the transaction ends. IF NOT EXISTS in every transaction, since one that is rolled back may
    have made it.
    """

    def __init__(self, plan: Plan, mode: Keyed) -> None:
        self._plan, self._mode = plan, mode
        self._table = SA_DIALECT.identifier_preparer.format_table(plan.table)
        columns = [column.name for column in plan.columns]
        mark = f"{zlib.crc32(f'{self._table}({columns})'.encode()):08x}"
        self.rows, self.gone = f"pg_temp.waxwing_stage_{mark}", f"pg_temp.waxwing_gone_{mark}"
        self.folds = not plan.nature.keys_exact
        self.numbered = self.folds or plan.nature.rows_numbered
        self.make_rows = self._make(self.rows, columns, numbered=self.numbered)
        self.make_gone = self._make(self.gone, mode.keys, numbered=True)
        self._keys = ", ".join(map(_quote, mode.keys))
        self._same = " AND ".join(f"{TARGET}.{_quote(key)} = excluded.{_quote(key)}" for key in mode.keys)
        self.delete = f"DELETE FROM {self._table} AS {TARGET} USING {self.gone} AS excluded WHERE {self._same}".encode()  # noqa: S608 - quoted
        self._change, self._insert = self._both()
        # Rows that no later delete takes away.
        alive = " AND ".join(f"waxwing_gone.{_quote(key)} = waxwing_rows.{_quote(key)}" for key in mode.keys)
        left = (
            f"(SELECT * FROM {self.rows} AS waxwing_rows WHERE NOT EXISTS (SELECT 1 FROM {self.gone} AS waxwing_gone "  # noqa: S608 - quoted
            f"WHERE {alive} AND waxwing_gone.waxwing_n > waxwing_rows.waxwing_n)) AS waxwing_left"
        )
        place = "waxwing_first" if self.folds and isinstance(mode, Upsert) else "waxwing_n"
        self.merge = self._of(self._one_a_key(self.rows), place)
        self.merge_left = self._of(self._one_a_key(left), place)
        self.one_by_one = self._looped(self.rows)
        self.left_one_by_one = self._looped(left)

    def _make(self, stage: str, columns: list[str] | tuple[str, ...], *, numbered: bool) -> bytes:
        names = ", ".join([*map(_quote, columns), *(["CAST(NULL AS integer) AS waxwing_n"] if numbered else [])])
        # One round trip. The DELETE is for a second write in one transaction; usually there is nothing to delete.
        return (
            f"CREATE TEMP TABLE IF NOT EXISTS {stage.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS "  # noqa: S608 - names are quoted
            f"AS SELECT {names} FROM {self._table} WITH NO DATA; DELETE FROM {stage}"
        ).encode()

    @property
    def around_values(self) -> tuple[str, str] | None:
        """An upsert of rows that stand in the statement itself, but for these; None where the staging table is needed."""
        if self.numbered or isinstance(self._mode, Merge):
            return None
        names = ", ".join(_quote(column.name) for column in self._plan.columns)
        into = f"INSERT INTO {self._table} AS {TARGET} ({names}) OVERRIDING SYSTEM VALUE VALUES"
        conflict = on_conflict(self._mode, SA_DIALECT, self._change)
        return into.replace("%", "%%"), conflict.replace("%", "%%")

    # -- where rows come from ------------------------------------------------------------------------

    def _one_a_key(self, rows: str) -> str:
        """The last row of each key, or the newest: equal keys are for the columns' own types and collations to tell."""
        if not self.folds or not isinstance(self._mode, Upsert):
            return rows if rows == self.rows else f"(SELECT * FROM {rows})"  # noqa: S608 - quoted
        last = "waxwing_n DESC"
        if self._mode.newer_by is not None:
            collate = collation(self._plan.table.c[self._mode.newer_by], _BY_CODE_POINT)
            last = f"{_quote(self._mode.newer_by)}{collate} DESC NULLS LAST, waxwing_n"
        # Written as the first of them is, as it would stay if each were written by itself.
        first_of = f"OVER (PARTITION BY {self._keys} ORDER BY waxwing_n)"
        first = [f"first_value({key}) {first_of} AS {key}" for key in map(_quote, self._mode.keys)]
        rest = [_quote(column.name) for column in self._plan.columns if column.name not in self._mode.keys]
        fields = ", ".join([*first, *rest, f"first_value(waxwing_n) {first_of} AS waxwing_first"])
        return f"(SELECT DISTINCT ON ({self._keys}) {fields} FROM {rows} ORDER BY {self._keys}, {last})"  # noqa: S608 - quoted

    @property
    def rounds(self) -> bytes:
        """How many rows there are of one key at most."""
        each = f"SELECT count(*) AS n FROM {self.rows} GROUP BY {self._keys}"  # noqa: S608 - quoted
        return f"SELECT coalesce(max(n), 0) FROM ({each}) AS waxwing_rounds".encode()  # noqa: S608 - quoted

    def round(self, number: int) -> bytes:
        """The number-th row of each key, for merging: one statement can't merge two rows into one."""
        numbered = f"*, row_number() OVER (PARTITION BY {self._keys} ORDER BY waxwing_n) AS waxwing_round"
        return self._of(f"(SELECT * FROM (SELECT {numbered} FROM {self.rows}) AS waxwing_rounds WHERE waxwing_round = {number})")  # noqa: S608 - quoted

    def _looped(self, rows: str) -> bytes:
        """Row by row, for keys that are one only once a trigger has had its way."""
        row = ", ".join(f"waxwing_row.{_quote(column.name)} AS {_quote(column.name)}" for column in self._plan.columns)
        order = "waxwing_n" if self.numbered else "ctid"
        body = "; ".join(self._statements(f"(SELECT {row})", ""))
        return (
            f"DO $waxwing$ DECLARE waxwing_row record; BEGIN FOR waxwing_row IN SELECT * FROM {rows} ORDER BY {order} "  # noqa: S608 - quoted
            f"LOOP {body}; END LOOP; END $waxwing$"
        ).encode()

    # -- what is done with them ----------------------------------------------------------------------

    def _of(self, rows: str, place: str = "waxwing_n") -> bytes:
        """The statements, for rows whose place among the others is in this column."""
        # Numbers are drawn in the order in which rows come; else in one order, so that two writers of the same keys wait for each
        # other instead of deadlocking.
        order = place if self._plan.nature.rows_numbered else self._order("")
        statements = self._statements(rows, f"ORDER BY {order} ")
        if len(statements) > 1:
            # In one order, so that two writers of the same keys wait for each other instead of deadlocking.
            lock = (
                f"SELECT 1 FROM {self._table} AS {TARGET}, {rows} AS excluded WHERE {self._same} "  # noqa: S608 - quoted
                f"ORDER BY {self._order('excluded.')} FOR NO KEY UPDATE OF {TARGET}"
            )
            statements.insert(0, f"WITH waxwing_locked AS MATERIALIZED ({lock}) SELECT count(*) FROM waxwing_locked")  # noqa: S608 - quoted
        return "; ".join(statements).encode()

    def _statements(self, rows: str, order: str) -> list[str]:
        """An upsert of rows. Where the table numbers rows a row that is there must draw no number: it is updated first."""
        missing = ""
        updates = []
        if self._plan.nature.rows_numbered:
            missing = f"WHERE NOT EXISTS (SELECT 1 FROM {self._table} AS {TARGET} WHERE {self._same}) "  # noqa: S608 - quoted
            if self._change.sets:
                where = f" AND {self._change.where}" if self._change.where else ""
                update = f"UPDATE {self._table} AS {TARGET} SET {self._change.sets} FROM {rows} AS excluded"  # noqa: S608 - quoted
                updates = [f"{update} WHERE {self._same}{where}"]
        conflict = on_conflict(self._mode, SA_DIALECT, self._change)
        return [*updates, f"{self._insert} FROM {rows} AS excluded {missing}{order}{conflict}"]

    def _both(self) -> tuple[Replacement, str]:
        plan, mode = self._plan, self._mode
        names = [_quote(column.name) for column in plan.columns]
        values, merged = list(names), None
        if isinstance(mode, Merge):
            merged = merged_values(plan, mode, SA_DIALECT, lambda _, total: total, _mean)
            names += map(_quote, mode.mean)
            values += [_mean(mean, _quote(mean.total.name), _quote(mean.number.name)) for mean in quotients(plan)]
        insert = f"INSERT INTO {self._table} AS {TARGET} ({', '.join(names)}) OVERRIDING SYSTEM VALUE SELECT {', '.join(values)}"
        return change(plan, mode, SA_DIALECT, by_code_point=_BY_CODE_POINT, merged=merged), insert

    def _order(self, source: str) -> str:
        """By key, so that two writers of the same keys wait for each other instead of deadlocking."""
        return ", ".join(f"{source}{_quote(key.name)}{collation(key, _BY_CODE_POINT)}" for key in self._plan.keys)


def _mean(mean: MeanColumn, total: str, number: str) -> str:
    if mean.floats:
        return f"CAST({total} AS double precision) / nullif({number}, 0)"
    # The zeros say how many digits the quotient gets.
    return f"({total} + 0.{'0' * (mean.decimals + SPARE_DIGITS)}) / nullif({number}, 0)"
