"""A schedule: everything that happens, drawn from one seed. The same seed makes the same schedule."""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.database import Violation
from tests.simulation.parts import Parts, shipped
from tests.simulation.polled import PolledLog, polled
from tests.simulation.process import Process
from tests.simulation.steps import judge_of
from tests.simulation.steps.tables import Made, Op, draw_ops, rows_of_table
from tests.simulation.truth import STEPS, Log, draw_log, draw_tokens
from tests.simulation.windows.rebucket import rebucket
from tests.simulation.windows.step import live_rows
from tests.simulation.windows.truth import Event, Shape, draw_events, draw_shape
from waxwing.settings import SinkSettings, WindowSettings
from waxwing.tables.rows import RowMaker

# Faults a thousand statements, before the schedule's own weight: some schedules have much of one and nothing of another.
FAULTS = {"crash": 6, "freeze": 12, "yield": 60, "lose": 25, "lost_in_commit": 60, "hang": 40, "swallow": 10, "miswire": 10}
CALM_TURNS_MAX = 5_000
LANES_MAX, PARTITIONS_MAX = 3, 4
# Of the schedules whose logs have tokens.
TOKENS_SHARE = 0.4
# Of those whose source can't be read again the same way.
POLLED_SHARE = 0.15
# Of the others, from here on up to 1: those that write tables.
TABLES_FROM = 0.5
# And from here on those that fold windows.
WINDOWS_FROM = 0.65
NESTED_MAX = 3
# So often in bad times the flow is stopped, and its buckets are divided anew.
REBUCKETS = 0.01
NO_WINDOWS = Shape(1, 1, 0, 0, 0, eager=False, idles=False, ends=False, buckets=1)


@dataclass(frozen=True)
class Told:
    """How a schedule went."""

    seed: int
    violation: str
    statements: int
    turns: int
    processes: int
    trace: list[str]


