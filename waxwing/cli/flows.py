"""From the name of a flow, as people type it, to its module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from waxwing.errors import ConfigError, WaxwingError
from waxwing.running import mistakes
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
    except ValueError:
        return False
    except Exception as error:  # of the package's own __init__.py
        if isinstance(error, ModuleNotFoundError) and _is_of(module, error):
            return False
        raise mistakes.in_flow(error) from error


def _is_of(module: str, error: ModuleNotFoundError) -> bool:
    """Is it the module itself that is not there, or its package, rather than one that it imports?"""
    return error.name is not None and f"{module}.".startswith(f"{error.name}.")


def _module_name(flow: str) -> str:
    """The module's name. A file's folder, or the one that its package is in, joins the path, as bytewax.run does it.

    Raises:
        ConfigError: there is no such file.
    """
    name = import_string(flow).partition(":")[0]
    if not name.endswith(".py") and "/" not in name:
        if not name.startswith("."):
            return name
        raise _nothing(flow, f"{name} is no module's name")
    file = Path(f"{name.removesuffix('.py')}.py").resolve()
    if not file.is_file():
        raise _nothing(flow, f"no file {file}")
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").exists():
        parts, folder = [folder.name, *parts], folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return ".".join(parts)


def _nothing(flow: str, why: str) -> ConfigError:
    return ConfigError(f"There is no flow {flow!r}: {why}.", hint="Run this in the folder that holds it.")


def demand(flow: str) -> None:
    """Check that there is such a module, without running it: each process will.

    Raises:
        ConfigError: there is none.
    """
    name = _module_name(flow)
    if not _is_there(name):
        raise _nothing(flow, f"no module {name}")


def module(flow: str) -> ModuleType:
    """The module of a flow.

    Raises:
        ConfigError: there is none.
    """
    name = _module_name(flow)
    try:
        return importlib.import_module(name)
    except WaxwingError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_of(name, error):
            raise _nothing(flow, f"no module {name}") from error
        raise mistakes.in_flow(error) from error


def settings_of(flow: str) -> type[Group]:
    """The settings class of a flow: the one that it was given, or else that its module defines.

    Raises:
        ConfigError: there is none.
    """
    found = module(flow)
    made = getattr(found, flow.partition(":")[2] or "flow", None)
    if isinstance(kind := getattr(made, "kind", None), type) and issubclass(kind, Group):
        return kind
    own = [kind for kind in vars(found).values() if isinstance(kind, type) and issubclass(kind, Group)]
    own = [kind for kind in own if kind.__module__ == found.__name__]
    if not own:
        raise ConfigError(
            f"{found.__name__} defines no settings.",
            hint="Give its flow the form @waxwing.flow(Settings), or a class that inherits KafkaSettings, SqlSettings.",
        )
    return own[-1]
