"""JSON that columns keep: as text, its numbers digit for digit.

A Decimal is a number here, a `msgspec.Raw` JSON that stands as it came, and integers have no limit. orjson does the work wherever
it can; what it can't, integers beyond 64 bits, is written value by value.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Context, Decimal, Inexact
from itertools import chain
from math import isfinite
from types import NoneType
from typing import Any

import msgspec
import orjson
import sqlalchemy as sa
from typing_extensions import override

from waxwing.tables.dialect import Dialect
from waxwing.tables.values.limits import Limit

TYPES: frozenset[type] = frozenset({dict, list, str, bool, int, float, Decimal, msgspec.Raw})

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
_NOT_EQUAL = "does not come back equal from JSON (NaN, infinity, or a type JSON lacks)"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# numeric's, and so jsonb's: digits before and behind the point.
_NUMERIC_DIGITS_MAX, _NUMERIC_DECIMALS_MAX = 131_072, 16_383
# An integer that msgspec reads no more.
_LONG = re.compile(r"-?\d{4300,}")
_DEPTH_MAX = 250  # orjson's own limit
# The first integer that msgspec reads no more.
_INTEGER_MAX = 10**4_299
_ALWAYS_KEPT = frozenset({bool, NoneType})
# Raises where a Decimal has more digits.
_DIGITS_MAX = _NUMERIC_DECIMALS_MAX // 2
_of_few_digits = Context(prec=_DIGITS_MAX, traps=[Inexact]).plus
NAMED_CHARACTERS_MAX = 60


class TextJSON(sa.JSON):
    """JSON in a column of text."""


exact = msgspec.json.Decoder(float_hook=Decimal).decode


def text_of(value: Any) -> str:
    """The JSON of a value that a column's check let through."""
    try:
        return orjson.dumps(value, _fragment, _OPTIONS).decode()
    except TypeError:
        return _written(value, 0)


_numbers = msgspec.json.Encoder(decimal_format="number").encode


def kept_text(value: Any) -> str:
    """The same, of a value in which a check has found nothing that JSON lacks: a third faster where there are decimals."""
    return _numbers(value).decode()


def _fragment(value: Any) -> orjson.Fragment:
    """What orjson does not know, as JSON."""
    if type(value) is Decimal:
        if value.is_finite():
            return orjson.Fragment(str(value))
        raise TypeError(f"it has no number {value}")
    if type(value) is msgspec.Raw:
        return orjson.Fragment(bytes(value))
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def _written(value: Any, depth: int) -> str:
    """What `text_of` gives, value by value: for integers beyond 64 bits."""
    kind = type(value)
    if depth > _DEPTH_MAX:
        raise TypeError("nested too deeply")
    if kind is dict:
        return "{" + ",".join(f"{_key(key)}:{_written(each, depth + 1)}" for key, each in value.items()) + "}"
    if kind is list:
        return "[" + ",".join([_written(each, depth + 1) for each in value]) + "]"
    return str(value) if kind is int else orjson.dumps(value, _fragment, _OPTIONS).decode()


def _key(key: Any) -> str:
    if type(key) is not str:
        raise TypeError("Dict key must be str")
    return orjson.dumps(key).decode()


class _Fast:
    """Whether values of a column are kept, level by level, and the values of a kind at once.

    Where that does not tell (JSON as it came, deep nesting), it says no, and each is asked for by itself.
    """

    def __init__(self, column: sa.Column[Any], dialect: Dialect) -> None:
        self._as_numbers, self._nul = _is_numeric(column), dialect.text_nul
        self._alone = None if _bare(column, dialect) is None else frozenset({dict, list, str, bool})

    def all_fit(self, values: Sequence[Any]) -> bool:
        """Are all kept?"""
        if self._alone is not None and not self._alone.issuperset(map(type, values)):
            return False
        level = list(values)
        for _ in range(_DEPTH_MAX):
            kinds = set(map(type, level)) - _ALWAYS_KEPT
            if not kinds:
                return True
            inner: list[Any] = []
            for kind in kinds:
                of_kind: list[Any] = [value for value in level if type(value) is kind]
                if kind is dict:
                    keys = set(chain.from_iterable(of_kind))
                    if not ({str}.issuperset(map(type, keys)) and self._texts_fit(keys)):
                        return False
                    inner += chain.from_iterable(map(dict.values, of_kind))
                elif kind is list:
                    inner += chain.from_iterable(of_kind)
                elif not self._leaves_fit(kind, of_kind):
                    return False
            level = inner
        return False

    def _leaves_fit(self, kind: type, values: list[Any]) -> bool:
        if kind is str:
            return self._texts_fit(values)
        if kind is int:
            return bool(min(values) > -_INTEGER_MAX and max(values) < _INTEGER_MAX)
        if kind is float:
            return all(map(isfinite, values))
        if kind is not Decimal or not all(map(Decimal.is_finite, values)):
            return False
        return not self._as_numbers or (max(map(abs, map(Decimal.adjusted, values))) <= _DIGITS_MAX and _are_short(values))

    def _texts_fit(self, texts: Collection[str]) -> bool:
        joined = "".join(texts)
        return (joined.isascii() or is_utf8(joined)) and (self._nul or "\x00" not in joined)


