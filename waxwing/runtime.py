"""The running process: stop on request, fail with one clear message and an exit code, say what was done.

`starting()` goes around the body of a flow's `flow()`; it makes this process a run. Without it (tests, notebooks)
errors are raised to the caller, and nothing of the process is touched.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from waxwing import log, mistakes
from waxwing.errors import EXIT_BUG, EXIT_OK, EXIT_TRY_AGAIN, WaxwingError
from waxwing.secrets import scrub_bytes

# A stop takes this long at most: container runtimes kill after 10 s.
STOP_MAX_S = 8.0
# Before a failure is told, whoever may know better is asked for so long.
BETTER_MAX_S = 3.0
_stop = threading.Event()
_failing = threading.Lock()
_entered = _running = False
_at_end: list[Callable[[], None]] = []
_before_failing: list[Callable[[BaseException], BaseException]] = []


def stopping() -> bool:
    """Has the process been asked to stop? Sources then raise StopIteration when their batch is out."""
    if not _running and in_cluster():  # the others may have read something
        working()
    return _stop.is_set()


def working() -> None:
    """There is something to finish from now on: a source has read, a sink was handed something."""
    global _running
    _running = True


def at_end(call: Callable[[], None]) -> None:
    """Call this once when the run has ended well, before the summary: last words such as group offsets."""
    _at_end.append(call)


def before_failing(call: Callable[[BaseException], BaseException]) -> None:
    """Ask this what is to be said, before a run fails with an error: there may be a better reason than what was met first."""
    _before_failing.append(call)


def no_longer(call: Callable[[BaseException], BaseException]) -> None:
    """Do not ask this any more."""
    with contextlib.suppress(ValueError):
        _before_failing.remove(call)


def _better(error: BaseException) -> BaseException:
    """The error that is to be said. Whoever is asked may be away: that is not waited for."""
    found = [error]

    def ask() -> None:
        for call in tuple(_before_failing):  # each takes itself out
            found[0] = call(found[0])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(BETTER_MAX_S)
    return found[0]


def enter() -> None:
    """Make this process a run: signals stop it cleanly, errors become one message and an exit code."""
    global _entered
    if _entered:
        return
    _entered = True
    _listen_to_signals()
    sys.excepthook = _excepthook
    _PanicFilter().start()
    # Batches are thousands of small objects in no cycles; the collector's default looks through them every 700.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    atexit.register(_end)


def is_run() -> bool:
    """Is this process a run (and not a test, or somebody's notebook)?"""
    return _entered


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


def fail(error: BaseException) -> NoReturn:
    """Stop the flow because of an error.

    In a run: print its message and end the process with its exit code, from whatever thread this is. (Raised
    through Bytewax instead, it would come out as a panic, a traceback and 1, or in a cluster not at all.)
    Elsewhere: raise it.
    """
    if not _entered:
        raise error
    error = mistakes.of_system(error) or error
    with _failing:  # the first one speaks; the process is gone before a second could
        error = _better(error)
        log.failure(error)
        _exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """The exit code of an error: its own, or 70 for a bug."""
    return error.exit_code if isinstance(error, WaxwingError) else EXIT_BUG


def refuse(error: WaxwingError) -> NoReturn:
    """Say why a flow can't start, and leave it by SystemExit: for `flow()`, on the main thread."""
    log.failure(error)
    raise SystemExit(exit_code(error))


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe must not hide the exit code.
        with contextlib.suppress(Exception):
            stream.flush()
    _PanicFilter.drain()
    # Not sys.exit: this may be any thread, and other threads may be blocked in Rust or a driver.
    os._exit(code)


def _end() -> None:
    for call in reversed(_at_end):  # what began first ends last, as with exit handlers
        # Group offsets and the summary are courtesies; the targets hold the truth.
        try:
            call()
        except Exception as error:
            log.warning("end_of_run", f"At the end of the run: {error}")
    _PanicFilter.drain()


def _listen_to_signals() -> None:
    """React to SIGTERM and SIGINT in a thread: Python's own handlers wait while the main thread is in Rust."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)

    def listen() -> None:
        while numbers := os.read(read, 16):
            for number in numbers:
                _on_signal(number)

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _on_signal(number: int) -> None:
    name = signal.Signals(number).name
    if _stop.is_set():  # the second time somebody asks, they mean now
        log.warning("stopped_at_once", "Stopped at once. Nothing is lost: the next start goes on from the stored positions.")
        _exit(128 + number)
    _stop.set()
    if not _running:  # no source has read anything: it waits for a server, or for the other processes of the mesh
        log.info("stopping", "Stopped before anything was read.", signal=name)
        if _before_failing:  # let go of what is ours
            _better(KeyboardInterrupt())
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
    if not _entered and isinstance(error, Exception) and not isinstance(error, WaxwingError):
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
        log.error(
            "peer_stopped",
            "This flow stopped because another of its processes did; that one's message says why. If none of them has one, "
            "a step raised an error that Bytewax hides in a cluster: run the flow in one process to see it.",
        )
        _exit(EXIT_TRY_AGAIN)
    log.failure(error)
    _exit(EXIT_BUG)


def peer_is_gone(error: BaseException) -> bool:
    """Is this how Bytewax shows, in a cluster, that another process has ended?

    It is a panic as such, or a RuntimeError about a panicked thread of the mesh, which names the thread's error or the
    place in the mesh's code ("panicked at .../timely-dataflow-.../communication/src/...: MergeQueue poisoned").
    """
    text = str(error)
    return type(error).__name__ == "PanicException" or "timely communication error" in text or "/communication/src/" in text


def in_cluster() -> bool:
    """Was Bytewax told of other processes (`-i`/`-a`, or its environment variables)?"""
    return bool(
        os.environ.get("BYTEWAX_ADDRESSES")
        or os.environ.get("BYTEWAX_PROCESS_ID")
        or any(re.match(r"^(-a|--addresses|-i|--process-id)", word) for word in sys.argv[1:])
    )


class _PanicFilter(threading.Thread):
    """Keeps Rust's panic lines off stderr; the excepthook says what happened in one line instead.

    A panic is written to file descriptor 2 before Python hears of it: for an error raised in a step, and in each process
    of a mesh whose peer has ended.
    """

    _active: _PanicFilter | None = None
    _PANIC = re.compile(rb"^thread .* panicked at ")
    _BACKTRACE = re.compile(rb"^(stack backtrace:|note: |\s+\d+: |\s+at |Box<dyn Any>|$)")

    def __init__(self) -> None:
        super().__init__(name="stderr-filter", daemon=True)
        self._out = os.dup(2)
        self._read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        _PanicFilter._active = self

    def run(self) -> None:
        message_due = in_panic = False
        rest = b""
        with os.fdopen(self._read, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                if rest.startswith(b"\r"):  # a progress line has no end until the next one
                    os.write(self._out, rest)
                    rest = b""
                for line in lines:
                    if self._PANIC.match(line):
                        message_due = in_panic = True
                    elif message_due or (in_panic and self._BACKTRACE.match(line)):
                        message_due = False  # the panic's own message stands on the line behind it
                    else:
                        in_panic = False
                        os.write(self._out, scrub_bytes(line) + b"\n")
        os.write(self._out, rest)

    @classmethod
    def drain(cls) -> None:
        """Put the real stderr back and let what is in the pipe through."""
        if cls._active is None or threading.current_thread() is cls._active:
            return
        os.dup2(cls._active._out, 2)  # closes the pipe's last writer: the thread reads to its end
        cls._active.join(timeout=1.0)


_main = getattr(sys.modules["__main__"], "__spec__", None)
if _main is not None and _main.name in ("bytewax.run", "waxwing.cli.child"):
    # What a flow's module defines outside its flow() may be wrong as well: windows, targets.
    sys.excepthook = _excepthook
