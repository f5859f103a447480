"""How far a bucket has come in each stream, which of them it waits for, and up to where its windows may close."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from waxwing.batch import Stream
from waxwing.errors import OffsetGap
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Held, Mark, Piece, first_held


class Progress:
    """Streams that are no longer read (of another topic, or of one that was made anew) are history: nobody waits for them.

    Args:
        definition: the windows.
        held: how far it has come.
        awaited: streams of a topic that is new here, of which nothing was heard yet: nothing closes without them.
        streams_min: before so many streams are known nothing closes.
    """

    def __init__(
        self, definition: Windows, held: dict[Stream, Held], awaited: Iterable[Stream] = (), *, streams_min: int = 0
    ) -> None:
        self._definition, self._streams_min = definition, streams_min
        self.held = held
        self.awaited = set(awaited)
        self.waits = False  # for a topic of which nothing is known: nothing closes
        self._gone: set[Stream] = set()  # not read in this run
        # Decided in memory only: what was not committed never happened.
        self._idle: set[Stream] = set()
        self._ended: set[Stream] = set()
        self._clocks: dict[Stream, int] = {}  # until when it was idle, at least

    @property
    def place(self) -> int:
        """Where reading began, in event time: windows that began before it lack records that were never read. A stream of which
        nothing was read has no say: it is waited for, or idle."""
        return max((held.place for held in self.held.values() if held.watermark > NEVER), default=NEVER)

    def reads(self, live: Collection[Stream]) -> None:
        """These are the streams that this run reads."""
        topics = {stream[:3] for stream in self.held}
        new = {stream for stream in live if stream not in self.held and stream[:3] not in topics}
        self._gone, self.awaited = self.held.keys() - set(live), self.awaited.intersection(live) | new

    def is_next(self, piece: Piece) -> bool:
        """Does it go on where the stream stands? False when it was taken in before: it may still bring the place a token.

        Raises:
            OffsetGap: neither.
        """
        held = self._known(piece.stream, piece.offset_start, piece.offset_first)
        if piece.messages:  # one that is read again, too: who reads is not idle, and who says no more than where it stands is
            self._idle.discard(piece.stream)
            self._ended.discard(piece.stream)
            self._clocks.pop(piece.stream, None)
        if piece.offset_next <= held.offset_next:
            self._keep_token(piece)
            return False
        if piece.offset_first != held.offset_next:
            raise OffsetGap(
                f"Windows: a piece of {piece.stream} covers offsets {piece.offset_first:,} to {piece.offset_next:,}, "
                f"the bucket stands at {held.offset_next:,}.",
                hint="Batches must end at every position that a bucket holds, and reach it in order.",
            )
        return True

    def take(self, piece: Piece) -> None:
        """It was folded."""
        held = self.held[piece.stream]
        watermark, place = max(held.watermark, piece.watermark_next), min(held.place, piece.place)
        self.held[piece.stream] = held._replace(offset_next=piece.offset_next, watermark=watermark, place=place)
        self._keep_token(piece)

    def _keep_token(self, piece: Piece) -> None:
        held = self.held[piece.stream]
        if piece.token is not None and piece.offset_next == held.offset_next:
            self.held[piece.stream] = held._replace(token=piece.token, token_offset=piece.offset_next)

    def mark(self, mark: Mark) -> None:
        """The stream is not waited for until its next piece.

        Raises:
            OffsetGap: the mark stands behind records that never came here.
        """
        held = self._known(mark.stream, mark.offset_start, mark.offset)
        if mark.offset > held.offset_next:
            raise OffsetGap(
                f"Windows: {mark.stream} is said to end at {mark.offset:,}, the bucket stands at {held.offset_next:,}."
            )
        self._idle.add(mark.stream)
        self._clocks[mark.stream] = max(mark.clock_us, self._clocks.get(mark.stream, NEVER))
        if mark.ended:
            self._ended.add(mark.stream)

    def ends(self) -> tuple[Mark, ...]:
        """Those that have ended."""
        held = self.held
        return tuple(Mark(one, held[one].offset_start, held[one].offset_next, True) for one in sorted(self._ended))

    def _known(self, stream: Stream, offset_start: int, offset: int) -> Held:
        self._gone.discard(stream)
        if stream not in self.held:
            if offset != offset_start:
                raise OffsetGap(
                    f"Windows: {stream} is new here, and begins at offset {offset:,} instead of its start, {offset_start:,}.",
                    hint="A partition that was added is read from its start by every bucket.",
                )
            self.held[stream] = first_held(offset_start)
            self.awaited.discard(stream)
        return self.held[stream]

    def jump(self, stream: Stream, offset: int, moment_us: int, offset_start: int | None, stood_at: int | None) -> None:
        """Go on from another offset (see Bucket)."""
        start = offset if offset_start is None else offset_start
        held = self.held.get(stream) or first_held(start)
        if stood_at is None or held.offset_next == stood_at:
            # Back onto a log that was cut, nothing is passed over.
            place = moment_us if offset > held.offset_next else min(held.place, moment_us)
            held = held._replace(offset_next=offset, place=place)
            if held.token_offset is not None and held.token_offset >= offset:
                held = held._replace(token=None, token_offset=None)
            self.held[stream] = held
            self.awaited.discard(stream)

    def closes_to(self) -> int:
        """Windows that end here or before may close; NEVER: none may."""
        if self.waits or self.awaited or len(self.held) < self._streams_min:
            return NEVER
        read = {stream: one.watermark for stream, one in self.held.items() if stream not in self._gone}
        waited_for = [watermark for stream, watermark in read.items() if stream not in self._idle]
        if waited_for or not read:
            return min(waited_for, default=NEVER)
        if read.keys() <= self._ended:
            return self._end_of_all()
        return max(*read.values(), self._by_clock(read))

    def _by_clock(self, read: Collection[Stream]) -> int:
        """All are idle: as if each brought a record at the time of the day until which it was idle. Not behind the last window
        that a record is in: the clock closes what is open, and says nothing of what may come.
        """
        idle = [self._clocks.get(stream, NEVER) for stream in read if stream not in self._ended]
        return max(NEVER, min(min(idle, default=NEVER) - self._definition.lateness_us, self._end_of_all()))

    def _end_of_all(self) -> int:
        """Behind every window that a record so far may be in, its grace too: the same for all buckets, whatever keys they have.

        Not "for ever": the flow may go on some day, with later windows.
        """
        definition, watermark = self._definition, max(one.watermark for one in self.held.values())
        if watermark == NEVER:
            return NEVER
        highest = watermark + definition.lateness_us
        if definition.gap_us is not None:
            return highest + definition.gap_us
        return definition.grid.ends(definition.grid.slot(highest))[-1] + definition.grace_us
