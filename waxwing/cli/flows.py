"""From the name of a flow, as people type it, to its module."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from waxwing.errors import ConfigError
from waxwing.settings import Group


def import_string(flow: str) -> str:
    """What bytewax.run takes: `orders` is short for dataflows.orders, where there is one; everything else stays as it is."""
    name = flow.partition(":")[0]
    if "." in name or "/" in name or ":" in flow or (not _is_there(f"dataflows.{flow}") and _is_there(flow)):
        return flow
    return f"dataflows.{flow}"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def demand(flow: str) -> None:
    """Check that there is such a module, without running it: each process will.

    Raises:
        ConfigError: there is none.
    """
    name = import_string(flow).partition(":")[0].removesuffix(".py").replace("/", ".")
    if not _is_there(name):
        raise ConfigError(f"There is no flow {flow!r}: no module {name}.", hint="Run this in the folder that holds it.")


def module(flow: str) -> ModuleType:
    """The module of a flow.

    Raises:
        ConfigError: there is none.
    """
    name = import_string(flow).partition(":")[0].removesuffix(".py").replace("/", ".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"{name} needs a package that is missing: {error.name}.") from error
        raise ConfigError(
            f"There is no flow {flow!r}: no module {name}.", hint="Run this in the folder that holds it."
        ) from error


def settings_of(flow: str) -> type[Group]:
    """The settings class of a flow: the one that its module defines.

    Raises:
        ConfigError: it defines none.
    """
    found = module(flow)
    own = [kind for kind in vars(found).values() if isinstance(kind, type) and issubclass(kind, Group)]
    own = [kind for kind in own if kind.__module__ == found.__name__]
    if not own:
        raise ConfigError(
            f"{found.__name__} defines no settings.", hint="Let it define a class that inherits KafkaSettings, SqlSettings."
        )
    return own[-1]
