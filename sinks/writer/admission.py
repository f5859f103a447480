"""What may enter a transaction: the replay cut, the gap check, and the limits on bad rows. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

from sinks.writer.isolation import dead_letters, said
from sinks.writer.transaction_size import weight
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.errors import BadRowsLimit, OffsetGap
from waxwing.settings import SinkSettings
from waxwing.target import Target

# BAD_RATIO_MAX is judged within blocks of this many records of a partition.
RATIO_BLOCK_RECORDS = 10_000


class Admits(Protocol):
    """What a writer asks about what it is given: batches (Admission), or pieces of windows."""

    @property
    def positions(self) -> Mapping[Stream, Any]:
        """What is owned: by stream, something with an `offset_next`."""

    @property
    def due_s(self) -> float:
        """When something that was admitted before has to be written, whether more comes or not."""

    @property
    def folds(self) -> bool:
        """Does it fold what it is given, so that nothing has to be gathered for it? Then it says itself what is due."""

    def weight(self, item: Any) -> int:
        """Records, counted by what they hold in memory."""

    def unknown(self, items: list[Any]) -> list[Stream]:
        """Streams that have to be taken over, and then opened, before the items are admitted."""

    def open(self, position: Position) -> None:
        """The stream of this stored position is ours."""

    def take(self, items: list[Any], *, flushing: bool) -> tuple[list[Batch[Any]], int]:
        """What to write now, and how many of the items given so far are durable then."""

    def give_back(self, items: list[Any]) -> None:
        """These, of those that were taken last, come again. (Never asked where it folds.)"""

    def change(self, batches: list[Batch[Any]]) -> Change:
        """The transaction for these batches."""

    def moved(self, change: Change) -> None:
        """The change is durable."""


def admission_of(target: Target) -> Admission:
    """What may enter the transactions of a step."""
    return Admission(target.settings, f"Step {target.step}, {target.name}: ", target.resume_command)


class Admission:
    """The positions of one partition's streams: what is durable, and what has arrived.

    Args:
        settings: the limits on bad rows.
        where: the step and its target, for messages.
        resume: what an operator types to let bad rows pass.
    """

    def __init__(self, settings: SinkSettings, where: str = "", resume: str = "waxwing resume FLOW") -> None:
        self._settings, self._where, self._resume = settings, where, resume
        self._arrived: dict[Stream, int] = {}
        self.positions: dict[Stream, Position] = {}

    def unknown(self, batches: list[Batch[Any]]) -> list[Stream]:
        """The streams whose position has to be taken over and opened before the batches are admitted."""
        return [stream for stream in dict.fromkeys(batch.stream for batch in batches) if stream not in self.positions]

    def open(self, position: Position) -> None:
        """The stream of this stored position is ours; its first batch may lie below."""
        self.positions[position.stream] = position

    due_s = math.inf
    folds = False
    weight = staticmethod(weight)

    def take(self, items: list[Batch[Any]], *, flushing: bool) -> tuple[list[Batch[Any]], int]:  # noqa: ARG002 - windows ask
        """The batches to write, which are durable then."""
        return self.admit(items), len(items)

    def give_back(self, items: list[Batch[Any]]) -> None:
        """These, of those that were taken last, come again."""
        for batch in reversed(items):
            self._arrived[batch.stream] = batch.offset_first

    def admit(self, batches: list[Batch[Any]]) -> list[Batch[Any]]:
        """Cut off what was taken in before.

        Raises:
            OffsetGap: a batch does not start where the one before it ended (below is as wrong as above:
                it would look like a replay), or the first one starts above the stored position.
        """
        out = []
        for batch in batches:
            stream = batch.stream
            position = self.positions[stream]
            expected = self._arrived.get(stream, min(batch.offset_first, position.offset_next))
            if batch.offset_first != expected or batch.offset_next < batch.offset_first:
                raise OffsetGap(
                    f"{stream}: a batch covers offsets {batch.offset_first} to {batch.offset_next}, "
                    f"expected was one from {expected}.",
                    hint="Nothing of this batch was written. A sink must be fed by one unbroken path from its source: no "
                    "redistribute, no merge of branches of one stream; and the source must know the target: no feeds=[...].",
                    source=stream.source,
                    partition=stream.partition,
                    offset_first=batch.offset_first,
                    expected=expected,
                )
            self._arrived[stream] = batch.offset_next
            if batch.offset_next > position.offset_next or _moves_token(batch, position):
                out.append(batch.after(position.offset_next))
        return out

    def change(self, batches: list[Batch[Any]]) -> Change:
        """The transaction for these batches: moves of the positions, dead letters.

        Raises:
            BadRowsLimit: with these batches a limit on bad rows is passed.
        """
        before: dict[Stream, Position] = {}
        after: dict[Stream, Position] = {}
        for batch in batches:
            position = after.get(batch.stream) or self.positions[batch.stream]
            before.setdefault(batch.stream, position)
            after[batch.stream] = self._judged(position, batch)
        letters = [letter for batch in batches for letter in dead_letters(batch)]
        return Change(batches, before, after, letters)

    def moved(self, change: Change) -> None:
        """The change is durable."""
        self.positions.update(change.after)

    def _judged(self, position: Position, batch: Batch[Any]) -> Position:
        """The position behind the batch, with the counters of bad records moved on, record by record in offset order.

        Counted is what came this far: a filter's left-overs would hide that all of the rest is bad.
        """
        arrived = batch.arrived
        size = len(arrived)
        below = bisect_left(batch.messages.offsets, position.limits_from) if batch.offset_first < position.limits_from else 0
        first = bisect_left(arrived, below)
        base = position.records_seen - first  # of the block that the position stands in
        block, bad, run, previous = 0, position.records_bad, position.bad_run, first - 1
        for at in sorted(at for at in _bad(batch, arrived) if at >= below) if batch.rejects else ():
            n = bisect_left(arrived, at)
            if (base + n) // RATIO_BLOCK_RECORDS != block:
                block, bad = (base + n) // RATIO_BLOCK_RECORDS, 0
            bad += 1
            run = run + 1 if n == previous + 1 else 1
            previous = n
            if run > self._settings.bad_run_max:
                self._limit(batch, at, f"{run:,} bad records in a row")
            if bad > self._settings.bad_ratio_max * RATIO_BLOCK_RECORDS:
                self._limit(batch, at, f"{bad:,} bad records among {RATIO_BLOCK_RECORDS:,}")
        same_block = (base + size) // RATIO_BLOCK_RECORDS == block
        if batch.token is not None:
            position = position._replace(token=batch.token, token_offset=batch.offset_next)
        return position._replace(
            offset_next=batch.offset_next,
            records_seen=(base + size) % RATIO_BLOCK_RECORDS,
            records_bad=bad if same_block else 0,
            bad_run=run if previous == size - 1 else 0,
        )

    def _limit(self, batch: Batch[Any], at: int, what: str) -> NoReturn:
        offset = batch.messages.offsets[at]
        reject = next((reject for reject in batch.rejects if reject.at == at), batch.rejects[-1])
        reason = said(reject.stage, reject.reason)
        raise BadRowsLimit(
            f"{self._where}{batch.stream}: {what}, up to offset {offset}; the last one: {reason}.",
            hint="Something is wrong with the table or the producer. Mend it and start again, or accept them as dead letters: "
            f"{self._resume}",
            source=batch.stream.source,
            partition=batch.stream.partition,
            offset=offset,
        )


def _moves_token(batch: Batch[Any], position: Position) -> bool:
    """Does it bring nothing but a later place to read from? Else a quiet source would have to keep its log for ever."""
    return batch.offset_next == position.offset_next and batch.token not in (None, position.token)


def _bad(batch: Batch[Any], arrived: Sequence[int]) -> set[int]:
    """The numbers of the messages that are bad, in full or in part.

    Bad rows of a batch that is whole are of no one message: they count as that share of its messages, evenly spread.
    """
    bad = {reject.at for reject in batch.rejects if reject.value is None}
    rows, size = len(batch.rejects) - sum(reject.value is None for reject in batch.rejects), len(arrived)
    if rows:
        share = -(-size * rows // (len(batch.records) + rows))
        bad |= {arrived[n * size // share] for n in range(share)}
    return bad
