"""Parse: message values, JSON, to records of a declared type; what does not fit becomes a reject with its reason.

Values are decoded one by one, in a C loop: joining a batch into one JSON array, which saves calls, was measured slower
(msgspec 0.38 against 0.50 us a record of 140 bytes, pydantic 1.25 against 1.52), and values that are no JSON by
themselves can be when joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeVar, cast

import bytewax.operators as op
import msgspec
import pydantic
from bytewax.dataflow import Stream as Flowing
from pydantic_core import SchemaError, SchemaValidator
from typing_extensions import is_typeddict  # knows its own TypedDict too, which pydantic wants before Python 3.12

from waxwing.batch import Batch, Delete, Reject
from waxwing.errors import ConfigError
from waxwing.operators.reasons import REASON_CHARACTERS_MAX, reason_of, refusals_of

R = TypeVar("R")
S = TypeVar("S")

# As many as Python turns into an int.
DIGITS_MAX = 4_300


def parse(
    step_id: str,
    up: Flowing[Batch[bytes | None]],
    kind: type[R],
    *,
    on_tombstone: Literal["reject", "delete"] = "reject",
    value_bytes_max: int = 1_000_000,
) -> Flowing[Batch[R]]:
    """Decode JSON values into records of `kind`: a msgspec Struct (the fastest), pydantic model, TypedDict or dataclass.

    Unknown fields are ignored unless the type forbids them. Rejected, each with its reason: missing fields, wrong types, no
    JSON, no UTF-8, an empty value, the literals NaN and Infinity, a value nested too deeply or above `value_bytes_max`.
    Decimals are exact, or rejected (a Struct's also takes the text "NaN"). Integers have no limit here, the table knows its
    own. Of a field that stands twice the last counts. In what a Struct ignores not even the encoding is looked at.
    A null value (tombstone) is rejected, or with on_tombstone="delete" deletes the row of the message's key.

    It costs, us per record of 130 bytes: Struct 0.4, TypedDict 1.2-1.4, dataclass 1.7-2.0, pydantic model 2.0 (3.1 with Python's
    own thresholds of the garbage collector); 0.1 % bad values add 0.1.

    Parallelism: where the batch is.
    Delivery: as the source and the target.

    Raises:
        ConfigError: a kind that can't be decoded.
    """
    parser = Parser(kind, step_id, on_tombstone == "delete", value_bytes_max)
    return op.map(step_id, up, parser.parsed)


class Parser:
    """The decoder of one kind, chosen once."""

    def __init__(self, kind: Any, stage: str, deletes: bool, value_bytes_max: int) -> None:
        self._decode = decoder(kind)
        self._stage, self._deletes, self._value_bytes_max = stage, deletes, value_bytes_max

    def parsed(self, batch: Batch[bytes | None]) -> Batch[Any]:
        """The batch with its values decoded."""
        rejects: list[Reject] = []
        deletes: list[Delete] = []
        at, values = self._decodable(batch, rejects, deletes)
        size = len(values)
        records: list[Any] = []
        bad: dict[int, str] = {}
        left = iter(values)
        while len(records) + len(bad) < size:
            try:
                # On an error `extend` keeps what came before it, and the iterator stands behind the bad value.
                records.extend(map(self._decode, left))
            except MemoryError:  # the value is not to blame
                raise
            except Exception as error:
                n = len(records) + len(bad)
                bad[n] = _reason(error, values[n])
            else:
                if (n := len(records) + len(bad)) < size:  # a StopIteration that leaked out of a validator
                    bad[n] = "StopIteration"
        rejects += [Reject(at[n], self._stage, reason) for n, reason in bad.items()]
        return batch.with_records(
            records,
            without(at, bad),
            [*batch.rejects, *rejects] if rejects else None,
            [*batch.deletes, *deletes] if deletes else None,
        )

    def _decodable(
        self, batch: Batch[bytes | None], rejects: list[Reject], deletes: list[Delete]
    ) -> tuple[Sequence[int], Sequence[bytes]]:
        """The values to decode, with their messages' numbers. Tombstones and values of excess size go their own ways."""
        at, values = batch.at, batch.records
        if None in values:
            for n in [n for n, value in zip(at, values, strict=True) if value is None]:
                key = batch.messages.part(n, n + 1).keys[0]
                if self._deletes and key is not None:
                    deletes.append(Delete(n, key))
                else:
                    why = "and no key says which row to delete" if self._deletes else "and this flow takes no deletes"
                    rejects.append(Reject(n, self._stage, f"null value (a tombstone), {why}"))
            at = [n for n, value in zip(at, values, strict=True) if value is not None]
        present = [value for value in values if value is not None] if len(at) < len(values) else cast("Sequence[bytes]", values)
        most = self._value_bytes_max
        if max(map(len, present), default=0) > most:  # it would block the worker
            large = {n: len(value) for n, value in enumerate(present) if len(value) > most}
            rejects += [Reject(at[n], self._stage, f"value of {size:,} bytes, more than {most:,}") for n, size in large.items()]
            at, present = without(at, large), without(present, large)
        return at, present


def without(items: Sequence[S], numbers: Collection[int]) -> Sequence[S]:
    """The items but for these, which are numbered in rising order. Costs little where they are few."""
    if not numbers:
        return items
    left = list(items)
    for number in reversed(list(numbers)):
        del left[number]
    return left


def decoder(kind: Any) -> Callable[[Any], Any]:
    """The fastest exact decoder from JSON bytes to `kind`.

    pydantic reads JSON numbers through floats, so that a Decimal of more than 15 digits would be rounded silently: kinds
    with a Decimal anywhere are decoded exactly first and validated then (at the same speed). A strict kind would that way
    refuse what JSON has no type for (a datetime, a whole number for a Decimal): it is validated from JSON, and a value with
    a number that a float does not hold exactly is refused.

    Raises:
        ConfigError: the kind can't be decoded.
    """
    try:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return msgspec.json.Decoder(kind).decode
        if not (
            is_typeddict(kind)
            or dataclasses.is_dataclass(kind)
            or (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel))
        ):
            raise ConfigError(
                f"parse: {kind!r} is no record type.",
                hint="Give it a msgspec Struct, a pydantic model, a TypedDict or a dataclass.",
            )
        schema = _finite(pydantic.TypeAdapter(kind).core_schema)
        # Without prebuilt validators: a model's own would be taken, with the schema as it was.
        validator = SchemaValidator(schema, _use_prebuilt=False)
    except (pydantic.errors.PydanticUserError, SchemaError, TypeError, NameError) as error:
        raise ConfigError(f"parse: {kind!r} can't be decoded: {error}") from error
    parts = list(_parts(schema))
    # What takes anything in may take in a Decimal.
    if not any(part.get("type") in ("decimal", "any") for part in parts):
        return validator.validate_json
    if any(part.get("strict") is True for part in parts):
        return _strict(validator)
    exact = msgspec.json.Decoder(float_hook=_exact).decode
    check = validator.validate_python
    return lambda value: check(exact(value))


