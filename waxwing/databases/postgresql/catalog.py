"""What PostgreSQL's catalog says of a table that is to be written: what its keys are, and what else looks at its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from waxwing.databases.plain import Statements
from waxwing.databases.postgresql.csv import SA_DIALECT
from waxwing.tables.columns import kind_of
from waxwing.tables.plan import Nature, Plan

# Kind of a declared column -> types of the server that take two keys for equal where Python does.
_EXACT = {
    "integer": {"int2", "int4", "int8"},
    "decimal": {"numeric"},
    "float": {"float8"},
    "text": {"text", "varchar"},
    "boolean": {"bool"},
    "date": {"date"},
    "datetime": {"timestamp", "timestamptz"},
    "time": {"time", "timetz"},
    "binary": {"bytea"},
    "uuid": {"uuid", "text", "varchar"},
    "enum": {"text", "varchar"},
    "json": set[str](),
}


def key_problems(connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[str] | None:
    """Why ON CONFLICT can't go by these keys, by the name of what is there; None: nothing unique is on them. Empty: it can."""
    if children := list(connection.scalars(_CHILDREN, {"name": _name(table)})):
        return [
            f"{', '.join(children)} inherits from it, whose rows no key of {table.name} knows (write that table, or partitions)"
        ]
    fit, problems = False, []
    for index in connection.execute(_INDEXES, {"name": _name(table)}):
        columns = [name for name in index.columns if name is not None]
        if set(columns) != set(keys) and not (index.expressions and any(key in index.definition for key in keys)):
            continue
        what = f"the {_KINDS.get(index.kind, 'unique index')} {index.name}"
        why = _why_not(index)
        if why is None:
            fit = True
        # One that is deferrable is an error even beside one that is not.
        elif not index.immediate or not fit:
            problems.append((index.immediate, f"{what} {why}"))
    if fit:
        problems = [problem for problem in problems if not problem[0]]
    return [text for _, text in problems] if problems or fit else None


def _why_not(index: Any) -> str | None:
    if not index.immediate:
        return "is deferrable, which no upsert can go by (make it anew without DEFERRABLE)"
    if index.exclusion:
        return "is no unique key, which no upsert can go by"
    if index.expressions:
        return "is one of expressions, not of columns"
    if index.partial:
        return "has a condition, and holds for some rows only"
    return None if index.valid else f"is not valid (REINDEX INDEX {index.name})"


_KINDS = {"p": "primary key", "u": "unique constraint", "x": "exclusion constraint"}


def shape(connection: sa.Connection, table: sa.Table, statements: Statements) -> tuple[object, ...]:
    """What tells that the table was altered, or that a partition of it was; empty: it is gone."""
    found = statements.of("shape", lambda: _SHAPE, connection).run(connection, {"name": _name(table)})
    return tuple(row[0] for row in found.fetchall())


def nature(connection: sa.Connection, plan: Plan) -> Nature:
    """What the table does with rows."""
    place: dict[str, Any] = {"name": _name(plan.table)}
    keys = {column.name: kind_of(column) for column in plan.keys}
    brought = {column.name for column in plan.columns}
    exact = alone = True
    for key in connection.execute(_KEYS, {**place, "keys": list(keys)}):
        exact &= key.deterministic and (key.type in _EXACT[keys[key.name]] if key.own else key.enum and keys[key.name] == "enum")
    filled = plan.changed | set(connection.scalars(_FILLED, place))
    for index in connection.execute(_ALL_INDEXES, place):
        if set(index.columns) == set(keys) and not index.exclusion:
            exact &= index.deterministic
        else:  # nulls that nobody fills are all different, unless the index says otherwise
            alone &= not (index.expressions or index.partial or index.one_null or filled & set(index.columns))
    found = connection.execute(_AROUND, {**place, "brought": list(brought), "harmless": _HARMLESS}).one()
    return Nature(
        keys_exact=exact and not found.triggers_before_insert,
        rows_alone=alone and not found.triggers and not found.own_references,
        rows_numbered=found.numbered > 0,
    )


