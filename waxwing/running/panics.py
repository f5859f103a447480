"""Rust's panics on standard error, and what they mean."""

from __future__ import annotations

import os
import re
import threading

from waxwing.secrets import scrub_bytes


def peer_is_gone(error: BaseException) -> bool:
    """Is this how Bytewax shows, in a cluster, that another process has ended?

    It is a panic as such, or a RuntimeError about a panicked thread of the mesh, which names the thread's error or the
    place in the mesh's code ("panicked at .../timely-dataflow-.../communication/src/...: MergeQueue poisoned").
    """
    text = str(error)
    return type(error).__name__ == "PanicException" or "timely communication error" in text or "/communication/src/" in text


class PanicFilter(threading.Thread):
    """Keeps Rust's panic lines off stderr; the excepthook says what happened in one line instead.

    A panic is written to file descriptor 2 before Python hears of it: for an error raised in a step, and in each process
    of a mesh whose peer has ended.
    """

    _active: PanicFilter | None = None
    _PANIC = re.compile(rb"^thread .* panicked at ")
    _BACKTRACE = re.compile(rb"^(stack backtrace:|note: |\s+\d+: |\s+at |Box<dyn Any>|$)")

    def __init__(self) -> None:
        super().__init__(name="stderr-filter", daemon=True)
        self._out = os.dup(2)
        self._read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        PanicFilter._active = self

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
