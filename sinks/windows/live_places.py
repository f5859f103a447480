"""Where the streams of live windows begin in event time: windows that began before the latest of these places are left out.

Live rows are written as records come, so that it has to be known before the first one is: what comes until each stream that
begins in the middle of its log has shown its first record, or nothing for a moment, is held back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from waxwing.batch import Batch, Stream
from waxwing.ledger.windows import IDLE, NEVER, SEEN, UNKNOWN, Known, Streams

# How often another process is asked after.
POLL_S = 0.2
# An update of the kept streams: what is kept becomes what is returned.
Update = Callable[[Callable[[Streams], Streams]], Streams]


class LivePlaces:
    """What is known of the streams' places, shared by all lanes of the process and, by the database, of the flow.

    Args:
        update: changes what is kept, in one transaction.
        place_of: the place of a stream behind a batch, which stood at the given one before; None: it has no good record.
    """

    def __init__(self, update: Update, place_of: Callable[[Batch[Any], int], int | None]) -> None:
        self._update, self._place_of = update, place_of
        self._lock = threading.Lock()
        self._read: set[Stream] = set()
        self._streams: Streams = {}
        self._held: dict[Stream, list[Batch[Any]]] = {}
        self._polled_s = 0.0
        self._unseen: frozenset[Stream] = frozenset()
        self.settled = True
        self.place = NEVER

    def begin(self, read: set[Stream]) -> None:
        """These streams are read, too."""
        with self._lock:
            self._read |= read
            self._learn(self._update(lambda streams: streams))

    def _learn(self, streams: Streams) -> None:
        self._streams = {stream: one for stream, one in streams.items() if one.place != NEVER}
        read = {stream: one for stream, one in self._streams.items() if stream in self._read}
        self.settled = all(one.seen != UNKNOWN for one in read.values())
        self._unseen = frozenset(stream for stream, one in read.items() if one.seen != SEEN)
        self.place = max((one.place for one in self._streams.values() if one.seen == SEEN), default=NEVER)

    def pass_on(self, batch: Batch[Any]) -> list[Batch[Any]]:
        """The batches of its stream that can be written now."""
        if self.settled and not self._held and batch.stream not in self._unseen:
            return [batch]
        with self._lock:
            if batch.stream in self._unseen:
                self._look(batch)
            if not self.settled:
                self._held.setdefault(batch.stream, []).append(batch)
                return []
            return [*self._held.pop(batch.stream, ()), batch]

    def _look(self, batch: Batch[Any]) -> None:
        known = self._streams[batch.stream]
        if batch.mark:
            if known.seen == UNKNOWN:
                # Of a stream that was read before records were lost something is known; of another one nothing.
                seen = IDLE if batch.offset_first == known.offset_start else SEEN
                self._keep(batch.stream, known._replace(seen=seen))
        elif (place := self._place_of(batch, known.place)) is not None:
            self._keep(batch.stream, known._replace(place=place, seen=SEEN))

    def _keep(self, stream: Stream, known: Known) -> None:
        self._learn(self._update(lambda streams: {**streams, stream: known}))

    def held_back(self) -> tuple[bool, frozenset[Stream]]:
        """Whether nothing is held back from now on, and the streams of which something still is."""
        if self.settled and not self._held:
            return True, frozenset()
        with self._lock:
            if not self.settled and time.monotonic() - self._polled_s > POLL_S:
                self._learn(self._update(lambda streams: streams))
                self._polled_s = time.monotonic()
            return self.settled, frozenset(self._held)


def with_starts(streams: Streams, starts: Mapping[Stream, int], places: Mapping[Stream, int]) -> Streams:
    """The streams with those that begin at these offsets, and their places as far as they are known."""
    return streams | {s: Known(at, None, place=places[s], seen=UNKNOWN) for s, at in starts.items() if places[s] != NEVER}
