"""A process of `waxwing run`: bytewax.run, which ends when the process that started it does, however that ended.

`python -m waxwing.cli.child PARENT_PID FLOW ...`
"""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become bytewax.run."""
    parent = int(sys.argv.pop(1))
    # SIGKILL, for it can't be missed; a flow must survive it anyway.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        raise SystemExit(1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # while it imports it has nothing to finish
    importlib.import_module("waxwing.running.process").watch_imports()
    runpy.run_module("bytewax.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
