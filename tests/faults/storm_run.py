"""Carrying out a storm's schedule on the orders flow, as a supervisor would run it; then everything compared."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.recompute import Difference, compare, expected
from tests.faults.storm_databases import DATABASES, DatabaseServer
from tests.faults.storm_load import Load
from tests.faults.storm_schedule import AT_WORK, Event, Kind, Shape
from tests.faults.watch import Positions, end_offsets, positions
from tests.servers import Kafka
from tests.servers.process import until

FLOW = "dataflows.orders"
SETTINGS = {
    "OWNER_STALE_S": "2",
    # Small transactions, so that a kill finds something under way.
    "FLUSH_ROWS_MAX": "5000",
    "BATCH_RECORDS_MAX": "1000",
    # Short limits, so that long locks meet them: lock time-outs, retries, and exit 75.
    "DATABASE_LOCK_TIMEOUT_S": "5",
    "DATABASE_STATEMENT_TIMEOUT_S": "5",
    "RETRY_MAX_S": "15",
}
DONE, TRY_AGAIN, FENCED, KILLED = 0, 75, 76, -signal.SIGKILL
# Nothing at all moves for this long, with a flow that runs and records that wait: something hangs.
STILL_MAX_S = 120.0
# A mesh that lost a process ends by itself; a supervisor gives it this long.
PEERS_END_S = 10.0
END_MAX_S = 60.0
LOG_CHARACTERS = 3_000


class StormError(AssertionError):
    """The flow did what it must not do."""


@dataclass
class Told:
    """What a storm did and what came out."""

    done: Counter[Kind] = field(default_factory=Counter)
    shapes: Counter[Shape] = field(default_factory=Counter)
    kills: int = 0
    kills_at_work: int = 0
    fenced: int = 0
    ended_75: int = 0
    records: int = 0
    seconds: float = 0.0
    difference: Difference | None = None

    def __str__(self) -> str:
        count = self.done
        starts = ", ".join(f"{number} x {shape}" for shape, number in sorted(self.shapes.items()))
        return (
            f"{self.kills} kill -9 ({self.kills_at_work} while records were being written), "
            f"{count[Kind.FREEZE]} frozen and thawed ({self.fenced} of their processes ended with 76), "
            f"{count[Kind.STALL]} of the kills after a stall, "
            f"{count[Kind.DATABASE_RESTART]} + {count[Kind.DATABASE_KILL]} database and {count[Kind.BROKER_RESTART]} + "
            f"{count[Kind.BROKER_KILL]} broker restarts (asked + killed), {count[Kind.PARTITION_ADDED]} partitions added; "
            f"started with processes {starts}; {self.ended_75} ends with 75 and a restart; {self.records:,} records, "
            f"{self.seconds:.0f} s\n{self.difference}"
        )


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a storm takes place. `server` is None for a database that is a file."""

    database: str
    url: str
    server: DatabaseServer | None
    kafka: Kafka
    topic: str
    folder: Path


