"""Changes into a target: each is committed exactly once, tried again where that helps, and freed of its bad rows."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable
from typing import Any

from sinks.writer.admission import Admits
from sinks.writer.isolation import first_of_kind, halves, said, without_rows
from sinks.writer.suspects import Parts, Search, Steps
from sinks.writer.transaction_size import TransactionSize
from waxwing import log, runtime
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.errors import RowError, TableAltered, TableError, TransientError
from waxwing.metrics import counters
from waxwing.target import Session, Target, TryingSession

# A retry waits between half and all of min(RETRY_FIRST_S * 2**n, RETRY_WAIT_MAX_S).
RETRY_FIRST_S = 0.05
RETRY_WAIT_MAX_S = 10.0
# After so many deadlocks or lock time-outs a transaction is written in halves. They come of having waited; so the wait is short.
CONTENDED_MAX = 2
CONTENDED_WAIT_MAX_S = 0.2
# Asked to stop while the target is away: this long a retry may still go on (a stop takes seconds).
RETRY_WHEN_STOPPING_S = 3.0
# So often bad rows are looked for in one transaction: others may change, between a dry run and the transaction, what rows need.
SEARCHES_MAX = 5
# While another owner is alive, it is asked for this often.
OWNER_POLL_S = 0.25
# One call may take this much longer than RETRY_MAX_S before the target counts as silent: time limits are the server's own
# business, and a frozen server keeps none.
SILENCE_S = 10.0


class Commits:
    """What one sink partition commits. It takes steps, and says how long the wait between two of them may be.

    Args:
        target: takes the changes in.
        part: of the partition.
        now_s: the clock.
        admission: what may enter a change.
        is_closing: is nobody waiting any more?
    """

    def __init__(
        self, target: Target, part: str, now_s: Callable[[], float], admission: Admits, is_closing: Callable[[], bool]
    ) -> None:
        self._target, self._part, self._now_s, self._admission = target, part, now_s, admission
        self._settings, self._is_closing = target.settings, is_closing
        self._ownership, self._token = target.ownership, target.token()
        self._owned = target.owners() is not None
        self._session_now: Session | None = None
        self.size = TransactionSize(target.size)
        self._staged = Change([], {}, {}, messages=0, rows=0)
        self._shared = False  # is what is being committed of several writers?
        self._contended_since_s = math.inf  # since when others were in the way, and nothing got through
        self._asked_to_stop_s = 0.0  # when the flow was, while the target was away
        self.called_s = 0.0  # since when the target has been asked something, 0 while it is not

    def commit(self, batches: list[Batch[Any]], *, shared: bool = False) -> Steps[None]:
        """Take the batches in: in one transaction, or in halves where that is too much at once.

        Raises:
            InTheWay: others are, or it is too much, and the batches are of several writers (`shared`). Nothing was written.
        """
        self._shared = shared
        while not self._too_many(batches):
            try:
                yield from self._commit_at_once(batches)
                return
            except TableAltered:
                continue  # all anew: what was bad may be good now
            except InTheWay:
                break
        if shared:
            raise InTheWay
        for half in halves(batches):
            yield from self.commit(half)

    def _too_many(self, batches: list[Batch[Any]]) -> bool:
        """More than others left room for, of late?"""
        return self.size.contended and _rows(batches) > self.size.rows_max and bool(halves(batches)[1])

    def _commit_at_once(self, batches: list[Batch[Any]]) -> Steps[None]:
        """One transaction for the batches; when rows are bad, without these."""
        started_s = self._now_s()
        parts: Parts | None = None
        searches = 0
        while True:
            change = self._admission.change(batches)
            change.parts, change.by_key = parts, self.size.contended
            try:
                yield from self._retrying("write", lambda session, change=change: session.commit(change), change)
                break
            except RowError as error:
                refusal = error
            if refusal.bad and parts is None:  # checked before anything was sent
                batches = without_rows(batches, refusal.bad, self._target.columns)
                continue
            if not isinstance(self._session(), TryingSession):
                raise self._nameless(refusal) from refusal
            if (searches := searches + 1) > SEARCHES_MAX:
                raise TransientError(
                    f"{self._target.name}: rows that fitted in a dry run are refused: {refusal.message}.",
                    hint="Others change what these rows need. The next start goes on from the stored positions.",
                ) from refusal
            batches, parts = yield from self._isolate(change, refusal)
        self._admission.moved(change)
        self._contended_since_s = math.inf
        took_s = self._now_s() - started_s
        self.size.learn(sum(map(self._admission.weight, batches)), took_s)
        self._tell(change, took_s)

    def _tell(self, change: Change, took_s: float) -> None:
        counters.transaction(self._target.step, self._part, change, took_s)
        for letter in first_of_kind(self._target.reasons_told, change.dead_letters):
            log.warning(
                "dead_letter",
                f"{self._target.name}: the first dead letter of its kind, {letter.stream} at offset {letter.offset}, "
                f"refused by {letter.stage}: {said(letter.stage, letter.reason)}. Others like it are only counted.",
                part=self._part,
            )

    def _nameless(self, refusal: RowError) -> TableError:
        return TableError(
            f"{self._target.name}: rows are refused, and it does not say which: {refusal.message}.",
            hint="Nothing of this change was written. Mend what refuses them, then start again.",
        )

    # -- what is staged ----------------------------------------------------------------------------

    def stage(self, batches: list[Batch[Any]]) -> Steps[None]:
        """Give the target the records of these batches, without those that it refuses."""
        while True:
            change = self._admission.change(batches)
            try:
                yield from self._retrying("stage", lambda session, batches=batches: session.stage(batches))
                break
            except RowError as refusal:
                if not refusal.bad:
                    raise self._nameless(refusal) from refusal
                batches = without_rows(batches, refusal.bad, self._target.columns)
        staged = self._staged
        for stream, before in change.before.items():
            staged.before.setdefault(stream, before)
        staged.after.update(change.after)
        staged.dead_letters += change.dead_letters
        messages = sum(len(batch.messages) for batch in batches) if change.messages is None else change.messages
        staged.messages = (staged.messages or 0) + messages
        staged.rows = self.staged_rows + _rows(batches)
        self._admission.moved(change)

    @property
    def staged_rows(self) -> int:
        """Rows that the next commit makes durable."""
        return self._staged.rows or 0

    def commit_staged(self) -> Steps[None]:
        """Commit what was staged since the last commit."""
        change, self._staged = self._staged, Change([], {}, {}, messages=0, rows=0)
        if not change.before:
            return
        started_s = self._now_s()
        try:
            yield from self._retrying("write", lambda session: session.commit(change), change)
        except RowError as refusal:
            raise self._nameless(refusal) from refusal
        self._tell(change, self._now_s() - started_s)

    # -- bad rows -------------------------------------------------------------------------------------

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

    def take_over(self, stream: Stream) -> Steps[Position]:
        yield from self._own()
        position: Position = yield from self._retrying("take over", lambda session: session.take_over(stream))
        return position

    def _own(self) -> Steps[None]:
        """Wait until the flow's targets are ours, as a rule since the source was opened: another process may be alive."""
        until_s = self._now_s() + self._settings.retry_max_s
        while place := (yield from self._retrying("ask for the owner", lambda _: self._ownership.take())):
            if self._now_s() > until_s or runtime.stopping():
                raise TransientError(f"Another process of the flow is alive and owns its positions ({place}).")
            yield OWNER_POLL_S

    def check_ownership(self) -> None:
        """Who has lost one target of the flow, or has let go of them, writes into none; nor does one whose heart stands still."""
        if self._owned:
            self._ownership.check(self._token, self._settings.retry_max_s + SILENCE_S)

    def _lose_session(self, *, first: bool) -> None:
        """Raises Fenced where another owner has ended the session: then that is what there is to say."""
        self.drop_session()
        with contextlib.suppress(TransientError):
            if first:
                self._ownership.beat(self._target.step)

    def _session(self) -> Session:
        if self._session_now is None:
            self._session_now = self._target.connect(self._part, self._token)
        return self._session_now

    def drop_session(self) -> None:
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
            self.check_ownership()
            self.called_s = self._now_s()
            try:
                return call(self._session())
            except TransientError as error:
                attempt, contended = attempt + 1, contended + error.contended
                self._lose_session(first=attempt == 1)
                if change is not None:
                    change.in_doubt |= error.committing
                    self._not_again(error, change, contended)
                counters.retry(self._target.step, self._part)
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
                self.called_s = 0.0

    def _pause(self, until_s: float, error: TransientError) -> Steps[None]:
        """Wait, but raise the error where the flow is asked to stop meanwhile."""
        while (left_s := until_s - self._now_s()) > 0:
            if self._is_closing():
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
        if self._shared and (error.too_large or contended):
            raise InTheWay from error
        if not (error.too_large or contended >= CONTENDED_MAX) or not halves(change.batches)[1]:
            return
        if error.too_large:
            log.warning("too_large", f"{self._target.name}: writing in halves: {error.message}", part=self._part)
        else:
            self.size.give_way(_rows(change.batches))
            log.warning("contended", f"{self._target.name}: writing fewer rows at once: {error.message}", part=self._part)
        raise InTheWay from error


def _rows(batches: list[Batch[Any]]) -> int:
    return sum(len(batch.records) + len(batch.deletes) for batch in batches)


class InTheWay(Exception):
    """A transaction was ended for taking too long, or others were in its way; it is to be cut."""
