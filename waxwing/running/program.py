"""A flow inside a program: it runs, and gives the program back as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from bytewax._bytewax import run_main
from bytewax.dataflow import Dataflow

from waxwing.errors import ConfigError, WaxwingError
from waxwing.running import mistakes
from waxwing.running.form import Flow
from waxwing.running.state import ThisRun, in_program
from waxwing.settings import Group
from waxwing.settings.checking import load


def run(
    flow: Flow[Any] | Callable[[], Dataflow] | Dataflow,  # whatever its settings
    *,
    settings: Group | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run a flow to its end, in this thread, with one worker.

    It ends when its sources do (UNTIL=end), when `stop` is set, or by an error. Nothing of the process is changed: no signal
    handler, hook, limit or open file outlives it (the client that commits group offsets: by some ten seconds, after an error).
    Without `stop`, and on the main thread, SIGTERM and SIGINT stop it while it runs; a second one raises KeyboardInterrupt. It
    may be called any number of times, one after the other.

    Args:
        flow: what `waxwing.flow` made; or a Dataflow, or what gives one.
        settings: of the flow; by default from the environment.
        stop: set it, from any thread, to end the run: what is under way is finished.

    Raises:
        WaxwingError: what the process would have ended with, by `python -m bytewax.run`; its `exit_code` says with which code.
    """
    with in_program(stop) as now:
        graph = _built(flow, settings)
        with _signals(now) if stop is None and _is_main() else contextlib.nullcontext():
            try:
                run_main(graph)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # Bytewax's panics are no Exceptions
                raise _reason(now, error) from error
        now.speak_last()


def _built(flow: Flow[Any] | Callable[[], Dataflow] | Dataflow, settings: Group | None) -> Dataflow:
    try:
        if isinstance(flow, Dataflow):
            graph: object = flow
        elif isinstance(flow, Flow):
            graph = flow(load(flow.kind) if settings is None else settings)
        else:
            graph = flow()
    except WaxwingError:
        raise
    except Exception as error:
        raise mistakes.in_flow(error) from error
    if not isinstance(graph, Dataflow):
        raise ConfigError("The flow gives no Dataflow.", hint="Does it end with `return flow`?")
    if settings is not None and not isinstance(flow, Flow):
        raise ConfigError("Settings are for a flow that @waxwing.flow made.", hint="Build this one with its settings.")
    return graph


def _reason(now: ThisRun, error: BaseException) -> BaseException:
    """What happened, of all that Bytewax made of it."""
    found: BaseException | None = error
    cause = error
    while now.failure is None and found is not None:
        if isinstance(found, WaxwingError):
            return now.better(found)
        cause, found = found, found.__cause__ or found.__context__
    failure = now.failure or cause
    known = None if isinstance(failure, WaxwingError) else mistakes.of_no_flow(failure) or mistakes.of_system(failure)
    return now.better(known or failure)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _signals(now: ThisRun) -> Iterator[None]:
    """SIGTERM and SIGINT ask the run to stop. A thread hears them: Python's own handlers wait while the thread is in Rust."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    read, write = os.pipe()
    os.set_blocking(write, False)
    heard = 0

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        now.stop.set()
        if heard > 1:
            raise KeyboardInterrupt

    def listen() -> None:
        while os.read(read, 16):
            now.stop.set()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    handlers = {number: signal.signal(number, handler) for number in numbers}
    wakeup = signal.set_wakeup_fd(write)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, before in handlers.items():
            signal.signal(number, before)
        os.close(write)
        listener.join()
        os.close(read)