class Storm:
    """One storm. `run` once."""

    def __init__(self, places: Places, events: tuple[Event, ...], load: Load, say: Callable[[str], None]) -> None:
        self._places, self._events, self._load, self._say = places, events, load, say
        self._kind = DATABASES[places.database]
        self._env = {
            **SETTINGS,
            "KAFKA_BOOTSTRAP_SERVERS": places.kafka.bootstrap(),
            "DATABASE_URL": places.url,
            "SOURCE_TOPIC": places.topic,
        }
        self._positions = Positions(places.url)
        # One for each event, a second one for a successor, one that waits from the beginning, and one for the end.
        self._portion = load.total / (len(events) + 2 + [event.kind for event in events].count(Kind.FREEZE))
        load.allow(self._portion)
        self._partitions = len(end_offsets(places.kafka.bootstrap(), places.topic))
        self._flow: Cluster | None = None
        self._zombie: Cluster | None = None
        self._lock_s = 20.0
        self._before = 0  # taken in at the event before
        self.told = Told()

    def run(self, lock_s: float) -> Told:
        """Carry out the schedule, then compare.

        Raises:
            StormError: a process ended as it must not, or nothing moves.
        """
        self._lock_s = lock_s
        began_s = time.monotonic()
        try:
            for event in self._events:
                self._carry_out(event)
            if self._flow is not None:
                raise StormError("the schedule has no end")
        finally:
            self._positions.close()
            for cluster in (self._flow, self._zombie):
                if cluster is not None:
                    cluster.kill()
        self.told.records = self._load.acknowledged
        self.told.seconds = time.monotonic() - began_s
        self._compare()
        return self.told

    # -- events ----------------------------------------------------------------------------------

    def _carry_out(self, event: Event) -> None:
        allowed = self._load.allow(self._portion)
        began_s = time.monotonic()
        if event.kind is Kind.END:
            self._end(event)
        else:
            self._run_flow(event.shape)
            if event.kind in AT_WORK:
                taken_in = self._positions.look()
                goal = taken_in + event.share * (allowed - taken_in)
                self._await(lambda: self._positions.taken_in >= goal, event.shape)
            self._happen(event)
        self.told.done[event.kind] += 1
        taken_in = self._positions.look()
        self._say(
            f"{event} [done in {time.monotonic() - began_s:.1f} s; {taken_in - self._before:,} records since the event before, "
            f"{self._load.acknowledged - taken_in:,} wait]"
        )
        self._before = taken_in

    def _happen(self, event: Event) -> None:
        match event.kind:
            case Kind.KILL_ALL:
                self._kill()
            case Kind.KILL_ONE:
                self._kill(event.which)
            case Kind.KILL_ANY_TIME:
                time.sleep(event.seconds)
                self._kill()
            case Kind.STALL:
                with self._kind.locked(self._places.url):
                    time.sleep(event.seconds)
                    self._kill()
            case Kind.FREEZE:
                self._freeze(event)
            case Kind.DATABASE_RESTART | Kind.DATABASE_KILL:
                self._restart_database(event)
            case Kind.BROKER_RESTART | Kind.BROKER_KILL:
                kafka = self._places.kafka
                kafka.kill() if event.kind is Kind.BROKER_KILL else kafka.stop()
                time.sleep(event.seconds)
                kafka.start()
            case Kind.PARTITION_ADDED:
                self._partitions += 1
                self._places.kafka.create_partitions(self._places.topic, self._partitions)
                self._load.learn_partitions()

    def _kill(self, one: int | None = None) -> None:
        flow = self._taken_flow()
        flow.kill() if one is None else flow.kill_one(one)
        # Nothing of it writes any more, so this is what it had written; and these are what it was at.
        self._positions.look()
        self.told.kills += 1
        moved, waited = self._positions.taken_in > self._before, self._load.acknowledged > self._positions.taken_in
        self.told.kills_at_work += moved and waited
        self._judge(flow, {KILLED, TRY_AGAIN})

    def _freeze(self, event: Event) -> None:
        self._zombie = zombie = self._taken_flow()
        stand_still(zombie)
        while self._kind.idle is not None and zombie.running() and not self._kind.idle(self._places.url):
            zombie.signal(signal.SIGCONT)
            time.sleep(0.005)
            stand_still(zombie)
        self._positions.look()
        zombies = set(self._positions.owners)
        # All that waits may be in transactions whose COMMIT was on its way: the successor needs something to do.
        self._load.allow(self._portion)
        successor = self._events[event.number].shape  # numbers begin at 1: this is the next one
        self._run_flow(successor)
        self._await(lambda: not zombies & self._positions.owners, successor)
        goal = self._positions.taken_in + 1
        self._await(lambda: self._positions.taken_in >= goal, successor)
        time.sleep(event.seconds)
        zombie.signal(signal.SIGCONT)
        codes = self._ended(zombie, END_MAX_S)
        self._judge(zombie, {FENCED, TRY_AGAIN})
        self.told.fenced += codes.count(FENCED)
        self._zombie = None

    def _restart_database(self, event: Event) -> None:
        server = self._places.server
        if server is None:
            with self._kind.locked(self._places.url):
                time.sleep(self._lock_s)
            return
        server.kill() if event.kind is Kind.DATABASE_KILL else server.stop()
        time.sleep(event.seconds)
        server.start()

    def _end(self, event: Event) -> None:
        """All is sent; the flow is asked to stop at work, and a bounded run takes in the rest."""
        if self._flow is not None:
            flow = self._taken_flow()
            flow.signal(signal.SIGTERM)
            self._ended(flow, END_MAX_S)
            self._judge(flow, {DONE, TRY_AGAIN})
        self._load.finish()
        codes = None
        while codes is None or TRY_AGAIN in codes:
            self._run_flow(event.shape, UNTIL="end")
            moved_s = time.monotonic()
            while self._flow is not None and self._flow.running():
                before = self._positions.taken_in
                if self._positions.look() > before:
                    moved_s = time.monotonic()
                self._check_still(moved_s)
                time.sleep(0.1)
            flow = self._taken_flow()
            codes = self._judge(flow, {DONE, TRY_AGAIN})
            self.told.ended_75 += TRY_AGAIN in codes

    # -- the flow's life -------------------------------------------------------------------------

    def _run_flow(self, shape: Shape, **more: str) -> None:
        """Start the flow, where it does not run."""
        if self._flow is None:
            name = f"run-{self.told.shapes.total() + 1}"
            env = {**self._env, **more}
            self._flow = Cluster(FLOW, env, self._places.folder, processes=shape.processes, args=shape.args, name=name)
            self.told.shapes[shape] += 1

    def _taken_flow(self) -> Cluster:
        """The flow that runs; whoever takes it sees to its end."""
        flow, self._flow = self._flow, None
        assert flow is not None
        return flow

    def _await(self, reached: Callable[[], bool], shape: Shape) -> None:
        """Look at the positions until that is so. A flow that ends with 75 meanwhile is started again."""
        moved_s = time.monotonic()
        while True:
            before = self._positions.taken_in
            self._positions.look()
            if reached():
                return
            if self._positions.taken_in > before:
                moved_s = time.monotonic()
            if self._flow is not None and any(code is not None for code in self._flow.codes()):
                flow = self._taken_flow()
                self._ended(flow, PEERS_END_S, or_kill=True)
                codes = self._judge(flow, {TRY_AGAIN, KILLED})
                self._say(f"    the flow ended with {codes}; started again")
                self.told.ended_75 += 1
                self._run_flow(shape)
            self._check_still(moved_s)
            time.sleep(0.02)

    def _check_still(self, moved_s: float) -> None:
        if time.monotonic() - moved_s > STILL_MAX_S:
            log = self._flow.output()[-LOG_CHARACTERS:] if self._flow else ""
            raise StormError(f"nothing moves for {STILL_MAX_S:.0f} s; {self._positions.taken_in:,} records taken in:\n{log}")

    def _ended(self, cluster: Cluster, timeout_s: float, *, or_kill: bool = False) -> list[int]:
        try:
            return cluster.wait(timeout_s)
        except TimeoutError as error:
            if not or_kill:
                raise StormError(f"{error}") from error
            cluster.kill()
            return cluster.wait(1.0)

    def _judge(self, cluster: Cluster, allowed: set[int]) -> list[int]:
        """The exit codes of a cluster that has ended.

        Raises:
            StormError: there is one that may not be.
        """
        codes = cluster.wait(1.0)
        if not allowed.issuperset(codes):
            raise StormError(f"exit codes {codes}, allowed are {sorted(allowed)}:\n{cluster.output()[-LOG_CHARACTERS:]}")
        if any("Traceback" in log.read_text(errors="replace") for log in cluster.logs):
            raise StormError(f"a traceback, exit codes {codes}:\n{cluster.output()[-LOG_CHARACTERS:]}")
        return codes

    # -- the end ---------------------------------------------------------------------------------

    def _compare(self) -> None:
        places = self._places
        bootstrap = places.kafka.bootstrap()
        ends = end_offsets(bootstrap, places.topic)
        assert all(ends.values()), f"a partition got nothing, so this storm shows less than it says: {ends}"
        self.told.difference = compare(places.url, expected(bootstrap, places.topic))
        if not self.told.difference.equal:
            raise StormError(str(self.told.difference))
        if (stored := positions(places.url)) != ends:
            raise StormError(f"the stored positions are {stored}, the log's ends are {ends}")


def stand_still(cluster: Cluster) -> None:
    """SIGSTOP, and wait until no thread runs any more: those on other cores go on for a moment."""
    cluster.signal(signal.SIGSTOP)
    until(lambda: all(map(_stopped, cluster.pids)), timeout_s=5.0, what="the flow stands still")


def _stopped(pid: int) -> bool:
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread, or the process, ended as we looked
        return not Path(f"/proc/{pid}").exists()
    return all(state in "TZ" for state in states)
