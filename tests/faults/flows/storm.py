"""Storms over whole flows: each is killed, frozen and restarted, the broker too; then what came out is compared.

It knows nothing of what the flows write. Which flow an event strikes, in how many processes it starts again, and when, is drawn
from a seed.
"""

from __future__ import annotations

import random
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.storm.load import Load
from tests.servers import Kafka
from tests.servers.process import until

PARTITIONS = 4
PROCESSES_MAX = 3
RUN_MAX_S = 600.0
ZOMBIE_ENDS_S = 15.0
# What a run may end with: it was done, or it gives way and is to be started again; a zombie that came back is fenced; one that
# still imports is ended by SIGTERM itself.
DONE, TRY_AGAIN, FENCED, KILLED, STOPPED = 0, 75, 76, -signal.SIGKILL, -signal.SIGTERM
SETTINGS = {
    "OWNER_STALE_S": "2",
    "FLUSH_ROWS_MAX": "2000",
    "BATCH_RECORDS_MAX": "500",
    "RETRY_MAX_S": "60",
    "KAFKA_TOPIC_PARTITIONS": str(PARTITIONS),
}


class StormError(AssertionError):
    """Something was lost, doubled, or ended as it must not."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """How many of each kind, and the seed of their order."""

    kills: int
    freezes: int = 0
    broker_restarts: int = 0
    seed: int = 1


class FlowStorm(ABC):
    """One storm. `run` once, `close` always.

    Attributes:
        module: of the flows.
        parts: by name, what each flow is told beside what all are; in the order in which they feed each other.
        ended: how often each exit code was met.
    """

    module: str
    parts: Mapping[str, Mapping[str, str]]

    def __init__(self, kafka: Kafka, folder: Path, load: Load, events: Events, say: Callable[[str], None]) -> None:
        self._kafka, self._folder, self._load, self._say = kafka, folder, load, say
        self._rng = random.Random(events.seed)
        self.settings = SETTINGS if events.kills else {}  # without kills it is a run as anybody's
        self._events = ["kill"] * events.kills + ["freeze"] * events.freezes + ["broker"] * events.broker_restarts
        self._rng.shuffle(self._events)
        self._running: dict[str, Cluster] = {}
        self._zombies: list[tuple[str, Cluster]] = []
        self._starts: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @abstractmethod
    def compare(self) -> str:
        """Hold what was written against what should have been; a line on it.

        Raises:
            StormError: they differ.
        """

    def run(self) -> str:
        """Carry it out, and compare.

        Raises:
            StormError: something is wrong.
        """
        share = self._load.total / (len(self._events) + 2)
        self._load.allow(share)
        for part in self.parts:
            self._start(part)
        for event in self._events:
            self._load.allow(share)
            time.sleep(self._rng.uniform(0.5, 4.0))
            self._look()
            if event == "broker":
                self._say("  the broker is restarted")
                self._kafka.kill()
                self._kafka.start()
                continue
            part = self._rng.choice(list(self.parts))
            self._say(f"  {event} {part}")
            self._strike(event, part)
        self._load.finish()
        for part, zombie in self._zombies:
            self._thaw(part, zombie)
        for part in self.parts:
            self._to_the_end(part)
        self.stop_watching()
        return f"{self.compare()}; starts {dict(self._starts)}, ends {dict(self.ended)}"

    def stop_watching(self) -> None:  # noqa: B027 - most have nobody that watches
        """Nothing is written any more."""

    def close(self) -> None:
        """End all that runs."""
        self.stop_watching()
        self._load.close()
        for flow in (*self._running.values(), *(zombie for _, zombie in self._zombies)):
            flow.kill()

    # -- events ------------------------------------------------------------------------------------

    def _start(self, part: str, **more: str) -> None:
        self._starts[part] += 1
        env = {**self.settings, "KAFKA_BOOTSTRAP_SERVERS": self._kafka.bootstrap(), **self.parts[part], **more}
        processes = self._rng.randint(1, PROCESSES_MAX)
        name = f"{part}-{self._starts[part]}"
        self._running[part] = Cluster(self.module, env, self._folder, processes=processes, name=name)

    def _strike(self, event: str, part: str) -> None:
        flow = self._running.pop(part)
        if event == "freeze":
            until(lambda: _began(flow) or not flow.running(), timeout_s=RUN_MAX_S, what="the flow that is to be frozen begins")
            flow.stand_still()
            self._zombies.append((part, flow))
        elif self._rng.random() < 0.5:
            flow.kill_one(self._rng.randrange(len(flow.pids)))
        else:
            flow.kill()
        self._start(part)

    def _look(self) -> None:
        """What has ended by itself is started again, as a supervisor would."""
        for part, flow in list(self._running.items()):
            if None not in flow.codes():
                self._judge(part, flow)
                self._start(part)

    def _judge(self, part: str, flow: Cluster, *, zombie: bool = False) -> set[int]:
        """How a flow that has ended did so.

        Raises:
            StormError: as it must not.
        """
        codes = flow.wait(1.0)
        self.ended.update(f"{part} {'zombie ' if zombie else ''}{code}" for code in codes)
        if set(codes) - {TRY_AGAIN, KILLED, DONE, FENCED, STOPPED} or "Traceback" in flow.output():
            raise StormError(f"{part} ended with {codes}: {flow.output()[-3000:]}")
        return set(codes)

    def _thaw(self, part: str, zombie: Cluster) -> None:
        zombie.signal(signal.SIGCONT)
        give_up_s = time.monotonic() + ZOMBIE_ENDS_S
        while zombie.running() and time.monotonic() < give_up_s:
            self._look()
            time.sleep(0.2)
        zombie.signal(signal.SIGTERM)  # one that was frozen before it owned anything stands by
        zombie.wait(120)
        self._judge(part, zombie, zombie=True)

    def _to_the_end(self, part: str) -> None:
        """The flow is asked to stop, and runs of their own take in the rest."""
        flow = self._running[part]
        flow.signal(signal.SIGTERM)
        flow.wait(120)
        codes = self._judge(part, flow) | {TRY_AGAIN}
        while codes - {DONE}:
            self._start(part, UNTIL="end")
            self._running[part].wait(RUN_MAX_S)
            codes = self._judge(part, self._running[part])


def _began(flow: Cluster) -> bool:
    """Does it own what it reads?"""
    output = flow.output()
    return "begins anew at" in output or "goes on at" in output
