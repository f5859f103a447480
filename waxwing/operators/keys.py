"""Keys of messages, read for deletes: which row a tombstone (a null value) means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from waxwing.errors import ConfigError
from waxwing.operators.cutting import cutter
from waxwing.operators.decoding import is_record, reading

# Kinds of a key that is one value; all but bytes stand in JSON.
VALUES = (str, int, bytes, UUID, Decimal, date, datetime, time)

# What a tombstone deletes: the values of the key's columns; or the key as it came.
Key = bytes | tuple[Any, ...]


def key_reader(kind: Any) -> tuple[Callable[[bytes], Key], tuple[str, ...]]:
    """From a message's key to what is deleted, and the columns that its values are of (none: those of the table).

    The fields of a record are the key columns, by name. A plain type is the value of the only one: in JSON, but bytes, which are
    the key as it stands. None leaves it to the table: the key is the text of the only column's value (or its bytes).

    Raises:
        ConfigError: a kind that can't be read.
    """
    if kind is None:
        return (lambda key: key), ()
    if kind is bytes:
        return (lambda key: (key,)), ()
    is_value = isinstance(kind, type) and kind in VALUES
    if is_value:
        decode: Callable[[Any], Any] = msgspec.json.Decoder(kind).decode
        told = kind
    elif is_record(kind):
        way = reading(kind)
        decode, told = way.one, way.told
    else:
        raise ConfigError(
            f"parse: key={kind!r} is no type of keys.",
            hint="Give it a record type whose fields are the key columns, or str, int, bytes, UUID, Decimal, date or datetime.",
        )
    cut, names = cutter(told), tuple(names_of(kind) or ())

    def read(key: bytes) -> Key:
        made = decode(key if cut is None else cut([key])[0])
        if not names:
            return (made,)
        one = made.get if isinstance(made, dict) else partial(getattr, made)
        return tuple([one(name) for name in names])

    return read, names


def names_of(kind: Any) -> list[str] | None:
    """The fields of a record type; None where a key is one value."""
    if isinstance(kind, type) and kind in VALUES:
        return None
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    fields = getattr(kind, "__struct_fields__", None) or getattr(kind, "model_fields", None)
    return list(fields or kind.__annotations__)
