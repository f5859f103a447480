"""What was given becomes the settings of a flow, or the list of all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import orjson
import pydantic
import sqlalchemy as sa

from waxwing import secrets
from waxwing.databases import address, check_url
from waxwing.errors import ConfigError
from waxwing.settings.group import Group, values_in
from waxwing.settings.groups import DatabaseSettings, KafkaSettings
from waxwing.settings.names import Setting, settings_in
from waxwing.settings.reading import Given, read
from waxwing.settings.secret import default_text, json_shape, shown

G = TypeVar("G", bound=Group)


def load(kind: type[G], *, partial: bool = False) -> G:
    """Read the settings of a flow from the environment and from `.env` in the working folder; the environment wins.

    Names are the fields' in capitals, behind the prefix of their value; an empty value counts as none. `partial` is for commands
    that need only a part of a flow's settings: a name in `.env` that is not like any of theirs is left alone, and Kafka may be
    given without a database.

    Raises:
        ConfigError: all that is wrong, a line each: values that don't fit, unknown or mistyped names, settings that contradict.
            Never with the value of a secret.
    """
    problems: list[str] = []
    given = read(kind, problems, partial=partial)
    groups = [GroupAt(kind, "", kind, "", given)]
    groups += [GroupAt(kind, value, group, prefix, given) for value, (group, prefix) in values_in(kind).items()]
    for at in groups:
        problems += _from_parts(at)
    settings = _validated(kind, groups, problems)
    for at in groups:
        problems += _databases(at)
        problems += _contradictions(at)
    problems += _all_or_none(groups, partial=partial)
    problems += _read_twice(groups)
    problems = list(dict.fromkeys(problems))  # several values may have it from one name
    if problems or settings is None:
        several = f"{len(problems)} settings are wrong:\n- " if len(problems) > 1 else "A setting is wrong: "
        raise ConfigError(
            several + "\n- ".join(problems), hint="" if len(problems) > 1 else "`waxwing settings` lists all of them."
        )
    return settings


class GroupAt:
    """One value of a flow's settings, or the fields of its class itself, with what was given for it.

    Attributes:
        value: the field of the class that holds it; empty: it is the class itself.
        given: by the field.
        together: what several settings are called that made up one field.
    """

    def __init__(self, kind: type[Group], value: str, group: type[Group], prefix: str, given: Mapping[str, Given]) -> None:
        self.value, self.group, self.prefix = value, group, prefix
        self.settings: dict[str, Setting] = {one.field: one for one in settings_in(kind) if one.value == value}
        self.together: dict[str, str] = {}
        self.given = {field: given[one.at] for field, one in self.settings.items() if one.at in given}

    def name(self, field: str) -> str:
        """The preferred name of a field."""
        return self.settings[field].names[0]

    def text(self, field: str) -> str:
        """What was given, or the default."""
        return self.given[field].text if field in self.given else default_text(self.settings[field].info)

    def told(self, field: str) -> str:
        """What gave a field, or could."""
        return str(self.given.get(field, self.name(field)))

    @property
    def whose(self) -> str:
        """What it is called beside the flow's other values."""
        return self.value or "the class itself"


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


def _from_parts(at: GroupAt) -> Iterator[str]:
    """Make `database_url` and `database_table` of a database given by parts; yields what is wrong."""
    given = at.given
    for prefix, (scheme, database, options) in _PARTS.items():
        parts = {field.removeprefix(f"{prefix}_"): one for field, one in given.items() if field.startswith(f"{prefix}_")}
        if not parts:
            continue
        some = next(iter(parts.values()))
        if "database_url" in given:
            yield f"{given['database_url']} and {some} are both given: give the URL or the parts."
            continue
        if lacking := [at.name(f"{prefix}_{name}") for name in ("host", "user", database) if name not in parts]:
            yield f"{some} is given and {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not."
        text = {name: one.text for name, one in parts.items()}
        port = int(text["port"]) if text.get("port", "").isdecimal() else None  # what is no number is told by its field
        url = sa.URL.create(scheme, text.get("user"), text.get("password"), text.get("host"), port, text.get(database))
        url = url.update_query_dict({option: text[name] for name, option in options.items() if text.get(name)})
        given["database_url"] = Given(url.render_as_string(hide_password=False), some.name, some.place)
        at.together["database_url"] = f"the settings {at.prefix}{prefix.upper()}_..."
        if table := parts.get("table"):
            if "database_table" in given:
                yield f"{given['database_table']} and {table} are both given: give one."
            given["database_table"] = table


