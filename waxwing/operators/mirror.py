"""What msgspec is to read for a type that pydantic checks: the types that its fields declare, by pydantic's core schema."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections import namedtuple
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

import msgspec
from pydantic_core import core_schema
from typing_extensions import TypedDict

# A type, and the schema of what is left to check: both say what they can of a part of the kind.
Told = tuple[Any, Any]

_LEAVES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "none": None,
    "decimal": Decimal,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
    "bytes": bytes,
}
_FUNCTIONS_OF_BYTES = {"hex": bytes.fromhex, "base64": urlsafe_b64decode}
_MISSING = object()
# What stands under these keys of a core schema takes no part in validation.
_ASIDE = frozenset({"default", "expected", "members", "metadata", "serialization", "cls", "function", "post_init"})
# And under these, the keys of a dict are names of the user's.
_NAMED = frozenset({"fields", "choices"})
# Types that JSON has: where nothing else is said they are not made of others. (pydantic makes text of nothing else by itself.)
_OF_JSON = frozenset({"int", "bool"})


class Mirror:
    """Walks a core schema.

    `guesses`: something is left to pydantic alone, which might take a number of any size for another type. `forbids`: a model
    refuses unknown fields, which the types told here let through, unless they are asked for `as_structs`.
    """

    def __init__(self, *, as_structs: bool = False) -> None:
        self.guesses = self.forbids = False
        self._as_structs = as_structs
        self._config: Mapping[str, Any] = {}
        self._defined: dict[str, Any] = {}
        self._known: dict[str, Told | None] = {}  # by definition; None: on the way
        self._inside: dict[str, Any] = {}  # what stands for a definition inside of itself

    def of(self, schema: Any) -> Told:
        """What to read, and what is left to check."""
        kind: str = schema["type"]
        if kind in _LEAVES:
            return self._leaf(schema, kind)
        walk = getattr(self, f"_{kind.replace('-', '_')}", None)
        return self._left(schema) if walk is None else walk(schema)

    def _left(self, schema: Any) -> Told:
        """Whatever stands there is left to pydantic."""
        self.guesses = True
        return Any, _loose(schema, self._config.get("strict"), by_function=False)

    # -- leaves -----------------------------------------------------------------------------------

    def _leaf(self, schema: Any, kind: str) -> Told:
        lax = schema.get("strict", self._config.get("strict")) is False
        if lax or (kind == "str" and self._config.get("coerce_numbers_to_str")):
            return self._left(schema)
        if kind == "bytes" and (way := self._config.get("val_json_bytes")) is not None:
            function = _FUNCTIONS_OF_BYTES.get(way, str.encode)
            return str, core_schema.no_info_before_validator_function(function, _plain(schema))
        # (Strict, for where a definition is also used in what is left to pydantic.)
        return _LEAVES[kind], {**_plain(schema), "strict": True} if kind in _OF_JSON else _plain(schema)

    def _any(self, schema: Any) -> Told:
        return Any, schema

    def _enum(self, schema: Any) -> Told:
        return (schema["cls"], _plain(schema)) if _is_read(schema["cls"]) else self._left(schema)

    def _literal(self, schema: Any) -> Told:
        told: Any = Literal[tuple(schema["expected"])]
        return (told, schema) if _is_read(told) else self._left(schema)

    # -- of others ----------------------------------------------------------------------------------

    def _wrapped(self, schema: Any) -> Told:
        told, rest = self.of(schema["schema"])
        return told, {**_plain(schema), "schema": rest}

    _default = _function_after = _wrapped

    def _json_or_python(self, schema: Any) -> Told:
        told, rest = self.of(schema["json_schema"])
        return told, _named_as(schema, rest)

    def _nullable(self, schema: Any) -> Told:
        told, rest = self._wrapped(schema)
        return (told if told is Any else Union[told, None]), rest  # noqa: UP007 - a type made at run time

    def _union(self, schema: Any) -> Told:
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
        told = [self.of(choice) for choice in choices]
        outside = [_outside(part) for kind, _ in told for part in (get_args(kind) if _is_union(kind) else (kind,))]
        # Two arrays, or two objects, msgspec does not tell apart.
        if Any in outside or len(set(outside)) < len(outside) or not _is_read(Union[tuple(outside)]):  # noqa: UP007
            return self._left(schema)
        return Union[tuple(kind for kind, _ in told)], {**_plain(schema), "choices": [rest for _, rest in told]}  # noqa: UP007

    def _list(self, schema: Any) -> Told:
        return self._of_items(schema, list)

    def _set(self, schema: Any) -> Told:
        return self._of_items(schema, set)

    def _frozenset(self, schema: Any) -> Told:
        return self._of_items(schema, frozenset)

    def _of_items(self, schema: Any, outer: Any) -> Told:
        told, rest = self.of(schema.get("items_schema", {"type": "any"}))
        return outer[told], {**_plain(schema), "items_schema": rest}

    def _tuple(self, schema: Any) -> Told:
        told = [self.of(item) for item in schema["items_schema"]]
        variadic = schema.get("variadic_item_index")
        if not told or (variadic is not None and len(told) > 1):
            return self._left(schema)
        kinds = [kind for kind, _ in told]
        outer: Any = tuple[kinds[0], ...] if variadic is not None else tuple[tuple(kinds)]  # type: ignore[valid-type,misc]  # made at run time
        return outer, {**_plain(schema), "items_schema": [rest for _, rest in told]}

    def _named_tuple(self, schema: Any) -> Told:
        """An array, whose last parts may be missing where they have defaults."""
        told = {field["name"]: self.of(field["schema"]) for field in schema["fields"]}
        optional = sum(field["schema"]["type"] == "default" for field in schema["fields"])
        outer = namedtuple("Read", told, defaults=[_MISSING] * optional)  # type: ignore[misc]  # noqa: PYI024 - made at run time
        outer.__annotations__ = {name: kind for name, (kind, _) in told.items()}
        return outer, _array(schema, [{**field, "schema": told[field["name"]][1]} for field in schema["fields"]])

    def _dict(self, schema: Any) -> Told:
        key, keys = self.of(schema.get("keys_schema", {"type": "any"}))
        value, values = self.of(schema.get("values_schema", {"type": "any"}))
        key = str if key is Any else key
        if not _is_read(dict.__class_getitem__((key, int))):
            return self._left(schema)
        outer: Any = dict
        return outer[key, value], {**_plain(schema), "keys_schema": keys, "values_schema": values}

    # -- objects ------------------------------------------------------------------------------------

    def _object(self, schema: Any) -> Told:
        """A model or a dataclass, around its fields."""
        outer, self._config = self._config, schema.get("config") or {}
        try:
            allows = self._config.get("extra_fields_behavior") == "allow"
            return self._left(schema) if allows else self._wrapped(schema)
        finally:
            self._config = outer

    _model = _dataclass = _object

    def _model_fields(self, schema: Any) -> Told:
        return self._fields(schema, schema["fields"].items(), dict)

    def _dataclass_args(self, schema: Any) -> Told:
        return self._fields(schema, [(field["name"], field) for field in schema["fields"]], lambda pairs: [f for _, f in pairs])

    def _typed_dict(self, schema: Any) -> Told:
        outer, self._config = self._config, schema.get("config") or self._config
        try:
            if schema.get("extra_behavior", self._config.get("extra_fields_behavior")) == "allow":
                return self._left(schema)
            return self._fields(schema, schema["fields"].items(), dict)
        finally:
            self._config = outer

    def _fields(self, schema: Any, fields: Iterable[tuple[str, Any]], gathered: Any) -> Told:
        forbids = schema.get("extra_behavior", self._config.get("extra_fields_behavior")) == "forbid"
        self.forbids |= forbids
        told: dict[str, Any] = {}
        rest = []
        for name, field in fields:
            kind, inner = self.of(field["schema"])
            keys, deep = _keys(name, field, by_name=bool(self._config.get("validate_by_name")))
            if deep:
                kind, inner = self._left(field["schema"])
            if field.get("init", True):
                told |= {key: kind if key not in told else Any for key in keys}
            rest.append((name, {**field, "schema": inner}))
        made = _struct(told, forbids=forbids) if self._as_structs else _filled(_object(), told)
        return made, {**_plain(schema), "fields": gathered(rest)}

    # -- definitions --------------------------------------------------------------------------------

    def _definitions(self, schema: Any) -> Told:
        self._defined = {one["ref"]: one for one in schema["definitions"]}
        told, rest = self.of(schema["schema"])
        known = [self._definition(ref) for ref in self._defined]
        return told, {**schema, "schema": rest, "definitions": [one[1] for one in known if one is not None]}

    def _definition_ref(self, schema: Any) -> Told:
        ref = schema["schema_ref"]
        if (known := self._definition(ref)) is not None:
            return known[0], schema
        if self._as_structs or self._defined[ref]["type"] == "named-tuple":
            self.guesses |= not self._as_structs
            return Any, schema
        return self._inside.setdefault(ref, _object()), schema

    def _definition(self, ref: str) -> Told | None:
        if ref not in self._known:
            self._known[ref] = None
            outer, self._config = self._config, {}
            known = self._known[ref] = self.of(self._defined[ref])
            self._config = outer
            if ref in self._inside:
                _filled(self._inside[ref], getattr(known[0], "__annotations__", {}))
        return self._known[ref]


def _array(schema: Any, fields: Any) -> Any:
    """A NamedTuple, of an array only: pydantic would make it of an object too."""
    inner = {**{key: value for key, value in _plain(schema).items() if key != "ref"}, "fields": fields}
    return _named_as(schema, core_schema.no_info_before_validator_function(_given, inner))


def _given(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("Input should be a valid array")
    return tuple(part for part in value if part is not _MISSING)


def _plain(schema: Any) -> dict[str, Any]:
    """A schema of what was read by its type: no JSON is left in it that could be taken for another."""
    out = {key: value for key, value in schema.items() if key != "strict"}
    if "config" in out:
        out["config"] = {key: value for key, value in (out["config"] or {}).items() if key != "strict"}
    return _numbers(out)


def _numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """Floats are finite: pydantic takes the literals NaN and Infinity, which are no JSON. A Decimal may be the text "NaN"."""
    if schema["type"] == "float":
        return {**schema, "allow_inf_nan": False}
    bounded = schema["type"] != "decimal" or not schema.keys() <= {"type", "ref", "metadata"}
    return schema if bounded else {**schema, "allow_inf_nan": True}


def _loose(schema: Any, strict: bool | None, *, by_function: bool) -> Any:
    """A schema of what is read as whatever JSON it is. What JSON has a type for is not made of another, unless it is said."""
    if isinstance(schema, list | tuple):
        return type(schema)(_loose(part, strict, by_function=by_function) for part in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind == "json-or-python":
        return _named_as(schema, _loose(schema["json_schema"], strict, by_function=by_function))
    strict = (schema.get("config") or {}).get("strict", strict)
    by_function = by_function or kind in ("function-before", "function-wrap", "function-plain")
    own = schema.get("strict", strict)
    out: dict[str, Any] = {}
    for key, part in schema.items():
        if key in _NAMED and isinstance(part, dict):
            out[key] = {name: _loose(each, strict, by_function=by_function) for name, each in part.items()}
        else:
            out[key] = part if key in _ASIDE else _loose(part, strict, by_function=by_function)
    if not isinstance(kind, str):
        return out
    if kind == "named-tuple":
        return _array(out, out["fields"])
    out = _plain(out)
    if kind in _OF_JSON and (own is True or (own is None and not by_function)):
        out["strict"] = True
    return out


def _named_as(schema: Any, rest: Any) -> Any:
    """A part in place of the whole, under the whole's name."""
    return {**rest, "ref": schema["ref"]} if "ref" in schema else rest


