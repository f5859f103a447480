"""How soon what is sent is visible: a producer and a watcher, processes of their own, and what they wrote down put together."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.cluster import LAUNCH, ROOT, Cluster
from tests.servers.process import until

# They are seeds of orders, too: those that are there before have 1.
_numbers = count(2)
VISIBLE_TIMEOUT_S = 120.0
# SQLite's file is locked for a moment by each look, the servers' rows are not.
LOOKS = -1  # in place of a partition: how many looks there were, told once a second
LOOK_INTERVAL_S, FILE_LOOK_INTERVAL_S = 0.002, 0.005


@dataclass(frozen=True)
class Sent:
    """What a producer sent: three columns, in the order in which it was acknowledged."""

    sent_s: array[float]
    partitions: array[int]
    offsets: array[int]

    def ends(self) -> dict[int, int]:
        """By partition, the offset behind its last."""
        out: dict[int, int] = {}
        for partition, offset in zip(self.partitions, self.offsets, strict=True):
            out[partition] = max(out.get(partition, 0), offset + 1)
        return out


class Pacer:
    """Sends so many orders a second from a moment on (programs/pacer.py)."""

    def __init__(self, bootstrap: str, topic: str, rate: float, seconds: float, folder: Path, *, begin_s: float = 0.0) -> None:
        number = next(_numbers)
        self._file = folder / f"sent-{number}"
        words = [bootstrap, topic, str(rate), str(seconds), str(number), str(begin_s), str(self._file)]
        self._process = subprocess.Popen([*_python("benchmarks.programs.pacer"), *words], cwd=ROOT)

    def sent(self) -> Sent:
        """What it sent, once it has ended."""
        if code := self._process.wait():
            raise SystemExit(f"the producer ended with {code}")
        columns = pickle.loads(self._file.read_bytes())
        self._file.unlink()
        return Sent(*columns)


class Watcher:
    """When a running flow moved each partition's position, as another connection sees it (programs/watcher.py)."""

    def __init__(self, cluster: Cluster, url: str, table: str, folder: Path) -> None:
        self._cluster = cluster
        interval_s = FILE_LOOK_INTERVAL_S if url.startswith("sqlite") else LOOK_INTERVAL_S
        self._file = folder / f"seen-{next(_numbers)}"
        self._file.touch()
        words = [url, table, str(interval_s), str(self._file)]
        self._process = subprocess.Popen([*_python("benchmarks.programs.watcher"), *words], cwd=ROOT)
        self._read = 0
        self._offsets: dict[int, list[int]] = defaultdict(list)
        self._times_s: dict[int, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._file.unlink()

    def ends(self) -> dict[int, int]:
        """By partition, the offset that is visible by now."""
        with self._file.open() as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            at_s, partition, offset = line.split()
            self._times_s[int(partition)].append(float(at_s))
            self._offsets[int(partition)].append(int(offset))
        return {partition: offsets[-1] for partition, offsets in self._offsets.items()}

    def until(self, ends: dict[int, int]) -> None:
        """Wait until all of that is visible."""

        def there() -> bool:
            assert self._process.poll() is None, "the watcher has ended"
            if not self._cluster.running():
                raise SystemExit(f"the flow has ended: {self._cluster.output()[-3_000:]}")
            seen = self.ends()
            return all(seen.get(partition, 0) >= end for partition, end in ends.items())

        until(there, timeout_s=VISIBLE_TIMEOUT_S, what="all that was sent is visible")

    def interval_ms(self) -> float:
        """How often it looked, on average: the resolution."""
        times_s, looks = self._times_s[LOOKS], self._offsets[LOOKS]
        return 0.0 if len(looks) < 2 else (times_s[-1] - times_s[0]) / (looks[-1] - looks[0]) * 1e3

    def latencies_ms(self, sent: Sent) -> list[float]:
        """Of each message, from its sending until it was visible."""
        self.until(sent.ends())
        offsets, times_s = self._offsets, self._times_s
        return [
            (times_s[partition][bisect_right(offsets[partition], offset)] - sent_s) * 1e3
            for sent_s, partition, offset in zip(sent.sent_s, sent.partitions, sent.offsets, strict=True)
        ]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of sorted figures, the one that this share lies below."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def cpu_s(pids: Sequence[int]) -> float:
    """CPU of these processes so far, all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def settle(seconds: float) -> None:
    """Let what is under way come to rest, since what is at rest shows no sign of it."""
    time.sleep(seconds)


def _python(module: str) -> list[str]:
    return [*LAUNCH, sys.executable, "-m", module]
