"""`waxwing settings`: what holds now, a `.env` to start from, and the reference. All made from the settings' own declarations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from waxwing.cli.flows import settings_of
from waxwing.configuration import Given, default_text, environment_names, load, read, shown
from waxwing.secrets import scrub
from waxwing.settings import Group

_BOUNDS = (
    (annotated_types.Ge, "at least {0.ge:,}"),
    (annotated_types.Gt, "above {0.gt:,}"),
    (annotated_types.Le, "at most {0.le:,}"),
    (annotated_types.Lt, "below {0.lt:,}"),
)

ENV_HEAD = """\
# Settings of the {} flow. Copy this file to .env, or give them in the environment, which wins.
# Made by `waxwing settings --format env` from waxwing/settings.py; every line shows the default or an example.
# With neither KAFKA_BOOTSTRAP_SERVERS nor DATABASE_URL the flow runs its embedded demonstration.
"""
MARKDOWN_HEAD = """\
# Settings

Read from the environment and from a file `.env` in the working folder; the environment wins, an empty value counts as none.
A name in `.env` that is no setting is an error that tells the nearest; in the environment only a near miss is (`DATABASE_ULR`).
Settings that contradict are errors that name both. `waxwing settings` shows what holds and where it comes from.
A name's last part is its unit: `_s` seconds.

This page is made by `waxwing settings --format markdown` from `waxwing/settings.py`.
"""


def show(flow: str, as_: str) -> None:
    """Print the settings of a flow.

    Raises:
        ConfigError: no such flow; or, after the table, whatever is wrong with the settings given.
    """
    kind = settings_of(flow)
    if as_ != "table":
        sys.stdout.write(env_file(kind) if as_ == "env" else markdown(kind))
        return
    show_settings(kind)


def show_settings(kind: type[Group]) -> None:
    """Print what holds now, a line a setting.

    Raises:
        ConfigError: afterwards, whatever is wrong with the settings given.
    """
    _print_table(kind, read(kind, []))
    load(kind)


def env_file(kind: type[Group]) -> str:
    """A `.env` with every setting, each commented out."""
    lines = [ENV_HEAD.format(kind.__module__.rpartition(".")[2])]
    for group, fields in groups(kind):
        lines.append(f"\n# ---- {_sentence(group)}\n")
        for field, info in fields:
            bounds = _bounds(info)
            lines.append(f"\n# {info.description}{f' ({bounds})' if bounds else ''}\n")
            lines += [f"# Or by the name {name}.\n" for name in environment_names(field, info)[1:]]
            lines.append(f"#{field.upper()}={_sample(field, info)}\n")
    return "".join(lines)


def markdown(kind: type[Group]) -> str:
    """The reference, a table a group."""
    lines = [MARKDOWN_HEAD]
    for group, fields in groups(kind):
        lines.append(f"\n## {_sentence(group).rstrip('.')}\n\n| setting | default | bounds | what it does |\n|---|---|---|---|\n")
        for field, info in fields:
            names = "<br>or ".join(f"`{name}`" for name in environment_names(field, info))
            default, what = _default(field, info), (info.description or "").replace("|", "\\|")
            examples = " or ".join(f"`{example}`" for example in info.examples or ())
            example = f" Such as {examples}." if examples else ""
            lines.append(f"| {names} | {f'`{default}`' if default else ''} | {_bounds(info)} | {what}{example} |\n")
    return "".join(lines)


def groups(kind: type[Group]) -> Iterator[tuple[type[Group], list[tuple[str, FieldInfo]]]]:
    """The fields by the class that declares them, in the order of the bases."""
    declared = [base for base in reversed(kind.__mro__) if issubclass(base, Group)]
    # A flow that gives a setting another default declares it anew: it stands where it was declared first.
    first = {field: base for base in reversed(declared) for field in inspect.get_annotations(base)}
    for group in sorted(declared, key=lambda base: _first_place(kind, base)):
        fields = [(field, info) for field, info in kind.model_fields.items() if first[field] is group]
        if fields:
            yield group, fields


def _first_place(kind: type[Group], group: type[Group]) -> int:
    """What people look for first comes first: Kafka, the database, then how they are used."""
    order = ("KafkaSettings", "DatabaseSettings", "SinkSettings", "LaneSettings")
    return order.index(group.__name__) if group.__name__ in order else (-1 if group is kind else len(order))


def _sentence(group: type[Group]) -> str:
    return (group.__doc__ or group.__name__).strip().splitlines()[0]


def _default(field: str, info: FieldInfo) -> str:
    return shown(field, info, default_text(info))


def _sample(field: str, info: FieldInfo) -> str:
    default = _default(field, info)
    return str(info.examples[0]) if info.examples and default in ("", "{}") else default


def _bounds(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(str(choice) or "nothing" for choice in get_args(info.annotation))
    return ", ".join(text.format(bound) for bound in info.metadata for type_, text in _BOUNDS if isinstance(bound, type_))


def _print_table(kind: type[Group], given: Mapping[str, Given]) -> None:
    rows = []
    for field, info in (pair for _, fields in groups(kind) for pair in fields):
        one = given.get(field)
        value = shown(field, info, one.text) if one else _default(field, info)
        rows.append((field.upper(), scrub(value), one.place if one else "default", info.description or ""))
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{name}={value}\t{place}\n" for name, value, place, _ in rows)
        return
    table = Table("setting", "value", "from", "what it does", row_styles=["", "dim"])
    for name, value, place, what in rows:
        table.add_row(name, value, place, what)
    Console().print(table)
