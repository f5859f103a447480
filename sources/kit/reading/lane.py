"""One lane: reads its streams, and passes on what comes in batches without a gap."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bytewax.inputs import StatefulSourcePartition
from typing_extensions import override

from sources.kit.any_source import AnySource
from sources.kit.reading.rhythm import rhythm_here
from sources.kit.reading.stream import StreamReader
from sources.kit.starting.feeds import Durable
from sources.kit.starting.opening import Lost
from sources.kit.state import Kept, LaneState, StreamState
from sources.kit.watch import Watch
from sources.kit.words import LOOK_S, Fetched, Raw
from waxwing import runtime
from waxwing.batch import Stream, lane_name
from waxwing.steps.holding import reminders

# The first streams are about to be opened: what a server answers at once is not to wait for its turn.
FIRST_S = 0.002
FIRST_TRIES = 50
# In the past: at once.
NOW = datetime(1970, 1, 1, tzinfo=UTC)
# A batch has about as many bytes of values at most: records of 2 kB come in batches of 250. Decoded they are some five times as
# large, and what does not fit into a processor's cache (1 to 2 MB) costs half as much again at every step.
BATCH_BYTES_MAX = 500_000


class Lane(StatefulSourcePartition[Raw, Kept | None]):
    """Reads the streams of its number; the watch over the source says from where."""

    def __init__(self, source: AnySource, number: int, watch: Watch, durable: Durable, resume: Any) -> None:
        self._source, self._options, self._watch = source, source.options, watch
        self._number, self._name, self._durable, self._resume = number, lane_name(number), durable, resume
        self._readers: dict[Stream, StreamReader] = {}
        self._known: dict[Stream, StreamReader] = {}
        self._ended: list[StreamReader] = []  # at their end from the start, which is still to be said
        self._revision = -1
        self._tries = 0
        self._awake_after_s = 0.0
        self._closed = self._is_over = False
        self._wanted = self._options.batch_records_max
        self._reader = source.lane(self._name, self._alert)
        self._rhythm = rhythm_here()
        self._number_here = self._rhythm.enter(self._reader)
        watch.enter(number, source.resumed(number, resume))

    @override
    def next_batch(self) -> list[Raw]:
        if self._is_over:
            raise StopIteration
        try:
            return self._next_batch()
        except StopIteration:
            if last := self._end():
                return last
            raise
        except Exception as error:  # noqa: BLE001 - the process ends by it, or it is raised
            runtime.fail(error)

    def _end(self) -> list[Raw]:
        """It reads no more. Returns what is still to be sent: targets that stage their changes commit at the epoch's end behind
        it, of which Bytewax tells only those who have got something."""
        if self._is_over:
            return []
        self._is_over = True
        feeds = self._watch.feeds if self._known else ()
        for feed in feeds:
            feed.lane_ends(self._name)
        return [reader.nothing() for reader in self._known.values()] if any(feed.size.staged for feed in feeds) else []

    def _next_batch(self) -> list[Raw]:
        watch = self._watch
        self._durable.next_batch_of(self._number)
        watch.demand_well()
        if runtime.stopping():
            raise StopIteration
        if self._revision != watch.revision:
            self._assign()
        if self._revision < 0:
            self._tries += 1
            self._awake_after_s = 0.0 if self._tries < FIRST_TRIES and watch.admits(FIRST_S) else LOOK_S
            return []
        if self._ended:
            ended, self._ended = self._ended, []
            return [reader.ended() for reader in ended]
        waking = reminders(watch.feeds, self._name, lambda: {s: r.position for s, r in self._known.items()})
        if waking:
            return waking
        if watch.bounded and not self._readers:
            return self._at_end(waits=waking is None)
        self._awake_after_s = 0.0
        fetched = self._reader.read(self._wanted) if self._rhythm.admits(self._number_here, self._reader) else ()
        records = sum(len(one.run.messages) for one in fetched)
        self._rhythm.has_read(self._number_here, records, little=self._reader.found_little)
        batches = [batch for one in fetched for batch in self._taken(one)]
        if records:
            runtime.working()
            self._size(fetched, records)
        elif not batches and (after_s := watch.idle_after_s):
            return [mark for r in self._readers.values() for mark in r.idle(after_s)]
        return batches

    def _at_end(self, *, waits: bool) -> list[Raw]:
        """All streams have come to their end; does a step still wait to hear of it?"""
        if not waits:
            raise StopIteration
        self._awake_after_s = LOOK_S
        return [] if self._options.end_marks else [reader.rests() for reader in self._known.values()]

    def _taken(self, fetched: Fetched) -> list[Raw]:
        reader = self._readers.get(fetched.stream)
        if reader is None:  # it has reached its end, and this was still on the way
            return []
        batches = reader.take(fetched.run, at_end=fetched.at_end)
        reader.over |= fetched.over and reader.end is None
        if reader.done:
            if self._options.end_marks:
                batches.append(reader.ended())
            del self._readers[fetched.stream]
            self._reader.leave(fetched.stream)
        return batches

    def _size(self, fetched: Sequence[Fetched], records: int) -> None:
        """How many records to ask for, by how large some of these are."""
        step = records // 8 or 1
        some = [value for one in fetched for value in one.run.messages.values[::step]]
        mean_bytes = sum(len(value or b"") for value in some) / len(some)
        self._wanted = max(1, min(self._options.batch_records_max, int(BATCH_BYTES_MAX / (mean_bytes + 1))))

    def _alert(self, stream: Stream | None = None) -> None:
        """The reader has met something odd; with a stream: the log does not hold its position."""
        if stream is not None and (reader := self._readers.get(stream)) is not None:
            self._watch.lost(Lost(stream, reader.position))
        else:
            self._watch.look()

    def _assign(self) -> None:
        """Read streams that the watch has opened since."""
        revision, opened = self._watch.opened(self._number)
        if revision < 0:
            return
        self._revision = revision
        if opened and not self._known:  # a lane without a stream has nobody to say its end to
            for feed in self._watch.feeds:
                feed.lane_begins(self._name)
        fresh = []
        for part in opened:
            if part.stream in self._known:
                continue
            reader = self._known[part.stream] = StreamReader(self._name, part, replayable=self._source.replayable)
            if reader.done:
                self._ended += [reader] if self._options.end_marks else []
            else:
                self._readers[part.stream] = reader
                fresh.append(part.place)
        if fresh:
            self._reader.open(fresh)

    @override
    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=self._awake_after_s) if self._awake_after_s else NOW

    @override
    def snapshot(self) -> Kept | None:
        if not self._known:
            kept: Kept | None = self._resume
            return kept
        self._durable.snapshot_of(self._number, {stream: reader.position for stream, reader in self._known.items()})
        streams = {
            (s.source, s.source_id, s.partition): StreamState(r.position, r.end, r.token, r.token_offset)
            for s, r in self._known.items()
        }
        return LaneState(self._options.lanes, streams).kept()

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._rhythm.leave(self._reader)
        self._end()
        self._watch.leave(self._number)
        self._reader.close()
