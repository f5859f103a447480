"""Carrying out a storm's schedule on the orders flow, as a supervisor would run it; then everything compared."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping

from tests.faults.cluster import Cluster
from tests.faults.recompute import compare, expected
from tests.faults.storm.databases import DATABASES
from tests.faults.storm.load import PART_ORDERS, Load
from tests.faults.storm.schedule import AT_WORK, Event, Kind, Shape
from tests.faults.storm.told import Places, StormError, Told, Verdict
from tests.faults.watch import Positions, end_offsets, positions

FLOW = "dataflows.orders"
SETTINGS = {
    "OWNER_STALE_S": "2",
    # Small transactions, so that a kill finds something under way.
    "FLUSH_ROWS_MAX": "2000",
    "BATCH_RECORDS_MAX": "500",
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
# A kill at any time should find something to do whenever it comes: its orders are sent in so many parts until then.
TRICKLES = 20
LOG_CHARACTERS = 3_000


class Storm:
    """One storm. `run` once."""

    # Of the flow, beyond those of every storm.
    settings: Mapping[str, str] = {"ORDER_TOTALS": "off"}

    def __init__(self, places: Places, events: tuple[Event, ...], load: Load, lock_s: float, say: Callable[[str], None]) -> None:
        self._places, self._events, self._load, self._lock_s, self._say = places, events, load, lock_s, say
        self._kind = DATABASES[places.database]
        self._env = {
            **SETTINGS,
            **self.settings,
            **self._kind.settings,
            "KAFKA_BOOTSTRAP_SERVERS": places.kafka.bootstrap(),
            "DATABASE_URL": places.url,
            "SOURCE_TOPIC": places.topic,
        }
        self._positions = Positions(places.url)
        # One for each event, a second one for a successor, one that waits from the beginning, and one for the end.
        self._portion = load.total / (len(events) + 2 + [event.kind for event in events].count(Kind.FREEZE))
        load.allow(self._portion)
        self._partitions = len(places.kafka.admin.list_topics(places.topic, timeout=30).topics[places.topic].partitions)
        self._flow: Cluster | None = None
        self._zombie: Cluster | None = None
        self._before = 0  # taken in at the event before
        # By step, what the newest owner that is gone, or a zombie, had for its generation.
        self._owners_gone: dict[str, int] = {}
        restarts = "database restarts (asked + kill -9)" if places.server else f"locks of the file for {lock_s:g} s"
        self.told = Told(restarts)

    def run(self) -> Told:
        """Carry out the schedule, then compare.

        Raises:
            StormError: a process ended as it must not, or nothing moves.
        """
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
        began_s = time.monotonic()
        if event.kind is Kind.END:
            self._end(event)
        else:
            self._run_flow(event.shape)
            if event.kind in AT_WORK:
                self._load.allow(self._portion / 2)
                # What a killed process had sent may still be committed, so the flow is at work only once it owns all.
                self._await(self._took_over, event.shape)
                # By then it may have taken in what there was.
                allowed = self._load.allow(self._portion / 2) - PART_ORDERS
                taken_in = self._positions.taken_in
                goal = taken_in + event.share * max(allowed - taken_in, 0)
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
                for _ in range(TRICKLES):
                    self._load.allow(self._portion / TRICKLES)
                    time.sleep(event.seconds / TRICKLES)
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
        self.told.kills_at_work += self._took_over() and moved and waited
        self._owners_gone = {step: max(owners) for step, owners in self._positions.owners.items()}
        self._judge(flow, {KILLED, TRY_AGAIN})

    def _freeze(self, event: Event) -> None:
        self._zombie = zombie = self._taken_flow()
        zombie.stand_still()
        while zombie.running() and not self._kind.may_stay_frozen(self._places.url):
            zombie.signal(signal.SIGCONT)
            time.sleep(0.005)
            zombie.stand_still()
        self._positions.look()
        self._owners_gone = {step: max(owners) for step, owners in self._positions.owners.items()}
        # All that waits may be in transactions whose COMMIT was on its way: the successor needs something to do.
        self._load.allow(self._portion / 2)
        successor = self._events[event.number].shape  # numbers begin at 1: this is the next one
        self._run_flow(successor)
        self._await(self._took_over, successor)
        self._load.allow(self._portion / 2)
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
            self._judge(flow, {DONE, TRY_AGAIN, -signal.SIGTERM})  # one that still imports is ended by the signal itself
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

    def _took_over(self) -> bool:
        """Does the flow that runs now own all positions?"""
        owners = self._positions.owners
        return bool(owners) and all(min(found) > self._owners_gone.get(step, -1) for step, found in owners.items())

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
        self.told.difference = self.difference()
        if not self.told.difference.equal:
            raise StormError(str(self.told.difference))
        if (stored := positions(places.url)) != ends:
            raise StormError(f"the stored positions are {stored}, the log's ends are {ends}")

    def difference(self) -> Verdict:
        """Everything that was written, held against the topic."""
        return compare(self._places.url, expected(self._places.kafka.bootstrap(), self._places.topic))