# -- values ----------------------------------------------------------------------------------------

_SUCH_AS: dict[type, str] = {dict: ' Such as {"name": "value"}.', list: ' Such as ["one", "two"].'}


def _validated(kind: type[G], groups: list[GroupAt], problems: list[str]) -> G | None:
    """The settings; what does not fit is added to the problems, and then there are none."""
    own, *values = groups
    made = {at.value: _made(at.group, at, {}, problems) for at in values}
    standing = {value: one or at.group.model_construct() for at, (value, one) in zip(values, made.items(), strict=True)}
    whole = _made(kind, own, standing, problems)
    return None if None in made.values() else whole


def _made(kind: type[G], at: GroupAt, values: Mapping[str, Group], problems: list[str]) -> G | None:
    texts: dict[str, Any] = {}
    for field, one in at.given.items():
        texts[field] = one.text
        if shape := json_shape(kind.model_fields[field]):
            try:
                texts[field] = orjson.loads(one.text)
            except orjson.JSONDecodeError as error:
                problems.append(f"{one} is no JSON: {error.msg} at character {error.pos + 1}.{_SUCH_AS[shape]}")
                texts[field] = shape()
    try:
        made = kind.model_validate({**texts, **values}, by_name=True)
    except pydantic.ValidationError as error:
        problems += [_told(at, problem) for problem in error.errors(include_url=False, include_input=False)]
        return None
    return made.given(at.prefix, {field: one.name for field, one in at.given.items()} | at.together)


def _told(at: GroupAt, problem: Any) -> str:  # pydantic's ErrorDetails
    what = re.sub(r"^(Value error, |Input )", "", problem["msg"]).replace("should be", "must be")
    field = _field_of(at, str(problem["loc"][0])) if problem["loc"] else ""
    setting = at.settings.get(field)
    if setting is None:  # of several settings together
        return secrets.scrub(f"{what}.")
    if field not in at.given:
        told = (setting.info.description or "it has no default").rstrip(".")
        return f"{setting.names[0]} is not set: {told}."
    one = at.given[field]
    safe = shown(field, setting.info, one.text)
    told = f" (it is {safe!r})" if safe == one.text else ""
    return secrets.scrub(f"{one}: {what}{told}.")


def _field_of(at: GroupAt, place: str) -> str:
    """The field of an error's place, which pydantic gives by the name or by an alias."""
    own = {f"{at.prefix}{place.upper()}"}
    return next((field for field, one in at.settings.items() if place == field or own & {*one.names}), place)


def _databases(at: GroupAt) -> Iterator[str]:
    """What is wrong with the addresses of databases, without their passwords."""
    for field, one in at.given.items():
        if field.endswith("database_url") and one.text:
            try:
                check_url(one.text, str(one))
            except ConfigError as error:
                yield str(error)


# -- settings that can't both be meant ---------------------------------------------------------------

# Settings that mean nothing, or something else than was meant, without another one.
_BOTH = (("kafka_ssl_certificate_file", "kafka_ssl_key_file", "Mutual TLS needs both."),)
_NEEDS = (("kafka_ssl_key_password", "kafka_ssl_key_file"), ("database_table", "database_url"))
# Where a value is: with one of a flow's, all have to be given.
_WHERE = ("kafka_bootstrap_servers", "database_url")


def _contradictions(at: GroupAt) -> Iterator[str]:
    """Pairs of settings that can't both be meant as they stand."""
    given, fields = at.given, at.settings
    for first, second, both in _BOTH:
        if {first, second} <= fields.keys() and (first in given) != (second in given):
            there, missing = (first, second) if first in given else (second, first)
            yield f"{given[there]} is given and {at.name(missing)} is not. {both}"
    for field, needed in _NEEDS:
        if field in given and needed in fields and needed not in given:
            yield f"{given[field]} is given and {at.name(needed)} is not: it has no effect without."
    if "kafka_security_protocol" in fields:
        yield from _security(at)