def _are_short(values: Iterable[Decimal]) -> bool:
    try:
        deque(map(_of_few_digits, values), maxlen=0)
    except Inexact:
        return False
    return True


def all_fit(column: sa.Column[Any], dialect: Dialect) -> Callable[[Sequence[Any]], bool]:
    """Are all of these kept?"""
    return _Fast(column, dialect).all_fit


def is_utf8(text: str) -> bool:
    """Or does it hold half of a pair of surrogates?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(column: sa.Column[Any], dialect: Dialect) -> Callable[[Any], str | None]:
    """Why a value is not kept; None: it is."""
    as_numbers, bare_kept = _is_numeric(column), _bare(column, dialect)

    def reason(value: Any) -> str | None:
        text = ""
        try:
            text = text_of(value)
            back = exact(text)
        except (TypeError, ValueError) as error:  # of encoders and decoders
            if isinstance(error, msgspec.ValidationError) and (long := _LONG.search(text)) is not None:
                return f"the number {_named(long[0])}, which has too many digits"
            return f"no JSON: {error.__cause__ or error}"
        except RecursionError:
            return "no JSON: nested too deeply"
        except ArithmeticError:
            return "no JSON: the exponent of a number has too many digits"
        why = None
        if not dialect.text_nul and _NUL.search(text.encode()):
            why = f"holds U+0000, which JSON in {dialect.name} can't"
        elif not _same(value, back):
            why = _NOT_EQUAL
        elif bare_kept is not None and type(back) in (int, Decimal) and not bare_kept(text.strip()):
            why = f"the number {_named(text.strip())}, which a column of the type JSON in {dialect.name} would change"
        elif as_numbers and (number := next(_beyond_numeric(back), None)) is not None:
            why = f"the number {_named(str(number))}, which is beyond the range of numbers in JSONB"
        return why

    return reason


def _same(value: Any, back: Any) -> bool:
    """Is what comes back what was given? (Floats come back as the Decimals of their shortest text.)"""
    kind = type(value)
    if kind is float:
        return type(back) is Decimal and float(back) == value
    if kind is dict:
        return type(back) is dict and value.keys() == back.keys() and all(_same(each, back[key]) for key, each in value.items())
    if kind is list:
        return type(back) is list and len(value) == len(back) and all(map(_same, value, back))
    return kind is msgspec.Raw or (kind in (str, bool, int, Decimal, NoneType) and bool(value == back))


def _is_numeric(column: sa.Column[Any]) -> bool:
    """Does the column keep JSON's numbers as numbers of SQL? (Beyond their range it refuses, and names none.)"""
    return column.type.__visit_name__ == "JSONB"


def _bare(column: sa.Column[Any], dialect: Dialect) -> Callable[[str], bool] | None:
    """Whether a number that stands alone is kept, by its text; None: every one is."""
    return None if isinstance(column.type, TextJSON) else dialect.json_number_kept


def _beyond_numeric(value: Any) -> Iterator[Decimal]:
    if type(value) is Decimal:
        if value.adjusted() >= _NUMERIC_DIGITS_MAX or int(value.as_tuple().exponent) < -_NUMERIC_DECIMALS_MAX:
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _beyond_numeric(part)


class Doubles(Limit):
    """JSON whose numbers are kept as integers of 64 bits or as doubles."""

    @override
    def all_fit(self, values: Sequence[Any]) -> bool:
        try:
            orjson.dumps(values, None, _OPTIONS)
        except TypeError:  # with Decimals, or longer integers
            return super().all_fit(values)
        return True

    @override
    def reason(self, value: Any) -> str | None:
        lost = next(_beyond_doubles(exact(text_of(value))), None)
        return None if lost is None else f"the number {_named(str(lost))}, which JSON in this database would round"


def _beyond_doubles(value: Any) -> Iterator[Decimal | int]:
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            yield value
    elif type(value) is Decimal:
        if Decimal(repr(float(value))) != value:
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _beyond_doubles(part)


def _named(text: str) -> str:
    return text if len(text) <= NAMED_CHARACTERS_MAX else f"{text[:NAMED_CHARACTERS_MAX]}... ({len(text):,} characters)"
