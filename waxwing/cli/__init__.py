"""The `waxwing` command."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; a WaxwingError becomes its message and its exit code."""
    if "run" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing has been started yet; the supervisor takes it over
    from waxwing import log
    from waxwing.cli.app import app
    from waxwing.errors import WaxwingError

    log.install()
    sys.path.insert(0, "")  # flows of the working folder, as `python -m` would find them
    try:
        app()
    except WaxwingError as error:
        log.failure(error)
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:  # `waxwing settings | head`
        sys.stderr.close()
        raise SystemExit(0) from None
