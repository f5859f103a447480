"""Where a flow keeps its positions: the databases that its settings name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import SecretStr

from sinks.sql.steps import KeptOfStep, SqlSteps
from waxwing.cli.flows import demand, settings_of
from waxwing.databases import address, database_for
from waxwing.errors import ConfigError
from waxwing.settings import DatabaseSettings, KafkaSettings, Settings, SqlSettings
from waxwing.settings.checking import load
from waxwing.settings.group import Prefixed, values_in
from waxwing.settings.names import FILE
from waxwing.settings.reading import names_given

# How a flow's second database is told where its settings can't be asked.
_MORE_DATABASES = re.compile(rf"([A-Z][A-Z0-9_]*_)(DATABASE_URL(?:{FILE})?|MYSQL_HOST|SQLSERVER_HOST)")


class PositionsSettings(Settings, KafkaSettings, SqlSettings):
    """Where the positions are, and the topics that they belong to."""


def positions_settings(flow: str) -> PositionsSettings:
    """Kafka and the databases: those of the plain names, and those of the flow's own values."""
    fields: dict[str, Any] = _values(flow)
    kind: type[PositionsSettings] = pydantic.create_model("FlowPlaces", __base__=PositionsSettings, **fields)
    return load(kind, partial=True)


def _values(flow: str) -> dict[str, Any]:
    """Fields for what the flow has beside the plain names: its own class says, or the names that are given."""
    try:
        demand(flow)
        kind = settings_of(flow)
    except ConfigError:
        found = [_MORE_DATABASES.fullmatch(name) for name in names_given()]
        prefixes = [one[1] for one in found if one]
        return {prefix.lower().rstrip("_"): (SqlSettings, Prefixed(prefix)) for prefix in prefixes}
    ours = PositionsSettings.model_fields
    urls = [name for name, info in kind.model_fields.items() if info.annotation in (str, SecretStr) and name not in ours]
    return {
        **dict.fromkeys(urls, (SecretStr, SecretStr(""))),
        **{
            field: (base, Prefixed(prefix))
            for field, (group, prefix) in values_in(kind).items()
            for base, of in ((SqlSettings, DatabaseSettings), (KafkaSettings, KafkaSettings))
            if prefix and issubclass(group, of)
        },
    }


def databases(flow: str) -> list[tuple[SqlSteps, str]]:
    """The databases that the settings name, each with the setting that does.

    Raises:
        ConfigError: none is named.
    """
    settings = positions_settings(flow)
    given: list[tuple[SqlSettings, str]] = []
    for field, one in settings:
        if isinstance(one, SqlSettings):
            given.append((one, one.name_of("database_url")))
        elif field == "database_url":
            given.append((settings, settings.name_of(field)))
        elif isinstance(one, SecretStr) and field not in PositionsSettings.model_fields:
            given.append((settings.model_copy(update={"database_url": one}), field.upper()))
    places: dict[str, tuple[SqlSteps, str]] = {}
    for one, name in sorted(given, key=lambda pair: pair[0] is not settings):  # the plain one first
        url = one.database_url.get_secret_value()
        if _is_database(url) and url not in places:
            places[url] = SqlSteps(one, flow), name
    if not places:
        raise ConfigError("DATABASE_URL is not given.", hint="Set it to the database that holds the flow's rows.")
    return list(places.values())


def places_of(flow: str) -> list[tuple[SqlSteps, Mapping[str, KeptOfStep]]]:
    """Each database that remembers the flow, with what it keeps of its steps.

    Raises:
        ConfigError: none does.
    """
    named = databases(flow)
    found = [(place, steps) for place, _ in named if (steps := place.kept())]
    if not found:
        named_so = positions_settings(flow).flow_name
        other = f" Its FLOW_NAME is {named_so}: ask for that." if named_so not in ("", flow) else ""
        where, asked = (
            ", ".join(texts) for texts in zip(*((str(place.place), setting) for place, setting in named), strict=True)
        )
        raise ConfigError(f"There are no positions of a flow {flow!r} in {where}.", hint=f"Is {asked} the flow's?{other}")
    return found


def _is_database(text: str) -> bool:
    try:
        database_for(address.parsed(text))
    except ConfigError:
        return False
    return True


def places_of_step(flow: str, step: str) -> list[tuple[SqlSteps, KeptOfStep]]:
    """The databases that remember a step.

    Raises:
        ConfigError: none does.
    """
    places = places_of(flow)
    if not (found := [(place, steps[step]) for place, steps in places if step in steps]):
        names = sorted({name for _, steps in places for name in steps})
        raise ConfigError(f"Step {step!r} of flow {flow!r} has no positions.", hint=f"Steps that have: {', '.join(names)}.")
    return found
