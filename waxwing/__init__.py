"""Kafka and SQL, streamed exactly once."""

import os
import signal
import sys

# The one thing that an import does: a run that is asked to stop while it still imports has nothing to finish. (waxwing.runtime
# takes the signal over.) `waxwing run` is told by how Python was called: __main__ is not there yet.
_main = getattr(sys.modules.get("__main__"), "__spec__", None)
_words = " ".join(os.path.basename(word) for word in sys.orig_argv)  # noqa: PTH119 - pathlib takes longer to import
if (_main is not None and _main.name == "bytewax.run") or "waxwing run " in f"{_words} " or "-m waxwing.cli.child" in _words:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    # Asked for seldom, and every process would wait for it at its start.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("waxwing-streams")
    except PackageNotFoundError:  # not installed, but run from the folder that it lies in
        return "unknown"
