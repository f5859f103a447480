"""Settings from the environment, `.env` and files, read strictly: a typing mistake is an error, never a silent default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, cast

import pydantic
from dotenv.parser import parse_stream
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from waxwing import secrets
from waxwing.errors import ConfigError
from waxwing.settings.group import Group
from waxwing.settings.names import FILE, Setting, file_names_of, names_of, settings_in
from waxwing.settings.secret import default_text, remember

G = TypeVar("G", bound=Group)

ENV_FILE = ".env"
# Names of the environment that are at least this similar to one of ours are mistyped (DATABASE_ULR: 0.92). A lower limit would
# take LINES, which shells set, for LANES.
NEAR_MISS_RATIO = 0.9
SECRET_BYTES_MAX = 1_000_000


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


def read(kind: type[Group], problems: list[str], *, partial: bool = False) -> dict[str, Given]:
    """What was given, by `Setting.at`; names that can't be right are added to the problems."""
    settings = list(settings_in(kind))
    for one in settings:
        remember(one.field, one.info, default_text(one.info))  # one that stands in the code is no less secret
    layers = _layers()
    names = [*names_of(kind), *file_names_of(kind)]
    for layer in layers:
        secrets.remember_environment({name: value for name, value in layer.values.items() if name not in names})
        problems += _strangers(layer, names, partial)
    given: dict[str, Given] = {}
    for one in settings:
        # What is given to the value itself counts more than what is given to all, wherever they stand.
        for of_value in (one.names, one.plain):
            for layer in layers:
                found = list(_found(one, of_value, layer, problems))
                if found:
                    given.setdefault(one.at, found[0])
    return given


def _found(one: Setting, names: Iterable[str], layer: Layer, problems: list[str]) -> Iterator[Given]:
    """What a place gives for a setting by these names; they may not contradict."""
    found = [Given(layer.values[name], name, layer.place) for name in names if layer.values.get(name)]
    if len({given.text for given in found}) > 1:
        _add(problems, f"{_both(found)} are two names of one setting, with different values: give one.")
    if one.from_file:
        files = [Given(layer.values[name + FILE], name + FILE, layer.place) for name in names if layer.values.get(name + FILE)]
        if files and (found or len(files) > 1):
            _add(problems, f"{_both([*found, *files])} are both given: give one.")
        elif files:
            found.append(_held(files[0], problems))
    for given in found:
        if given.text:
            remember(one.field, one.info, given.text)
            _setting_of.setdefault(given.text, given.name)
    yield from found


def _held(file: Given, problems: list[str]) -> Given:
    """What the file holds; empty where it can't be read, which is added to the problems."""
    try:
        return file._replace(text=_text_of(file.text))
    except ValueError as error:
        _add(problems, f"{file} names a file that can't be used: {error}.")
        return file._replace(text="")


def _both(found: Iterable[Given]) -> str:
    return " and ".join(str(one) for one in found)


def _add(problems: list[str], problem: str) -> None:
    if problem not in problems:  # several values may fall back to one name
        problems.append(problem)


def _text_of(path: str) -> str:
    """What a file holds, without the end of its line. Raises ValueError with the reason, not the path: it may be the secret."""
    try:
        with Path(path).open("rb") as file:
            held = file.read(SECRET_BYTES_MAX + 1)
        text = held.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError:  # of a path with U+0000
        raise ValueError("that is no path") from None
    if not text or len(held) > SECRET_BYTES_MAX:
        raise ValueError("it is too large" if text else "it is empty")
    return text


# By its text, the setting that gave a value: an error of a second database names the setting to look at.
_setting_of: dict[str, str] = {}


def setting_of(text: str) -> str:
    """The name of the setting that gave this very text; empty where none that was loaded did."""
    return _setting_of.get(text, "")


def names_given() -> list[str]:
    """Every name that the environment or `.env` gives a value, ours or not."""
    return list(dict.fromkeys(name for layer in _layers() for name, value in layer.values.items() if value))


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
        # One with a prefix is no mistyped one without, nor the other way round: it may be another flow's.
        like = [one for one in names if not (name.endswith(f"_{one}") and name != f"_{one}") and not one.endswith(f"_{name}")]
        near = get_close_matches(name.upper(), like, 1, NEAR_MISS_RATIO)
        if near:
            yield f"{name}{by_place} is no setting: did you mean {near[0]}?"
        elif strict and name.upper().startswith("BYTEWAX_"):
            yield f"{name}{by_place} has no effect: Bytewax reads its variables from the environment. Set it there."
        elif strict:
            nearest = get_close_matches(name.upper(), names, 1, 0.0)[0]
            yield f"{name}{by_place} is no setting: the nearest is {nearest}. ({ENV_FILE} is for settings of the flow only.)"
