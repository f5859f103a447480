"""The writers of one step in this process: while there is little to write, one of them writes for all.

So a trickle that comes by several lanes is one transaction and not one a lane, and a flood is written by all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from sinks.writer.transaction_size import TRANSACTION_ROWS_MIN

if TYPE_CHECKING:
    from sinks.writer.admission import Admits
    from sinks.writer.writer import Writer

# Fewer records than these are little.
LITTLE = TRANSACTION_ROWS_MIN
# Who is at it for longer may be waiting for a lock: then the others write for themselves.
AT_IT_MAX_S = 0.1


class Crew:
    """What the writers of one step share: all of it under the lock, but for the admission, of which each uses other streams.

    Args:
        admission: what may enter a transaction.
    """

    def __init__(self, admission: Admits) -> None:
        self.admission = admission
        self.lock = threading.Lock()
        self._writers: dict[str, Writer] = {}
        self._first: Writer | None = None  # who wrote for all the last time
        self._at_it = False  # and will look at what all have when that is done
        self._since_s = 0.0
        self.given_s = 0.0  # when one of them was given something last

    @property
    def writers(self) -> Collection[Writer]:
        """All of them."""
        return self._writers.values()

    def has(self, part: str) -> bool:
        """Is there a writer of this partition, or was there one?"""
        return part in self._writers

    def join(self, part: str, writer: Writer) -> None:
        """One more writer."""
        self._writers[part] = writer

    def has_more(self, writer: Writer, now_s: float) -> None:
        """This one was given something: wake whoever is to write it, unless somebody is about to look at it anyway."""
        self.given_s = now_s
        first = self._first
        if first is None or not writer.has_little:
            writer.wake()
        elif not self._at_it:
            (first if first.is_free else writer).wake()
        elif first is not writer and now_s - self._since_s > AT_IT_MAX_S:
            writer.wake()

    def to_help(self, writer: Writer) -> list[Writer]:
        """Those for whom this one, who has little itself, writes as well."""
        return [other for other in self.writers if other is not writer and other.may_be_helped]

    def begins(self, writer: Writer, now_s: float) -> None:
        """It writes for all from now on."""
        self._first, self._at_it, self._since_s = writer, True, now_s

    def rests(self, writer: Writer) -> None:
        """It has nothing to write, or has to wait, or ends: whoever has something sees to it."""
        if self._first is writer:
            self._first, self._at_it = (writer if writer.is_free else None), False
            for other in self.writers:
                if other is not writer and other.may_be_helped:
                    other.wake()

    def fail(self, error: BaseException) -> None:
        """What one of them has met ends all: it may have written for any."""
        for writer in self.writers:
            writer.fail(error)
