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
from waxwing.secrets import scrub
from waxwing.settings import Group
from waxwing.settings.checking import load
from waxwing.settings.names import FILE, Setting, settings_in
from waxwing.settings.reading import Given, read
from waxwing.settings.secret import default_text, shown

_BOUNDS = (
    (annotated_types.Ge, "at least {0.ge:,}"),
    (annotated_types.Gt, "above {0.gt:,}"),
    (annotated_types.Le, "at most {0.le:,}"),
    (annotated_types.Lt, "below {0.lt:,}"),
)

ENV_HEAD = """\
# Settings of the {0} flow. Copy this file to .env, or give them in the environment, which wins.
# Made by `waxwing settings {0} --format env` from waxwing/settings/; every line shows the default or an example.
# With neither KAFKA_BOOTSTRAP_SERVERS nor DATABASE_URL the flow runs its embedded demonstration.
# What may be secret may come from a file, as Docker and Kubernetes give it: DATABASE_URL_FILE=/run/secrets/database_url
"""
MARKDOWN_HEAD = """\
# Settings of the flow {0}

Read from the environment and from a file `.env` in the working folder; the environment wins, an empty value counts as none.
A name in `.env` that is no setting is an error that tells the nearest; in the environment only a near miss is (`DATABASE_ULR`).
Settings that contradict are errors that name both. `waxwing settings` shows what holds and where it comes from.
A name's last part is its unit: `_s` seconds.

**From a file.** A name that ends in `_FILE` names a file that holds the setting, as Docker and Kubernetes mount secrets
(`DATABASE_URL_FILE=/run/secrets/database_url`). The end of its line is cut. A setting given both ways, and a file that is empty
or can't be read, is an error.

**Several of a kind.** A flow with a second topic, cluster or database gives the settings of each a prefix
([your-own-flow.md](your-own-flow.md)): `prefixed("ALARMS")` reads `ALARMS_DATABASE_URL`, `ALARMS_DATABASE_TABLE`,
`ALARMS_DATABASE_URL_FILE` and so on. What is not given by the prefixed name is taken from the plain one, so that `UNTIL=end`
bounds all sources; but for addresses, of which each value needs its own: URLs and what they are made of (`MYSQL_...`,
`SQLSERVER_...`), topics (`SOURCE_TOPIC`) and tables (`DATABASE_TABLE`). Brokers are taken from the plain name: two topics of
one cluster are `KAFKA_BOOTSTRAP_SERVERS`, `ORDERS_SOURCE_TOPIC` and `PAYMENTS_SOURCE_TOPIC`; a second cluster is
`PAYMENTS_KAFKA_BOOTSTRAP_SERVERS`, with `PAYMENTS_KAFKA_SASL_PASSWORD` and the like where they differ. Two values that read the
same topic of one cluster, or the same database without tables of their own, are an error that names both.

This page is made by `waxwing settings {0} --format markdown` from `waxwing/settings/`.
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
    lines = [ENV_HEAD.format(_flow_of(kind))]
    for title, settings in groups(kind):
        lines.append(f"\n# ---- {title}\n")
        for one in settings:
            bounds = _bounds(one.info)
            lines.append(f"\n# {one.info.description or ''}{f' ({bounds})' if bounds else ''}\n")
            lines += [f"# Or by the name {name}.\n" for name in one.names[1:]]
            lines.append(f"#{one.names[0]}={_sample(one)}\n")
    return "".join(lines)


def markdown(kind: type[Group]) -> str:
    """The reference, a table a group."""
    lines = [MARKDOWN_HEAD.format(_flow_of(kind))]
    for title, settings in groups(kind):
        lines.append(f"\n## {title.rstrip('.')}\n\n| setting | default | bounds | what it does |\n|---|---|---|---|\n")
        for one in settings:
            names = "<br>or ".join(f"`{name}`" for name in (*one.names, *([f"{one.names[0]}{FILE}"] if one.from_file else [])))
            default, what = _default(one), (one.info.description or "").replace("|", "\\|")
            examples = " or ".join(f"`{example}`" for example in one.info.examples or ())
            example = f" Such as {examples}." if examples else ""
            lines.append(f"| {names} | {f'`{default}`' if default else ''} | {_bounds(one.info)} | {what}{example} |\n")
    return "".join(lines)


def _flow_of(kind: type[Group]) -> str:
    return kind.__module__.rpartition(".")[2]


def groups(kind: type[Group]) -> Iterator[tuple[str, list[Setting]]]:
    """The settings with a title for each group of them: of a value by its name, then by the class that declares them."""
    by_name: dict[str, Setting] = {}
    for one in settings_in(kind):
        by_name.setdefault(one.names[0], one)  # what several values read by one name stands there once
    settings = list(by_name.values())
    for value in dict.fromkeys(one.value for one in settings):
        of_value = [one for one in settings if one.value == value]
        whose = kind if not value else of_value[0].group
        for group, fields in _by_class(whose):
            if found := [one for one in of_value if one.field in fields]:
                yield f"{value}: {_sentence(group)}" if value else _sentence(group), found


def _by_class(kind: type[Group]) -> Iterator[tuple[type[Group], set[str]]]:
    """The fields by the class that declares them, in the order of the bases."""
    declared = [base for base in reversed(kind.__mro__) if issubclass(base, Group)]
    # A flow that gives a setting another default declares it anew: it stands where it was declared first.
    first = {field: base for base in reversed(declared) for field in inspect.get_annotations(base)}
    for group in sorted(declared, key=lambda base: _first_place(kind, base)):
        yield group, {field for field in kind.model_fields if first[field] is group}


def _first_place(kind: type[Group], group: type[Group]) -> int:
    """What people look for first comes first: Kafka, the database, then how they are used."""
    order = ("KafkaClientSettings", "KafkaSettings", "KafkaTargetSettings", "DatabaseSettings", "SinkSettings", "LaneSettings")
    return order.index(group.__name__) if group.__name__ in order else (-1 if group is kind else len(order))


def _sentence(group: type[Group]) -> str:
    return (group.__doc__ or group.__name__).strip().splitlines()[0]


def _default(one: Setting) -> str:
    return shown(one.field, one.info, default_text(one.info))


def _sample(one: Setting) -> str:
    default = _default(one)
    return str(one.info.examples[0]) if one.info.examples and default in ("", "{}") else default


def _bounds(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(str(choice) or "nothing" for choice in get_args(info.annotation))
    return ", ".join(text.format(bound) for bound in info.metadata for type_, text in _BOUNDS if isinstance(bound, type_))


def _print_table(kind: type[Group], given: Mapping[str, Given]) -> None:
    rows = []
    for setting in (one for _, settings in groups(kind) for one in settings):
        one = given.get(setting.at)
        value = shown(setting.field, setting.info, one.text) if one else _default(setting)
        rows.append((setting.names[0], scrub(value), _from(setting, one), setting.info.description or ""))
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{name}={value}\t{place}\n" for name, value, place, _ in rows)
        return
    table = Table("setting", "value", "from", "what it does", row_styles=["", "dim"])
    for name, value, place, what in rows:
        table.add_row(name, value, place, what)
    Console().print(table)


def _from(setting: Setting, given: Given | None) -> str:
    if given is None:
        return "default"
    return given.place if given.name in setting.names else f"{given.place}: {given.name}"
