"""Which type of record a stream carries, where its steps say so: mistakes that it shows are told at the start.

`parse` names it, and so does the annotation of what a `map` returns; where nobody says, nothing is known.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from bytewax.dataflow import Stream as Flowing

S = TypeVar("S")

# Values of these hints are of that very type. Those of other classes (an Enum, pydantic's EmailStr) may be anything.
PLAIN_TYPES = frozenset(
    {bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID, list, dict, tuple, set, frozenset}
)


def declare(stream: Flowing[S], kind: Any) -> Flowing[S]:
    """Remember what the records of a stream are; None: nobody knows."""
    vars(stream.flow()).setdefault("_waxwing_records", {})[stream.stream_id] = kind
    return stream


def declare_key(stream: Flowing[S], kind: Any) -> Flowing[S]:
    """Remember how the keys of a stream's tombstones are read; None: nobody said."""
    vars(stream.flow()).setdefault("_waxwing_keys", {})[stream.stream_id] = kind
    return stream


def key_type(stream: Flowing[Any]) -> Any:
    """How the keys of a stream's tombstones are read; None where nobody said so."""
    return vars(stream.flow()).get("_waxwing_keys", {}).get(stream.stream_id)


def record_type(stream: Flowing[Any]) -> Any:
    """What the records of a stream are; None where nobody said so."""
    return vars(stream.flow()).get("_waxwing_records", {}).get(stream.stream_id)


def returned(fn: Callable[..., Any]) -> Any:
    """The type that a function says it returns; None where it says nothing."""
    with contextlib.suppress(Exception):  # whatever stands in somebody's annotations
        return get_type_hints(fn).get("return")
    return None


def field_types(kind: Any) -> dict[str, frozenset[type] | None] | None:
    """By field of a record type the types of its values, but null; None: anything. None as a whole: it has no fields."""
    if not isinstance(kind, type) or not getattr(kind, "__annotations__", None):
        return None
    with contextlib.suppress(Exception):
        return {name: types_of(hint) for name, hint in get_type_hints(kind).items()}
    return None


def types_of(hint: Any) -> frozenset[type] | None:
    """The types of a hint's values, but null; None: anything."""
    origin = get_origin(hint)
    if origin is Annotated:
        return types_of(get_args(hint)[0])
    if origin is Union or origin is types.UnionType:
        parts = [types_of(part) for part in get_args(hint) if part is not type(None)]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    if origin is Literal:
        return frozenset(type(value) for value in get_args(hint) if value is not None)
    if isinstance(hint, NewType):
        return types_of(hint.__supertype__)
    plain = origin or hint
    return frozenset({plain}) if plain in PLAIN_TYPES else None
