"""Kafka and SQL, streamed exactly once."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from waxwing.running.form import flow as flow
    from waxwing.running.program import run as run
    from waxwing.settings import Settings as Settings
    from waxwing.settings import prefixed as prefixed

__all__ = ["Settings", "flow", "prefixed", "run"]

# Imported when they are asked for: the commands' `--help` has no use for them.
_PUBLIC = {
    "Settings": "waxwing.settings",
    "flow": "waxwing.running.form",
    "prefixed": "waxwing.settings",
    "run": "waxwing.running.program",
}


def __getattr__(name: str) -> Any:  # of any kind
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name != "__version__":
        raise AttributeError(f"module 'waxwing' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    # Asked for seldom, and every process would wait for it at its start.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("waxwing-streams")
    except PackageNotFoundError:  # not installed, but run from the folder that it lies in
        return "unknown"
