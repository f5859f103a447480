"""What settings are made of: a group of fields, and a flow's class that names groups as its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticUndefined

# `json_schema_extra` of a URL by which one logs in (KAFKA_OAUTH_TOKEN_URL): no secret, and not where records lie.
OF_LOGIN: JsonDict = {"of": "login"}


class Needed(NamedTuple):
    """When an address is needed: as another field of the class stands.

    Attributes:
        field: that decides.
        when: whether the address is needed where this is the field's text.
    """

    field: str
    when: Callable[[str], bool]


class Group(BaseModel):
    """Some settings, declared once: the environment has each by its field's name in capitals.

    A group that is a value of a flow's class may have a prefix; then its names begin with it.

    Attributes:
        common: fields that are one for the whole flow: their names have no prefix, whatever the value's.
        addresses: how fields that say where something is begin: those of a prefixed value are never taken from the plain names.
        needed: by address (`database_url`), when a flow needs it. Others are needed wherever any address is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    common: ClassVar[frozenset[str]] = frozenset()
    addresses: ClassVar[tuple[str, ...]] = ()
    needed: ClassVar[Mapping[str, Needed]] = {}
    _prefix: str = PrivateAttr("")
    _given: dict[str, tuple[str, Any]] = PrivateAttr(default_factory=dict)

    @classmethod
    def is_address(cls, field: str) -> bool:
        """Does this field say where something is: a URL or a part of one, a topic, a table?"""
        info = cls.model_fields.get(field)
        if info is not None and info.json_schema_extra == OF_LOGIN:
            return False
        return field.endswith("_url") or any(field.startswith(getattr(base, "addresses", ())) for base in cls.__mro__)

    def given_by(self, field: str) -> str:
        """The name of the setting that gave this field its value; empty: it came from the code."""
        name, value = self._given.get(field, ("", None))
        return name if name and getattr(self, field) == value else ""

    def name_of(self, field: str) -> str:
        """The name of the setting that gave a field its value, or else that would give it."""
        return self.given_by(field) or f"{'' if field in self.common else self._prefix}{field.upper()}"

    def told(self, text: str) -> str:
        """A message about these settings, with their plain names as this very value has them."""
        return _NAME.sub(lambda found: self._told(found[0]), text) if self._prefix else text

    def _told(self, name: str) -> str:
        field = name.lower()
        return self.name_of(field) if field in type(self).model_fields else name

    def given(self, prefix: str, names: dict[str, str]) -> Self:
        """The same, read from outside: its prefix, and by the field the name that gave it."""
        new = self.model_copy()
        new._prefix, new._given = prefix, {field: (name, getattr(new, field)) for field, name in names.items()}
        return new


_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


class Prefixed(NamedTuple):
    """Stands as the default of a value whose names have a prefix (with its underscore)."""

    prefix: str


def prefixed(prefix: str) -> Any:  # as pydantic's Field, it stands where a value of any kind is declared
    """A value of a flow's settings with names of its own: with `prefixed("ALARMS")` it reads ALARMS_DATABASE_URL.

    A name that is not given falls back to the plain one (UNTIL bounds all), but for addresses: URLs, their parts, topics, tables.

    Raises:
        ValueError: it is no word of capitals, digits and underscores.
    """
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]|[A-Z]", prefix):
        raise ValueError(f"prefixed({prefix!r}): a prefix is made of capitals, digits and '_', such as ALARMS")
    return Prefixed(f"{prefix}_")


class Settings(Group):
    """The settings of a flow: its own fields, and a value for each of its sources and targets.

        class Settings(waxwing.Settings):
            payments: KafkaSettings = prefixed("PAYMENTS")  # PAYMENTS_KAFKA_BOOTSTRAP_SERVERS, PAYMENTS_SOURCE_TOPIC, ...
            shop: SqlSettings                               # DATABASE_URL, DATABASE_TABLE, ...
            alarm_above: Decimal = Decimal(1000)            # ALARM_ABOVE

    Made in code, a value that is left out has its defaults.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in values_in(cls):
            default = cls.model_fields[field].default
            if default is not PydanticUndefined and not isinstance(default, Prefixed):
                raise TypeError(f"{cls.__name__}.{field}: a value has no default; other defaults are a class of their own.")
        for field, info in cls.model_fields.items():
            if any(isinstance(one, type) and issubclass(one, Group) for one in get_args(info.annotation)):
                raise TypeError(f"{cls.__name__}.{field}: a value is one group of settings, neither optional nor several.")

    @model_validator(mode="before")
    @classmethod
    def _made_in_code(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kinds = {field: kind for field, (kind, _) in values_in(cls).items() if field not in data}
        return {**{field: kind() for field, kind in kinds.items()}, **data}


def values_in(kind: type[Group]) -> dict[str, tuple[type[Group], str]]:
    """The values that a class has, by their fields: of which kind, and their prefix."""
    found: dict[str, tuple[type[Group], str]] = {}
    for field, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Group):
            found[field] = info.annotation, info.default.prefix if isinstance(info.default, Prefixed) else ""
    return found
