"""A relay in front of a server, a process of its own: counts round trips, and cuts connections.

Not a thread of its client's process: pyodbc keeps Python's lock in some calls that wait for the server (SQLDescribeParam,
for one), and a thread that needs the lock could then never bring the answer.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_HERE = Path(__file__).parent


class Relay:
    """Passes bytes between clients and `address`; `requests` counts how often a client spoke after an answer."""

    def __init__(self, address: tuple[str, int], port: int = 0) -> None:
        launch = [sys.executable, "-I", "-S", str(_HERE / "launch.py"), str(psutil.Process().pid), str(int(signal.SIGKILL)), "-"]
        command = [sys.executable, "-I", "-S", str(_HERE / "passing.py"), address[0], str(address[1]), str(port)]
        self._process = subprocess.Popen([*launch, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = self._answer()

    @property
    def requests(self) -> int:
        """Until now."""
        return self._ask("requests")

    def cut(self) -> None:
        """End all connections as a server's crash would: without a word."""
        self._ask("cut")

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, what: str) -> int:
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
