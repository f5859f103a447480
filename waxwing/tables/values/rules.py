"""What each kind of column takes: one rule a kind, by the same measure on every database. Only a `Dialect`'s limits differ."""

# ruff: noqa: ARG001, ARG005 - one signature for all rules

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from itertools import chain, repeat
from typing import Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.tables.dialect import Dialect
from waxwing.tables.values import json_values

Values = Sequence[Any]
Kind = Literal[
    "integer", "decimal", "float", "text", "enum", "boolean", "date", "datetime", "time", "binary", "json", "uuid", "untyped"
]

# Larger numbers are no use to anyone, and PostgreSQL's unbounded numeric ends near 131,072 digits.
DECIMAL_DIGITS_MAX = 1_000
_SINGLE_PRECISION_BITS = 24
UUID_DIGITS, UUID_CHARACTERS = 32, 36  # without and with hyphens


class Rule(NamedTuple):
    """What a column takes: exact Python types, a test over many values of these types, and the reason against one."""

    types: frozenset[type]
    all_fit: Callable[[Values], bool]
    reason: Callable[[Any], str | None]


def refused(column: sa.Column[Any], why: str, hint: str) -> ConfigError:
    return ConfigError(f"Column {column.name} ({column.type!r}): {why}.", hint=hint)


def fits_each(reason: Callable[[Any], str | None]) -> Callable[[Values], bool]:
    return lambda values: all(reason(value) is None for value in values)


# -- numbers ------------------------------------------------------------------------------------


def integer_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    low, high = integer_range(column.type)

    def reason(value: int) -> str | None:
        return None if low <= value <= high else f"outside the integers {low} to {high} that the column takes"

    return Rule(frozenset({int}), lambda values: bool(low <= min(values) and max(values) <= high), reason)


_BITS = {"TINYINT": 8, "MEDIUMINT": 24}


def integer_range(kind: sa.types.TypeEngine[Any]) -> tuple[int, int]:
    """The least and the greatest integer of a type, those of single databases among them."""
    bits = 16 if isinstance(kind, sa.SmallInteger) else 64 if isinstance(kind, sa.BigInteger) else 32
    bits = _BITS.get(kind.__visit_name__, bits)
    # SQL Server's TINYINT has no sign, and no attribute that says so.
    if getattr(kind, "unsigned", kind.__visit_name__ == "TINYINT"):
        return 0, (1 << bits) - 1
    return -(1 << bits - 1), (1 << bits - 1) - 1


def decimal_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    assert isinstance(column.type, sa.Numeric)
    precision, scale = column.type.precision, column.type.scale or 0
    if (precision or math.inf) > dialect.decimal_digits_max and dialect.decimal_digits_max < DECIMAL_DIGITS_MAX:
        raise refused(
            column,
            f"{dialect.name} keeps {dialect.decimal_digits_max} digits of a decimal exactly, not {precision or 'any number of'}",
            f"Declare Numeric({dialect.decimal_digits_max}, ...) or less, or store the value as an integer or as text.",
        )
    types = frozenset({Decimal, int})
    if precision is None:

        def reason_any(value: Decimal | int) -> str | None:
            if isinstance(value, Decimal) and not value.is_finite():
                return f"{value} is no number"
            exact = Decimal(value)
            exponent = exact.as_tuple().exponent
            if exact.adjusted() >= DECIMAL_DIGITS_MAX or int(exponent) < -DECIMAL_DIGITS_MAX:
                return f"more than {DECIMAL_DIGITS_MAX} digits before or behind the decimal point"
            return None

        return Rule(types, fits_each(reason_any), reason_any)

    quantum, zero = Decimal(1).scaleb(-scale), (Decimal(0),)
    # quantize() in this context raises where a digit would be lost, behind the point or in front of it.
    quantize = Context(prec=precision, traps=[Inexact, InvalidOperation]).quantize

    def all_fit(values: Values) -> bool:
        try:
            max(chain(zero, values))  # comparing raises on NaN, which quantize() lets pass
            deque(map(quantize, values, repeat(quantum)), maxlen=0)
        except DecimalException:
            return False
        return True

    def reason(value: Decimal | int) -> str | None:
        if isinstance(value, Decimal) and not value.is_finite():
            return f"{value} is no number"
        try:
            quantize(value, quantum)
        except Inexact:
            return f"more than {scale} decimals"
        except InvalidOperation:
            return f"more than {precision - scale} digits before the decimal point"
        return None

    return Rule(types, all_fit, reason)


