"""Kafka and SQL, streamed exactly once."""

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# The one thing that an import does: a run that is asked to stop while it still imports has nothing to finish. (waxwing.runtime
# takes the signal over.) `waxwing run` is told by how Python was called: __main__ is not there yet.
_main = getattr(sys.modules.get("__main__"), "__spec__", None)
_words = " ".join(os.path.basename(word) for word in sys.orig_argv)  # noqa: PTH119 - pathlib takes longer to import
if (_main is not None and _main.name == "bytewax.run") or "waxwing run " in f"{_words} " or "-m waxwing.cli.child" in _words:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


if TYPE_CHECKING:
    from waxwing.settings import Settings as Settings
    from waxwing.settings import prefixed as prefixed

# Imported when they are asked for: the commands' `--help` has no use for them.
_PUBLIC = {"Settings": "waxwing.settings", "prefixed": "waxwing.settings"}


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
