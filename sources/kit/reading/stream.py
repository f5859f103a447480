"""One stream of a lane: cuts what was read into batches without a gap, which end at every position that a target holds."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from sources.kit.words import OpenPart, Raw, Run
from waxwing.batch import Columns, Messages, marked, raw
from waxwing.errors import OffsetGap, TargetError

# An idle stream says so again: windows are closed by the clock so much later at most.
IDLE_AGAIN_S = 5.0


class StreamReader:
    """A stream's position, the split points ahead, and where a bounded run ends. Pure.

    Attributes:
        position: behind the last record that was passed on.
        token: the last one that was passed on, or the one that reading began with; `token_offset` is its place.
        over: nothing more will come.
    """

    def __init__(self, lane: str, part: OpenPart, *, replayable: bool = True) -> None:
        self.stream, self.position, self.end = part.stream, part.offset, part.offset_end
        self.token, self.token_offset = part.token, part.token_offset
        self.over = False
        self._lane, self._splits, self._replayable = lane, list(part.splits), replayable
        self._waiting_since_s: float | None = None  # at the log's end
        self._idle_said_s = 0.0

    @property
    def done(self) -> bool:
        """Has a bounded run reached its end here?"""
        return self.over or (self.end is not None and self.position >= self.end)

    def take(self, run: Run, *, at_end: bool = False) -> list[Raw]:
        """The batches of a run; `at_end`: the log ends behind it, for now."""
        messages, token, size = run.messages, run.token, len(run.messages)
        offset_next = run.offset_next
        if offset_next is None:
            offset_next = messages.offsets[-1] + 1 if size else self.position
        if self.token is not None and offset_next < self.position:
            return []  # read again from a token: it was passed on before, and its token is not that of the position
        if size and messages.offsets[0] < self.position:
            if self.token is None:
                raise OffsetGap(
                    f"{self.stream}: the source gave offset {messages.offsets[0]} below the position {self.position}."
                )
            messages = messages.part(self._cut(run, messages, self.position), size)
        offset_next = max(offset_next, self.position)
        if at_end and not size and offset_next == self.position and self._waiting_since_s is not None and token is None:
            return []  # it waits there already
        if size or not at_end or self._waiting_since_s is None:  # a quiet source that says where it stands waits on
            self._waiting_since_s, self._idle_said_s = (time.monotonic() if at_end else None), 0.0
        if self.end is not None and offset_next > self.end:
            messages = messages.part(0, self._cut(run, messages, self.end))
            offset_next, token = self.end, None
        batches = []
        while self._splits and self._splits[0] < offset_next:
            split = self._splits.pop(0)
            if split > self.position:
                cut = self._cut(run, messages, split)
                batches += self._batch(split, messages.part(0, cut), None, run, at_end=True)
                messages = messages.part(cut, len(messages))
        return batches + self._batch(offset_next, messages, token, run, at_end=at_end)

    def idle(self, after_s: Sequence[float]) -> list[Raw]:
        """A mark where it has waited at the log's end for one of these times, and then every IDLE_AGAIN_S: what waits for the
        clock is to hear of it."""
        if self._waiting_since_s is None or not after_s:
            return []
        said_s, now_s = self._idle_said_s, time.monotonic() - self._waiting_since_s
        due_s = next((after for after in after_s if after > said_s), said_s + IDLE_AGAIN_S)
        if now_s < min(due_s, max(after_s[0], said_s + IDLE_AGAIN_S)):
            return []
        self._idle_said_s = now_s
        return [marked(self.stream, self._lane, self.position, "idle", now_s)]

    def rests(self) -> Raw:
        """Says that nothing more comes in this reading, though it is not the end."""
        return marked(self.stream, self._lane, self.position, "idle")

    def nothing(self) -> Raw:
        """A batch without a record, which says nothing."""
        return raw(self.stream, self._lane, self.position, self.position, Columns((), (), (), (), ()))

    def ended(self) -> Raw:
        """Says that there are no more records."""
        return marked(self.stream, self._lane, self.position, "end")

    def _cut(self, run: Run, messages: Messages, offset: int) -> int:
        """The number of the first message at or above an offset."""
        at = bisect_left(messages.offsets, offset)
        if run.whole and 0 < at < len(messages):
            raise OffsetGap(
                f"{self.stream}: {offset} lies inside a run, {messages.offsets[0]} to {messages.offsets[-1]}, that is never cut.",
                hint="Nothing of it was passed on. A source that can't be read again has to begin at the token that is stored.",
            )
        return at

    def _batch(self, offset_next: int, messages: Messages, token: bytes | None, run: Run, *, at_end: bool) -> list[Raw]:
        offset_first, self.position = self.position, max(self.position, offset_next)
        moves_token = token is not None and token != self.token
        if offset_first >= offset_next and not moves_token and (at_end or len(run.messages) or token is not None):
            return []
        if not self._replayable and not (run.whole and (token is not None or not len(messages))):
            raise TargetError(
                f"{self.stream}: a source that can't be read again passed on {offset_first} to {offset_next} "
                f"{'in part' if not run.whole else 'without a token'}."
            )
        if token is not None:
            self.token, self.token_offset = token, self.position
        batch = raw(self.stream, self._lane, offset_first, self.position, messages)
        return [replace(batch, whole=run.whole, token=token) if run.whole or token is not None else batch]