def constrained(connection: sa.Connection, table: sa.Table, constraint: str) -> Collection[str] | None:
    """The columns that a CHECK or key looks at; None: others may say what stands there, or it is of another table."""
    found = connection.execute(_CONSTRAINED, {"name": _name(table), "constraint": constraint}).all()
    return None if not found or any(row.made for row in found) else {name for row in found for name in row.columns}


def passed_its_end(connection: sa.Connection, plan: Plan) -> str:
    """The sequence that draws numbers which its column does not take, with the column; empty: none does."""
    given = {"name": _name(plan.table), "brought": [column.name for column in plan.columns]}
    passed = []
    for row in connection.execute(_DRAWN, given).all():
        if row.last is None:  # none was drawn yet, or it is no sequence
            continue
        # The default, with the number that was drawn last in it; or that number itself.
        value = re.sub(r"nextval\([^()]*\)", f"({row.last})", row.expression or "nextval()", flags=re.IGNORECASE)
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SELECT CAST({value} AS {row.type})".replace("%", "%%"))
        except sa.exc.DataError:
            passed.append(f"sequence {row.sequence} of column {row.name} ({row.type})")
    return "; ".join(dict.fromkeys(passed))


def _name(table: sa.Table) -> str:
    return SA_DIALECT.identifier_preparer.format_table(table)


# Whatever alters a row of the catalog gives it another xmin; freezing it does not. Not of pg_class, which TRUNCATE writes anew.
_SHAPE = sa.text("""
    SELECT CAST(ROW(c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relhasrules,
        ARRAY(SELECT a.xmin FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum),
        ARRAY(SELECT k.xmin FROM pg_constraint k WHERE k.conrelid = c.oid ORDER BY k.oid),
        ARRAY(SELECT t.xmin FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
              WHERE a.attrelid = c.oid AND a.atttypid >= 16384 ORDER BY a.attnum),
        ARRAY(SELECT e.xmin FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
              JOIN pg_enum e ON e.enumtypid IN (t.oid, t.typbasetype)
              WHERE a.attrelid = c.oid AND a.atttypid >= 16384 ORDER BY a.attnum, e.oid),
        ARRAY(SELECT p.relpersistence FROM pg_class p WHERE p.oid = ANY (tree) ORDER BY p.oid),
        ARRAY(SELECT i.xmin FROM pg_index i WHERE i.indrelid = ANY (tree) AND (i.indisunique OR i.indisexclusion)
              ORDER BY i.indexrelid),
        ARRAY(SELECT g.xmin FROM pg_trigger g WHERE g.tgrelid = ANY (tree) AND NOT g.tgisinternal ORDER BY g.oid),
        ARRAY(SELECT p.xmin FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
              WHERE g.tgrelid = ANY (tree) AND NOT g.tgisinternal ORDER BY g.oid)
    ) AS text)
    FROM pg_class c, LATERAL (
        SELECT CASE c.relkind WHEN 'p' THEN ARRAY(SELECT CAST(relid AS oid) FROM pg_partition_tree(c.oid)) ELSE ARRAY[c.oid] END
        AS tree OFFSET 0) AS parts
    WHERE c.oid = to_regclass(:name)""")

_INDEXES_OF = """
    SELECT c.relname AS name, con.contype AS kind, i.indimmediate AS immediate, i.indisexclusion AS exclusion,
           i.indisvalid AND i.indisready AND i.indislive AS valid, i.indpred IS NOT NULL AS partial,
           i.indexprs IS NOT NULL AS expressions, pg_get_indexdef(i.indexrelid) AS definition,
           to_jsonb(i) ->> 'indnullsnotdistinct' = 'true' AS one_null,  -- PostgreSQL 15 and later
           ARRAY(SELECT CAST(a.attname AS text) FROM unnest(CAST(i.indkey AS int2[])) WITH ORDINALITY AS k(number, at)
                 LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
                 WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns,
           NOT EXISTS (SELECT 1 FROM pg_collation o
                       WHERE o.oid = ANY (CAST(i.indcollation AS oid[])) AND NOT o.collisdeterministic) AS deterministic
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u', 'x')
    WHERE i.indrelid {of} AND (i.indisunique OR i.indisexclusion)
    ORDER BY c.relname"""
