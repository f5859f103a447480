"""Parse: every value has a defined result, decimals are exact or refused, and a bad value costs its neighbours nothing."""

from __future__ import annotations

import dataclasses
import json
import time
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired
from uuid import UUID

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, field_validator
from typing_extensions import TypedDict

from waxwing.batch import Batch, Columns, Delete, Reject, Stream, raw
from waxwing.errors import ConfigError
from waxwing.operators import parse
from waxwing.operators.decoding import decoder
from waxwing.operators.keys import key_reader
from waxwing.operators.parse import Parser


class StructOrder(msgspec.Struct):
    price: Decimal
    quantity: int = 1
    weight: float = 0.0
    name: str = ""


class ModelOrder(BaseModel):
    price: Decimal
    quantity: int = 1
    weight: float = 0.0
    name: str = ""


@dataclasses.dataclass
class DataOrder:
    price: Decimal
    quantity: int = 1
    weight: float = 0.0
    name: str = ""


class DictOrder(TypedDict):
    price: Decimal
    quantity: NotRequired[int]
    weight: NotRequired[float]
    name: NotRequired[str]


class FloatModel(BaseModel):
    """No Decimal inside: validated straight from JSON."""

    price: float
    quantity: int = 1
    weight: float = 0.0
    name: str = ""


class StrictModel(ModelOrder):
    model_config = ConfigDict(strict=True)
    at: datetime | None = None


class OldInner(typing.TypedDict, total=False):
    weight: float


class OldOrder(typing.TypedDict):
    price: Decimal
    inner: OldInner
    many: list[OldInner]
    maybe: OldInner | None
    name: typing.NotRequired[str]


@dataclasses.dataclass
class HoldsOld:
    price: Decimal
    inner: OldInner
    many: list[OldInner]
    maybe: OldInner | None = None
    name: str = "none"


KINDS: list[Any] = [StructOrder, ModelOrder, DataOrder, DictOrder]
EVERY: list[Any] = [*KINDS, FloatModel, StrictModel]


def messages(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None) -> Batch[bytes | None]:
    size = len(values)
    columns = Columns(range(size), keys or [None] * size, values, [-1] * size, [()] * size)
    return raw(Stream("flow", "topic", "id", 0), "lane-000", 0, size, columns)


def parsed(
    kind: Any,
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    on_tombstone: Literal["reject", "delete"] = "reject",
    value_bytes_max: int = 1_000_000,
) -> Batch[Any]:
    return Parser(kind, "parse", on_tombstone == "delete", value_bytes_max).parsed(messages(values, keys))


def field(record: Any, name: str) -> Any:
    return record[name] if isinstance(record, dict) else getattr(record, name)


def reason(kind: Any, value: bytes) -> str:
    """Why the value is refused; its neighbours are not."""
    good = b'{"price":1}'
    batch = parsed(kind, [good, value, good])
    assert list(batch.at) == [0, 2]
    (reject,) = batch.rejects
    assert reject[:2] == (1, "parse")
    assert 0 < len(reject.reason) <= 500
    return reject.reason


def test_the_typed_dict_of_the_standard_library_is_taken_too() -> None:
    batch = parsed(
        OldOrder, [b'{"price":1.10,"inner":{},"many":[{"weight":2}],"maybe":null}', b'{"price":1,"inner":{},"many":[{}]}']
    )
    assert batch.records == [{"price": Decimal("1.10"), "inner": {}, "many": [{"weight": 2.0}], "maybe": None}]
    assert [reject.at for reject in batch.rejects] == [1]


def test_a_dataclass_may_hold_typing_s_own_typed_dict() -> None:
    good = b'{"price":1.10,"inner":{"weight":2.5},"many":[{},{"weight":2}],"maybe":null}'
    batch = parsed(HoldsOld, [good, b'{"price":1,"inner":{"weight":"x"},"many":[]}'])
    assert batch.records == [HoldsOld(Decimal("1.10"), {"weight": 2.5}, [{}, {"weight": 2.0}])]
    assert [reject.at for reject in batch.rejects] == [1]


