"""What msgspec would change as it reads: digits of times beyond the microsecond are cut, and the sign of a bare -0 is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import inspect

Cut = Callable[[bytes], bytes]

# What may be such digits, sought in a whole batch at once (a point first: that is looked for fastest); and what is, in a value:
# those of a time of day, of a duration.
_MAYBE = re.compile(rb'\.\d{6}(?:(?<=:\d\d\.\d{6})\d|\d+[Ss]")')
_DIGITS = re.compile(rb'(:\d\d\.\d{6}|\.\d{6}(?=\d+[Ss]"))\d+')

# A zero with a sign and nothing else, which msgspec reads as 0 where a type says Any; with an exponent it is a Decimal's.
_ZERO = re.compile(rb"-0(?=[\s,\]}]|$)")
_ZEROS = re.compile(rb'"(?:[^"\\]|\\.)*"|(?<![eE])-0(?=[\s,\]}]|$)')

_TIMES = (inspect.DateTimeType, inspect.TimeType, inspect.TimeDeltaType)
_ITEMS = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType, inspect.CollectionType)
_OBJECTS = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType, inspect.NamedTupleType)

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def cutter(told: Any) -> Callable[[Sequence[bytes]], Sequence[bytes]] | None:
    """What cuts such digits in a batch's values, at the places where this type has times, and marks such zeros where it has Any;
    None where it has neither.

    A value without them is left as it is, and costs no more than a look.
    """
    places = _Places()
    cut = places.of(inspect.type_info(told))
    if cut is None:
        return None
    zeros = places.any

    def whole(value: bytes) -> bytes:
        if _DIGITS.search(value) is None and not (zeros and _ZERO.search(value)):
            return value
        try:
            return cut(value.strip())
        except msgspec.MsgspecError:  # it is refused when it is read, with the reason
            return value

    def all_of(values: Sequence[bytes]) -> Sequence[bytes]:
        joined = b"\n".join(values)
        return list(map(whole, values)) if _MAYBE.search(joined) or (zeros and _ZERO.search(joined)) else values

    return all_of


class _Places:
    """Where a type has times, or anything."""

    def __init__(self) -> None:
        self._found: dict[int, Cut | None] = {}
        self._inside: set[int] = set()
        self.any = False

    def of(self, info: Any) -> Cut | None:
        """From the JSON of a value of this type to the same without such digits; None where the type has no time."""
        cut: Cut | None = None
        if isinstance(info, _TIMES):
            cut = _cut_digits
        elif isinstance(info, inspect.AnyType):
            self.any = True
            cut = _mark_zeros
        elif isinstance(info, inspect.Metadata):
            cut = self.of(info.type)
        elif isinstance(info, inspect.UnionType):
            cut = self._union(info)
        elif isinstance(info, _ITEMS):
            cut = _each(self.of(info.item_type))
        elif isinstance(info, inspect.DictType):
            cut = _pairs(self.of(info.key_type), self.of(info.value_type))
        elif isinstance(info, inspect.TupleType):
            cut = _in_array([self.of(item) for item in info.item_types])
        elif isinstance(info, _OBJECTS):
            cut = self._object(info)
        return cut

    def _object(self, info: Any) -> Cut | None:
        if id(info) in self._inside:  # a type that holds itself: what it is is known later
            return lambda raw: cut(raw) if (cut := self._found.get(id(info))) is not None else raw
        if id(info) not in self._found:
            self._inside.add(id(info))
            cuts = {field.encode_name: self.of(field.type) for field in info.fields}
            present = {name: cut for name, cut in cuts.items() if cut is not None}
            self._inside.discard(id(info))
            if _is_array(info):
                tag = [None] if getattr(info, "tag_field", None) is not None else []
                self._found[id(info)] = _in_array([*tag, *cuts.values()])
            else:
                self._found[id(info)] = _in_object(present) if present else None
        return self._found[id(info)]

    def _union(self, info: Any) -> Cut | None:
        """What JSON brings decides: text of a time, an array or an object; which object, its tag."""
        ways: dict[bytes, Cut] = {}
        tagged: dict[tuple[bytes, str], dict[Any, Cut]] = {}
        for one in info.types:
            cut = self.of(one)
            if cut is None:
                continue
            opens = b'"' if isinstance(one, _TIMES) else b"[" if _is_array(one) else b"{"
            if isinstance(one, inspect.StructType) and one.tag_field is not None:
                tagged.setdefault((opens, one.tag_field), {})[one.tag] = cut
            else:
                ways[opens] = cut
        ways |= {opens: partial(_by_tag, field, cuts) for (opens, field), cuts in tagged.items()}
        return (lambda raw: ways[raw[:1]](raw) if raw[:1] in ways else raw) if ways else None


def _cut_digits(raw: bytes) -> bytes:
    return _DIGITS.sub(rb"\1", raw)


def _mark_zeros(raw: bytes) -> bytes:
    return _ZEROS.sub(lambda found: found[0] if found[0][:1] == b'"' else b"-0e0", raw)


def _is_array(info: Any) -> bool:
    """Is it an array in JSON?"""
    return isinstance(info, (*_ITEMS, inspect.TupleType, inspect.NamedTupleType)) or getattr(info, "array_like", False)


def _by_tag(field: str, cuts: dict[Any, Cut], raw: bytes) -> bytes:
    """By the tag: the first of an array, or what stands in the object's field."""
    tag = next(iter(_array(raw)), None) if raw[:1] == b"[" else _object(raw).get(field)
    cut = None if tag is None else cuts.get(msgspec.json.decode(tag))
    return raw if cut is None else cut(raw)


def _each(cut: Cut | None) -> Cut | None:
    return None if cut is None else lambda raw: raw if raw[:1] != b"[" else _joined([cut(bytes(item)) for item in _array(raw)])


def _in_array(cuts: Sequence[Cut | None]) -> Cut | None:
    def cut_items(raw: bytes) -> bytes:
        if raw[:1] != b"[":
            return raw
        items = list(map(bytes, _array(raw)))
        for number, cut in enumerate(cuts[: len(items)]):
            if cut is not None:
                items[number] = cut(items[number])
        return _joined(items)

    return cut_items if any(cuts) else None


def _pairs(key: Cut | None, value: Cut | None) -> Cut | None:
    if key is None and value is None:
        return None
    of_key, of_value = key or bytes, value or bytes
    return lambda raw: _with_pairs(raw, of_key, lambda _, part: of_value(part))


def _in_object(cuts: dict[str, Cut]) -> Cut:
    return lambda raw: _with_pairs(raw, bytes, lambda name, part: cuts[name](part) if name in cuts else part)


def _with_pairs(raw: bytes, key: Cut, value: Callable[[str, bytes], bytes]) -> bytes:
    if raw.lstrip()[:1] != b"{":
        return raw
    pairs = [key(msgspec.json.encode(name)) + b":" + value(name, bytes(part)) for name, part in _object(raw).items()]
    return b"{" + b",".join(pairs) + b"}"


def _joined(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
