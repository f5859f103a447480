"""Settings from the environment and `.env`, read strictly: a typing mistake is an error, never a default used in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import orjson
import pydantic
import sqlalchemy as sa
from dotenv.parser import parse_stream
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from waxwing import secrets
from waxwing.databases import address, check_url
from waxwing.errors import ConfigError
from waxwing.settings import Group

G = TypeVar("G", bound=Group)

ENV_FILE = ".env"
# Names of the environment that are at least this similar to one of ours are mistyped (DATABASE_ULR: 0.92). A lower limit would
# take LINES, which shells set, for LANES.
NEAR_MISS_RATIO = 0.9


class Given(NamedTuple):
    """A value that somebody gave: its text, the name it was given by, and where."""

    text: str
    name: str
    place: Literal["environment", ".env"]

    def __str__(self) -> str:
        return self.name if self.place == "environment" else f"{self.name} in {ENV_FILE}"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place gives: the variables of the environment, or the lines of `.env`."""

    place: Literal["environment", ".env"]
    values: Mapping[str, str]


def load(kind: type[G], *, partial: bool = False) -> G:
    """Read the settings of a flow from the environment and from `.env` in the working folder; the environment wins.

    Names are the fields' in capitals; an empty value counts as none. `partial` is for commands that need only a part of a
    flow's settings: a name in `.env` that is not like any of theirs is left alone, and Kafka may be given without a database.

    Raises:
        ConfigError: all that is wrong, a line each: values that don't fit, unknown or mistyped names, settings that contradict.
            Never with the value of a secret.
    """
    problems: list[str] = []
    given = read(kind, problems, partial=partial)
    problems += _from_parts(given)
    settings = _validated(kind, given, problems)
    problems += _databases(given)
    problems += contradictions(given, kind.model_fields.keys(), partial=partial)
    if problems or settings is None:
        several = f"{len(problems)} settings are wrong:\n- " if len(problems) > 1 else "A setting is wrong: "
        raise ConfigError(
            several + "\n- ".join(problems), hint="" if len(problems) > 1 else "`waxwing settings` lists all of them."
        )
    return settings


def read(kind: type[Group], problems: list[str], *, partial: bool = False) -> dict[str, Given]:
    """What was given, by the name of the field; names that can't be right are added to the problems."""
    given: dict[str, Given] = {}
    for field, info in kind.model_fields.items():
        _remember(field, info, default_text(info))  # one that stands in the code is no less secret
    for layer in _layers():
        names = names_of(kind)
        secrets.remember_environment({name: value for name, value in layer.values.items() if name not in names})
        problems += _strangers(layer, names, partial)
        for field, its_names in _fields(kind):
            found = [Given(layer.values[name], name, layer.place) for name in its_names if layer.values.get(name)]
            if len({one.text for one in found}) > 1:
                problems.append(
                    f"{' and '.join(str(one) for one in found)} are two names of one setting, with different values: give one."
                )
            for one in found:
                _remember(field, kind.model_fields[field], one.text)
                _setting_of.setdefault(one.text, one.name)
            if found:
                given.setdefault(field, found[0])
    return given


# By its text, the setting that gave a value: an error of a second database names the setting to look at.
_setting_of: dict[str, str] = {}


def setting_of(text: str) -> str:
    """The name of the setting that gave this very text; empty where none that was loaded did."""
    return _setting_of.get(text, "")


def names_given() -> list[str]:
    """Every name that the environment or `.env` gives a value, ours or not."""
    return list(dict.fromkeys(name for layer in _layers() for name, value in layer.values.items() if value))


def names_of(kind: type[Group]) -> list[str]:
    """Every name that the environment may use for these settings."""
    return [name for _, its_names in _fields(kind) for name in its_names]


def environment_names(field: str, info: FieldInfo) -> list[str]:
    """The names of one setting, the preferred one first."""
    alias = info.validation_alias
    return [str(choice).upper() for choice in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]


def shown(field: str, info: FieldInfo, text: str) -> str:
    """A setting's value, for eyes that may not see secrets."""
    if not text:
        return ""
    if field == "database_url":
        return _without_password(text)
    if _is_secret(field, info):
        return secrets.HIDDEN
    shape = _json_shape(info)
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


def _remember(field: str, info: FieldInfo, text: str) -> None:
    """Never to be said from now on."""
    secrets.remember(text)
    whole = field != "database_url" and _is_secret(field, info)
    if _json_shape(info) is not None:
        secrets.remember_json(text, whole=whole)
    elif whole:
        secrets.remember(text, whole=True)


