"""Value checks: one per column, decided once from the declared type, over a whole column of values at once.

A value is kept exactly or refused with its reason, by the same rules on every database: never rounded, cut,
padded or read as another type. Only what a database can't hold at all (`Dialect`) differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import NoneType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import sqltypes

from waxwing.errors import ConfigError
from waxwing.tables.dialect import Dialect
from waxwing.tables.modes import Merge, Upsert, keys_of
from waxwing.tables.plan import Plan
from waxwing.tables.values import rules, rules_of_time
from waxwing.tables.values.limits import Limit
from waxwing.tables.values.rules import Kind, Rule, Values

RULES: dict[Kind, Callable[[sa.Column[Any], Dialect], Rule]] = {
    "integer": rules.integer_rule,
    "decimal": rules.decimal_rule,
    "float": rules.float_rule,
    "text": rules.text_rule,
    "enum": rules.enum_rule,
    "boolean": rules.boolean_rule,
    "date": rules_of_time.date_rule,
    "datetime": rules_of_time.datetime_rule,
    "time": rules_of_time.time_rule,
    "binary": rules.binary_rule,
    "json": rules.json_rule,
    "uuid": rules.uuid_rule,
    "untyped": rules.untyped_rule,
}

# Under this key a column's `info` has what the database's own column keeps of the declared type (limits.py).
LIMIT = "waxwing_limit"

Check = Callable[[Values], dict[int, str]]

# The order matters: an Enum is a String to SQLAlchemy.
_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (sa.Enum, "enum"),
    (sa.Boolean, "boolean"),
    (sa.Integer, "integer"),
    (sa.Float, "float"),
    (sa.Numeric, "decimal"),
    (sa.Uuid, "uuid"),
    (sa.String, "text"),
    (sa.DateTime, "datetime"),
    (sa.Date, "date"),
    (sa.Time, "time"),
    (sqltypes._Binary, "binary"),  # LargeBinary, BINARY, VARBINARY, and those of single databases
    (sa.JSON, "json"),
    (sqltypes.NullType, "untyped"),
)
SUPPORTED = "integers, Numeric, Double, Float, String, Text, Enum, Boolean, Date, DateTime, Time, LargeBinary, JSON, Uuid"


def kind_of(column: sa.Column[Any]) -> Kind:
    """The kind of a column's type.

    Raises:
        ConfigError: the type is not supported.
    """
    for base, kind in _KINDS:
        if isinstance(column.type, base):
            return kind
    raise ConfigError(
        f"Column {column.name}: the type {column.type!r} is not supported.",
        hint=f"Supported are {SUPPORTED}. Convert the value in a step before the sink.",
    )


def checks(plan: Plan, dialect: Dialect) -> list[Check]:
    """One check per column of the plan: numbers of the values that can't be kept, with the reason; {} if all can.

    Raises:
        ConfigError: the database can't keep a column's type exactly.
    """
    keys = keys_of(plan.mode)
    # NaN has no order that Python and databases share; a sum that is infinite once would stay so.
    limits = {plan.mode.newer_by: replace(dialect, float_nan=False)} if isinstance(plan.mode, Upsert) else {}
    if isinstance(plan.mode, Merge):
        limits = dict.fromkeys(plan.mode.merged, replace(dialect, float_nan=False, float_infinity=False))
    return [
        # A null key equals no other.
        _check(rule(column, limits.get(column.name, dialect)), bool(column.nullable) and column.name not in keys)
        for column in plan.columns
    ]


def rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    """What the column takes.

    Raises:
        ConfigError: the type is not supported, or the database can't keep it exactly.
    """
    full = RULES[kind_of(column)](column, dialect)
    limit: Limit | None = column.info.get(LIMIT)
    return full if limit is None else _limited(full, limit)


def _limited(rule: Rule, limit: Limit) -> Rule:
    fit, reason_of = rule.all_fit, rule.reason

    def reason(value: Any) -> str | None:
        why = reason_of(value)
        return limit.reason(value) if why is None else why

    return Rule(rule.types, lambda values: fit(values) and limit.all_fit(values), reason)


def _check(rule: Rule, nullable: bool) -> Check:
    types, all_fit, reason_of = rule
    allowed = types | {NoneType} if nullable else types

    def check(values: Values) -> dict[int, str]:
        kinds = set(map(type, values))
        if kinds <= allowed:
            present = [value for value in values if value is not None] if NoneType in kinds else values
            if not present or all_fit(present):
                return {}
        bad = {}
        for number, value in enumerate(values):
            if (reason := why_not(value)) is not None:
                bad[number] = reason
        return bad

    def why_not(value: Any) -> str | None:
        if value is None:
            return None if nullable else "null, which the column does not take"
        if type(value) not in types:
            return f"a value of type {type(value).__name__}, not {' or '.join(sorted(kind.__name__ for kind in types))}"
        return reason_of(value)

    return check