_INDEXES = sa.text(_INDEXES_OF.format(of="= to_regclass(:name)"))
# Those of partitions as well, which may have some of their own.
_TREE = "IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name))"
_CHILDREN = sa.text("""
    SELECT CAST(CAST(h.inhrelid AS regclass) AS text) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent
    WHERE c.oid = to_regclass(:name) AND c.relkind = 'r' ORDER BY 1""")
_ALL_INDEXES = sa.text(_INDEXES_OF.format(of=_TREE))

# Columns with a value that rows do not bring, other than numbers of the table's own.
_FILLED = sa.text("""
    SELECT CAST(a.attname AS text)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attgenerated <> ''
           OR coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) !~* '^nextval[(][^()]*[)]$')""")

# A domain is as the type that it is made of.
_KEYS = sa.text("""
    WITH RECURSIVE base AS (
        SELECT a.attname, a.attcollation, t.typname, t.typtype, t.typbasetype, t.typnamespace
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = to_regclass(:name) AND a.attname = ANY (:keys)
        UNION ALL
        SELECT b.attname, b.attcollation, t.typname, t.typtype, t.typbasetype, t.typnamespace
        FROM base b JOIN pg_type t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd')
    SELECT CAST(attname AS text) AS name, CAST(typname AS text) AS type, typtype = 'e' AS enum,
           typnamespace = CAST('pg_catalog' AS regnamespace) AS own,
           coalesce((SELECT o.collisdeterministic FROM pg_collation o WHERE o.oid = attcollation), true) AS deterministic
    FROM base WHERE typtype <> 'd'""")

# Functions that are volatile and draw no number that could run out: of extensions (the server's own are no dependency).
_HARMLESS = "uuid|ulid|random|salt|clock|now|time"

# Functions that are written in a language, with their texts.
_BODIES = """bodies AS MATERIALIZED (
        SELECT p.oid, p.proname, pg_get_functiondef(p.oid) AS body
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.prokind IN ('f', 'p') AND l.lanname NOT IN ('c', 'internal')
          AND p.pronamespace NOT IN (CAST('pg_catalog' AS regnamespace), CAST('information_schema' AS regnamespace)))"""

# Which functions draw from a sequence, themselves or by others that they name. SQL that is put together only when it runs shows
# nothing, and so a default that is volatile is taken for one that does.
# A trigger's type has a bit for: each row 1, before 2, insert 4.
_AROUND = sa.text(rf"""
    WITH RECURSIVE tree AS (SELECT relid FROM pg_partition_tree(to_regclass(:name)) UNION SELECT to_regclass(:name)),
    own_triggers AS (
        SELECT t.tgtype & 7 = 7 AS before_insert, p.oid
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid IN (SELECT relid FROM tree) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')),
    {_BODIES},
    drawing AS (
        SELECT oid, proname FROM bodies WHERE body ~* 'nextval'
        UNION
        SELECT b.oid, b.proname
        FROM drawing d JOIN bodies b ON b.body ~ ('\m' || regexp_replace(d.proname, '(\W)', '\\\1', 'g') || '\M')),
    numbered AS (
        SELECT 1
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (:brought)
          AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~* 'nextval' OR t.typdefault ~* 'nextval'
               OR EXISTS (SELECT 1 FROM pg_depend e JOIN pg_proc p ON p.oid = e.refobjid
                          WHERE (e.classid = CAST('pg_attrdef' AS regclass) AND e.objid = d.oid
                                 OR e.classid = CAST('pg_type' AS regclass) AND e.objid = t.oid AND t.typtype = 'd')
                            AND e.refclassid = CAST('pg_proc' AS regclass)
                            AND (p.oid IN (SELECT oid FROM drawing) OR p.provolatile = 'v' AND p.proname !~* :harmless)))
        UNION ALL SELECT 1 FROM own_triggers WHERE before_insert AND oid IN (SELECT oid FROM drawing))
    SELECT (SELECT count(*) FROM own_triggers) AS triggers,
           (SELECT count(*) FROM own_triggers WHERE before_insert) AS triggers_before_insert,
           (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = to_regclass(:name) AND confrelid = conrelid)
               AS own_references,
           (SELECT count(*) FROM numbered) AS numbered""")  # noqa: S608 - of constants

