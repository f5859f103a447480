"""Decoders from JSON to records: exact, and the same whatever a record's class is.

A Struct is decoded by msgspec. What stands in a pydantic model, TypedDict or dataclass is read by msgspec too, into the types
that its fields declare, and then validated by pydantic. So a number is read from its digits and never through a float, and
nothing is taken for another type ("5" for an int, 1 for a bool, epoch seconds for a datetime) that a Struct would not take.
What says more than a Struct could (a validator that comes before pydantic's own, `strict=False`, a union that msgspec does not
know) is left to pydantic.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable
from decimal import Decimal
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect
import pydantic
import typing_extensions
from pydantic_core import SchemaError, SchemaValidator
from typing_extensions import is_typeddict  # knows its own TypedDict too, which pydantic wants before Python 3.12

from waxwing.errors import ConfigError
from waxwing.operators.mirror import Mirror

# As many as Python turns into an int.
DIGITS_MAX = 4_300

Decode = Callable[[Any], Any]


class Reading(NamedTuple):
    """How a kind is read: by these functions, one after the other, from JSON bytes on.

    `told` is the type that msgspec reads for it. `problems` has all that is wrong with a value, where msgspec stops at the first;
    None where that is all.
    """

    told: Any
    steps: tuple[Decode, ...]
    problems: Callable[[Any], Exception | None] | None = None

    def one(self, value: Any) -> Any:
        """Read one value."""
        try:
            for step in self.steps:
                value = step(value)
        except msgspec.ValidationError as error:
            raise self.problems(value) or error if self.problems is not None else error from None
        return value


def decoder(kind: Any) -> Decode:
    """The fastest exact decoder from JSON bytes to `kind`.

    Raises:
        ConfigError: the kind can't be decoded.
    """
    return reading(kind).one


def reading(kind: Any) -> Reading:
    """The same, in the steps of which it is made.

    Raises:
        ConfigError: the kind can't be decoded.
    """
    if sys.version_info < (3, 12):  # pydantic wants the newer one there
        kind = _newer(kind)
    is_model = isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
    try:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _check_raw(kind)
            return Reading(kind, (msgspec.json.Decoder(kind, float_hook=Decimal).decode,))
        if is_record(typing.get_origin(kind)):
            raise ConfigError(
                f"parse: {kind!r} gives a generic type its arguments, and only those of pydantic models are taken.",
                hint="Declare a class in which the types are written out.",
            )
        if not is_record(kind):
            raise ConfigError(
                f"parse: {kind!r} is no record type.",
                hint="Give it a msgspec Struct, a pydantic model, a TypedDict or a dataclass.",
            )
        try:
            schema: Any = pydantic.TypeAdapter(kind).core_schema
        except pydantic.errors.PydanticUserError as error:
            # With types of msgspec's own (Raw, Structs), or a dataclass that holds typing's TypedDict.
            unknown = isinstance(error, pydantic.errors.PydanticSchemaGenerationError) or error.code == "typed-dict-version"
            if is_model or not unknown:
                raise
            _check_raw(kind)
            return Reading(kind, (msgspec.json.Decoder(kind, float_hook=Decimal).decode,))
        mirror = Mirror()
        told, rest = mirror.of(schema)
        # Without prebuilt validators: a model's own would be taken, with the schema as it was.
        check = SchemaValidator(rest, _use_prebuilt=False).validate_python
        read = msgspec.json.Decoder(told, float_hook=_exact if mirror.guesses else Decimal).decode
        known = msgspec.json.Decoder(Mirror(as_structs=True).of(schema)[0]).decode if mirror.forbids else None
    except (pydantic.errors.PydanticUserError, SchemaError, TypeError, NameError, AttributeError) as error:
        raise ConfigError(f"parse: {kind!r} can't be decoded: {error}") from error
    if known is not None:
        read = _both(known, read)
    return Reading(told, (read, check), lambda value: _all_problems(check, value))


def _both(known: Decode, read: Decode) -> Decode:
    """Read, but raise at a field that is unknown."""

    def decode(value: Any) -> Any:
        made = read(value)
        known(value)
        return made

    return decode


def _newer(kind: Any, known: dict[Any, Any] | None = None) -> Any:
    """A type with typing_extensions' TypedDict in place of typing's, itself and in what it holds; `known` are those begun."""
    known = {} if known is None else known
    if typing.is_typeddict(kind):
        if kind not in known:
            known[kind] = typing_extensions.TypedDict(kind.__name__, {})  # type: ignore[operator]  # from a name known only now
            _fill(known[kind], kind, known)
        return known[kind]
    parts = typing.get_args(kind)
    newer = tuple(_newer(part, known) for part in parts)
    if newer == parts:
        return kind
    if typing.get_origin(kind) is typing.Annotated:
        return typing.Annotated[(newer[0], *kind.__metadata__)]
    if isinstance(kind, UnionType):
        return reduce(or_, newer)
    return kind.copy_with(newer) if hasattr(kind, "copy_with") else typing.get_origin(kind)[newer]


def _fill(new: Any, old: Any, known: dict[Any, Any]) -> None:
    """Give a TypedDict the fields of another; last of all, for they may hold itself."""
    made = {name: _newer(hint, known) for name, hint in typing.get_type_hints(old, include_extras=True).items()}
    for name in old.__optional_keys__:  # of `total=False`; where annotations are texts, it does not know NotRequired
        if typing.get_origin(made[name]) not in (typing.Required, typing.NotRequired):
            made[name] = typing.NotRequired[made[name]]
    optional = {name for name, hint in made.items() if typing.get_origin(hint) is typing.NotRequired}
    new.__annotations__ = made
    new.__required_keys__, new.__optional_keys__ = frozenset(made.keys() - optional), frozenset(optional)


def _check_raw(kind: Any) -> None:
    """msgspec says that it knows such types, and then refuses every value of them."""
    left, seen = [msgspec.inspect.type_info(kind)], set()
    while left:
        found = left.pop()
        parts = [each.type for each in getattr(found, "fields", ())] + [*getattr(found, "types", ())]
        if isinstance(found, msgspec.inspect.TypedDictType | msgspec.inspect.UnionType) and any(
            isinstance(part, msgspec.inspect.RawType) for part in parts
        ):
            raise ConfigError(
                f"parse: {kind!r} can't be decoded: a TypedDict takes no msgspec.Raw, nor does a union (Raw | None).",
                hint="Write Any, whose numbers are exact too; or Raw alone, in a Struct or a dataclass: which takes a null, too.",
            )
        parts += [*getattr(found, "item_types", ())]
        parts += [getattr(found, name) for name in ("item_type", "key_type", "value_type") if hasattr(found, name)]
        seen.add(id(found))
        left += [part for part in parts if isinstance(part, msgspec.inspect.Type) and id(part) not in seen]


def _all_problems(check: Decode, value: Any) -> Exception | None:
    """As pydantic tells them, where msgspec stops at the first; None where pydantic would take the value."""
    try:
        check(_untyped(value))
    except pydantic.ValidationError as error:
        return error
    except Exception:
        return None
    return None


def is_record(kind: Any) -> bool:
    """Is it a Struct, a pydantic model, a TypedDict or a dataclass?"""
    is_class = isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct | pydantic.BaseModel)
    )
    return is_class or is_typeddict(kind)


def _exact(text: str) -> Decimal:
    """A JSON number with a point or an exponent. A few bytes can ask for gigabytes: 1e999999999 in an int field."""
    number = Decimal(text)
    if not -DIGITS_MAX < number.adjusted() < DIGITS_MAX:
        raise ValueError(f"a number of more than {DIGITS_MAX:,} digits")
    return number


_untyped = msgspec.json.Decoder(float_hook=_exact).decode