def float_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    assert isinstance(column.type, sa.Float)
    if isinstance(column.type, sa.REAL) or (column.type.precision or 53) <= _SINGLE_PRECISION_BITS:
        raise refused(column, "single precision rounds nearly every value", "Declare Double, or Float without a precision.")
    nan, infinity = dialect.float_nan, dialect.float_infinity

    def reason(value: float) -> str | None:
        # Beyond 2**53 only some integers are floats.
        if isinstance(value, int) and not (abs(value) <= 1 << 1023 and int(float(value)) == value):
            return "an integer that no float holds exactly"
        if math.isnan(value):
            return None if nan else "NaN, which the column does not take"
        if math.isinf(value) and not infinity:
            return f"infinity, which {dialect.name} does not keep"
        return None

    def all_fit(values: Values) -> bool:
        if nan and infinity and int not in set(map(type, values)):
            return True
        return all(reason(value) is None for value in values)

    return Rule(frozenset({float, int}), all_fit, reason)


def boolean_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    return Rule(frozenset({bool}), lambda values: True, lambda value: None)


# -- text, bytes, JSON --------------------------------------------------------------------------


def padded_length(kind: Any) -> int:
    """Of CHAR, NCHAR or BINARY, which are 1 long where nothing is said."""
    return 1 if kind.length is None else int(kind.length)


def text_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    assert isinstance(column.type, sa.String)
    padded = isinstance(column.type, sa.CHAR | sa.NCHAR)
    length = padded_length(column.type) if padded else column.type.length
    longest = length if length is not None else math.inf
    nul, trims = dialect.text_nul, padded and not dialect.char_blanks_kept
    size_of: Callable[[str], int] = _utf16_units if dialect.text_utf16 else len

    def all_fit(values: Values) -> bool:
        joined = "".join(values)
        size = len if joined.isascii() else size_of
        if max(map(size, values)) > longest or (padded and min(map(size, values)) < longest):
            return False
        if trims and any(value.endswith(" ") for value in values):
            return False
        return (nul or "\x00" not in joined) and (joined.isascii() or json_values.is_utf8(joined))

    def reason(value: str) -> str | None:
        if (size := size_of(value)) > longest:
            return f"{size} characters, at most {length}"
        if padded and size < longest:
            return f"{size} characters, and CHAR({length}) would pad them with blanks"
        if trims and value.endswith(" "):
            return f"ends in a blank, which CHAR({length}) in {dialect.name} drops"
        if not nul and "\x00" in value:
            return f"holds U+0000, which text in {dialect.name} can't"
        return None if json_values.is_utf8(value) else "holds a lone surrogate, which is no Unicode text"

    return Rule(frozenset({str}), all_fit, reason)


def _utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def enum_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    assert isinstance(column.type, sa.Enum)
    names = set(column.type.enums)
    members = column.type.enum_class
    types: frozenset[type] = frozenset([str] if members is None else [str, members])
    known = names | set(members or ())

    def reason(value: Any) -> str | None:
        return None if value in known else f"{value!r} is not one of {', '.join(sorted(names))}"[:500]

    return Rule(types, lambda values: set(values) <= known, reason)


def binary_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    length = getattr(column.type, "length", None)
    longest = length if length is not None else math.inf
    shortest = padded_length(column.type) if isinstance(column.type, sa.BINARY) else 0

    def reason(value: bytes) -> str | None:
        if len(value) < shortest:
            return f"{len(value)} bytes, and BINARY({shortest}) would pad them with zeros"
        return None if len(value) <= longest else f"{len(value)} bytes, at most {length}"

    def all_fit(values: Values) -> bool:
        return max(map(len, values)) <= longest and min(map(len, values)) >= shortest

    return Rule(frozenset({bytes}), all_fit, reason)


def json_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    return Rule(json_values.TYPES, json_values.all_fit(column, dialect), json_values.problem(column, dialect))


def uuid_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    assert isinstance(column.type, sa.Uuid)
    if column.type.as_uuid:
        return Rule(frozenset({UUID}), lambda values: True, lambda value: None)

    def reason(value: str) -> str | None:
        try:
            canonical = str(UUID(value))
        except ValueError:
            return "no UUID"
        return None if value == canonical else "a UUID, but not written in the canonical way (lower case, 8-4-4-4-12)"

    return Rule(frozenset({str}), fits_each(reason), reason)


def untyped_rule(column: sa.Column[Any], dialect: Dialect) -> Rule:
    """A column without a type, which keeps what it is given: no bool, which would become a number."""
    if not dialect.untyped_columns:
        raise refused(
            column,
            "SQLAlchemy knows no such type",
            'Declare the column in the flow\'s Table (sa.Column("name", sa.Text)): docs/types.md has what each database takes',
        )
    whole = integer_rule(sa.Column(column.name, sa.BigInteger), dialect)
    ways = {
        int: whole,
        float: float_rule(sa.Column(column.name, sa.Double), dialect),
        str: text_rule(sa.Column(column.name, sa.Text), dialect),
        bytes: binary_rule(sa.Column(column.name, sa.LargeBinary), dialect),
    }

    def reason(value: Any) -> str | None:
        return ways[type(value)].reason(value)

    return Rule(frozenset(ways), fits_each(reason), reason)
