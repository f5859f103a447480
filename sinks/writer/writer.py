"""The writer: a thread that groups batches into transactions and gets each into the target exactly once."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any

from sinks.writer.admission import Admits, admission_of
from sinks.writer.commits import SILENCE_S, Commits, InTheWay
from sinks.writer.crew import LITTLE, Crew
from sinks.writer.pace import TURN_S, Pace
from sinks.writer.suspects import Steps
from waxwing import runtime
from waxwing.batch import Stream
from waxwing.errors import StopError, TransientError
from waxwing.target import Target

CLOSE_S = 5.0
# An idle thread looks up this often.
IDLE_S = 60.0


class Writer:
    """One sink partition's writer. `put`, `flush` and `close` are called by Bytewax's worker, the rest runs in its thread.

    The thread only takes steps and waits between them, so that the very same steps can be taken without a thread, under
    another clock (tests/simulation).
    """

    def __init__(
        self,
        target: Target,
        part: str,
        now_s: Callable[[], float] = time.monotonic,
        admission: Admits | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._target, self._part, self._now_s = target, part, now_s
        self._settings = target.settings
        self._ownership = target.ownership
        self._ownership.enter()
        self._crew = crew or Crew(admission or admission_of(target))
        self._crew.join(part, self)
        self._admission = self._crew.admission
        self._commits = self._make_commits()
        self._queue: deque[Any] = deque()
        self._waiting = 0  # records in the queue, by their weight
        self._came_s = 0.0  # when the first of them did
        self._under_way = 0  # batches put and not yet durable
        self._flushing = self._closing = False
        self._error: BaseException | None = None
        self._writing = self._helped = False  # by this thread; by another's
        self._helping: dict[Writer, list[Any]] = {}  # for whom this thread writes as well, and which batches
        self._apart = False  # what it has was in the way of others, and is not written with theirs
        self._pace = Pace(target.size.age_s)
        self._records = 0  # in the transaction under way or gathered for, by their weight
        self._wake = threading.Condition(self._crew.lock)
        self._signals = self._seen = 0  # what the worker has said, and what of it the thread has seen
        self._steps = self._stage_all() if target.size.staged else self._write_all()
        self._start()

    def _make_commits(self) -> Commits:
        return Commits(self._target, self._part, self._now_s, self._admission, lambda: self._closing)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"writer-{self._target.step}-{self._part}", daemon=True)
        self._thread.start()

    # -- the worker's side ---------------------------------------------------------------------

    def put(self, batch: Any) -> None:
        """Hand a batch over (or what else the admission takes); waits while QUEUE_RECORDS_MAX are waiting (back-pressure)."""
        runtime.working()
        with self._wake:
            while self._waiting >= self._settings.queue_records_max and self._error is None:
                self._wait()
            self._raise()
            now_s = self._now_s()
            if not self._queue:
                self._came_s = now_s
            self._queue.append(batch)
            self._waiting += self._admission.weight(batch)
            self._under_way += 1
            self._crew.has_more(self, now_s)

    def flush(self) -> None:
        """Wait until all that was handed over is durable."""
        with self._wake:
            self._flushing = True
            self.wake()
            while self._under_way and self._error is None:
                self._wait()
            self._flushing = False
            self._raise()

    def _wait(self) -> None:
        """Wait for the thread; but not for ever for a server that neither answers nor hangs up (frozen, or cut off)."""
        self._wake.wait(1.0)
        called_s = self._commits.called_s
        if called_s and self._now_s() - called_s > self._settings.retry_max_s + SILENCE_S:
            error = TransientError(
                f"{self._target.name} has not answered for {self._now_s() - called_s:.0f} s.",
                hint="Nothing is lost: the next start goes on from the stored positions.",
            )
            self._error = self._error or error
            runtime.fail(error)

    def close(self) -> None:
        """End the thread. What waits is dropped; a transaction under way ends as it ends."""
        with self._wake:
            self._closing = True
            self.wake()
        # A thread that waits for a silent server is left behind: it ends with the process.
        self._thread.join(CLOSE_S)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # -- what the crew asks, under its lock ------------------------------------------------------------

    @property
    def has_little(self) -> bool:
        """Is it little that waits here?"""
        return self._waiting < LITTLE

    @property
    def may_wait(self) -> bool:
        """May what waits here stay in the queue, where another can take it into its transaction?"""
        return self.has_little and self._waiting < self._settings.queue_records_max

    @property
    def is_free(self) -> bool:
        """May its thread be woken to write for others?"""
        return not (self._writing or self._closing)

    @property
    def may_be_helped(self) -> bool:
        """Does something wait here, little, and nothing before it is on its way?"""
        return bool(self._queue) and self.has_little and not (self._records or self._helped or self._apart or self._closing)

    def wake(self) -> None:
        """Say to the thread that there is something new. The lock is held."""
        self._signals += 1
        self._wake.notify_all()

    def fail(self, error: BaseException) -> None:
        """`put` and `flush` raise this."""
        self._error = self._error or error
        self._wake.notify_all()

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while (wait_s := self._step()) is not None:
            with self._wake:
                if self._signals == self._seen:
                    self._wake.wait(wait_s)

    def _step(self) -> float | None:
        """Do everything up to the next wait: how long it may be, or None at the end."""
        try:
            if (wait_s := next(self._steps, None)) is not None:
                if self._writing:  # it has to try again
                    with self._wake:
                        self._crew.rests(self)
                return wait_s
        except BaseException as error:
            self._stop(error)
        with self._wake:
            self._closing = True
            self._crew.rests(self)
        self._commits.drop_session()
        self._ownership.leave()
        return None

    def _write_all(self) -> Steps[None]:
        while (group := (yield from self._gather(at_once=self._admission.folds))) is not None:
            batches, durable = yield from self._admitted(group)
            if batches:
                shared = bool(self._helping) and not self._admission.folds
                try:
                    yield from self._commits.commit(batches, shared=shared)
                except InTheWay:
                    batches, durable = self._each_for_itself(batches, durable)
                    if batches:
                        yield from self._commits.commit(batches)
                # Of windows' totals there may be few, of many records.
                self._pace.wrote(max(self._records, sum(len(batch.messages) for batch in batches)))
            self._are_durable(durable)

    def _stage_all(self) -> Steps[None]:
        """Records go to the target as they come; what was staged is committed once it is large or old enough, or at a flush."""
        size, durable, since_s = self._target.size, 0, math.inf
        while (group := (yield from self._gather(due_s=since_s + size.age_s, at_once=True))) is not None:
            if group:
                since_s = min(since_s, self._now_s())
            batches, more = yield from self._admitted(group)
            if batches:
                yield from self._commits.stage(batches)
            durable += more
            # What was folded is as old as changes get when it comes; by whichever clock that was.
            is_old = self._now_s() >= since_s + size.age_s or (bool(batches) and self._admission.folds)
            if is_old or self._commits.staged_rows >= size.rows_max or (self._flushing and not self._queue):
                yield from self._commits.commit_staged()
                self._are_durable(durable)
                durable, since_s = 0, math.inf

    def _admitted(self, group: list[Any]) -> Steps[tuple[list[Any], int]]:
        for stream in self._admission.unknown(group):
            self._admission.open((yield from self._commits.take_over(stream)))
        return self._admission.take(group, flushing=self._flushing)

    def _are_durable(self, batches: int) -> None:
        with self._wake:
            for other, theirs in self._helping.items():
                other._under_way -= len(theirs)
                other._helped = False
                other._wake.notify_all()
                batches -= len(theirs)
            self._helping = {}
            self._under_way -= batches
            self._apart = False
            self._wake.notify_all()

    def _each_for_itself(self, batches: list[Any], durable: int) -> tuple[list[Any], int]:
        """Somebody else is in the way of one of the writers in this transaction: the others' batches go back to them, and ours
        and their number are left.
        """
        with self._wake:
            streams: set[Stream] = set()
            for other, theirs in self._helping.items():
                self._admission.give_back(theirs)
                streams.update(batch.stream for batch in theirs)
                other._queue.extendleft(reversed(theirs))
                other._waiting += (weight := sum(map(self._admission.weight, theirs)))
                self._records -= weight
                other._helped, other._apart = False, True
                other.wake()
                durable -= len(theirs)
            self._helping, self._apart = {}, True
        return [batch for batch in batches if batch.stream not in streams], durable

    def _stop(self, error: BaseException) -> None:
        self._commits.drop_session()
        if isinstance(error, StopError):
            positions = dict(self._admission.positions)  # at once: others of the crew go on
            error.context.setdefault("positions", {str(s): p.offset_next for s, p in positions.items()})
        try:
            runtime.fail(error)  # in a run this ends the process, before a worker could raise it through Bytewax
        except BaseException:  # elsewhere `put` and `flush` raise it
            with self._wake:
                self._crew.fail(error)

    def _gather(self, due_s: float = math.inf, *, at_once: bool = False) -> Steps[list[Any] | None]:
        """The batches of the next transaction; None when closing. `due_s`: when something is due without any; `at_once`: whatever
        has come.

        Waits for as many records as a change takes, or for the first one to be as old as a change gets, or for a flush. What is
        little is left in the queue meanwhile, where another may take it into its own transaction.
        """
        group: list[Any] = []
        self._records, began_s, first_s, waits = 0, self._now_s(), math.inf, False
        while True:
            self._commits.check_ownership()
            with self._wake:
                self._seen, self._writing = self._signals, False
                if self._closing:
                    return None
                now_s, is_mine = self._now_s(), not self._helped
                came_s = [first_s, *([max(self._came_s, began_s)] if self._queue and is_mine else [])]
                if is_mine and (at_once or group or not self.may_wait):
                    first_s = min(came_s)
                    group += self._taken()
                records = self._records + (self._waiting if is_mine else 0)
                others = self._crew.to_help(self) if (little := records < LITTLE) else []
                came_s += [max(other._came_s, began_s) for other in others]
                items = None if self._admission.folds else chain(group, self._queue, *(other._queue for other in others))
                due_of_records_s = self._pace.due_s(began_s, min(came_s), self._crew.given_s, items)
                if little and not waits and due_of_records_s < math.inf:
                    self._crew.begins(self, now_s)
                waits = due_of_records_s < math.inf
                next_s = min(due_of_records_s, self._admission.due_s, due_s)
                enough = records >= self._commits.size.rows_max or self._flushing
                if now_s >= next_s or (enough and next_s < math.inf) or (at_once and group):
                    self._writing = True
                    if is_mine:
                        group += self._taken()
                    if little:
                        group += self._of_others(now_s)
                    return group
                if not waits:
                    self._crew.rests(self)
            yield min(max(next_s - now_s, TURN_S), IDLE_S)

    def _taken(self) -> list[Any]:
        """Batches from the queue, until the transaction has as many records as a change takes."""
        taken = []
        while self._queue and self._records < self._commits.size.rows_max:
            batch = self._queue.popleft()
            weight = self._admission.weight(batch)
            self._waiting -= weight
            self._records += weight
            taken.append(batch)
        if taken:
            self._wake.notify_all()
        return taken

    def _of_others(self, now_s: float) -> list[Any]:
        """What the others of the crew have, where it is little and there is room: it goes into the same transaction."""
        self._crew.begins(self, now_s)
        out = []
        for other in self._crew.to_help(self):
            if self._records and self._records + other._waiting > self._commits.size.rows_max:
                continue
            self._helping[other] = theirs = list(other._queue)
            other._queue.clear()
            self._records += other._waiting
            other._waiting, other._helped = 0, True
            out += theirs
        return out
