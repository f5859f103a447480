"""What PostgreSQL says of a user's rights, and of tables that it refuses to update."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from waxwing.databases.base import Need
from waxwing.databases.postgresql.csv import SA_DIALECT

_COLUMNS = sa.text("""
    SELECT a.attname, has_column_privilege(a.attrelid, a.attnum, :right)
    FROM pg_attribute a WHERE a.attrelid = to_regclass(:name) AND a.attname = ANY(:columns) AND NOT a.attisdropped""")
_TABLE = sa.text("SELECT has_table_privilege(to_regclass(:name), :right)")
# Of defaults of columns that rows do not bring: `serial` has one.
_SEQUENCES = sa.text("""
    SELECT CAST(s.oid AS regclass)::text
    FROM pg_attrdef f
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = d.refobjid
    WHERE f.adrelid = to_regclass(:name) AND NOT a.attname = ANY(:columns)
      AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') ELSE false END""")
_PUBLISHED = sa.text("""
    SELECT DISTINCT p.pubname
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_publication_tables t ON t.schemaname = n.nspname AND t.tablename = c.relname
    JOIN pg_publication p ON p.pubname = t.pubname
    WHERE (c.oid = to_regclass(:name) OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name))))
      AND CASE WHEN :right = 'UPDATE' THEN p.pubupdate ELSE p.pubdelete END
      AND c.relreplident <> 'f'
      AND NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
    ORDER BY 1""")


TEMPORARY = "TEMPORARY"
_MAY = sa.text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")
_EVENT_TRIGGERS = sa.text("SELECT count(*) FROM pg_event_trigger WHERE evtenabled <> 'D'")
# Of the kind that staging tables are.
_TRIAL = sa.text("CREATE TEMP TABLE waxwing_may AS SELECT 1 AS n WITH NO DATA")


def lacking(connection: sa.Connection, need: Need) -> Sequence[str] | None:
    """None where the user has the right; else the columns that it is missing for."""
    if need.right == TEMPORARY:
        return None  # see obstacles
    given = {"name": _name(need), "right": need.right}
    if not need.columns:
        return [] if connection.scalar(_TABLE, given) is False else None
    columns = [column.name for column in need.columns]
    return [name for name, has in connection.execute(_COLUMNS, {**given, "columns": columns}) if not has] or None


def obstacles(connection: sa.Connection, need: Need) -> Sequence[str]:
    """What keeps a user with all rights from it: sequences, publications, event triggers."""
    if need.right == TEMPORARY:
        return _of_temporary_tables(connection)
    given = {"name": _name(need), "right": need.right}
    if need.right == "INSERT":
        columns = [column.name for column in need.columns]
        sequences = connection.scalars(_SEQUENCES, {"name": given["name"], "columns": columns})
        return [f"the right USAGE on the sequence {name} is missing" for name in sequences]
    if need.right == "SELECT":
        return ()
    return [
        f"{need.table.fullname} is published for replication ({name}) and has no replica identity, so that the server refuses "
        f"each {need.right} (ALTER TABLE {given['name']} REPLICA IDENTITY FULL, or give it a primary key)"
        for name in connection.scalars(_PUBLISHED, given)
    ]


def _of_temporary_tables(connection: sa.Connection) -> Sequence[str]:
    if not connection.scalar(_MAY):
        return ["the user may not make temporary tables, which upserts go through (GRANT TEMPORARY ON DATABASE)"]
    if not connection.scalar(_EVENT_TRIGGERS):
        return ()
    trial = connection.begin_nested()
    try:
        connection.execute(_TRIAL)
    except sa.exc.DBAPIError as error:
        return [f"no temporary table can be made, which upserts go through: an event trigger of the database says {error.orig}"]
    finally:
        trial.rollback()
    return ()


def _name(need: Need) -> str:
    return SA_DIALECT.identifier_preparer.format_table(need.table)
