"""What a record type shows to be wrong with a table, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import pydantic
import sqlalchemy as sa
from typing_extensions import get_type_hints, is_typeddict

from waxwing.errors import ConfigError
from waxwing.operators.declared import field_types, types_of
from waxwing.operators.keys import names_of
from waxwing.operators.windows import Aggregate, Count, Fold, Mean, Windows
from waxwing.tables.columns import rule
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Upsert
from waxwing.tables.plan import Plan


def check_records(kind: Any, columns: Sequence[sa.Column[Any]], dialect: Dialect, table: str) -> None:
    """Refuse records of a declared type of which not one could be written; where it says nothing, nothing is refused.

    Args:
        kind: the records' type, as their flow declares it: with fields of the columns' names, or a tuple[...] in their order.
        columns: that rows bring.
        dialect: of the database.
        table: its name, for the message.

    Raises:
        ConfigError: with all that does not fit.
    """
    if get_origin(kind) is tuple:
        hints = get_args(kind)
        if Ellipsis in hints:
            return
        problems = [f"it has {len(hints)} values for {len(columns)} columns"] if len(hints) != len(columns) else []
        named = [(column, hint, types_of(hint)) for column, hint in zip(columns, hints, strict=False)]
        name = str(kind)
    else:
        fields = field_types(kind)
        if fields is None:
            return
        own = get_type_hints(kind, include_extras=True)
        problems = [*_lacking(kind, fields, columns), *_unknown(kind, columns)]
        named = [(column, own[column.name], fields[column.name]) for column in columns if column.name in fields]
        name = kind.__name__
    for column, hint, has in named:
        if (why := _misfit(column, hint, has, dialect)) is not None:
            problems.append(f"its {column.name}, {why}")
    if problems:
        raise ConfigError(
            f"Records of type {name} do not fit the table {table}: {'; '.join(problems)}.",
            hint="Correct the record type or the Table, or convert in a step before the sink (map); "
            "or name the columns to write: SqlTarget(..., columns=[...]).",
        )


def check_keys(kind: Any, plan: Plan, dialect: Dialect) -> None:
    """Refuse `parse(key=...)` of which no tombstone could be a key of the table; where it says nothing, nothing is refused.

    Raises:
        ConfigError: with all that does not fit.
    """
    if kind is None or not (isinstance(plan.mode, Upsert) and plan.mode.delete_on_tombstone):
        return
    columns, fields = {column.name: column for column in plan.keys}, names_of(kind)
    if fields is None:
        hints = {plan.keys[0].name: kind}
        problems = [f"it is one value, for {len(columns)} columns"] if len(columns) > 1 else []
    else:
        hints = get_type_hints(kind, include_extras=True)
        problems = [f"it has no {name}" for name in columns if name not in fields]
        problems += [f"its {name} is no key column" for name in fields if name not in columns]
    for name, column in columns.items():
        if not problems and (why := _misfit(column, hints[name], types_of(hints[name]), dialect)) is not None:
            problems = [f"its {name}, {why}"]
    if problems:
        raise ConfigError(
            f"Keys of tombstones, read as {kind.__name__}, do not fit the table {plan.table.fullname}: {'; '.join(problems)}.",
            hint=f"Let the fields of parse(..., key=...) be the keys of the Upsert: {', '.join(columns)}.",
        )


def check_window_rows(
    definition: Windows, kind: Any, columns: Sequence[sa.Column[Any]], fixed: Mapping[str, Any], dialect: Dialect, table: str
) -> None:
    """Refuse windows over records of a declared type of which not one row could be written; where it says nothing, only what the
    windows themselves say is looked at.

    Args:
        definition: the windows.
        kind: the records' type, as their flow declares it.
        columns: that rows bring.
        fixed: columns that have one value in all rows.
        dialect: of the database.
        table: its name, for the message.

    Raises:
        ConfigError: with all that does not fit.
    """
    fields = field_types(kind) or {}
    own = get_type_hints(kind, include_extras=True) if fields else {}
    problems = []
    for column in columns:
        name, aggregate = column.name, definition.aggregates.get(column.name)
        if name in fixed:
            hint: Any = type(fixed[name])
            what, has = f"fixed={{{name!r}: {fixed[name]!r}}}", types_of(hint)
        elif aggregate is not None:
            what = f"{type(aggregate).__name__} ({name})"
            hint, has = _of_aggregate(aggregate, own, fields)
        elif name in definition.by and name in fields:
            what, hint, has = f"its {name}", own[name], fields[name]
            stand_ins = {} if isinstance(definition.null_keys, str) else definition.null_keys
            if has is not None and name in stand_ins:
                has |= {type(stand_ins[name])}
        else:
            continue
        if (why := _misfit(column, hint, has, dialect)) is not None:
            problems.append(f"{what}, {why}")
    if problems:
        of = f"records of type {kind.__name__}" if fields else "these records"
        raise ConfigError(
            f"Rows of windows over {of} do not fit the table {table}: {'; '.join(problems)}.",
            hint="Correct the Table or the windows, or convert in a step before them (map).",
        )


def _of_aggregate(
    aggregate: Aggregate, own: Mapping[str, Any], fields: Mapping[str, frozenset[type] | None]
) -> tuple[Any, frozenset[type] | None]:
    """What is declared of an aggregate's values, and their types; None: nobody knows."""
    if isinstance(aggregate, Count):
        return int, frozenset({int})
    field = aggregate.reads
    if isinstance(aggregate, Fold) or field is None or field not in fields:
        return Any, None
    has = fields[field]
    if isinstance(aggregate, Mean) and has is not None:
        return Any, frozenset({float if kind is float or aggregate.places is None else Decimal for kind in has})
    return own[field], has


