"""Which type of record a stream carries, where its steps say so: mistakes that it shows are told at the start.

`parse` names it, and so does the annotation of what a `map` returns; where nobody says, nothing is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import types
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, Required, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pydantic
from bytewax.dataflow import Stream as Flowing
from typing_extensions import is_typeddict

S = TypeVar("S")

# Values of these hints are of that very type, and so are those of an Enum and of a record within a record. Those of other classes
# (pydantic's EmailStr) may be anything.
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
        as_declared = _leaves_values_alone(kind)
        return {name: types_of(hint, classes=as_declared) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return None


def _leaves_values_alone(kind: type) -> bool:
    """Does nothing of its own put other values in the place of those that were read (an Enum's value for its member)?"""
    if not issubclass(kind, pydantic.BaseModel):
        return not hasattr(kind, "__post_init__")
    own = kind.__pydantic_decorators__
    return not (kind.model_config.get("use_enum_values") or own.field_validators or own.model_validators or own.validators)


def types_of(hint: Any, *, classes: bool = True) -> frozenset[type] | None:
    """The types of a hint's values, but null; None: anything.

    Args:
        hint: of a field.
        classes: whether the value of a class (an Enum, a record) is one of it, as nothing changes what is read.
    """
    origin = get_origin(hint)
    if origin in (Annotated, Required, NotRequired):
        inner, *notes = get_args(hint)
        return types_of(inner, classes=classes and all(isinstance(note, msgspec.Meta) for note in notes))
    if origin is Union or origin is types.UnionType:
        absent = (type(None), msgspec.UnsetType)
        parts = [types_of(part, classes=classes) for part in get_args(hint) if part not in absent]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    if origin is Literal:
        return frozenset(type(value) for value in get_args(hint) if value is not None)
    if isinstance(hint, NewType):
        return types_of(hint.__supertype__, classes=classes)
    plain = dict if is_typeddict(hint) else origin or hint
    return frozenset({plain}) if plain in PLAIN_TYPES or (classes and _is_its_own_type(plain)) else None


def _is_its_own_type(hint: Any) -> bool:
    return isinstance(hint, type) and (
        issubclass(hint, enum.Enum | msgspec.Struct | pydantic.BaseModel) or dataclasses.is_dataclass(hint)
    )