class OldTree(OldInner):
    """It holds itself, and another one behind an annotation."""

    children: typing.NotRequired[list[OldTree]]
    leaf: typing.NotRequired[Annotated[OldInner, "annotated"]]


def test_typing_s_own_typed_dict_may_hold_itself() -> None:
    good = b'{"weight":1,"children":[{"children":[{"leaf":{"weight":2.5}}]}]}'
    batch = parsed(OldTree, [good, b"{}", b'{"children":[{"children":[{"leaf":{"weight":"x"}}]}]}', b'{"leaf":null}'])
    leaf = {"children": [{"leaf": {"weight": 2.5}}]}
    assert batch.records == [{"weight": 1.0, "children": [leaf]}, {}]
    assert [(reject.at, reject.reason.partition(":")[0]) for reject in batch.rejects] == [
        (2, "children.0.children.0.leaf.weight"),
        (3, "leaf"),
    ]


DEEP = b"[" * 100_000

REFUSED = [
    (b"", "empty"),
    (b" ", ""),
    (b"\xef\xbb\xbf" + b'{"price":1}', "byte order mark"),
    (b'{"price":1,"name":"\xff"}', "utf-8|UTF-8|unicode"),
    ('{"price":1}'.encode("utf-16"), "byte order mark"),
    (b'{"price":1,"name":"\\ud800"}', ""),
    (b'{"price":1},{"price":2}', ""),
    (b'{"price":1} x', ""),
    (b'{"price":1', ""),
    (b"1],[2", ""),
    (b"null", ""),
    (b"[]", ""),
    (b"1", ""),
    (b"{}", "price"),
    (b'{"price":"x"}', "price|decimal"),
    (b'{"price":null}', "price"),
    (b'{"price":1,"quantity":"many"}', "quantity"),
    (b'{"price":1,"quantity":1.5}', "quantity"),
    (b'{"price":1,"name":7}', "name"),
    (b'{"price":NaN}', ""),
    (b'{"price":-Infinity}', ""),
    (b'{"price":1,"weight":NaN}', ""),
    (b'{"price":1,"weight":1e999}', ""),
    (b'{"price":1,"quantity":1e999999999}', ""),
    (b'{"price":1,"quantity":1' + b"0" * 5_000 + b"}", ""),
    (DEEP, ""),
    (b'{"price":1,"name":' + DEEP, ""),
    (b'{"price":1,"unknown":' + DEEP + b"]" * 100_000 + b"}", "deep|recursion"),
]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(("value", "words"), REFUSED, ids=[repr(value[:30]) for value, _ in REFUSED])
def test_what_is_refused_is_refused_by_every_kind_with_its_reason(kind: Any, value: bytes, words: str) -> None:
    started = time.monotonic()
    why = reason(kind, value)
    assert time.monotonic() - started < 5  # a few bytes must not cost minutes
    assert not words or any(word in why for word in words.split("|")), why


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (b'{"price":1,"unknown":{"a":[1,2]}}', "price", 1),
        (b' {"price" : 1 } ', "price", 1),
        (b'{"price":1,"price":2}', "price", 2),
        (b'{"price":1,"weight":0.1}', "weight", 0.1),
        (b'{"price":1,"weight":0.12345678901234567}', "weight", 0.12345678901234567),
        (b'{"price":1,"quantity":-9223372036854775808}', "quantity", -(2**63)),
        (b'{"price":1,"quantity":123456789012345678901234567890}', "quantity", 123456789012345678901234567890),
        ('{"price":1,"name":"Zoë 😀"}'.encode(), "name", "Zoë 😀"),
        (b'{"price":1,"name":"\\ud83d\\ude00"}', "name", "😀"),
        (b'{"price":1,"name":"a\\u0000b"}', "name", "a\0b"),
    ],
)
def test_what_is_taken_is_taken_by_every_kind(kind: Any, value: bytes, name: str, expected: Any) -> None:
    batch = parsed(kind, [value])
    assert batch.rejects == ()
    assert field(batch.records[0], name) == expected
    assert type(field(batch.records[0], "weight")) is float if b"weight" in value else True


