"""`waxwing run`: the processes of a flow on one machine, started, watched and restarted together.

Together, because Bytewax's mesh is fail-stop: when one process dies, the others end too.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import NamedTuple

from waxwing import log
from waxwing.cli.display import Display
from waxwing.cli.flows import import_string
from waxwing.errors import EXIT_BUG, EXIT_CONFIG, EXIT_DATA, EXIT_FENCED, EXIT_OK, EXIT_TRY_AGAIN
from waxwing.ledger.members import RUN_VARIABLE
from waxwing.metrics.shared import VARIABLE, SharedCounts

# The first restart waits about a second, later ones twice as long as the one before, up to this.
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
# A run that lasted this long was well: the wait before the next restart is short again.
WELL_AFTER_S = 60.0
# After the first process has failed, and after a signal to stop, the others have this long to say why and to end. Then they are
# killed: a mesh that has lost a process can't end well, and being killed costs a flow nothing but time.
PEERS_END_S = 3.0
STOP_S = 30.0
READERS_END_S = 5.0
POLL_S = 0.05
# Which of several exit codes is the reason, the others being what followed.
_REASONS = (EXIT_CONFIG, EXIT_DATA, EXIT_FENCED, EXIT_BUG)


class Limits(NamedTuple):
    """How many restarts are borne, within how many seconds."""

    restarts_max: int
    within_s: float


class Supervisor:
    """Runs a flow in `processes` processes until it is done, is asked to stop, or fails for good."""

    def __init__(self, flow: str, processes: int, args: Sequence[str], limits: Limits) -> None:
        self._flow, self._processes, self._args, self._limits = import_string(flow), processes, list(args), limits
        self._children: list[subprocess.Popen[bytes]] = []
        self._stop_signal: signal.Signals | None = None
        self._stop_asked_s = 0.0
        self._restarts: deque[float] = deque()
        self._display = Display(flow, processes)

    def run(self) -> int:
        """Run to the end; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        in_a_row = 0
        with self._display:
            while True:
                started_s = time.monotonic()
                codes = self._run_once()
                code = verdict(codes, self._stop_signal)
                self._display.run_ended()
                if code is not None:
                    self._display.summary(code)
                    return code
                in_a_row = 1 if time.monotonic() - started_s > WELL_AFTER_S else in_a_row + 1
                if not self._may_restart():
                    log.error(
                        "gave_up",
                        f"{len(self._restarts)} restarts within {self._limits.within_s:.0f} s: giving up, see above.",
                        exit_code=EXIT_TRY_AGAIN,
                    )
                    return EXIT_TRY_AGAIN
                self._back_off(in_a_row, codes)
                if self._stop_signal is not None:
                    return EXIT_OK

    # -- one run of all processes ----------------------------------------------------------------

    def _run_once(self) -> list[int]:
        addresses = ";".join(f"127.0.0.1:{port}" for port in _free_ports(self._processes))
        readers = []
        self._children = []
        start = {RUN_VARIABLE: secrets.token_hex(6)}
        counts = [SharedCounts.make() for _ in range(self._processes)]
        self._display.run_begins(counts)
        for number in range(self._processes):
            mesh = ["-i", str(number), "-a", addresses] if self._processes > 1 else []
            child = subprocess.Popen(  # noqa: S603 - Python itself, and what the user typed
                [sys.executable, "-m", "waxwing.cli.child", str(os.getpid()), self._flow, *mesh, *self._args],
                env={**os.environ, **start, VARIABLE: str(counts[number].descriptor)},
                pass_fds=[counts[number].descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A group of its own: Ctrl-C reaches it once, through this process, and a second time means "at once".
                process_group=0,
            )
            self._children.append(child)
            for call in ((self._display.read, number, child.stderr), (self._display.pass_through, child.stdout)):
                reader = threading.Thread(target=call[0], args=call[1:], daemon=True)
                reader.start()
                readers.append(reader)
        if self._stop_signal is not None:  # it came while they were being started
            self._signal(self._stop_signal)
        codes = self._wait()
        for reader in readers:
            reader.join(timeout=READERS_END_S)
        return codes

    def _wait(self) -> list[int]:
        """Wait until all have ended: by themselves, or because one has failed, or because of a signal that was passed on."""
        failed_s = 0.0
        while any(child.poll() is None for child in self._children):
            now_s = time.monotonic()
            if any(child.returncode for child in self._children):
                failed_s = failed_s or now_s
            slow_peers = failed_s and now_s > failed_s + PEERS_END_S
            slow_stop = self._stop_asked_s and now_s > self._stop_asked_s + STOP_S
            if slow_peers or slow_stop:
                self._signal(signal.SIGKILL)
            time.sleep(POLL_S)
        return [child.returncode for child in self._children]

    def _signal(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(number)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_signal = signal.Signals(number)
        self._stop_asked_s = self._stop_asked_s or time.monotonic()
        self._signal(self._stop_signal)

    # -- restarts --------------------------------------------------------------------------------

    def _may_restart(self) -> bool:
        now_s = time.monotonic()
        while self._restarts and self._restarts[0] < now_s - self._limits.within_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._limits.restarts_max:
            return False
        self._restarts.append(now_s)
        return True

    def _back_off(self, in_a_row: int, codes: Sequence[int]) -> None:
        wait_s = min(BACKOFF_FIRST_S * 2 ** (in_a_row - 1), BACKOFF_MAX_S) * random.uniform(0.75, 1.0)
        how = ", ".join(f"process {number} {_ended(code)}" for number, code in enumerate(codes) if code)
        self._display.restarting(f"{how[0].upper()}{how[1:]}. Starting all again in {wait_s:.1f} s.", codes=list(codes))
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s and self._stop_signal is None:
            time.sleep(POLL_S)


def verdict(codes: Sequence[int], stopping: signal.Signals | None) -> int | None:
    """The exit code that the processes' codes amount to; None: start again."""
    # A process that a signal to stop has met before it could listen to it has done nothing yet.
    codes = [EXIT_OK if stopping and code == -stopping else code for code in codes]
    failures = [code for code in codes if code]
    if not failures:
        return EXIT_OK
    for code in (*_REASONS, *failures):
        if code in failures and code > 0 and code != EXIT_TRY_AGAIN:
            return code
    return EXIT_TRY_AGAIN if stopping else None


def _ended(code: int) -> str:
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"exited with {code}"


def _free_ports(count: int) -> list[int]:
    """Loopback ports that are free now. All are held until the last is found, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