# A number or a choice is no secret, whatever its name (TOKENS_MAX).
_NO_SECRETS = (int, float, bool)


def _is_secret(field: str, info: FieldInfo) -> bool:
    """Is it all secret, by its type or by its name?"""
    if any(hasattr(one, "get_secret_value") for one in _types_in(info.annotation)):
        return True
    plain = info.annotation in _NO_SECRETS or get_origin(info.annotation) is Literal
    return secrets.is_name_of_secret(field) and not plain


def _json_shape(info: FieldInfo) -> type[dict[Any, Any] | list[Any]] | None:
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


def _fields(kind: type[Group]) -> Iterator[tuple[str, list[str]]]:
    for field, info in kind.model_fields.items():
        yield field, environment_names(field, info)


# -- reading ---------------------------------------------------------------------------------------


def _layers() -> list[Layer]:
    """The environment, which wins, and `.env`, as pydantic-settings reads them."""
    no_fields = cast("type[BaseSettings]", pydantic.create_model("NoFields", __base__=BaseSettings))
    environment = EnvSettingsSource(no_fields, case_sensitive=True).env_vars
    layers = [Layer("environment", {name: value for name, value in environment.items() if value})]
    if _is_there():
        source = DotEnvSettingsSource(no_fields, env_file=ENV_FILE, env_file_encoding="utf-8-sig", case_sensitive=True)
        layers.append(Layer(".env", {name: value or "" for name, value in source.env_vars.items()}))
    return layers


def _is_there() -> bool:
    """Is there a `.env`?

    Raises:
        ConfigError: with all lines of it that are no assignments (python-dotenv would leave them out) or contradict.
    """
    try:
        with Path(ENV_FILE).open(encoding="utf-8-sig") as lines:
            bindings = list(parse_stream(lines))
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{ENV_FILE} can't be read: {why}.") from error
    problems = []
    seen: dict[str, str | None] = {}
    for binding in bindings:
        line = binding.original.line
        if binding.error or (binding.key and binding.value is None):
            problems.append(f"line {line} is not NAME=value")  # not the line itself: it may hold a password
        elif "\x00" in binding.original.string:
            problems.append(f"line {line} holds U+0000")
        elif binding.key and seen.setdefault(binding.key, binding.value) != binding.value:
            problems.append(f"line {line} gives {binding.key} again, with another value")
    if problems:
        raise ConfigError(f"{ENV_FILE} can't be used: {'; '.join(problems)}.")
    return True


def _strangers(layer: Layer, names: list[str], partial: bool) -> Iterator[str]:
    """Names that are none of ours: in `.env` each is an error, in the environment only one that looks mistyped."""
    by_place = f" in {ENV_FILE}" if layer.place == ".env" else ""
    strict = layer.place == ".env" and not partial
    for name in layer.values.keys() - set(names):
        near = get_close_matches(name.upper(), names, 1, NEAR_MISS_RATIO)
        if near:
            yield f"{name}{by_place} is no setting: did you mean {near[0]}?"
        elif strict and name.upper().startswith("BYTEWAX_"):
            yield f"{name}{by_place} has no effect: Bytewax reads its variables from the environment. Set it there."
        elif strict:
            nearest = get_close_matches(name.upper(), names, 1, 0.0)[0]
            yield f"{name}{by_place} is no setting: the nearest is {nearest}. ({ENV_FILE} is for settings of the flow only.)"


class _Parts(NamedTuple):
    """How a database is given by parts: its URL's scheme, the part that names the database, parts that are options of the URL."""

    scheme: str
    database: str
    options: Mapping[str, str]


# By the prefix of the settings.
_PARTS = {
    "mysql": _Parts("mysql", "database", {}),
    "sqlserver": _Parts(
        "mssql", "db", {"driver": "driver", "encrypt": "Encrypt", "trust_server_certificate": "TrustServerCertificate"}
    ),
}


