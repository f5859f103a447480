"""The memory source: dicts, bytes or messages, in any number of partitions and with chosen batch boundaries. For tests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import orjson
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from typing_extensions import override

from sources.kit.feeds import Feeds
from waxwing import runtime
from waxwing.batch import Batch, Columns, Headers, Stream, lane_name, marked, raw
from waxwing.errors import ConfigError
from waxwing.holding import reminders
from waxwing.positions import StartAt, let_go, open_feeds, own_feeds, prepare_feeds, say_starts
from waxwing.target import Target


class Message(NamedTuple):
    """A message with all that Kafka would give it. `offset` None: the one behind the message before it."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int = -1
    offset: int | None = None


Item = Mapping[str, Any] | bytes | Message | None
Partition = Sequence[Item]
Raw = Batch[bytes | None]
# What a lane remembers in Bytewax's recovery store: by partition, the first offset not given.
Offsets = dict[int, int]


class MemorySource(FixedPartitionedSource[Raw, Offsets]):
    """Batches made of what a test gives.

    Args:
        data: a list of items (one partition), or lists by partition number. A dict becomes JSON, bytes and None are values
            as they are, a Message has everything.
        batch_records: records in a batch; or, by partition, the sizes of the batches in turn (0 makes an empty
            one; what is left comes as one batch).
        lanes: lane i reads the partitions p with p % lanes == i.
        topic, source_id: the source's name, and what tells one of that name from the next; by default it follows from the name.
        feeds: the targets that say where to start; by default those of all sinks behind this source.
        ends: mark the end of each partition, so that windows close; False, where more is to come in a later run.
        begin: "anew": as the setting BEGIN.

    Raises:
        ConfigError: an item is none of these.

    Parallelism: one lane per worker at most, as the Kafka source.
    Delivery: exactly once into the targets behind it (tests/flows/test_memory.py); a second run goes on where the first ended.
    """

    def __init__(
        self,
        data: Partition | Mapping[int, Partition],
        *,
        flow: str = "test",
        topic: str = "memory",
        source_id: str = "",
        batch_records: int | Mapping[int, Sequence[int]] = 100,
        lanes: int = 1,
        feeds: Sequence[Target] | None = None,
        ends: bool = True,
        begin: Literal["", "anew"] = "",
    ) -> None:
        partitions = data if isinstance(data, Mapping) else {0: data}
        self._targets, self._lanes, self._batch_records = Feeds(feeds), lanes, batch_records
        self._topic, self._ends, self._anew = topic, ends, begin == "anew"
        self._source_id = source_id or f"name:{topic}"
        self._flow = flow
        self._messages = {number: _columns(items) for number, items in partitions.items()}
        self._opened: dict[Stream, StartAt] | None = None

    def feed(self, graph: object, target: Target) -> None:
        """A sink of this graph stands behind it."""
        self._targets.add(graph, target)

    @property
    def _feeds(self) -> Sequence[Target]:
        return self._targets.targets

    @override
    def list_parts(self) -> list[str]:
        for feed in self._feeds:
            feed.expect(self._topic)
        return [lane_name(lane) for lane in range(self._lanes)]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Offsets | None) -> StatefulSourcePartition[Raw, Offsets]:
        lane = self.list_parts().index(for_part)
        if self._opened is None:
            self._opened = self._open()
        starts = {
            stream: self._resumed(start, (resume_state or {}).get(stream.partition))
            for stream, start in sorted(self._opened.items())
            if stream.partition % self._lanes == lane
        }
        batches = [batch for stream, start in starts.items() for batch in self._batches(stream, start, for_part)]
        if self._ends:
            batches += [marked(stream, for_part, self._end(stream), "end") for stream in starts]
        return _Lane(
            batches, {stream.partition: start.offset for stream, start in starts.items()}, self._feeds, list(starts), for_part
        )

    def _resumed(self, start: StartAt, resumed: int | None) -> StartAt:
        """The start with what the recovery store knows: the lowest of all, where targets hold positions as well."""
        if resumed is None:
            return start
        held = {resumed, start.offset, *start.splits} if self._feeds else {resumed}
        offset, *splits = sorted(held)
        return start._replace(offset=offset, splits=tuple(splits))

    def _open(self) -> dict[Stream, StartAt]:
        flow = self._feeds[0].flow if self._feeds else self._flow
        streams = {Stream(flow, self._topic, self._source_id, number): 0 for number in self._messages}
        if not self._feeds:
            return {stream: StartAt(0) for stream in streams}
        for feed in self._feeds:
            feed.claim(self._topic, self)
        try:
            prepare_feeds(self._feeds, flow, anew=self._anew)
            own_feeds(self._feeds, time.sleep)
            starts = open_feeds(self._feeds, streams, lambda: streams, None, anew=self._anew)
            say_starts(flow, starts, anew=self._anew)
            return starts
        except BaseException:
            let_go(self._feeds)  # the run is over before it began
            raise

    def _end(self, stream: Stream) -> int:
        offsets = self._messages[stream.partition].offsets
        return offsets[-1] + 1 if offsets else 0

    def _batches(self, stream: Stream, start: StartAt, lane: str) -> list[Raw]:
        messages = self._messages[stream.partition]
        whole = raw(stream, lane, 0, self._end(stream), messages)
        sizes = self._batch_records
        if isinstance(sizes, int):
            cuts = list(range(sizes, len(messages), sizes))
        else:
            cuts = [cut for cut in accumulate(sizes[stream.partition]) if cut < len(messages)]
        edges = [0, *cuts, len(messages)]
        out: list[Raw] = []
        for first, last in pairwise(edges):
            # An empty first batch reaches up to the first message: the next one begins there.
            batch = replace(whole.part(first, last), offset_first=out[-1].offset_next if out else 0)
            for split in (start.offset, *start.splits):
                if batch.offset_first < split < batch.offset_next:
                    head, batch = _split(batch, split)
                    out.append(head)
            out.append(batch)
        return [batch for batch in out if batch.offset_next > start.offset or batch.offset_first >= start.offset]


