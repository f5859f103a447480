"""Records that say the same are read the same, whatever their class: the same values, or the same refusals."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, Json, JsonValue, WrapValidator, create_model
from typing_extensions import TypedDict

from tests.waxwing.operators.test_parse import field, messages, parsed
from waxwing.operators.parse import Parser


class Colour(enum.Enum):
    RED = "red"
    TAB = "a\tb"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Inner(msgspec.Struct):
    n: int
    at: datetime | None = None


class ModelInner(BaseModel):
    n: int
    at: datetime | None = None


@dataclasses.dataclass
class DataInner:
    n: int
    at: datetime | None = None


class TypedInner(TypedDict, total=False):
    n: int
    at: datetime | None


class Pair(NamedTuple):
    at: datetime
    n: int
    price: Decimal = Decimal(1)


class Chain(NamedTuple):
    n: int
    at: datetime | None = None
    next: Chain | None = None


def kinds_of(kind: Any) -> list[Any]:
    """Four classes with one field of this type."""
    return [
        msgspec.defstruct("S", [("v", kind)]),
        create_model("M", v=(kind, ...)),
        create_model("Strict", __config__=ConfigDict(strict=True), v=(kind, ...)),
        dataclasses.make_dataclass("D", [("v", kind)]),
        TypedDict("T", {"v": kind}),  # type: ignore[operator]  # as mypy takes it
    ]


TYPES: list[Any] = [int, float, str, bool, Decimal, datetime, date, time, timedelta, UUID, bytes, Colour, Level, Any, dict, list]
TYPES += [int | None, datetime | None, int | str, int | float, float | str, int | Decimal, bool | int, bool | str | None]
TYPES += [Literal["a", 1], Literal[1, 2], Literal["red"] | None, Literal[True], list[int], dict[str, Decimal], dict[int, float]]
TYPES += [tuple[int, str], tuple[datetime, ...], set[str], frozenset[int], list[datetime | None], dict[str, list[time]]]
TYPES += [Pair, Chain, Pair | int, list[Pair] | None, Sequence[datetime], Mapping[str, Decimal]]
TYPES += [dict[datetime, int], dict[time, list[time]], dict[UUID, Decimal], dict[Level, int]]
PARSERS = {repr(kind): [Parser(each, "parse", False, 1_000_000) for each in kinds_of(kind)] for kind in TYPES}

LISTED = r"""
0 1 -1 5 -0 -0.0 1.0 1.5 1e2 1E400 1e-400 12345678901234567890 123456789012345678901234567890 0.1 12345678901234567.89
1764201599 1764201599.5 1764201599000 true false null "" "a" "red" "RED" "a\tb" "5" "5.0" " 5" "1_000" "1e5" "0x10"
"NaN" "nan" "-inf" "Infinity" "sNaN" "true" "1" "yes" "on" "null" "None" "\u00e9" "\ud83d\ude00" "\u0000" "\ud800"
"0123abcd-0000-4000-8000-000000000000" "0123ABCD000040008000000000000000" "{0123abcd-0000-4000-8000-000000000000}"
"urn:uuid:0123abcd-0000-4000-8000-000000000000" "aGVsbG8=" "aGVsbG8" "_-8=" "hello" "2026-11-26" "2026-11-26T00:00:00"
"2026-11-26T23:59:59Z" "2026-11-26T23:59:59.9999999Z" "2026-11-26T23:59:59.999999499999+05:45"
"2026-11-26T23:59:59.1234567-11:00" "2026-11-26t23:59:59.9999999z" "2026-11-26\u002023:59:59.9999999"
"2026-11-26T23:59:59,5" "2026-11-26T23:59" "2026-11-26T24:00:00Z" "2026-11-26T23:59:60Z" "2026-02-30"
"0001-01-01T00:00:00Z" "9999-12-31T23:59:59.9999999Z" "2026-11-26T23:59:59+0100" "2026-11-26T23:59:59+25:00"
"1764201599" "23:59:59" "23:59:59.9999999" "23:59" "10:00:00Z" "24:00:00" "PT0.9999999S" "pt0.9999999s" "P1D" "PT1H30M" "1:30"
"-PT5S" "P1Y" [] [1] [1,"a"] ["a","b"] [1,2.5] [null] [[1]] ["1"] ["2026-11-26T23:59:59.9999999Z",null]
["2026-11-26T23:59:59.9999999Z"] {} {"a":1} {"a":1,"a":2} {"1":2} {"a":"1.10"} {"a":["23:59:59.9999999"]}
{"a":[1e400,1.10]} ["2026-11-26T23:59:59.9999999Z",1] ["2026-11-26T23:59:59Z","1"] ["2026-11-26T23:59:59Z",1,12345678901234567.89]
["2026-11-26T23:59:59Z",1,"1.10",3] [1,null,[2,"2026-11-26T23:59:59.9999999Z",[3]]] [1,null,{"n":1}] [1,null,["1"]] {"n":1}
{"at":"2026-11-26T23:59:59Z","n":1} {"2026-11-26T23:59:59.9999999Z":1} {"23:59:59.9999999":["23:59:59.9999999"]}
"""
TEXTS = LISTED.split()


def told(value: Any) -> Any:
    """What tells values apart that Python takes for one: types, digits of Decimals, zones, NaN."""
    if isinstance(value, dict):
        return {told(key): told(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [told(each) for each in value]
    if isinstance(value, datetime | time):
        return type(value), value.isoformat(), value.utcoffset()
    return type(value), value if isinstance(value, set | frozenset | bytes) else repr(value)


def check_alike(name: str, texts: Sequence[str]) -> None:
    values = [b'{"v":%s}' % text.encode() for text in texts]
    found = []
    for parser in PARSERS[name]:
        batch = parser.parsed(messages(values))
        records = dict(zip(batch.at, batch.records, strict=True))
        found.append([told(field(records[n], "v")) if n in records else "refused" for n in range(len(texts))])
    for text, struct, *others in zip(texts, *found, strict=True):
        assert all(other == struct for other in others), (text, struct, others)


@pytest.mark.parametrize("name", PARSERS)
def test_classes_that_say_the_same_read_the_same(name: str) -> None:
    check_alike(name, TEXTS)


ZONES = st.sampled_from(["", "Z", "z", "+00:00", "-11:30", "+05:45", "+1", "UTC"])
CLOCKS = st.builds(
    "{:02}:{:02}:{:02}{}{}".format,
    st.integers(0, 25),
    st.integers(0, 60),
    st.integers(0, 60),
    st.from_regex(r"\A(\.[0-9]{0,12})?\Z"),
    ZONES,
)
MOMENTS = st.builds('"{}{}{}"'.format, st.dates().map(str), st.sampled_from("T t"), CLOCKS) | CLOCKS.map('"{}"'.format)
NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z")
OTHERS = st.text(max_size=12).map(lambda text: msgspec.json.encode(text).decode()) | st.sampled_from(TEXTS)


@given(
    st.sampled_from(sorted(PARSERS)),
    MOMENTS
    | NUMBERS
    | NUMBERS.map('"{}"'.format)
    | OTHERS
    | st.lists(MOMENTS | NUMBERS, max_size=2).map(lambda some: f"[{','.join(some)}]"),
)
@settings(max_examples=400)
@example("<class 'datetime.datetime'>", '"2026-11-26T23:59:59.9999999Z"')
def test_so_they_do_of_any_text(name: str, text: str) -> None:
    check_alike(name, [text])


@pytest.mark.parametrize("kind", [Inner, ModelInner, DataInner, TypedInner])
def test_digits_beyond_the_microsecond_are_cut_wherever_a_time_stands(kind: Any) -> None:
    last = datetime(2026, 11, 26, 23, 59, 59, 999_999, tzinfo=UTC)
    inside: Any = types.GenericAlias(dict, (str, types.GenericAlias(list, (kind | None,))))
    named = {"a": inside, "text": str, "any": Any, "keys": dict[datetime, int]}
    made: Any = create_model
    makers: dict[Any, Callable[[], Any]] = {
        Inner: lambda: msgspec.defstruct("S", list(named.items())),
        ModelInner: lambda: made("M", **{name: (one, ...) for name, one in named.items()}),
        DataInner: lambda: dataclasses.make_dataclass("D", list(named.items())),
        TypedInner: lambda: TypedDict("T", named),  # type: ignore[operator]  # as mypy takes it
    }
    outer = makers[kind]()
    moment = b'"2026-11-26T23:59:59.99999999999999999Z"'
    batch = parsed(outer, [b' {"a":{"x":[null,{"n":1,"at":%s}]},"text":%s,"any":%s,"keys":{%s : 1}} ' % ((moment,) * 4)])
    assert batch.rejects == ()
    [record] = batch.records
    assert field(field(record, "a")["x"][1], "at") == last
    assert field(record, "keys") == {last: 1}
    # What is text stays as it is.
    assert field(record, "text") == field(record, "any") == "2026-11-26T23:59:59.99999999999999999Z"
    assert (
        parsed(kind, [b'{"n":1,"at":"2026-11-26T23:59:59.9999999Z"', b'{"n":1,"at":"2026-11-26T23:59:61.9999999Z"}']).records
        == []
    )


class Node(msgspec.Struct):
    at: datetime
    next: Node | None = None


class ModelNode(BaseModel):
    at: datetime
    next: ModelNode | None = None


class Leaf(msgspec.Struct, tag="leaf"):
    at: datetime


class Row(msgspec.Struct, array_like=True):
    n: int
    at: time


class Text(msgspec.Struct, array_like=True, tag="text"):
    text: str
    at: datetime


class Turned(msgspec.Struct, array_like=True, tag="turned"):
    at: datetime
    text: str


class Named(NamedTuple):
    at: datetime
    text: str
    next: Named | None = None


class Several(msgspec.Struct):
    arrays: list[Text | Turned]
    named: Named | None


class Tree(msgspec.Struct):
    top: Leaf | None
    rows: list[Row]
    pair: tuple[int, timedelta]


def test_so_they_are_in_types_that_hold_themselves_and_in_what_only_structs_have() -> None:
    moment, cut = (
        b'"2026-11-26T23:59:59.9999999+05:45"',
        datetime(2026, 11, 26, 23, 59, 59, 999_999, timezone(timedelta(hours=5, minutes=45))),
    )
    for kind in (Node, ModelNode):
        [node] = parsed(kind, [b'{"at":%s,"next":{"at":%s,"next":{"at":%s}}}' % (moment, moment, moment)]).records
        assert node.at == node.next.at == node.next.next.at == cut
    [tree] = parsed(
        Tree, [b'{"top":{"type":"leaf","at":%s},"rows":[[1,"23:59:59.9999999"]],"pair":[1,"PT0.9999999S"]}' % moment]
    ).records
    assert (tree.top.at, tree.rows[0].at, tree.pair[1]) == (cut, time(23, 59, 59, 999_999), timedelta(microseconds=999_999))
    # Which array it is says its first part; what is text in the one and a time in the other stays.
    text = "at 11:23:59.9999999"
    [several] = parsed(
        Several,
        [
            b'{"arrays":[["text","%b",%b],["turned",%b,"%b"]],"named":[%b,"%b",[%b,"%b"]]}'
            % (text.encode(), moment, moment, text.encode(), *(moment, text.encode()) * 2)
        ],
    ).records
    assert [(one.at, one.text) for one in (*several.arrays, several.named, several.named.next)] == [(cut, text)] * 4


def test_what_a_model_says_beyond_a_struct_holds() -> None:
    lax = create_model("Lax", __config__=ConfigDict(strict=False), n=(int, ...), at=(datetime, ...))
    [record] = parsed(lax, [b'{"n":"5","at":1764201599}']).records
    assert (record.n, record.at) == (5, datetime(2025, 11, 26, 23, 59, 59, tzinfo=UTC))
    for way, text, value in (("hex", "ff00", b"\xff\x00"), ("utf8", "h\\u00e9", "hé".encode()), ("base64", "_-8=", b"\xff\xef")):
        [record] = parsed(
            create_model("B", __config__=ConfigDict(val_json_bytes=cast("Any", way)), v=(bytes, ...)),
            [b'{"v":"%s"}' % text.encode()],
        ).records
        assert record.v == value
    assert math.isnan(parsed(kinds_of(Decimal)[1], [b'{"v":"NaN"}']).records[0].v)


class Cat(BaseModel):
    kind: Literal["cat"]
    n: int
    at: datetime


class Dog(BaseModel):
    kind: Literal["dog"]
    w: Decimal


class Beyond(BaseModel):
    """What no Struct can say."""

    pet: Cat | Dog
    other: Cat | Dog | None = Field(None, discriminator="kind")
    some: Sequence[int] = ()
    text: Json[list[int]] | None = None
    json_: JsonValue = Field(None, alias="json")
    either: datetime | str = ""
    first: Decimal = Field(Decimal(0), validation_alias=AliasChoices("x", "y"))
    deep: int = Field(0, validation_alias=AliasPath("z", 0, "q"))
    path: Path | None = None
    wrapped: Annotated[Decimal, WrapValidator(lambda value, handler: handler(value))] = Decimal(0)
    kids: list[Beyond] = []


def test_what_only_models_have_is_read_exactly_and_cut_too() -> None:
    moment = b'"2026-11-26T23:59:59.9999999Z"'
    dog, cat = b'{"kind":"dog","w":12345678901234567.25}', b'{"kind":"cat","n":1,"at":%s}' % moment
    value = b"""{"pet":%s,"other":%s,"some":[1],"text":"[2]","json":{"a":[1.10,1%s]},"either":%s,"y":1.10,
        "z":[{"q":5}],"path":"/x","wrapped":12345678901234567.25,"kids":[{"pet":%s}]}""" % (dog, cat, b"0" * 30, moment, cat)
    batch = parsed(
        Beyond,
        [value, b'{"pet":%s}' % cat.replace(b":1,", b':"1",'), b'{"pet":{"kind":"cow"}}', b'{"pet":%s,"some":["1"]}' % dog],
    )
    [record] = batch.records
    assert [reject.at for reject in batch.rejects] == [1, 2, 3]
    last = datetime(2026, 11, 26, 23, 59, 59, 999_999, UTC)
    assert (record.pet.w, record.other.at, record.kids[0].pet.at) == (Decimal("12345678901234567.25"), last, last)
    assert (list(record.some), record.text, record.json_) == ([1], [2], {"a": [Decimal("1.10"), 10**30]})
    assert (record.either, record.first, record.deep) == (moment.decode().strip('"'), Decimal("1.10"), 5)
    assert (record.path, record.wrapped) == (Path("/x"), Decimal("12345678901234567.25"))


@pytest.mark.parametrize("kind", [int, Any, list[int], dict], ids=str)
def test_an_integer_of_too_many_digits_is_named_whatever_the_class(kind: Any) -> None:
    number = "7" * 5_000
    text = {list[int]: f"[{number}]", dict: f'{{"a":{number}}}'}.get(kind, number)
    for each in kinds_of(kind):
        [reject] = parsed(each, [b'{"v":%s}' % text.encode()]).rejects
        assert reject.reason.startswith(f"the number {'7' * 60}... (5,000 characters), which has too many digits: "), each
