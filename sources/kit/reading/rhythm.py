"""When the lanes of one worker read, so that a trickle is quick and costs little, and a flood goes in large batches."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sources.kit.words import LaneReader

# After a little was read nothing is read for so long: what comes meanwhile is one batch a stream, and one transaction.
REST_S = 0.02
# Where nothing comes at all the worker sleeps for so long at a time, or until something comes.
IDLE_S = 0.05


class Rhythm:
    """Shared by the lanes of one thread. A worker of Bytewax looks for work a thousand times a second; here it sleeps instead.

    It sleeps once all lanes in succession have brought nothing: what they brought before has reached the sinks by then.
    """

    def __init__(self) -> None:
        self._lanes = 0
        self._numbers = count(1)
        self._waits: Counter[int] = Counter()  # lanes by what they wait with
        self._have_read: set[int] = set()  # numbers of lanes, since the rest began
        self._rest_until_s = 0.0
        self._empty = 0  # readings in succession that brought nothing

    def enter(self, reader: LaneReader) -> int:
        """One more lane: its number here."""
        self._waits[id(reader.waits_with)] += 1
        self._lanes += 1
        return next(self._numbers)

    def leave(self, reader: LaneReader) -> None:
        """One less."""
        self._waits -= Counter({id(reader.waits_with): 1})
        self._lanes -= 1

    def admits(self, lane: int, reader: LaneReader) -> bool:
        """May the lane read now? Sleeps where all lanes have nothing to do."""
        if self._empty >= self._lanes:
            self._sleep(reader)
            self._empty = 0  # what came may be another one's
        if self._have_read and time.monotonic() >= self._rest_until_s:
            self._have_read.clear()
        return lane not in self._have_read

    def has_read(self, lane: int, records: int, *, little: bool) -> None:
        """The lane has read so many records, or nothing; `little`: more is to come together before it reads again."""
        if not records:
            self._empty += 1
            return
        self._empty = 0
        if little:
            if not self._have_read:
                self._rest_until_s = time.monotonic() + REST_S
            self._have_read.add(lane)

    def _sleep(self, reader: LaneReader) -> None:
        if (rest_s := self._rest_until_s - time.monotonic()) > 0:
            time.sleep(rest_s)
        else:  # those that can't wait together have their turns, and each its share of the time
            reader.wait(IDLE_S / len(self._waits))


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.rhythm = Rhythm()


_HERE = _OfThread()


def rhythm_here() -> Rhythm:
    """The rhythm of this thread's lanes."""
    return _HERE.rhythm
