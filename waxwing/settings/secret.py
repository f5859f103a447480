"""Which settings are secret, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from waxwing import secrets
from waxwing.databases import address
from waxwing.errors import ConfigError
from waxwing.settings.group import OF_LOGIN


def shown(field: str, info: FieldInfo, text: str) -> str:
    """A setting's value, for eyes that may not see secrets."""
    if not text:
        return ""
    if field == "database_url":
        return _without_password(text)
    if is_secret(field, info):
        return secrets.HIDDEN
    shape = json_shape(info)
    return secrets.masked(text) if shape is None else secrets.masked_json(text, shape)


def default_text(info: FieldInfo) -> str:
    """A setting's default as one would give it, secret or not; empty where there is none."""
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return ""
    value = _revealed(value)
    return (
        json.dumps(value, default=str)
        if isinstance(value, dict | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _revealed(value: Any) -> Any:
    """The value without pydantic's wraps around secrets; what is not plain as JSON would have it."""
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, pydantic.BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {str(name): _revealed(one) for name, one in value.items()}
    return [_revealed(one) for one in value] if isinstance(value, list | tuple | set | frozenset) else value


def _without_password(text: str) -> str:
    try:
        url = address.parsed(text)
    except ConfigError:
        return secrets.HIDDEN
    options = {
        name: "hidden"
        if secrets.is_name_of_secret(name) or (isinstance(value, str) and secrets.masked(value) != value)
        else value
        for name, value in url.query.items()
    }
    if url.password is None and options == url.query and secrets.masked(text) != text:
        return secrets.HIDDEN  # a secret, and nobody knows which part
    return url.set(query=options).render_as_string(hide_password=True)


def remember(field: str, info: FieldInfo, text: str) -> None:
    """Never to be said from now on."""
    secrets.remember(text)
    whole = field != "database_url" and is_secret(field, info)
    if json_shape(info) is not None:
        secrets.remember_json(text, whole=whole)
    elif whole:
        secrets.remember(text, whole=True)


# A number or a choice is no secret, whatever its name (TOKENS_MAX).
_NO_SECRETS = (int, float, bool)


def is_secret(field: str, info: FieldInfo) -> bool:
    """Is it all secret, by its type or by its name?"""
    if any(hasattr(one, "get_secret_value") for one in _types_in(info.annotation)):
        return True
    plain = info.annotation in _NO_SECRETS or get_origin(info.annotation) is Literal or info.json_schema_extra == OF_LOGIN
    return secrets.is_name_of_secret(field) and not plain


def json_shape(info: FieldInfo) -> type[dict[Any, Any] | list[Any]] | None:
    """What JSON a setting is given as: an object, a list; None: it is a plain text."""
    is_union = get_origin(info.annotation) in (Union, UnionType)
    for one in get_args(info.annotation) if is_union else (info.annotation,):
        kind = get_origin(one) or one
        if isinstance(kind, type) and issubclass(kind, Mapping | pydantic.BaseModel):
            return dict
        if isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, str | bytes):
            return list
    return None


def _types_in(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: `list[SecretStr] | None`."""
    yield get_origin(annotation) or annotation
    for one in get_args(annotation):
        yield from _types_in(one)
