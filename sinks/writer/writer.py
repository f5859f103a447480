"""The writer: a thread that groups batches into transactions and gets each into the target exactly once."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sinks.writer.admission import Admission, Admits
from sinks.writer.isolation import first_of_kind, halves, said, without_rows
from sinks.writer.suspects import Parts, Search, Steps
from sinks.writer.transaction_size import TransactionSize
from waxwing import log, metrics, runtime
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.errors import RowError, StopError, TableAltered, TableError, TransientError
from waxwing.target import Session, Target

# A retry waits between half and all of min(RETRY_FIRST_S * 2**n, RETRY_WAIT_MAX_S).
RETRY_FIRST_S = 0.05
RETRY_WAIT_MAX_S = 10.0
# After so many deadlocks or lock time-outs a transaction is written in halves. They come of having waited; so the wait is short.
CONTENDED_MAX = 2
CONTENDED_WAIT_MAX_S = 0.2
# Asked to stop while the target is away: this long a retry may still go on (a stop takes seconds).
RETRY_WHEN_STOPPING_S = 3.0
# One call may take this much longer than RETRY_MAX_S before the target counts as silent: time limits are the server's own
# business, and a frozen server keeps none.
SILENCE_S = 10.0
CLOSE_S = 5.0
# So often bad rows are looked for in one transaction: others may change, between a dry run and the transaction, what rows need.
SEARCHES_MAX = 5
# An idle thread looks up this often.
IDLE_S = 60.0
# While another owner is alive, it is asked for this often.
OWNER_POLL_S = 0.25


class Writer:
    """One sink partition's writer. `put`, `flush` and `close` are called by Bytewax's worker, the rest runs in its thread.

    The thread only takes steps and waits between them, so that the very same steps can be taken without a thread, under
    another clock (tests/simulation).
    """

    def __init__(
        self, target: Target, part: str, now_s: Callable[[], float] = time.monotonic, admission: Admits | None = None
    ) -> None:
        self._target, self._part, self._now_s = target, part, now_s
        self._settings = target.settings
        self._ownership = target.ownership
        self._ownership.enter()
        self._token = target.token()
        self._owned = target.owners() is not None
        self._session_now: Session | None = None
        self._admission: Admits = admission or Admission(
            target.settings, f"Step {target.step}, {target.name}: ", target.resume_command
        )
        self._queue: deque[Any] = deque()
        self._waiting = 0  # records in the queue, by their weight
        self._size = TransactionSize(target.settings.flush_rows_max, target.transaction_s)
        self._under_way = 0  # batches put and not yet durable
        self._flushing = self._closing = False
        self._error: BaseException | None = None
        self._wake = threading.Condition()
        self._contended_since_s = math.inf  # since when others were in the way, and nothing got through
        self._asked_to_stop_s = 0.0  # when the flow was, while the target was away
        self._called_s = 0.0  # since when the target has been asked something, 0 while it is not
        self._steps = self._write_all()
        self._start()

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
            self._queue.append(batch)
            self._waiting += self._admission.weight(batch)
            self._under_way += 1
            self._wake.notify_all()

    def flush(self) -> None:
        """Wait until all that was handed over is durable."""
        with self._wake:
            self._flushing = True
            self._wake.notify_all()
            while self._under_way and self._error is None:
                self._wait()
            self._flushing = False
            self._raise()

    def _wait(self) -> None:
        """Wait for the thread; but not for ever for a server that neither answers nor hangs up (frozen, or cut off)."""
        self._wake.wait(1.0)
        called_s = self._called_s
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
            self._wake.notify_all()
        # A thread that waits for a silent server is left behind: it ends with the process.
        self._thread.join(CLOSE_S)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while (wait_s := self._step()) is not None:
            self._wake.wait(wait_s)

    def _step(self) -> float | None:
        """Do everything up to the next wait: how long it may be, or None at the end. `_wake` is then held."""
        try:
            if (wait_s := next(self._steps, None)) is not None:
                return wait_s
        except BaseException as error:
            self._stop(error)
        self._drop_session()
        self._ownership.leave()
        return None

    def _write_all(self) -> Steps[None]:
        while (group := (yield from self._gather())) is not None:
            for stream in self._admission.unknown(group):
                self._admission.open((yield from self._take_over(stream)))
            batches, durable = self._admission.take(group, flushing=self._flushing)
            if batches:
                yield from self._commit(batches)
            with self._wake:
                self._under_way -= durable
                self._wake.notify_all()

    def _stop(self, error: BaseException) -> None:
        self._drop_session()
        if isinstance(error, StopError):
            error.context.setdefault("positions", {str(s): p.offset_next for s, p in self._admission.positions.items()})
        try:
            runtime.fail(error)  # in a run this ends the process, before a worker could raise it through Bytewax
        except BaseException:  # elsewhere `put` and `flush` raise it
            with self._wake:
                self._error = error
                self._wake.notify_all()

    def _gather(self) -> Steps[list[Any] | None]:
        """The batches of the next transaction; None when closing.

        Waits for as many records as a transaction takes, or FLUSH_INTERVAL_S from the first one, or a flush.
        """
        group: list[Any] = []
        records, deadline_s = 0, math.inf
        while True:
            self._check_ownership()
            with self._wake:
                if self._closing:
                    return None
                while self._queue and records < self._size.rows_max:
                    batch = self._queue.popleft()
                    weight = self._admission.weight(batch)
                    self._waiting -= weight
                    deadline_s = min(deadline_s, self._now_s() + self._settings.flush_interval_s)
                    records += weight
                    group.append(batch)
                    self._wake.notify_all()
                now_s = self._now_s()
                due_s = min(deadline_s, self._admission.due_s)
                if now_s >= due_s or (due_s < math.inf and (records >= self._size.rows_max or self._flushing)):
                    return group
                yield min(max(due_s - now_s, 0.001), IDLE_S)

    def _commit(self, batches: list[Batch[Any]]) -> Steps[None]:
        """Take the batches in: in one transaction, or in halves where that is too much at once."""
        while not self._too_many(batches):
            try:
                yield from self._commit_at_once(batches)
                return
            except TableAltered:
                continue  # all anew: what was bad may be good now
            except _TooLarge:
                break
        for half in halves(batches):
            yield from self._commit(half)

    def _too_many(self, batches: list[Batch[Any]]) -> bool:
        """More than others left room for, of late?"""
        return self._size.contended and _rows(batches) > self._size.rows_max and bool(halves(batches)[1])

    def _commit_at_once(self, batches: list[Batch[Any]]) -> Steps[None]:
        """One transaction for the batches; when rows are bad, without these."""
        started_s = self._now_s()
        parts: Parts | None = None
        searches = 0
        while True:
            change = self._admission.change(batches)
            change.parts, change.by_key = parts, self._size.contended
            try:
                yield from self._retrying("write", lambda session, change=change: session.commit(change), change)
                break
            except RowError as error:
                refusal = error
            if refusal.bad and parts is None:  # checked before anything was sent
                batches = without_rows(batches, refusal.bad, self._target.columns)
                continue
            if (searches := searches + 1) > SEARCHES_MAX:
                raise TransientError(
                    f"{self._target.name}: rows that fitted in a dry run are refused: {refusal.message}.",
                    hint="Others change what these rows need. The next start goes on from the stored positions.",
                ) from refusal
            batches, parts = yield from self._isolate(change, refusal)
        self._admission.moved(change)
        self._contended_since_s = math.inf
        took_s = self._now_s() - started_s
        self._size.learn(sum(map(self._admission.weight, batches)), took_s)
        metrics.transaction(self._target.step, self._part, change, took_s)
        for letter in first_of_kind(self._target.reasons_told, change.dead_letters):
            log.warning(
                "dead_letter",
                f"{self._target.name}: the first dead letter of its kind, {letter.stream} at offset {letter.offset}, "
                f"refused by {letter.stage}: {said(letter.stage, letter.reason)}. Others like it are only counted.",
                part=self._part,
            )

    def _isolate(self, change: Change, refusal: RowError) -> Steps[tuple[list[Batch[Any]], Parts]]:
        """Find the bad rows of a change that is refused: the batches without them, and the others in parts that fit."""
        batches = change.batches
        alone = Change([], change.before, change.after, change.dead_letters, parts=[])
        alone_refused = refusal if not any(batch.records or batch.deletes for batch in batches) else None
        if change.dead_letters and alone_refused is None:
            alone_refused = yield from self._try(alone)
        if alone_refused is not None:
            # Nothing but positions and dead letters: it is Waxwing's own tables that refuse.
            raise TableError(
                f"{self._target.name}: a transaction without any row is refused: {alone_refused.message}.",
                hint="Look at triggers and constraints of the waxwing_* tables, and at dead letters left by an earlier flow.",
            ) from alone_refused

        def attempt(parts: Parts) -> Steps[RowError | None]:
            written = [batch for part in parts for batch in part]
            return (yield from self._try(Change(written, change.before, change.after, parts=parts)))

        order = yield from self._retrying("write", lambda session: session.order(change))
        search = Search(
            batches,
            attempt,
            lambda bad: self._admission.change(without_rows(batches, bad, self._target.columns)),
            order,
            resends=self._target.resends,
        )
        yield from search.run()
        return without_rows(batches, search.bad, self._target.columns), search.parts

    def _try(self, change: Change) -> Steps[RowError | None]:
        """A dry run: the refusal, or None."""
        try:
            yield from self._retrying("write", lambda session: session.attempt(change), change)
        except RowError as error:
            return error
        return None

    # -- connection and retry ------------------------------------------------------------------

    def _take_over(self, stream: Stream) -> Steps[Position]:
        yield from self._own()
        position: Position = yield from self._retrying("take over", lambda session: session.take_over(stream))
        return position

    def _own(self) -> Steps[None]:
        """Wait until the flow's targets are ours, as a rule since the source was opened: another process may be alive."""
        until_s = self._now_s() + self._settings.retry_max_s
        while place := (yield from self._retrying("ask for the owner", lambda _: self._ownership.take())):
            if self._now_s() > until_s or runtime.stopping():
                raise TransientError(f"Another process of the flow is alive and owns its positions ({place}).")
            with self._wake:
                yield OWNER_POLL_S

    def _check_ownership(self) -> None:
        """Who has lost one target of the flow, or has let go of them, writes into none; nor does one whose heart stands still."""
        if self._owned:
            self._ownership.check(self._token, self._settings.retry_max_s + SILENCE_S)

    def _lose_session(self, *, first: bool) -> None:
        """Raises Fenced where another owner has ended the session: then that is what there is to say."""
        self._drop_session()
        with contextlib.suppress(TransientError):
            if first:
                self._ownership.beat(self._target.step)

    def _session(self) -> Session:
        if self._session_now is None:
            self._session_now = self._target.connect(self._part, self._token)
        return self._session_now

    def _drop_session(self) -> None:
        session, self._session_now = self._session_now, None
        if session is not None:
            session.close()

    def _bare(self, error: TransientError) -> str:
        """What is wrong, without the target's name in front."""
        return error.message.removeprefix(f"{self._target.name}: ")

    def _retrying(self, what: str, call: Any, change: Change | None = None) -> Steps[Any]:
        """Call with the session; on a TransientError back off and try again on a new one, for RETRY_MAX_S at most."""
        started_s = self._now_s()
        attempt = contended = 0
        while True:
            self._check_ownership()
            self._called_s = self._now_s()
            try:
                return call(self._session())
            except TransientError as error:
                attempt, contended = attempt + 1, contended + error.contended
                self._lose_session(first=attempt == 1)
                if change is not None:
                    change.in_doubt |= error.committing
                    self._not_again(error, change, contended)
                metrics.retry(self._target.step, self._part)
                wait_s = min(RETRY_FIRST_S * 2 ** min(attempt - 1, 20), RETRY_WAIT_MAX_S) * random.uniform(0.5, 1.0)
                if error.contended:
                    wait_s = min(wait_s, CONTENDED_WAIT_MAX_S)
                    started_s = self._contended_since_s = min(started_s, self._contended_since_s)
                until_s = self._now_s() + wait_s
                if until_s - started_s > self._settings.retry_max_s:
                    if error.too_large and change is not None and not change.in_doubt:
                        places = ", ".join(f"{stream} at {position.offset_next}" for stream, position in change.before.items())
                        error.hint = (
                            f"One record alone takes too long ({places}): see DATABASE_STATEMENT_TIMEOUT_S, or a trigger."
                        )
                    error.hint = error.hint or "The flow stops here; the next start goes on from the stored positions."
                    raise
                log.lasting(
                    "retry",
                    error.message,
                    f"{self._target.name}: {what} failed, trying again in {wait_s:.1f} s: {self._bare(error)}",
                    part=self._part,
                    attempt=attempt,
                )
                yield from self._pause(until_s, error)
            finally:
                self._called_s = 0.0

    def _pause(self, until_s: float, error: TransientError) -> Steps[None]:
        """Wait, but raise the error where the flow is asked to stop meanwhile."""
        while (left_s := until_s - self._now_s()) > 0:
            with self._wake:
                if self._closing:
                    raise error
                yield min(left_s, 0.2)
            if runtime.stopping():
                self._asked_to_stop_s = self._asked_to_stop_s or self._now_s()
                if self._now_s() - self._asked_to_stop_s > RETRY_WHEN_STOPPING_S:
                    raise error

    def _not_again(self, error: TransientError, change: Change, contended: int) -> None:
        """Raises where the very same change is not to be tried again: it is to be planned anew, or cut."""
        if change.in_doubt:
            return
        if isinstance(error, TableAltered):
            log.warning("table_altered", error.message, part=self._part)
            raise error
        if not (error.too_large or contended >= CONTENDED_MAX) or not halves(change.batches)[1]:
            return
        if error.too_large:
            log.warning("too_large", f"{self._target.name}: writing in halves: {error.message}", part=self._part)
        else:
            self._size.give_way(_rows(change.batches))
            log.warning("contended", f"{self._target.name}: writing fewer rows at once: {error.message}", part=self._part)
        raise _TooLarge from error


def _rows(batches: list[Batch[Any]]) -> int:
    return sum(len(batch.records) + len(batch.deletes) for batch in batches)


class _TooLarge(Exception):
    """A transaction was ended for taking too long, or others were in its way."""
