"""A heart: says to one target, again and again, that this process is alive."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from waxwing import log, runtime
from waxwing.errors import TransientError


class Heart:
    """A thread that beats. Each target has one of its own: one that is away must not hold up the others.

    Whatever else than a missed heartbeat ends it ends the process too; outside of a run, whoever checks it.

    Args:
        name: of the target, for messages.
        pause_s: between two heartbeats.
        beat: says to the target that we are alive; may raise TransientError for one that is missed.
    """

    def __init__(self, name: str, pause_s: float, beat: Callable[[], None]) -> None:
        self._name, self._pause_s, self._beat = name, pause_s, beat
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._called_s = 0.0  # since when the target has been asked, 0 while it is not
        threading.Thread(target=self._run, name=f"heart-{name}", daemon=True).start()

    def stop(self) -> None:
        """Beat no more. What is under way may still go on."""
        self._ended.set()

    def check(self, silent_max_s: float) -> None:
        """Raises what ended it; or TransientError where the target has been silent for `silent_max_s`."""
        if self._error is not None:
            raise self._error
        called_s = self._called_s
        if called_s and (silent_s := time.monotonic() - called_s) > silent_max_s:
            raise TransientError(
                f"{self._name} has not answered a heartbeat for {silent_s:.0f} s.",
                hint="Nothing is lost: the next start goes on from the stored positions.",
            )

    def _run(self) -> None:
        said = False
        while not self._ended.wait(self._pause_s):
            self._called_s = time.monotonic()
            try:
                self._beat()
                said = False
            except TransientError as error:
                # Nothing is lost by a missed heartbeat; the next transaction will retry and say so.
                if not said:
                    log.lasting("heartbeat_missed", error.message, f"No heartbeat: {error.message}")
                said = True
            except Exception as error:  # noqa: BLE001 - without heartbeats another process would take what is written here
                if not self._ended.is_set():
                    self._error = error
                    with contextlib.suppress(Exception):  # outside of a run: `check` raises it
                        runtime.fail(error)
                return
            finally:
                self._called_s = 0.0