class Inside(BaseModel):
    prices: list[dict[str, Decimal | None]]


Money = NewType("Money", Decimal)


class Renamed(BaseModel):
    price: Money


numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**25), max_value=10**25).map(lambda d: f"{d:f}")


@given(numbers | st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z"))
@example("12345678901234567.89")
@example("1e-400")
@example("0.1")
@settings(max_examples=300)
def test_decimals_are_exact(number: str) -> None:
    for kind in (*KINDS, StrictModel, Renamed):
        batch = parsed(kind, [b'{"price":%s}' % number.encode()])
        assert batch.rejects == ()
        assert field(batch.records[0], "price") == Decimal(number)
    nested = parsed(Inside, [b'{"prices":[{"a":%s,"b":null}]}' % number.encode()])
    assert nested.records[0].prices == [{"a": Decimal(number), "b": None}]


def test_a_strict_model_takes_what_json_has_no_type_for() -> None:
    batch = parsed(
        StrictModel, [b'{"price":25,"at":"2026-01-01T00:00:00Z"}', b'{"price":"25.50"}', b'{"price":25.5,"quantity":"1"}']
    )
    assert [(r.price, r.at) for r in batch.records] == [(25, datetime(2026, 1, 1, tzinfo=UTC)), (Decimal("25.50"), None)]
    assert [r.at for r in batch.rejects] == [2]


class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class ForbiddingModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


@pytest.mark.parametrize("kind", [Forbidding, ForbiddingModel])
def test_unknown_fields_are_refused_where_the_type_forbids_them(kind: Any) -> None:
    batch = parsed(kind, [b'{"a":1}', b'{"a":1,"b":2}'])
    assert (len(batch.records), batch.rejects[0].at) == (1, 1)
    assert "b" in batch.rejects[0].reason


def test_a_reason_is_short_and_does_not_repeat_the_value() -> None:
    secret = b"4111-1111-1111-1111"
    why = reason(ModelOrder, b'{"price":"%s","quantity":"%s"}' % (secret, secret * 1_000))
    assert secret.decode() not in why
    assert "price" in why
    assert "quantity" in why


def test_tombstones() -> None:
    values, keys = [b'{"price":1}', None, None, b"x", b""], [b"a", b"b", None, b"d", b"e"]
    refused = parsed(StructOrder, values, keys)
    assert ([r.at for r in refused.rejects], list(refused.deletes), list(refused.at)) == ([1, 2, 3, 4], [], [0])
    assert "takes no deletes" in refused.rejects[0].reason
    deleted = parsed(StructOrder, values, keys, "delete")
    assert ([r.at for r in deleted.rejects], list(deleted.deletes), list(deleted.at)) == ([2, 3, 4], [Delete(1, b"b")], [0])
    assert "no key" in deleted.rejects[0].reason
    assert deleted.rejects[2].reason == "empty value"


class TypedRaw(TypedDict):
    a: msgspec.Raw


class StructKey(msgspec.Struct):
    id: int
    region: str = "eu"


class ModelKey(BaseModel):
    id: int
    region: str = "eu"


@dataclasses.dataclass
class DataKey:
    id: int
    region: str = "eu"


class TypedKey(TypedDict):
    id: int
    region: NotRequired[str]


class TimeKey(msgspec.Struct):
    at: datetime


def deleted(kind: Any, *keys: bytes) -> list[Any]:
    """What tombstones with these keys delete; a text says why nothing."""
    batch = Parser(StructOrder, "parse", True, 1_000_000, kind).parsed(messages([None] * len(keys), keys))
    out: dict[int, Any] = {delete.at: delete.key for delete in batch.deletes}
    out |= {reject.at: reject.reason for reject in batch.rejects}
    return [out[at] for at in range(len(keys))]


@pytest.mark.parametrize("kind", [StructKey, ModelKey, DataKey, TypedKey])
def test_a_key_that_is_a_record_names_its_columns(kind: Any) -> None:
    whole, other, wrong, no_json, null = deleted(
        kind, b'{"id":7,"region":"us"}', b' {"id":8,"region":"us","more":1}', b'{"id":"7"}', b"7;us", b"null"
    )
    assert whole == (7, "us")
    assert other == (8, "us")
    assert key_reader(kind)[1] == ("id", "region")
    for reason in (wrong, no_json, null):
        assert reason.startswith("null value (a tombstone), and its key can't be read: ")
    assert "id" in wrong


def test_a_key_may_be_one_value() -> None:
    unread = "null value (a tombstone), and its key can't be read: "
    assert deleted(str, b'"7"', b'"\\u00e9"') == [("7",), ("é",)]
    assert deleted(int, b"7", b" -8 ") == [(7,), (-8,)]
    assert deleted(bytes, b'"7"', b"\xff", b"") == [(b'"7"',), (b"\xff",), (b"",)]
    assert deleted(UUID, b'"0123abcd-0000-4000-8000-000000000000"') == [(UUID("0123abcd-0000-4000-8000-000000000000"),)]
    assert deleted(Decimal, b"12345678901234567.89") == [(Decimal("12345678901234567.89"),)]
    assert deleted(None, b'"7"') == [b'"7"']
    for reason in [*deleted(int, b'"7"', b"7.0", b"x"), *deleted(str, b"7", b"plain", b"", b'"\xff"', b"null")]:
        assert reason.startswith(unread), reason


def test_times_of_keys_are_cut_as_those_of_values_are() -> None:
    last = datetime(2026, 11, 26, 23, 59, 59, 999_999, tzinfo=UTC)
    assert deleted(TimeKey, b'{"at":"2026-11-26T23:59:59.9999999Z"}') == [(last,)]
    assert deleted(datetime, b'"2026-11-26T23:59:59.9999999Z"') == [(last,)]


@pytest.mark.parametrize("kind", [float, dict, list[int], "Key", TypedRaw])
def test_a_kind_of_keys_that_can_not_be_read_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match="parse"):
        key_reader(kind)