def _strict(validator: SchemaValidator) -> Callable[[Any], Any]:
    check_numbers = msgspec.json.Decoder(float_hook=_exact_as_float).decode

    def decode(value: bytes) -> Any:
        check_numbers(value)
        return validator.validate_json(value)

    return decode


def _exact(text: str) -> Decimal:
    """A JSON number with a point or an exponent. A few bytes can ask for gigabytes: 1e999999999 in an int field."""
    number = Decimal(text)
    if not -DIGITS_MAX < number.adjusted() < DIGITS_MAX:
        raise ValueError(f"a number of more than {DIGITS_MAX:,} digits")
    return number


def _exact_as_float(text: str) -> float:
    number = float(text)
    if _exact(text) != Decimal(repr(number)):
        raise ValueError(
            "a number with more digits than a strict type of pydantic reads exactly: send it as text, or declare a Struct"
        )
    return number


# What stands under these keys of a core schema takes no part in validation.
_ASIDE = frozenset({"default", "expected", "members", "metadata", "serialization", "cls"})


def _finite(schema: Any) -> Any:
    """A core schema in which floats are finite: pydantic takes the literals NaN and Infinity, which are no JSON."""
    if isinstance(schema, dict):
        out = {key: part if key in _ASIDE else _finite(part) for key, part in schema.items()}
        return out | {"allow_inf_nan": False} if out.get("type") == "float" else out
    return type(schema)(_finite(part) for part in schema) if type(schema) in (list, tuple) else schema


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All dicts that a core schema is made of: its types and their configurations."""
    if isinstance(schema, dict):
        yield schema
        schema = [part for key, part in schema.items() if key not in _ASIDE]
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _parts(part)


def _reason(error: Exception, value: bytes | None) -> str:
    """Why a value was refused: the field and what was expected, without the value itself."""
    if not value:
        return "empty value"
    if isinstance(error, pydantic.ValidationError):
        text = refusals_of(error)
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        text = "not UTF-8"
    elif isinstance(error, msgspec.MsgspecError):
        text = str(error)
    else:  # of a validator of the user's
        text = reason_of(error)
    return text[:REASON_CHARACTERS_MAX]