def _from_parts(given: dict[str, Given]) -> Iterator[str]:
    """Make `database_url` and `database_table` of a database given by parts; yields what is wrong."""
    for prefix, (scheme, database, options) in _PARTS.items():
        parts = {field.removeprefix(f"{prefix}_"): one for field, one in given.items() if field.startswith(f"{prefix}_")}
        if not parts:
            continue
        some = next(iter(parts.values()))
        if "database_url" in given:
            yield f"{given['database_url']} and {some} are both given: give the URL or the parts."
            continue
        if lacking := [f"{prefix}_{name}".upper() for name in ("host", "user", database) if name not in parts]:
            yield f"{some} is given and {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not."
        text = {name: one.text for name, one in parts.items()}
        port = int(text["port"]) if text.get("port", "").isdecimal() else None  # what is no number is told by its field
        url = sa.URL.create(scheme, text.get("user"), text.get("password"), text.get("host"), port, text.get(database))
        url = url.update_query_dict({option: text[name] for name, option in options.items() if text.get(name)})
        given["database_url"] = Given(url.render_as_string(hide_password=False), some.name, some.place)
        _setting_of.setdefault(given["database_url"].text, f"the settings {prefix.upper()}_...")
        if table := parts.get("table"):
            if "database_table" in given:
                yield f"{given['database_table']} and {table} are both given: give one."
            given["database_table"] = table


_SUCH_AS: dict[type, str] = {dict: ' Such as {"name": "value"}.', list: ' Such as ["one", "two"].'}


# -- checking --------------------------------------------------------------------------------------


def _validated(kind: type[G], given: Mapping[str, Given], problems: list[str]) -> G | None:
    values: dict[str, Any] = {}
    for field, one in given.items():
        values[field] = one.text
        if shape := _json_shape(kind.model_fields[field]):
            try:
                values[field] = orjson.loads(one.text)
            except orjson.JSONDecodeError as error:
                problems.append(f"{one} is no JSON: {error.msg} at character {error.pos + 1}.{_SUCH_AS[shape]}")
                values[field] = shape()
    try:
        return kind.model_validate(values, by_name=True)
    except pydantic.ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            what = re.sub(r"^(Value error, |Input )", "", problem["msg"]).replace("should be", "must be")
            field = _field_of(kind, str(problem["loc"][0])) if problem["loc"] else ""
            info = kind.model_fields.get(field)
            if info is None:  # of several settings together
                problems.append(secrets.scrub(f"{what}."))
            elif field not in given:
                told = (info.description or "it has no default").rstrip(".")
                problems.append(f"{environment_names(field, info)[0]} is not set: {told}.")
            else:
                one = given[field]
                safe = shown(field, info, one.text)
                told = f" (it is {safe!r})" if safe == one.text else ""
                problems.append(secrets.scrub(f"{one}: {what}{told}."))
        return None


def _field_of(kind: type[Group], place: str) -> str:
    """The field of an error's place, which pydantic gives by the name or by an alias."""
    return next((f for f, names in _fields(kind) if place == f or place.upper() in names), place)


def _databases(given: Mapping[str, Given]) -> Iterator[str]:
    """What is wrong with the addresses of databases, without their passwords."""
    for field, one in given.items():
        if field.endswith("database_url"):
            try:
                check_url(one.text, str(one))
            except ConfigError as error:
                yield str(error)


# Settings that mean nothing, or something else than was meant, without another one.
_BOTH = (
    ("kafka_bootstrap_servers", "database_url", "Give both, or neither for the embedded demonstration."),
    ("kafka_ssl_certificate_file", "kafka_ssl_key_file", "Mutual TLS needs both."),
)
_NEEDS = (("kafka_ssl_key_password", "kafka_ssl_key_file"), ("database_table", "database_url"))


def contradictions(given: Mapping[str, Given], fields: Collection[str], *, partial: bool = False) -> Iterator[str]:
    """Pairs of settings that can't both be meant as they stand."""
    for first, second, both in _BOTH:
        if (
            {first, second} <= set(fields)
            and not (partial and second == "database_url")
            and (first in given) != (second in given)
        ):
            there, missing = (first, second) if first in given else (second, first)
            yield f"{given[there]} is given and {missing.upper()} is not. {both}"
    for field, needed in _NEEDS:
        if field in given and needed in fields and needed not in given:
            yield f"{given[field]} is given and {needed.upper()} is not: it has no effect without."
    if "kafka_security_protocol" in fields:
        yield from _security(given)


def _security(given: Mapping[str, Given]) -> Iterator[str]:
    stated = given.get("kafka_security_protocol")
    protocol = stated.text if stated else "PLAINTEXT"
    is_so = f"KAFKA_SECURITY_PROTOCOL is {protocol}" + ("" if stated else " (the default)")
    for field, one in given.items():
        if field.startswith("kafka_sasl_") and "SASL" not in protocol:
            yield f"{one} is given, but {is_so}: set SASL_SSL or SASL_PLAINTEXT."
        if field.startswith("kafka_ssl_") and "SSL" not in protocol:
            yield f"{one} is given, but {is_so}: set SSL or SASL_SSL."