def _lacking(kind: Any, fields: Mapping[str, Any], columns: Sequence[sa.Column[Any]]) -> list[str]:
    """Columns that no record has. (A property may bring one; a mapping may leave nullable ones out.)"""
    if is_typeddict(kind):
        return [f"it has no {c.name}" for c in columns if c.name not in fields and not c.nullable]
    return [f"it has no {c.name}" for c in columns if c.name not in fields and not hasattr(kind, c.name)]


def _unknown(kind: Any, columns: Sequence[sa.Column[Any]]) -> list[str]:
    """What every mapping has and no column takes."""
    if not is_typeddict(kind):
        return []
    names = {column.name for column in columns}
    return [f"the table has no column {name}" for name in sorted(kind.__required_keys__ - names)]


def _misfit(column: sa.Column[Any], hint: Any, has: frozenset[type] | None, dialect: Dialect) -> str | None:
    takes = rule(column, dialect).types
    if has and not has & takes:
        return f"{_names(has)}, where column {column.name} ({column.type!r}) takes {_names(takes)}"
    zone, zoned = _zone(hint), bool(getattr(column.type, "timezone", False))
    if datetime in takes and zone is not None and zone != zoned:
        given, wanted = ("with", "none") if zone else ("without", "one")
        return f"a time {given} zone, where column {column.name} ({column.type!r}) has {wanted}"
    return None


def _names(kinds: frozenset[type]) -> str:
    return " or ".join(sorted(kind.__name__ for kind in kinds))


def _zone(hint: Any) -> bool | None:
    """Does the hint say of a time whether it has a zone?"""
    if hint in (pydantic.AwareDatetime, pydantic.NaiveDatetime):
        return bool(hint is pydantic.AwareDatetime)
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        said = [note.tz for note in notes if isinstance(note, msgspec.Meta) and note.tz is not None]
        return said[-1] if said else _zone(inner)
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        says = {_zone(part) for part in get_args(hint) if part is not type(None)}
        return says.pop() if len(says) == 1 else None
    return None