class _Lane(StatefulSourcePartition[Raw, Offsets]):
    """Gives one batch at a time."""

    def __init__(
        self, batches: list[Raw], offsets: Offsets, feeds: Sequence[Target], streams: Sequence[Stream], name: str
    ) -> None:
        self._left, self._offsets = iter(batches), offsets
        self._feeds, self._streams, self._name = feeds, streams, name

    @override
    def next_batch(self) -> list[Raw]:
        if runtime.stopping():
            raise StopIteration
        batch = next(self._left, None)
        if batch is None:
            waking = reminders(self._feeds, self._name, lambda: {s: self._offsets[s.partition] for s in self._streams})
            if waking is None:  # nothing more comes, which is what a step waits to hear of
                return [marked(stream, self._name, self._offsets[stream.partition], "idle") for stream in self._streams]
            if waking:
                return waking
            raise StopIteration
        runtime.working()
        self._offsets[batch.stream.partition] = batch.offset_next
        return [batch]

    @override
    def snapshot(self) -> Offsets:
        return dict(self._offsets)


def _split(batch: Raw, offset: int) -> tuple[Raw, Raw]:
    tail = batch.after(offset)
    return replace(batch.part(0, len(batch.messages) - len(tail.messages)), offset_next=offset), tail


def _columns(items: Partition) -> Columns:
    messages = [item if isinstance(item, Message) else Message(_value(item)) for item in items]
    offsets: list[int] = []
    for message in messages:
        offsets.append(message.offset if message.offset is not None else (offsets[-1] + 1 if offsets else 0))
    return Columns(
        offsets,
        [message.key for message in messages],
        [message.value for message in messages],
        [message.timestamp_ms for message in messages],
        [message.headers for message in messages],
    )


def _value(item: Mapping[str, Any] | bytes | None) -> bytes | None:
    if item is not None and not isinstance(item, Mapping | bytes):
        raise ConfigError(
            f"MemorySource: {item!r} is no message.", hint="Give dicts (which become JSON), bytes, None, or a sources.Message."
        )
    return orjson.dumps(item) if isinstance(item, Mapping) else item
