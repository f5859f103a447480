"""The writer: a thread that groups batches into transactions and gets each into the target exactly once."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import deque
from typing import Any

from sinks.admission import Admission
from sinks.isolation import without_rows
from waxwing import log, metrics, runtime
from waxwing.batch import Batch, Stream
from waxwing.errors import RowError, StopError, TargetError, TransientError
from waxwing.target import Change, Position, Session, Target

# A retry waits between half and all of min(RETRY_FIRST_S * 2**n, RETRY_WAIT_MAX_S).
RETRY_FIRST_S = 0.05
RETRY_WAIT_MAX_S = 10.0
# Asked to stop while the target is away: this long a retry may still go on (a stop takes seconds).
RETRY_WHEN_STOPPING_S = 3.0
# Heartbeats per OWNER_STALE_S: one may be lost, and one be late, before an owner is taken for dead.
HEARTBEATS_PER_STALE = 4
# One call may take this much longer than RETRY_MAX_S before the target counts as silent: time limits are the server's own
# business, and a frozen server keeps none.
SILENCE_S = 10.0
CLOSE_S = 5.0


class Writer:
    """One sink partition's writer. `put`, `flush` and `close` are called by Bytewax's worker, the rest runs in its thread."""

    def __init__(self, target: Target, part: str) -> None:
        self._target, self._part = target, part
        self._settings = target.settings
        self._token = secrets.token_hex(8)
        self._session_now: Session | None = None
        self._admission = Admission(target.settings, self._take_over)
        self._queue: deque[Batch[Any]] = deque()
        self._under_way = 0  # batches put and not yet durable
        self._flushing = self._closing = False
        self._error: BaseException | None = None
        self._wake = threading.Condition()
        self._heartbeat_due_s = 0.0
        self._called_s = 0.0  # since when the target has been asked something, 0 while it is not
        self._thread = threading.Thread(target=self._run, name=f"writer-{target.step}-{part}", daemon=True)
        self._thread.start()

    # -- the worker's side ---------------------------------------------------------------------

    def put(self, batch: Batch[Any]) -> None:
        """Hand a batch over; waits while QUEUE_BATCHES_MAX are waiting (back-pressure)."""
        with self._wake:
            while len(self._queue) >= self._settings.queue_batches_max and self._error is None:
                self._wait()
            self._raise()
            self._queue.append(batch)
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
        if called_s and time.monotonic() - called_s > self._settings.retry_max_s + SILENCE_S:
            error = TransientError(
                f"{self._target.name} has not answered for {time.monotonic() - called_s:.0f} s.",
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
        self._thread.join(CLOSE_S if self._error else None)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (group := self._gather()) is not None:
                if batches := self._admission.admit(group):
                    self._commit(batches)
                with self._wake:
                    self._under_way -= len(group)
                    self._wake.notify_all()
        except BaseException as error:
            self._stop(error)
        finally:
            self._drop_session(release=True)

    def _stop(self, error: BaseException) -> None:
        self._drop_session(release=True)
        if isinstance(error, StopError):
            error.context.setdefault("positions", {str(s): p.offset_next for s, p in self._admission.positions.items()})
        try:
            runtime.fail(error)  # in a run this ends the process, before a worker could raise it through Bytewax
        except BaseException:  # elsewhere `put` and `flush` raise it
            with self._wake:
                self._error = error
                self._wake.notify_all()

    def _gather(self) -> list[Batch[Any]] | None:
        """The batches of the next transaction; None when closing.

        Waits for FLUSH_ROWS_MAX records, or FLUSH_INTERVAL_S from the first one, or a flush.
        """
        group: list[Batch[Any]] = []
        records, deadline_s = 0, 0.0
        with self._wake:
            while True:
                if self._closing:
                    return None
                while self._queue and records < self._settings.flush_rows_max:
                    batch = self._queue.popleft()
                    deadline_s = deadline_s or time.monotonic() + self._settings.flush_interval_s
                    records += len(batch.records)
                    group.append(batch)
                    self._wake.notify_all()
                now_s = time.monotonic()
                if group and (records >= self._settings.flush_rows_max or now_s >= deadline_s or self._flushing):
                    return group
                if now_s >= self._heartbeat_due_s and self._admission.positions:
                    self._wake.release()
                    try:
                        self._heartbeat()
                    finally:
                        self._wake.acquire()
                    continue
                until_s = min(deadline_s or now_s + 60, self._heartbeat_due_s if self._admission.positions else now_s + 60)
                self._wake.wait(max(until_s - now_s, 0.001))

    def _heartbeat(self) -> None:
        self._heartbeat_due_s = time.monotonic() + self._settings.owner_stale_s / HEARTBEATS_PER_STALE
        self._called_s = time.monotonic()
        try:
            self._session().heartbeat()
        except TransientError as error:
            # Nothing is lost by a missed heartbeat; the next transaction will retry and say so.
            log.warning("heartbeat_missed", f"{self._target.name}: no heartbeat: {error.message}", part=self._part)
            self._drop_session()
        finally:
            self._called_s = 0.0

    def _commit(self, batches: list[Batch[Any]]) -> None:
        """One transaction for the batches; when rows are bad, without these, or in halves until they stand alone."""
        change = self._admission.change(batches)
        started_s = time.monotonic()
        try:
            self._retrying("write", lambda session: session.write(change), change)
        except _TooLarge:
            for half in _halves(batches):
                self._commit(half)
            return
        except RowError as error:
            self._isolate(batches, error)
            return
        self._admission.moved(change)
        metrics.transaction(self._target.step, self._part, change, time.monotonic() - started_s)
        if time.monotonic() >= self._heartbeat_due_s:
            self._heartbeat()

    def _isolate(self, batches: list[Batch[Any]], error: RowError) -> None:
        """Write the batches without the rows that the error blames; in halves, where it names none."""
        if error.bad:
            self._commit(without_rows(batches, error.bad))
            return
        left, right = _halves(batches)
        if right:
            self._commit(left)
            self._commit(right)
            return
        if not any(batch.records or batch.deletes for batch in left):
            # Nothing but positions and dead letters: it is Waxwing's own tables that refuse.
            raise TargetError(
                f"{self._target.name}: a transaction without any row is refused: {error.message}.",
                hint="Look at triggers and constraints of the waxwing_* tables, and at dead letters left by an earlier flow.",
            ) from error
        self._commit(without_rows(left, self._bad_rows(left, str(error))))

    def _bad_rows(self, batches: list[Batch[Any]], reason: str) -> dict[int, str]:
        """Which rows of the only message with rows are bad: each is tried together with the good ones before it."""
        bad: dict[int, str] = {}
        total = sum(len(batch.records) + len(batch.deletes) for batch in batches)
        for number in range(total):
            others = {n: "" for n in range(total) if n > number} | bad
            change = self._admission.change(without_rows(batches, others, keep_rejects=True))
            try:
                self._retrying("write", lambda session, change=change: session.write(change, dry_run=True), change)
            except RowError as error:
                bad[number] = error.message
        # All well one by one, and not together: then the message as a whole is to blame.
        return bad or dict.fromkeys(range(total), reason)

    # -- connection and retry ------------------------------------------------------------------

    def _take_over(self, stream: Stream) -> Position:
        position: Position = self._retrying("take over", lambda session: session.take_over(stream))
        return position

    def _session(self) -> Session:
        if self._session_now is None:
            self._session_now = self._target.connect(self._part, self._token)
        return self._session_now

    def _drop_session(self, *, release: bool = False) -> None:
        session, self._session_now = self._session_now, None
        if session is not None:
            if release:
                session.release()
            session.close()

    def _retrying(self, what: str, call: Any, change: Change | None = None) -> Any:
        """Call with the session; on a TransientError back off and try again on a new one, for RETRY_MAX_S at most."""
        started_s = time.monotonic()
        asked_to_stop_s = 0.0
        attempt = 0
        while True:
            self._called_s = time.monotonic()
            try:
                return call(self._session())
            except TransientError as error:
                attempt += 1
                self._drop_session()
                if change is not None:
                    change.in_doubt |= bool(error.context.get("committing"))
                    if error.context.get("too_large") and not change.in_doubt and _halves(change.batches)[1]:
                        log.warning("too_large", f"{self._target.name}: writing in halves: {error.message}", part=self._part)
                        raise _TooLarge from error
                metrics.retry(self._target.step, self._part)
                wait_s = min(RETRY_FIRST_S * 2 ** min(attempt - 1, 20), RETRY_WAIT_MAX_S) * random.uniform(0.5, 1.0)
                until_s = time.monotonic() + wait_s
                if until_s - started_s > self._settings.retry_max_s:
                    error.hint = error.hint or "The flow stops here; the next start goes on from the stored positions."
                    raise
                log.warning(
                    "retry",
                    f"{self._target.name}: {what} failed, trying again in {wait_s:.1f} s: {error.message}",
                    part=self._part,
                    attempt=attempt,
                )
                while (left_s := until_s - time.monotonic()) > 0:
                    with self._wake:
                        if self._closing:
                            raise
                        self._wake.wait(min(left_s, 0.2))
                    if runtime.stopping():
                        asked_to_stop_s = asked_to_stop_s or time.monotonic()
                        if time.monotonic() - asked_to_stop_s > RETRY_WHEN_STOPPING_S:
                            raise
            finally:
                self._called_s = 0.0


class _TooLarge(Exception):
    """A transaction was ended for taking too long."""


def _halves(batches: list[Batch[Any]]) -> tuple[list[Batch[Any]], list[Batch[Any]]]:
    """Two parts with about as many messages that have rows; the second is empty when there is only one such message.

    All rows of one message stay together.
    """
    with_rows = [
        (number, at)
        for number, batch in enumerate(batches)
        for at in sorted({*batch.at, *(delete.at for delete in batch.deletes)})
    ]
    if len(with_rows) < 2:
        return batches, []
    number, at = with_rows[len(with_rows) // 2]
    batch = batches[number]
    if at == 0:
        return batches[:number], batches[number:]
    return [*batches[:number], batch.part(0, at)], [batch.part(at, len(batch.messages)), *batches[number + 1 :]]