class World:
    """The topic, the database and the processes of one schedule."""

    def __init__(self, seed: int, parts: Parts, *, traced: bool = False) -> None:
        self.seed, self.parts = seed, parts
        self.chance = chance = random.Random(seed)
        self.clock_s, self.stale_s = 1_000.0, 1.0
        self.statements = self.turns = 0
        self.trace: list[str] | None = [] if traced else None
        self.violation = ""
        self.calm = False
        self._depth = 0
        self.logs: dict[int, Log] = {}
        # Batches that came in halves on two paths, by step and partition.
        self.torn: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._bad: set[tuple[int, tuple[int, int]]] = set()
        # What rows do to tables, by partition and offset.
        self.ops: dict[int, dict[int, list[Op]]] = {}
        self._tables: dict[str, Made] = {}
        # What rows are to windows, by partition and offset.
        self.events: dict[int, dict[int, list[Event]]] = {}
        self._events = 0
        self._live_rows: RowMaker | None = None
        # Drawn apart: the others' schedules stay as they are.
        self._tokens = random.Random(f"tokens {seed}")
        roll = self._tokens.random()
        self._has_tokens, self.polled = roll < TOKENS_SHARE, 1 - roll < POLLED_SHARE
        self._other = random.Random(f"steps {seed}")
        self.steps = self._draw_steps()
        self.folds = not {"windows", "live"}.isdisjoint(self.steps)
        self._shape = draw_shape(self._other) if self.folds else NO_WINDOWS
        # A partition that is added lets the moment decide what is in which row; without, the judge of windows is stricter.
        self._grows = not self.folds or self._other.random() < 0.3
        self._windows_bad = self._other.random() < 0.3
        self._snapshot_interval_s = self._other.choice((0.0, 0.05, 1.0))
        for _ in range(chance.randint(1, 3)):
            self._add_log()
        self._logs_first = len(self.logs)
        self.faults = {fault: weight / 1_000 * chance.choice((0, 0.5, 1, 1, 3)) for fault, weight in FAULTS.items()}
        self.one_writer = chance.random() < 0.15
        self.blames = chance.choice(("all", "first", "none"))
        self.row_by_row = chance.random() < 0.5
        self.rows_max = chance.choice((1_000, 1_000, 4))
        # (Windows that are not whole are left out: no schedule begins in the middle of a log.)
        self.from_latest = chance.random() < 0.2 and not self.folds
        if self.one_writer:
            self._shape = replace(self._shape, buckets=1)
        self._settings: dict[str, Any] = {
            "flush_rows_max": chance.choice((1, 3, 1_000)),
            "flush_interval_s": chance.choice((0.0, 0.05, 0.5)),
            "queue_records_max": chance.choice((1, 3, 40)),
            "retry_max_s": chance.choice((0.0, 2.0, 60.0)),
            "owner_stale_s": self.stale_s,
            "bad_ratio_max": 1.0,
        }
        self.database = parts.database(self)
        self.database.judges = {step: judge_of(self, step) for step in self.steps}
        self.processes: list[Process] = []
        self.started = 0

    def _draw_steps(self) -> tuple[str, ...]:
        if self.polled:  # what can't be read again the same way feeds one step
            return STEPS[: self.parts.steps_polled]
        roll = self._other.random()
        self._rows_alone = self._other.random() < 0.5
        if roll < TABLES_FROM:
            return STEPS
        return ("orders", "tables") if roll < WINDOWS_FROM else self._other.choice((("windows",), ("windows", "live")))

    # -- what processes ask ----------------------------------------------------------------------

    def now_s(self) -> float:
        return self.clock_s

    def settings(self, lanes: int) -> SinkSettings:
        """The settings of a process."""
        return SinkSettings(**self._settings, lanes=lanes)

    def window_settings(self, lanes: int) -> WindowSettings:
        """Those with windows."""
        return WindowSettings(**self._settings, lanes=lanes, window_snapshot_interval_s=self._snapshot_interval_s)

    @property
    def shape(self) -> Shape:
        """The windows, with the buckets that there are now."""
        defined = self.database.windows.get("windows")
        if defined is not None and defined.buckets != self._shape.buckets:
            self._shape = replace(self._shape, buckets=defined.buckets)
        return self._shape

    @property
    def clock_decides(self) -> bool:
        """Do windows close by anything but the records? Then it is not they alone that say what is in which row."""
        return self.shape.idles or len(self.logs) > self._logs_first

    def is_window_bad(self, time_s: int, key: int) -> bool:
        """Does the database refuse the rows of this window and key?"""
        return self._windows_bad and (time_s // 5 + key) % 5 == 0

    def live_rows(self) -> RowMaker:
        """Live windows' table as the shipped code knows it."""
        if self._live_rows is None:
            self._live_rows = live_rows(self.shape)
        return self._live_rows

    def is_bad(self, partition: int, row: tuple[int, int]) -> bool:
        """Does the database refuse this row?"""
        return (partition, row) in self._bad

    def table(self, name: str) -> Made:
        """A table as the shipped code knows it."""
        if name not in self._tables:
            self._tables[name] = Made(name, rows_of_table(name, rows_alone=self._rows_alone))
        return self._tables[name]

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.clock_s - 1_000:8.2f} s  {'  ' * self._depth}{text}")

    def violated(self, what: str) -> None:
        """The protocol is broken: the schedule ends here, whatever handlers stand between."""
        self.violation = self.violation or what
        self.say(f"VIOLATION: {what}")
        raise Violation(what)

    # -- the schedule ----------------------------------------------------------------------------

    def play(self) -> Told:
        """Some hundred turns of trouble, then calm until all is taken in, then what is still frozen goes on."""
        with shipped(self), contextlib.suppress(Violation):
            for _ in range(self.chance.randint(30, 400)):
                self._turn()
                self._stop_when_violated()
            self._calm()
        return Told(self.seed, self.violation, self.statements, self.turns, self.started, self.trace or [])

    def _calm(self) -> None:
        self.calm = True
        self.say("from here on nothing fails")
        for log in self.logs.values():
            log.end = log.end_max
        keep = self.chance.random() < 0.5
        for process in self.processes:
            process.frozen = process.frozen and keep
            # Who stands still and not by a fault of the protocol has to end: those who lost a batch on the way with none behind
            # it, who don't know of a new partition, and whose peer stays frozen with its lanes.
            process.doomed |= process.miswired or any(peer.frozen and keep for peer in process.peers)
            process.doomed |= process.opened and process.partitions_known < len(self.logs)
        turns = 0
        while not self._complete():
            turns += 1
            if turns > CALM_TURNS_MAX:
                self.violated("no progress, though nothing fails any more")
            self._turn()
            self._stop_when_violated()
        for process in self.processes:
            process.frozen = False
        self.say("all is taken in; who was frozen goes on")
        for _ in range(60):
            self._turn()
            self._stop_when_violated()
        for step in self.steps:
            self.database.judges[step].check_end()
        self._check_starts()

    def _check_starts(self) -> None:
        """All steps began in one place, and have the token of their end."""
        steps = [step for step in self.steps if step != "windows"]
        for log in self.logs.values() if steps else ():
            held = [self.database.progress[self.database.key(step, log.stream)].position for step in steps]
            for position in held if log.tokens else ():
                if not log.ends(position) or (position.token_offset != position.offset_next and position.offset_start < log.end):
                    self.violated(f"{log.stream}: all of {log.end} is taken in, the token is {position.token!r}")
            starts = {position.offset_start for position in held}
            if len(starts) != 1 or not (self.from_latest or starts == {log.first}):
                self.violated(f"{log.stream}: steps began at {sorted(starts)}, the log at {log.first}")

    def _complete(self) -> bool:
        return all(self.database.judges[step].is_complete() for step in self.steps)

    def _stop_when_violated(self) -> None:
        if self.violation:
            raise Violation(self.violation)

    def nested(self, turns: int) -> None:
        """Others go on for some turns while somebody is in the middle of a statement."""
        if self._depth >= NESTED_MAX:
            return
        self._depth += 1
        for _ in range(turns):
            self._turn()
        self._depth -= 1

    def _turn(self) -> None:
        if self.violation:
            return
        self.turns += 1
        self.clock_s += self.chance.random() * 0.02
        if not self.calm or self.turns % 8 == 0:
            self._event()
        ready = [call for process in self.processes for call in process.ready]
        if ready:
            self.chance.choice(ready)()
        elif self._depth == 0:
            due = [process.due_s for process in self.processes if not process.frozen]
            self.clock_s = max(self.clock_s, min((d for d in due if d < math.inf), default=0.0))
        if any(process.dead for process in self.processes):
            for process in [process for process in self.processes if process.dead]:
                for peer in process.peers:
                    peer.doomed = True
                self.processes.remove(process)

    def _event(self) -> None:
        """What supervisors do, and in bad times everything else."""
        roll = self.chance.random()
        running = [process for process in self.processes if not process.frozen]
        doomed = [process for process in running if process.doomed]
        if roll < 0.2 and len(doomed) == len(running):
            self._deploy()
        elif roll < (0.3 if self.calm else 0.05) and doomed:
            self.chance.choice(doomed).kill("as others of its deployment are gone")
        elif not self.calm:
            if "windows" in self.steps and self.chance.random() < REBUCKETS and not self.one_writer:
                rebucket(self)
            elif running:
                self._trouble(self.chance.choice(running))
            self._happen()

    def _trouble(self, process: Process) -> None:
        roll = self.chance.random()
        if roll < 0.015:
            process.kill("by somebody")
        elif roll < 0.03:
            self.say(f"{process} freezes")
            process.frozen = True
        elif roll < 0.033:
            self._deploy()
        elif roll < 0.04:
            process.close()
            process.kill("after close()")
        elif roll < 0.045:
            process.stop()

    def _happen(self) -> None:
        roll = self.chance.random()
        if roll < 0.05 and (frozen := [process for process in self.processes if process.frozen]):
            self.chance.choice(frozen).frozen = False
        elif roll < 0.15:
            log = self.logs[self.chance.randrange(len(self.logs))]
            log.end = min(log.end_max, log.end + self.chance.randint(1, 4))
        elif roll < 0.20 and self.database.in_doubt:
            self.database.settle(self.chance.choice(self.database.in_doubt))
        elif roll < 0.205 and len(self.logs) < PARTITIONS_MAX and self._grows:
            self._add_log()
            self.say("there is another partition")

    def _deploy(self) -> None:
        lanes = self.chance.randint(1, LANES_MAX)
        count = 1 if self.one_writer else self.chance.randint(1, lanes)
        processes = []
        for number in range(count):
            self.started += 1
            mine = {lane for lane in range(lanes) if lane % count == number}
            processes.append(Process(self, self.started, lanes, mine, f"run{self.started - number}"))
        for process in processes:
            process.peers = processes
        self.processes += processes
        self.say(f"{', '.join(map(str, processes))} start, lanes: {lanes}")

    def _add_log(self) -> None:
        number = len(self.logs)
        log = draw_log(self.chance, number)
        if self.folds:
            log.first = 0
            self.events[number] = draw_events(self._other, log, self._events)
            self._events += sum(map(len, self.events[number].values()))
        self.logs[number] = log = polled(log, self._other) if self.polled else log
        self.ops[number] = draw_ops(self._other, log)
        if self._has_tokens:
            draw_tokens(self._tokens, log)
        self._bad |= {(number, (record.offset, row)) for record in log.records for row in record.bad_rows}
        if isinstance(log, PolledLog):
            self._bad |= {(number, row) for row in log.refused}


def play(seed: int, parts: Parts, *, traced: bool = False) -> Told:
    """One schedule."""
    return World(seed, parts, traced=traced).play()
