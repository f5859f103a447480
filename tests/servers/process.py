"""What the servers share: a process that can't outlive us, ports, waiting by asking."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_LAUNCH = Path(__file__).with_name("launch.py")
_POLL_INTERVAL_S = 0.02
_PORTS = range(20_000, 32_000)
_SIDES_MAX = 8


class Unavailable(Exception):
    """The server can't be had on this machine; the message says what is missing."""


def until(check: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Ask until the answer is yes.

    Raises:
        TimeoutError: it was not, in time.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_INTERVAL_S)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on.

    Below the range that outgoing connections draw from: a server that is down for a while must find its port free again.
    Tests that run side by side draw from ranges of their own, for the same reason.
    """
    ports: list[int] = []
    side = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SIDES_MAX
    each = len(_PORTS) // _SIDES_MAX
    for port in random.sample(_PORTS[side * each : (side + 1) * each], each):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise Unavailable("no free ports on 127.0.0.1")


def listening(port: int) -> bool:
    """Does someone accept connections on this port of 127.0.0.1?"""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server(ABC):
    """One server: a process, a folder of its own, and ports that stay the same over restarts.

    Start it on a thread that lives as long as it should (the kernel ends it with that thread).
    """

    name: str
    start_timeout_s = 180.0
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL
    user = "-"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"waxwing-{self.name}-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    # -- what a kind of server answers -----------------------------------------------------------

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line that runs the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Does it answer its clients?"""

    def environment(self) -> Mapping[str, str] | None:
        """Environment variables of the server; None: ours."""
        return None

    # -- the life of a server ----------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process's id, while it runs."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Is the process there?"""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, and return when it answers."""
        assert not self.running, f"{self.name} is running already"
        launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(psutil.Process().pid), str(int(self.death_signal)), self.user]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*launch, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,  # Ctrl-C is for us; we stop it then
            )
        try:
            until(self._ready_or_dead, timeout_s=self.start_timeout_s, what=f"{self.name} answers")
        except BaseException:
            self.kill()
            raise
        return self

    def _ready_or_dead(self) -> bool:
        if not self.running:
            log = (self.folder / "server.log").read_text(errors="replace")
            raise RuntimeError(f"{self.name} did not start:\n" + "\n".join(log.splitlines()[-20:]))
        return self.ready()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ask it to stop, and wait until it has; kill it if it does not."""
        if self._process is None:
            return
        self.thaw()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once, as a power cut would, and wait until it is gone."""
        if self._process is None:
            return
        family = self._family()
        for member in family:
            _tell(member, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, timeout=10.0)
        self._process, self._frozen = None, False

    def restart(self) -> None:
        """Stop and start, or just start, with the same data and ports."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop its time (SIGSTOP): connections stay, nothing answers."""
        self._frozen = True
        family = self._family()
        for member in family:
            _tell(member, signal.SIGSTOP)
        # Threads on other cores run on for a moment.
        until(lambda: all(map(_stopped, family)), timeout_s=5.0, what=f"{self.name} stands still")

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        if self._frozen:
            for member in self._family():
                _tell(member, signal.SIGCONT)
            self._frozen = False

    def heal(self) -> None:
        """Undo what a test did to it, so that the next test finds it running."""
        self.thaw()
        if not self.running:
            self._process = None
            self.start()

    def close(self) -> None:
        """Stop, and remove its data."""
        self.stop(timeout_s=10.0)
        self._folder.cleanup()

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _stopped(process: psutil.Process) -> bool:
    # A zombie has ended; its parent, stopped as well, can't take note of it.
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _tell(process: psutil.Process, number: signal.Signals) -> None:
    # It may be gone by now; then there is nobody to tell.
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
