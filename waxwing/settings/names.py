"""The names that the environment may use for the settings of a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from waxwing.settings.group import Group, values_in
from waxwing.settings.secret import is_secret, json_shape

FILE = "_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a flow.

    Attributes:
        value: the field of the flow's class that holds it; empty: it is the class's own.
        group: what it is a field of.
        names: of the environment, the preferred one first.
        plain: the names that it falls back to.
    """

    value: str
    group: type[Group]
    field: str
    info: FieldInfo
    names: tuple[str, ...]
    plain: tuple[str, ...]

    @property
    def at(self) -> str:
        """What it is called among all settings of the class."""
        return f"{self.value}.{self.field}" if self.value else self.field

    @property
    def from_file(self) -> bool:
        """May a file hold it? Secrets come so, and what may have some in it."""
        return self.field.endswith("_url") or is_secret(self.field, self.info) or json_shape(self.info) is dict


def settings_in(kind: type[Group]) -> Iterator[Setting]:
    """All settings of a class: its own, then those of its values."""
    values = values_in(kind)
    for value, (group, prefix) in {"": (kind, ""), **values}.items():
        for field, info in group.model_fields.items():
            if not value and field in values:
                continue
            plain = tuple(environment_names(field, info))
            own_prefix = "" if field in group.common else prefix
            names = tuple(f"{own_prefix}{name}" for name in plain)
            falls_back = bool(own_prefix) and not group.is_address(field)
            yield Setting(value=value, group=group, field=field, info=info, names=names, plain=plain if falls_back else ())


def environment_names(field: str, info: FieldInfo) -> list[str]:
    """The plain names of one setting, the preferred one first."""
    alias = info.validation_alias
    return [str(choice).upper() for choice in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]


def names_of(kind: type[Group]) -> list[str]:
    """Every name that the environment may use for these settings, but for those of files."""
    return list(dict.fromkeys(name for one in settings_in(kind) for name in (*one.names, *one.plain)))


def file_names_of(kind: type[Group]) -> list[str]:
    """Every name that may name a file with a setting in it."""
    files = [one for one in settings_in(kind) if one.from_file]
    return list(dict.fromkeys(f"{name}{FILE}" for one in files for name in (*one.names, *one.plain)))