def _keys(name: str, field: Any, *, by_name: bool) -> tuple[list[str], bool]:
    """Under which keys of the object a field stands, and whether it is looked for deeper in one of them."""
    alias = field.get("validation_alias")
    if alias is None:
        return [name], False
    paths = [[alias]] if isinstance(alias, str) else alias if isinstance(alias[0], list) else [alias]
    keys = [path[0] for path in paths] + ([name] if by_name else [])
    return keys, any(len(path) > 1 for path in paths)


def _object() -> Any:
    """A TypedDict to be filled."""
    return TypedDict("Read", {})  # type: ignore[operator]  # as mypy takes it


def _filled(made: Any, told: dict[str, Any]) -> Any:
    made.__annotations__ = told
    made.__optional_keys__, made.__required_keys__ = frozenset(told), frozenset()
    return made


def _struct(told: dict[str, Any], *, forbids: bool) -> Any:
    """The same as a Struct, which may refuse other fields."""
    names = {f"f{number}": key for number, key in enumerate(told)}
    fields = [(name, told[key], None) for name, key in names.items()]
    return msgspec.defstruct("Known", fields, rename=names, forbid_unknown_fields=forbids)


def _is_read(kind: Any) -> bool:
    """Does msgspec know such a type?"""
    try:
        msgspec.json.Decoder(kind)
    except (TypeError, ValueError):
        return False
    return True


def _is_union(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Union


def _outside(kind: Any) -> Any:
    """The type without what is inside of it: objects are not complete yet."""
    if isinstance(kind, type) and hasattr(kind, "__required_keys__"):
        return dict
    origin = get_origin(kind)
    return kind if origin is None or origin is Literal else origin
