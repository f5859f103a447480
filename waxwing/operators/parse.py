"""Parse: message values, JSON, to records of a declared type; what does not fit becomes a reject with its reason.

Values are decoded one by one, in a C loop: joining a batch into one JSON array, which saves calls, was measured slower
(msgspec 0.38 against 0.50 us a record of 140 bytes, pydantic 1.25 against 1.52), and values that are no JSON by
themselves can be when joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import InvalidOperation
from functools import reduce
from typing import Any, Literal, TypeVar, cast

import bytewax.operators as op
import msgspec
import pydantic
from bytewax.dataflow import Stream as Flowing

from waxwing.batch import Batch, Delete, Reject
from waxwing.errors import ConfigError
from waxwing.operators.cutting import cutter
from waxwing.operators.declared import declare, declare_key
from waxwing.operators.decoding import reading
from waxwing.operators.keys import key_reader
from waxwing.operators.reasons import RAISED, REASON_CHARACTERS_MAX, reason_of, refusals_of, stopped

# Exponents that no Decimal has.
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_LONG = re.compile(rb"-?\d{4300,}")  # an integer that msgspec reads no more
_EXPONENT = re.compile(rb"-?[\d.]+[eE][-+]?\d{18,}")

R = TypeVar("R")
S = TypeVar("S")


def parse(
    step_id: str,
    up: Flowing[Batch[bytes | None]],
    kind: type[R],
    *,
    on_tombstone: Literal["reject", "delete"] = "reject",
    key: type | None = None,
    value_bytes_max: int = 1_000_000,
) -> Flowing[Batch[R]]:
    """Decode JSON values into records of `kind`: a msgspec Struct (the fastest), pydantic model, TypedDict or dataclass.

    Unknown fields are ignored unless the type forbids them. Rejected, each with its reason: missing fields, wrong types, no
    JSON, no UTF-8, an empty value, the literals NaN and Infinity, a value nested too deeply or above `value_bytes_max`.
    What a field takes is the same in every kind, and what JSON has a type for is not made of another: "5" is no int, 1 no bool,
    a number no datetime; bytes are base64. (A pydantic field or model with `strict=False`, and what a validator gets before
    pydantic does, are pydantic's own matter.) Decimals are exact, as are numbers where the type says Any; the text "NaN" is a
    Decimal, too. Digits of a time beyond the microsecond are cut. Integers have no limit here, the table knows its own. Of a
    field that stands twice the last counts. In what is ignored not even the encoding is looked at.
    A null value (tombstone) is rejected, or with on_tombstone="delete" deletes the row of the message's key. How keys are read,
    `key` says: as a record whose fields are the key columns, by name (a Struct, model, TypedDict or dataclass), or as the value
    of the only one (str, int, UUID, ...), in JSON; bytes are the key as it stands. Without it a key is the plain text of the only
    key column's value, not JSON (or its bytes). A key that can't be read makes the tombstone a dead letter.

    It costs, us per record of 130 bytes: Struct 0.4, TypedDict 1.2-1.4, dataclass 1.7-2.0, pydantic model 2.0 (3.1 with Python's
    own thresholds of the garbage collector); 0.1 % bad values add 0.1.

    Parallelism: where the batch is.
    Delivery: as the source and the target (tests/waxwing/operators/test_parse.py).

    Raises:
        ConfigError: a kind, or a kind of keys, that can't be decoded.
    """
    if key is not None and on_tombstone != "delete":
        raise ConfigError(
            f"parse {step_id}: key={key!r} is for deletes, and tombstones are rejected here.",
            hint='Add on_tombstone="delete", or leave key= out.',
        )
    parser = Parser(kind, step_id, on_tombstone == "delete", value_bytes_max, key)
    return declare_key(declare(op.map(step_id, up, parser.parsed), kind), key)


class Parser:
    """The decoder of one kind, chosen once."""

    def __init__(self, kind: Any, stage: str, deletes: bool, value_bytes_max: int, key: Any = None) -> None:
        self._reading = reading(kind)
        self._cut = cutter(self._reading.told)
        self._read_key, self._key_names = key_reader(key)
        self._stage, self._deletes, self._value_bytes_max = stage, deletes, value_bytes_max

    def parsed(self, batch: Batch[bytes | None]) -> Batch[Any]:
        """The batch with its values decoded."""
        rejects: list[Reject] = []
        deletes: list[Delete] = []
        at, values = self._decodable(batch, rejects, deletes)
        if self._cut is not None:
            values = self._cut(values)
        size = len(values)
        records: list[Any] = []
        bad: dict[int, str] = {}
        left = iter(values)
        while len(records) + len(bad) < size:
            try:
                # On an error `extend` keeps what came before it, and the iterator stands behind the bad value.
                records.extend(reduce(_mapped, self._reading.steps, left))
            except MemoryError:  # the value is not to blame
                raise
            except RAISED as error:
                n = len(records) + len(bad)
                bad[n] = self._reason(error, values[n])
            else:
                if (n := len(records) + len(bad)) < size:  # it was a validator's
                    bad[n] = stopped(self._reading.one, values[n])
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
        if not all(values) and None in values:  # the first is the faster look
            for n in [n for n, value in zip(at, values, strict=True) if value is None]:
                key = batch.messages.part(n, n + 1).keys[0]
                if (reason := self._delete(n, key, deletes)) is not None:
                    rejects.append(Reject(n, self._stage, f"null value (a tombstone), {reason}"))
            at = [n for n, value in zip(at, values, strict=True) if value is not None]
        present = [value for value in values if value is not None] if len(at) < len(values) else cast("Sequence[bytes]", values)
        most = self._value_bytes_max
        if max(map(len, present), default=0) > most:  # it would block the worker
            large = {n: len(value) for n, value in enumerate(present) if len(value) > most}
            rejects += [Reject(at[n], self._stage, f"value of {size:,} bytes, more than {most:,}") for n, size in large.items()]
            at, present = without(at, large), without(present, large)
        return at, present

    def _reason(self, error: BaseException, value: bytes) -> str:
        problems = self._reading.problems
        if problems is not None and isinstance(error, msgspec.ValidationError):
            error = problems(value) or error
        return _reason(error, value)

    def _delete(self, at: int, key: bytes | None, deletes: list[Delete]) -> str | None:
        """Add what a tombstone deletes, or say why it deletes nothing."""
        if not self._deletes:
            return "and this flow takes no deletes"
        if key is None:
            return "and no key says which row to delete"
        try:
            deletes.append(Delete(at, self._read_key(key), self._key_names))
        except MemoryError:
            raise
        except RAISED as error:
            return f"and its key can't be read: {_reason(error, key)}"
        return None


def _mapped(values: Iterable[Any], step: Callable[[Any], Any]) -> Iterable[Any]:
    return map(step, values)


def without(items: Sequence[S], numbers: Collection[int]) -> Sequence[S]:
    """The items but for these, which are numbered in rising order. Costs little where they are few."""
    if not numbers:
        return items
    left = list(items)
    for number in reversed(list(numbers)):
        del left[number]
    return left


def _reason(error: BaseException, value: bytes | None) -> str:
    """Why a value was refused: the field and what was expected, without the value itself."""
    if not value:
        return "empty value"
    if isinstance(error, pydantic.ValidationError):
        text = refusals_of(error)
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    elif value.startswith(_BYTE_ORDER_MARKS):
        text = "it begins with a byte order mark, which JSON has none of: the producer must write UTF-8 without one"
    elif isinstance(error, UnicodeDecodeError):
        text = "not UTF-8"
    elif isinstance(error, msgspec.MsgspecError):
        text = str(error)
        if "out of range" in text and (long := _LONG.search(value)) is not None:
            text = f"the number {long[0].decode()[:60]}... ({len(long[0]):,} characters), which has too many digits: {text}"
    elif isinstance(error, InvalidOperation) and (found := _EXPONENT.search(value)) is not None:
        text = f"the number {found[0].decode()[:60]}, whose exponent has too many digits"
    else:  # of a validator of the user's
        text = reason_of(error)
    return text[:REASON_CHARACTERS_MAX]