def test_a_key_is_read_for_deletes_only() -> None:
    flow = Dataflow("flow")
    up = op.input("in", flow, TestingSource([messages([])]))
    with pytest.raises(ConfigError, match="on_tombstone"):
        parse("parse", up, StructOrder, key=int)


def test_an_oversized_value_is_refused_undecoded() -> None:
    big = b'{"price":1,"name":"%s"}' % (b"x" * 100)
    batch = parsed(StructOrder, [b'{"price":1}', big], value_bytes_max=len(big) - 1)
    assert [(r.at, r.reason) for r in batch.rejects] == [(1, f"value of {len(big)} bytes, more than {len(big) - 1}")]
    assert parsed(StructOrder, [big], value_bytes_max=len(big)).rejects == ()


FRAGMENTS: list[bytes | None] = [
    b'{"price":1}',
    b'{"price":2.50,"quantity":3}',
    b'{"price":1},{"price":2}',
    b"",
    None,
    b" ",
    b",",
    b"1],[2",
]
FRAGMENTS += [b"]", b"[", b"[[", b"{", b'"', b'{"price":1', b'"quantity":2}', b"null", b"NaN", b"\xff", b'{"price":"x"}']
FRAGMENTS += [b"\xef\xbb\xbf{}", b'{"price":1}\n{"price":1}']


def one_by_one(kind: Any, values: Sequence[bytes | None]) -> tuple[list[Any], list[int]]:
    """The definition: each value by itself."""
    decode, good = decoder(kind), []
    for at, value in enumerate(values):
        try:
            good.append((at, decode(value) if value is not None else json.loads("")))
        except Exception:
            continue
    return [record for _, record in good], [at for at, _ in good]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=12), max_size=12), st.sampled_from(EVERY))
