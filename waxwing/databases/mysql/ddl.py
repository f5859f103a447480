"""What CREATE TABLE says in MySQL and MariaDB."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler, MySQLTypeCompiler
from typing_extensions import override


class OurTypes(MySQLTypeCompiler):
    """Types that keep a value whole where MySQL's own choice would not: microseconds, doubles, texts beyond 64 kB."""

    @override
    def visit_datetime(self, type_: Any, *, type_expression: Any = None, **kw: Any) -> str:
        # DATETIME(6) DEFAULT now() is refused: the precisions differ.
        return "DATETIME" if getattr(type_expression, "server_default", None) is not None else "DATETIME(6)"

    @override
    def visit_time(self, type_: Any, **kw: Any) -> str:
        return "TIME(6)"

    @override
    def visit_float(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    @override
    def visit_text(self, type_: Any, **kw: Any) -> str:
        return "LONGTEXT" if type_.length is None else str(super().visit_text(type_, **kw))

    @override
    def visit_string(self, type_: Any, **kw: Any) -> str:
        return "LONGTEXT" if type_.length is None else str(super().visit_string(type_, **kw))

    @override
    def visit_large_binary(self, type_: Any, **kw: Any) -> str:
        if type_.length is None:
            return "LONGBLOB"
        # A BLOB is no key; and the bytes that a key may have are soon at their end.
        is_key = _is_key(kw.get("type_expression"))
        return f"VARBINARY({type_.length})" if is_key else str(super().visit_large_binary(type_, **kw))


def _is_key(column: Any) -> bool:
    """Is it part of the primary key, of a unique constraint or of an index?"""
    if not isinstance(column, sa.Column) or column.table is None:
        return False
    unique = [each for each in column.table.constraints if isinstance(each, sa.UniqueConstraint | sa.PrimaryKeyConstraint)]
    return any(column.name in each.columns for each in (*unique, *column.table.indexes))


class OurTables(MySQLDDLCompiler):
    """What CREATE TABLE says of the table, where the flow's Table does not (`mysql_engine=...`)."""

    @override
    def post_create_table(self, table: sa.Table) -> str:
        dialect: Any = self.dialect
        # Two keys are equal where Python says so: capitals, accents and blanks at the end count.
        if dialect.is_mariadb:
            collation = "utf8mb4_nopad_bin"
        else:
            collation = "utf8mb4_0900_bin" if (dialect.server_version_info or ()) >= (8, 0, 17) else "utf8mb4_bin"
        ours = {"engine": "InnoDB", "charset": "utf8mb4", "collate": collation}
        given = [name.partition("_")[2] for name in table.kwargs]
        return super().post_create_table(table) + "".join(f" {name}={value}" for name, value in ours.items() if name not in given)
