"""The processes of one flow under test: started, killed, frozen, waited for, always ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.process import free_ports, until

ROOT = Path(__file__).parents[2]
# The kernel kills them with us.
LAUNCH = [sys.executable, str(ROOT / "tests/servers/launch.py"), str(os.getpid()), str(int(signal.SIGKILL)), "-"]


class Cluster:
    """`python -m bytewax.run FLOW` in one process, or in several as one mesh.

    Standard error of process i goes to `folder/NAME-i.log`. The code is that below `root`, run by the module `runner`.
    """

    def __init__(
        self,
        flow: str,
        env: Mapping[str, str],
        folder: Path,
        *,
        processes: int = 1,
        args: tuple[str, ...] = (),
        name: str = "run",
        root: Path = ROOT,
        runner: str = "bytewax.run",
    ) -> None:
        addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(processes))
        self.logs = [folder / f"{name}-{number}.log" for number in range(processes)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("KAFKA_", "DATABASE_", "BYTEWAX_"))}
        self._secrets = [pair for name, text in env.items() for pair in _secrets(name, text)]
        self._all = []
        for number, log in enumerate(self.logs):
            mesh = ("-i", str(number), "-a", addresses) if processes > 1 else ()
            with log.open("wb") as out:
                self._all.append(
                    subprocess.Popen(
                        [*LAUNCH, sys.executable, "-m", runner, flow, *mesh, *args],
                        env={**clean, **env},
                        cwd=root,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                    )
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        if error is None:
            output = self.output()
            assert not (told := [name for name, secret in self._secrets if secret in output]), f"a secret was told: {told}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process."""
        for process in self._all:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def stand_still(self) -> None:
        """SIGSTOP, and wait until no thread runs any more: those on other cores go on for a moment."""
        self.signal(signal.SIGSTOP)
        until(lambda: all(map(_stopped, self.pids)), timeout_s=20.0, what="the flow stands still")

    def kill(self) -> None:
        """kill -9 all, and reap them."""
        self.signal(signal.SIGKILL)
        for process in self._all:
            process.wait()

    def kill_one(self, number: int) -> None:
        """kill -9 one process; the mesh is fail-stop, so the others end by themselves, or are killed after 10 s."""
        self._all[number % len(self._all)].kill()
        deadline_s = time.monotonic() + 10
        while self.running() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        self.kill()

    @property
    def pids(self) -> list[int]:
        """The processes, in their order; some may have ended."""
        return [process.pid for process in self._all]

    def codes(self) -> list[int | None]:
        """The exit codes so far; None: still running."""
        return [process.poll() for process in self._all]

    def running(self) -> bool:
        """Is any process alive?"""
        return any(process.poll() is None for process in self._all)

    def peak_memory_mb(self) -> float:
        """The most resident memory that any process has had so far (VmHWM; what `wait` reports counts the parent's too)."""
        peaks = [0]
        for process in self._all:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks += [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        return max(peaks) / 1024

    def wait(self, timeout_s: float) -> list[int]:
        """The exit codes of all, once they have ended by themselves.

        Raises:
            TimeoutError: with the ends of their logs.
        """
        deadline_s = time.monotonic() + timeout_s
        for process in self._all:
            try:
                process.wait(max(deadline_s - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"the flow did not end within {timeout_s} s: {self.output()[-3_000:]}") from None
        return [process.returncode for process in self._all]

    def output(self) -> str:
        """What all of them wrote so far."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs)


def _secrets(name: str, text: str) -> Iterator[tuple[str, str]]:
    """What no run may show of its settings, whatever happens to it."""
    if "PASSWORD" in name and len(text) > 3:
        yield name, text
    for password in re.findall(r"://[^:/@]*:([^@]+)@", text):
        yield name, f":{password}@"
        if "-" in password or "_" in password:  # no word of its own
            yield name, password


def _stopped(pid: int) -> bool:
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread, or the process, ended as we looked
        return not Path(f"/proc/{pid}").exists()
    return all(state in "TZ" for state in states)
