"""A process that is a run: it stops on request, fails with one clear message and an exit code, says what was done."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn

from waxwing import log
from waxwing.errors import EXIT_BUG, EXIT_OK, EXIT_TRY_AGAIN, WaxwingError
from waxwing.running import mistakes
from waxwing.running.panics import PanicFilter, peer_is_gone
from waxwing.running.state import current, in_cluster

# A stop takes this long at most: container runtimes kill after 10 s.
STOP_MAX_S = 8.0
_failing = threading.Lock()


def enter() -> None:
    """Make this process a run: signals stop it cleanly, errors become one message and an exit code."""
    run = current()
    if run.end is not None:
        return
    run.end = _end
    log.install()
    _listen_to_signals()
    sys.excepthook = _excepthook
    PanicFilter().start()
    # Batches are thousands of small objects in no cycles; the collector's default looks through them every 700.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    atexit.register(_ended)


def watch_imports() -> None:
    """For a runner of ours, before it imports a flow: what is wrong there becomes one message and an exit code, too."""
    log.install()
    sys.excepthook = _excepthook


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the body of a flow's `flow()`: makes the process a run. A WaxwingError ends it with its message and exit code, any
    other error with its place in the flow and 78.
    """
    enter()
    try:
        yield
        mistakes.check_command_line()
    except WaxwingError as error:
        refuse(error)
    except Exception as error:
        refuse(mistakes.in_flow(error))


def exit_code(error: BaseException) -> int:
    """The exit code of an error: its own, or 70 for a bug."""
    return error.exit_code if isinstance(error, WaxwingError) else EXIT_BUG


def refuse(error: WaxwingError) -> NoReturn:
    """Say why a flow can't start, and leave it by SystemExit: for `flow()`, on the main thread."""
    log.failure(error)
    raise SystemExit(exit_code(error))


def _end(error: BaseException) -> NoReturn:
    error = mistakes.of_system(error) or error
    with _failing:  # the first one speaks; the process is gone before a second could
        error = current().better(error)
        log.failure(error)
        _exit(exit_code(error))


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe must not hide the exit code.
        with contextlib.suppress(Exception):
            stream.flush()
    PanicFilter.drain()
    # Not sys.exit: this may be any thread, and other threads may be blocked in Rust or a driver.
    os._exit(code)


def _ended() -> None:
    current().speak_last()
    PanicFilter.drain()


def _listen_to_signals() -> None:
    """React to SIGTERM and SIGINT in a thread: Python's own handlers wait while the main thread is in Rust."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def listen() -> None:
        while numbers := os.read(read, 16):
            for number in numbers:
                _on_signal(number)

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _on_signal(number: int) -> None:
    run = current()
    name = signal.Signals(number).name
    if run.stop.is_set():  # the second time somebody asks, they mean now
        log.warning("stopped_at_once", "Stopped at once. Nothing is lost: the next start goes on from the stored positions.")
        _exit(128 + number)
    run.stop.set()
    if not run.working:  # no source has read anything: it waits for a server, or for the other processes of the mesh
        log.info("stopping", "Stopped before anything was read.", signal=name)
        if run.know_better:  # let go of what is ours
            run.better(KeyboardInterrupt())
        _exit(EXIT_OK)
    log.info("stopping", "Stopping: finishing what is under way.", signal=name)
    last = threading.Timer(STOP_MAX_S, _too_slow)
    last.daemon = True
    last.start()


def _too_slow() -> None:
    """Asked to stop long ago: a server does not answer, or the other processes of the mesh were not asked."""
    log.warning(
        "stopped_hard",
        f"Not done {STOP_MAX_S:.0f} s after it was asked to stop, so it ends now. Nothing is lost: the next start goes on "
        "from the stored positions.",
    )
    _exit(EXIT_TRY_AGAIN)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if current().end is None and isinstance(error, Exception) and not isinstance(error, WaxwingError):
        error = mistakes.in_flow(error)  # in a flow's module, or its flow()
    if isinstance(error, KeyboardInterrupt):
        _exit(128 + signal.SIGINT)
    # Bytewax wraps what a step raises; the first cause is what happened.
    while error.__cause__ is not None and not isinstance(error, WaxwingError):
        error = error.__cause__
    error = mistakes.of_bytewax(error) or mistakes.of_no_flow(error) or mistakes.of_system(error) or error
    if isinstance(error, WaxwingError):
        log.failure(error)
        _exit(exit_code(error))
    if in_cluster() and peer_is_gone(error):
        if current().stop.is_set():  # that one was asked as well, and was done sooner
            log.info("stopped", "Another process of this flow had stopped sooner. The next start goes on from what is stored.")
            _exit(EXIT_OK)
        log.error(
            "peer_stopped",
            "This flow stopped because another of its processes did; that one's message says why. If none of them has one, "
            "a step raised an error that Bytewax hides in a cluster: run the flow in one process to see it.",
        )
        _exit(EXIT_TRY_AGAIN)
    log.failure(error)
    _exit(EXIT_BUG)
