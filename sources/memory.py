"""The memory source: dicts, bytes or messages, in any number of partitions and with chosen batch boundaries. For tests."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import orjson
from typing_extensions import override

from sources.kit import Log, Options, Place, Run, Source
from waxwing.batch import Columns, Headers
from waxwing.errors import ConfigError
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


class MemorySource(Source):
    """Batches made of what a test gives.

    Args:
        data: a list of items (one partition), or lists by partition number. A dict becomes JSON, bytes and None are values
            as they are, a Message has everything.
        sources: in place of `data`: several sources by name, as of several topics, each with its lists by partition number.
        flow: the flow's name in the keys of positions, where no target has one.
        topic: the source's name.
        pattern: of `sources` those are read whose name this regular expression fits, as by a Kafka source with a pattern.
        batch_records: records in a batch; or, by partition, the sizes of the batches in turn (0 makes an empty
            one; what is left comes as one batch).
        lanes: how many; of one name lane i reads the partitions p with p % lanes == i.
        feeds: the targets that say where to start; by default those of all sinks behind this source.
        ends: mark the end of each partition, so that windows close; False, where more is to come in a later run.
        begin: "anew": as the setting BEGIN.
        start: as the setting START: earliest or latest.
        tokens: the offsets whose place has a token, as of a change log: batches end there, and it is read from there alone.
        replayable: False: it stands for a source that can't be read again the same way: its batches are whole, each with a token.
        source_id: what tells a source from an earlier one of its name; by default it follows from the name.

    Raises:
        ConfigError: an item is none of these.

    Parallelism: one lane per worker at most, as the Kafka source.
    Delivery: exactly once into the targets behind it (tests/dataflows/test_memory.py); a second run goes on where one ended.
    """

    def __init__(
        self,
        data: Partition | Mapping[int, Partition] = (),
        *,
        sources: Mapping[str, Mapping[int, Partition]] | None = None,
        flow: str = "test",
        topic: str = "memory",
        pattern: str = "",
        batch_records: int | Mapping[int, Sequence[int]] = 100,
        lanes: int = 1,
        feeds: Sequence[Target] | None = None,
        ends: bool = True,
        begin: Literal["", "anew"] = "",
        start: Literal["earliest", "latest"] = "earliest",
        tokens: Collection[int] | None = None,
        replayable: bool = True,
        source_id: str = "",
    ) -> None:
        named = sources if sources is not None else {topic: data if isinstance(data, Mapping) else {0: data}}
        options = Options(lanes=lanes, start=start, begin=begin, until="end", on_unknown="fail", end_marks=ends)
        super().__init__(*([] if pattern else named), pattern=pattern, options=options, feeds=feeds)
        self._default_flow, self._batch_records = flow, batch_records
        self._source_id, self._tokens = source_id, tokens
        self.replayable = replayable
        self._messages = {
            (name, number): _columns(items) for name, partitions in named.items() for number, items in partitions.items()
        }

    @override
    def _flow_of(self, step_id: str) -> str:
        return next((feed.flow for feed in self._feeds if feed.flow), self._default_flow)

    @override
    def describe(self) -> Sequence[Log]:
        return [
            Log(
                name,
                self._source_id or f"name:{name}",
                number,
                token=self._token(0),
                end=_end(messages) if self.options.start == "latest" else None,
                end_token=self._token(_end(messages)),
            )
            for (name, number), messages in self._messages.items()
            if not self.pattern or self.fits(name)
        ]

    @override
    def read(self, place: Place) -> Iterator[Run]:
        messages = self._messages[place.stream.source, place.stream.partition]
        first = place.offset if place.token is None else int(place.token)
        for low, high in self._parts(messages, place.stream.partition):
            offset_next = messages.offsets[high] if high < len(messages) else _end(messages)
            if offset_next > first or (low == high and offset_next == first):
                part = messages.part(max(low, bisect_left(messages.offsets, first)), high)
                yield Run(part, offset_next, self._token(offset_next), whole=not self.replayable)

    @override
    def close(self) -> None:
        """Nothing is open."""

    def _token(self, offset: int) -> bytes | None:
        return b"%d" % offset if not self.replayable or (self._tokens is not None and offset in {0, *self._tokens}) else None

    def _parts(self, messages: Columns, partition: int) -> Iterator[tuple[int, int]]:
        """The batches, by the numbers of their messages."""
        size, sizes = len(messages), self._batch_records
        cuts = range(sizes, size, sizes) if isinstance(sizes, int) else accumulate(sizes[partition])
        inside = [cut for cut in cuts if cut < size]
        at_tokens = {bisect_left(messages.offsets, token) for token in self._tokens or ()} - {0, size, *inside}
        yield from pairwise([0, *sorted([*inside, *at_tokens]), size])


def _end(messages: Columns) -> int:
    return messages.offsets[-1] + 1 if messages.offsets else 0


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