@settings(max_examples=300)
@example([b'{"price":1},{"price":2}', b""], StructOrder)
def test_a_batch_gives_what_its_values_give_one_by_one(values: list[bytes | None], kind: Any) -> None:
    batch = parsed(kind, values)
    records, at = one_by_one(kind, values)
    assert (list(batch.records), list(batch.at)) == (records, at)
    assert [reject.at for reject in batch.rejects] == [n for n in range(len(values)) if n not in at]


@given(st.lists(st.sampled_from(FRAGMENTS[:5]), min_size=1, max_size=8), st.data())
@settings(max_examples=100)
def test_a_step_before_parse_may_leave_messages_out(values: list[bytes | None], data: st.DataObject) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, len(values) - 1))))
    earlier = Reject(len(values) - 1, "sieve", "earlier")
    before = messages(values).with_records([values[n] for n in kept], kept, [earlier])
    after = Parser(StructOrder, "parse", False, 1_000).parsed(before)
    _, good = one_by_one(StructOrder, values)
    assert list(after.at) == [n for n in kept if n in good]
    assert sorted(r.at for r in after.rejects if r.stage == "parse") == [n for n in kept if n not in good]
    assert earlier in after.rejects


class Odd(BaseModel):
    a: int

    @field_validator("a")
    @classmethod
    def check(cls, a: int) -> int:
        raises: dict[int, Exception] = {1: StopIteration(), 2: KeyError("k"), 3: ValueError("three")}
        if a in raises:
            raise raises[a]
        return a


def test_whatever_a_validator_raises_refuses_its_record_alone() -> None:
    batch = parsed(Odd, [b'{"a":%d}' % a for a in (0, 1, 2, 3, 4, 1, 5)])
    assert [(at, r.a) for at, r in zip(batch.at, batch.records, strict=True)] == [(0, 0), (4, 4), (6, 5)]
    assert [r.at for r in batch.rejects] == [1, 2, 3, 5]
    assert batch.rejects[0].reason.startswith("StopIteration (test_parse.py:")


def test_no_memory_is_not_the_values_fault() -> None:
    class Full(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def check(cls, a: int) -> int:
            raise MemoryError

    for values in ([b'{"a":1}'], [b'{"a":1}', None]):
        with pytest.raises(MemoryError):
            parsed(Full, values)


class Unresolved(BaseModel):
    a: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


class MaybeRaw(msgspec.Struct):
    body: msgspec.Raw | None


class NestedRaw(msgspec.Struct):
    bodies: dict[str, list[msgspec.Raw | None]]
    again: NestedRaw | None = None


@dataclasses.dataclass
class RawOrNone:
    body: msgspec.Raw | None


@pytest.mark.parametrize(
    "kind", [int, dict, list[int], Callable, "Order", None, Unresolved, TypedRaw, MaybeRaw, NestedRaw, RawOrNone]
)
def test_a_kind_that_cannot_be_decoded_is_refused_before_anything_runs(kind: Any) -> None:
    with pytest.raises(ConfigError, match="parse"):
        decoder(kind)


Body = typing.TypeVar("Body")


class StructPage(msgspec.Struct, typing.Generic[Body]):
    body: Body


class TypedPage(TypedDict, typing.Generic[Body]):
    body: Body


@dataclasses.dataclass
class DataPage(typing.Generic[Body]):
    body: Body


@pytest.mark.parametrize("kind", [StructPage[int], TypedPage[int], DataPage[int]])
def test_a_generic_type_with_its_arguments_is_refused_by_what_it_is(kind: Any) -> None:
    with pytest.raises(ConfigError, match="gives a generic type its arguments"):
        decoder(kind)


def test_parse_is_a_step_of_a_flow_and_its_name_is_the_stage() -> None:
    flow = Dataflow("flow")
    out: list[Batch[StructOrder]] = []
    up = op.input("in", flow, TestingSource([messages([b'{"price":1}', b"x"]), messages([])]))
    op.output("out", parse("orders_parse", up, StructOrder), TestingSink(out))
    run_main(flow)
    assert [[r.price for r in batch.records] for batch in out] == [[1], []]
    assert out[0].rejects[0].stage == "orders_parse"
