"""Columns to bytes and back. A column of one plain type is written as it is; what msgpack does not know becomes text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from waxwing.errors import ConfigError

# Below it nothing is gained.
COMPRESS_FROM_BYTES = 1_000
_INT64 = 2**63
_PLAIN = frozenset({str, bytes, float, bool})
# Types that are written as text: how to read each back.
_AS_TEXT: dict[type, tuple[str, Any]] = {
    Decimal: ("decimal", Decimal),
    UUID: ("uuid", UUID),
    date: ("date", date.fromisoformat),
    datetime: ("datetime", datetime.fromisoformat),
    time: ("time", time.fromisoformat),
    int: ("int", int),  # beyond 64 bits
}
_FROM_TEXT = dict(_AS_TEXT.values())
_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
KEPT = (
    "Make a Fold's states of None, bool, int, float, str (without lone surrogates), bytes, Decimal, date, datetime, UUID, list, "
    "tuple, set and dict; or let its add refuse such a value, which rejects the record."
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


def pack_column(values: Sequence[Any]) -> Any:
    """The values as something that msgpack takes: [how, ...].

    Raises:
        ConfigError: a value (of a user's fold) of a type that can't be kept.
    """
    kinds = set(map(type, values))
    if kinds <= _PLAIN or (kinds == {int} and max(values) < _INT64 and min(values) >= -_INT64):
        return ["", values]
    if type(None) in kinds:
        nulls = [n for n, value in enumerate(values) if value is None]
        return ["null", nulls, pack_column([value for value in values if value is not None])]
    if len(kinds) == 1:
        (kind,) = kinds
        if kind in _AS_TEXT:
            return [_AS_TEXT[kind][0], list(map(str, values))]
        if kind is tuple and len(set(map(len, values))) == 1 and values[0]:
            return ["columns", [pack_column(column) for column in zip(*values, strict=True)]]
    return ["mixed", [_pack(value) for value in values]]


def unpack_column(packed: Any) -> list[Any]:
    """The values again."""
    how, data = packed[0], packed[1]
    if not how:
        return data  # type: ignore[no-any-return]  # as it was packed
    if how == "null":
        values = unpack_column(packed[2])
        if len(data) > len(values):  # rather than one insertion for each
            nulls, rest = set(data), iter(values)
            return [None if n in nulls else next(rest) for n in range(len(data) + len(values))]
        out: list[Any] = []
        first = 0
        for before, n in enumerate(data):
            out += values[first : n - before]
            out.append(None)
            first = n - before
        return out + values[first:]
    if how == "columns":
        return list(zip(*map(unpack_column, data), strict=True))
    if how == "mixed":
        return [_unpack(value) for value in data]
    return list(map(_FROM_TEXT[how], data))


def _pack(value: Any) -> Any:
    """One value: as it is, or [type, ...]."""
    kind = type(value)
    if value is None or kind in _PLAIN or (kind is int and -_INT64 <= value < _INT64):
        return value
    if kind in _AS_TEXT:
        return [_AS_TEXT[kind][0], str(value)]
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        return [kind.__name__, [_pack(one) for one in value]]
    if kind is dict:
        return ["dict", [[_pack(key), _pack(one)] for key, one in value.items()]]
    raise ConfigError(f"a fold's state holds a {kind.__name__}.", hint=KEPT)


def _unpack(packed: Any) -> Any:
    if type(packed) is not list:
        return packed
    how, data = packed
    if how in _SEQUENCES:
        return _SEQUENCES[how](_unpack(one) for one in data)
    if how == "dict":
        return {_unpack(key): _unpack(one) for key, one in data}
    return _FROM_TEXT[how](data)


def compress(data: bytes) -> bytes:
    """Compressed where that pays; the first byte says so."""
    if len(data) >= COMPRESS_FROM_BYTES:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return b"\x01" + packed
    return b"\x00" + data


def decompress(data: bytes) -> bytes:
    """The bytes that were given to `compress`."""
    return zlib.decompress(data[1:]) if data[:1] == b"\x01" else data[1:]
