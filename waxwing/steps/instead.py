"""Sources and targets that stand for those of a flow's steps: so that a test runs the very flow over memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TypeVar

from pydantic import SecretStr

from waxwing.errors import ConfigError
from waxwing.settings import DatabaseSettings, Group, KafkaClientSettings, KafkaSettings
from waxwing.settings.group import values_in

T = TypeVar("T")
G = TypeVar("G", bound=Group)


class _Standing:
    """What stands for which step, while a flow is built."""

    def __init__(self, steps: Mapping[str, object]) -> None:
        self.steps = dict(steps)
        self.met: list[str] = []
        self.made_up: list[Group] = []

    def addressed(self, settings: G) -> G:
        """The settings with addresses that lead nowhere in place of those that are not given: their sources and targets are made,
        and never asked."""
        update: dict[str, object] = {}
        for field in values_in(type(settings)):
            update[field] = self.addressed(getattr(settings, field))
        if isinstance(settings, KafkaClientSettings) and not settings.kafka_bootstrap_servers:
            update["kafka_bootstrap_servers"] = "127.0.0.1:9"
            if isinstance(settings, KafkaSettings) and not settings.source_topic_pattern:
                update["source_topic"] = settings.source_topic or "memory"
        if isinstance(settings, DatabaseSettings) and not settings.database_url.get_secret_value():
            update["database_url"] = SecretStr("sqlite:////nowhere/instead.sqlite")
        if not update:
            return settings
        made = settings.model_copy(update=update)
        self.made_up.append(made)
        return made


_standing: ContextVar[_Standing | None] = ContextVar("standing", default=None)


@contextlib.contextmanager
def standing(steps: Mapping[str, object], settings: G) -> Iterator[G]:
    """While a flow is built, these stand for the sources and targets of the steps of their names.

    Gives its settings, with what their sources and targets need to be made.

    Raises:
        ConfigError: the flow has no such step.
    """
    now = _Standing(steps)
    token = _standing.set(now)
    try:
        yield now.addressed(settings)
    finally:
        _standing.reset(token)
    if strange := sorted(steps.keys() - set(now.met)):
        raise ConfigError(
            f"No step {', '.join(map(repr, strange))} reads or writes.",
            hint=f"There are: {', '.join(sorted({*now.met})) or 'none'}.",
        )


def instead(step: str, given: T) -> T:
    """What the step is to read or to write: what stands for it, or what the flow gives it.

    Raises:
        ConfigError: nothing stands for it, and its settings have no address.
    """
    if (now := _standing.get()) is None:
        return given
    now.met.append(step)
    if step in now.steps:
        found: T = now.steps[step]  # type: ignore[assignment]  # whoever gave it says that it can stand there
        return found
    if any(value is made for value in getattr(given, "__dict__", {}).values() for made in now.made_up):
        raise ConfigError(
            f"Nothing stands for {type(given).__name__} of step {step!r}, and its settings have no address.",
            hint=f"Give what stands for it by the step's name ({step}=...), or its address in the settings.",
        )
    return given