# (What refers into the table itself may be in the way of a delete.)
_CONSTRAINED = sa.text(f"""
    SELECT ARRAY(SELECT CAST(a.attname AS text) FROM pg_attribute a WHERE a.attrelid = k.of_table AND a.attnum = ANY (k.numbers))
               AS columns,
           k.own
           OR EXISTS (SELECT 1 FROM pg_attribute a
                      WHERE a.attrelid = k.of_table AND a.attnum = ANY (k.numbers) AND a.attgenerated <> '')
           OR EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid {_TREE} AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A'))
               AS made
    FROM (SELECT conrelid AS of_table, conkey AS numbers, confrelid = conrelid AS own
          FROM pg_constraint WHERE conname = :constraint AND contype IN ('c', 'f')
          UNION ALL
          SELECT i.indrelid, CAST(i.indkey AS int2[]), i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = :constraint AND i.indisunique) AS k
    WHERE k.of_table {_TREE}""")  # noqa: S608 - of constants

# Which sequences numbers come from that rows do not bring, by a default or by a function that it, or a trigger, calls.
_DRAWN = sa.text(rf"""
    WITH RECURSIVE own AS (
        SELECT CAST(a.attname AS text) AS name, format_type(a.atttypid, NULL) AS type, d.oid AS of_default,
               pg_get_expr(d.adbin, d.adrelid) AS expression
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (:brought)
          AND a.atttypid IN (CAST('int2' AS regtype), CAST('int4' AS regtype), CAST('int8' AS regtype))),
    {_BODIES},
    begun AS (
        SELECT o.name, o.type, b.oid, b.body
        FROM own o JOIN pg_depend e ON e.classid = CAST('pg_attrdef' AS regclass) AND e.objid = o.of_default
        JOIN bodies b ON e.refclassid = CAST('pg_proc' AS regclass) AND b.oid = e.refobjid
        UNION
        SELECT o.name, o.type, b.oid, b.body
        FROM pg_trigger t JOIN bodies b ON b.oid = t.tgfoid JOIN own o ON strpos(lower(b.body), 'new.' || lower(o.name)) > 0
        WHERE t.tgrelid {_TREE} AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')),
    called AS (
        SELECT * FROM begun
        UNION
        SELECT c.name, c.type, b.oid, b.body
        FROM called c JOIN bodies b ON c.body ~ ('\m' || regexp_replace(b.proname, '(\W)', '\\\1', 'g') || '\M'))
    SELECT o.name, o.type, o.expression, CAST(CAST(s.oid AS regclass) AS text) AS sequence,
           CASE WHEN s.relkind = 'S' THEN pg_sequence_last_value(s.oid) END AS last
    FROM own o JOIN pg_depend e ON e.classid = CAST('pg_attrdef' AS regclass) AND e.objid = o.of_default
         AND e.refclassid = CAST('pg_class' AS regclass)
    JOIN pg_class s ON s.oid = e.refobjid
    UNION
    SELECT c.name, c.type, NULL, CAST(CAST(s.oid AS regclass) AS text),
           CASE WHEN s.relkind = 'S' THEN pg_sequence_last_value(s.oid) END
    FROM called c, regexp_matches(c.body, 'nextval\s*\(\s*''([^'']+)', 'gi') AS n(names)
    JOIN pg_class s ON s.oid = to_regclass(n.names[1])""")  # noqa: S608 - of constants
