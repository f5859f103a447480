"""The run that goes on now: what sources, sinks and targets ask, and tell."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from waxwing import log
from waxwing.errors import ConfigError

# Before a failure is told, whoever may know better is asked for so long.
BETTER_MAX_S = 3.0


class ThisRun:
    """One run of a flow.

    Attributes:
        stop: set once somebody has asked it to stop.
        end: ends the process because of an error, from any thread; None: an error is raised.
        working: has anything been read, so that there is something to finish?
        failure: the first error that was met, where errors are raised.
        last_words: called at its good end.
        know_better: asked before it fails.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stop = stop or threading.Event()
        self.end: Callable[[BaseException], NoReturn] | None = None
        self.working = self.in_program = False
        self.failure: BaseException | None = None
        self.last_words: list[Callable[[], None]] = []
        self.know_better: list[Callable[[BaseException], BaseException]] = []

    def better(self, error: BaseException) -> BaseException:
        """The error that is to be said. Whoever is asked may be away: that is not waited for."""
        found = [error]

        def ask() -> None:
            for call in tuple(self.know_better):  # each takes itself out
                found[0] = call(found[0])

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(BETTER_MAX_S)
        return found[0]

    def speak_last(self) -> None:
        """Call what was left for the end."""
        for call in reversed(self.last_words):  # what began first ends last, as with exit handlers
            # Group offsets and the summary are courtesies; the targets hold the truth.
            try:
                call()
            except Exception as error:
                log.warning("end_of_run", f"At the end of the run: {error}")


_now = ThisRun()
_one = threading.Lock()


def current() -> ThisRun:
    """The run that goes on; in tests and notebooks one that never ends."""
    return _now


@contextlib.contextmanager
def in_program(stop: threading.Event | None) -> Iterator[ThisRun]:
    """A run of its own inside a program.

    Raises:
        ConfigError: another one goes on in this process.
    """
    global _now
    if not _one.acquire(blocking=False):
        raise ConfigError("This process runs a flow already.", hint="Wait for its end, or give each flow a process of its own.")
    before, _now = _now, ThisRun(stop)
    _now.in_program = True
    try:
        yield _now
    finally:
        _now = before
        _one.release()


def stopping() -> bool:
    """Has the run been asked to stop? Sources then raise StopIteration when their batch is out."""
    if not _now.working and in_cluster():  # the others may have read something
        _now.working = True
    return _now.stop.is_set()


def working() -> None:
    """There is something to finish from now on: a source has read, a sink was handed something."""
    _now.working = True


def at_end(call: Callable[[], None]) -> None:
    """Call this once when the run has ended well, before the summary: last words such as group offsets."""
    _now.last_words.append(call)


def before_failing(call: Callable[[BaseException], BaseException]) -> None:
    """Ask this what is to be said, before a run fails with an error: there may be a better reason than what was met first."""
    _now.know_better.append(call)


def no_longer(call: Callable[[BaseException], BaseException]) -> None:
    """Do not ask this any more."""
    with contextlib.suppress(ValueError):
        _now.know_better.remove(call)


def is_run() -> bool:
    """Is this process a run (and not a test, a program, or somebody's notebook)?"""
    return _now.end is not None


def met(error: BaseException) -> None:
    """This error is about to be raised: whatever follows from it is not what happened first."""
    _now.failure = _now.failure or error


def fail(error: BaseException) -> NoReturn:
    """Stop the flow because of an error.

    In a process of its own: print its message and end the process with its exit code, from whatever thread this is. (Raised
    through Bytewax instead, it would come out as a panic, a traceback and 1, or in a cluster not at all.)
    Elsewhere: raise it.
    """
    if _now.end is not None:
        _now.end(error)
    met(error)
    raise error


def words() -> list[str]:
    """What Bytewax was told by the command line; a program's own words are none of ours."""
    return [] if _now.in_program else sys.argv[1:]


def keeps_snapshots() -> bool:
    """Was Bytewax told of a recovery store (`-r`, or its environment variable)?"""
    return bool(
        os.environ.get("BYTEWAX_RECOVERY_DIRECTORY") or any(re.match(r"^(-r|--recovery-directory)", word) for word in words())
    )


def in_cluster() -> bool:
    """Was Bytewax told of other processes (`-i`/`-a`, or its environment variables)?"""
    if _now.in_program:
        return False
    return bool(
        os.environ.get("BYTEWAX_ADDRESSES")
        or os.environ.get("BYTEWAX_PROCESS_ID")
        or any(re.match(r"^(-a|--addresses|-i|--process-id)", word) for word in words())
    )