def _security(at: GroupAt) -> Iterator[str]:
    stated = at.given.get("kafka_security_protocol")
    protocol = stated.text if stated else "PLAINTEXT"
    name = stated.name if stated else at.name("kafka_security_protocol")
    is_so = f"{name} is {protocol}" + ("" if stated else " (the default)")
    for field, one in at.given.items():
        if field.startswith("kafka_sasl_") and "SASL" not in protocol:
            yield f"{one} is given, but {is_so}: set SASL_SSL or SASL_PLAINTEXT."
        if field.startswith("kafka_ssl_") and "SSL" not in protocol:
            yield f"{one} is given, but {is_so}: set SSL or SASL_SSL."


def _all_or_none(groups: Collection[GroupAt], *, partial: bool) -> Iterator[str]:
    """Some addresses are given and others are not."""
    wanted = [(at, field) for at in groups for field in _WHERE if field in at.settings]
    there = [at.given[field] for at, field in wanted if field in at.given]
    # A command may need Kafka without a database, or the database alone.
    if not there or partial:
        return
    for at, field in wanted:
        needed = at.group.needed.get(field)
        if field in at.given or (needed is not None and not needed.when(at.text(needed.field))):
            continue
        all_ = "both, or neither" if len(wanted) == 2 else "all of a flow's addresses, or none,"
        other = "" if needed is None else f"; or another {at.name(needed.field)} (it is {at.text(needed.field)})"
        yield f"{there[0]} is given and {at.name(field)} is not. Give {all_} for the embedded demonstration{other}."


def _read_twice(groups: Collection[GroupAt]) -> Iterator[str]:
    """Two values that read one address: records would come twice, or two steps fill one table."""
    names: dict[str, GroupAt] = {}
    places: dict[object, tuple[GroupAt, str]] = {}
    for at in groups:
        addresses = sorted((field for field in at.settings if at.group.is_address(field)), key=lambda field: field not in _WHAT)
        for field in addresses:
            other = names.setdefault(at.name(field), at)
            if other is not at:
                yield (
                    f"{at.name(field)} is read by two values, {other.whose} and {at.whose}: take one for both, or give one "
                    f"a prefix: {at.value}: {at.group.__name__} = prefixed({at.value.upper()!r})."
                )
                return  # all its addresses are
        for place, field in _places(at):
            other, others = places.setdefault(place, (at, field))
            if other is not at:
                yield (
                    f"{other.told(others)} and {at.told(field)} are the same {_WHAT[field]}, for {other.whose} and "
                    f"{at.whose}: {_INSTEAD[field]}."
                )


_WHAT = {
    "source_topic": "topic of one cluster",
    "source_topic_pattern": "pattern of topics of one cluster",
    "database_url": "database",
}
_INSTEAD = {
    "source_topic_pattern": "read it once, a source may feed any number of steps",
    "source_topic": "read it once, a source may feed any number of steps",
    "database_url": "take one value for both, or give each a table of its own (..._DATABASE_TABLE)",
}


def _places(at: GroupAt) -> Iterator[tuple[object, str]]:
    """Where a value reads or writes, as far as its settings say, each with the field that tells it."""
    if issubclass(at.group, KafkaSettings) and "kafka_bootstrap_servers" in at.given:
        servers = frozenset(server.strip() for server in at.text("kafka_bootstrap_servers").split(","))
        field = "source_topic_pattern" if at.text("source_topic_pattern") else "source_topic"
        for topics in at.text(field).split(",") if field == "source_topic" else [at.text(field)]:
            if topics:
                yield (servers, field, topics.strip()), field
    if issubclass(at.group, DatabaseSettings) and at.text("database_url"):
        yield (_resolved(at.text("database_url")), at.text("database_table")), "database_url"


def _resolved(text: str) -> object:
    """A database, however its URL is written, but for its host's name."""
    try:
        url = address.parsed(text)
    except ConfigError:
        return text
    return url.get_backend_name(), url.host, url.port, url.database, tuple(sorted(url.query.items()))
