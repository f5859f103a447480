"""The messages of a batch as librdkafka gave them: each column is made when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from confluent_kafka import Message

from waxwing.batch import Columns, Headers

_value, _key, _offset, _headers = Message.value, Message.key, Message.offset, Message.headers


class KafkaMessages:
    """A list of Kafka messages of one partition as columns. Pickles as `Columns`."""

    def __init__(self, messages: list[Message], headers_read: dict[int, Headers] | None = None) -> None:
        self._messages = messages
        self._headers_read = {} if headers_read is None else headers_read

    def __len__(self) -> int:
        return len(self._messages)

    @cached_property
    def offsets(self) -> Sequence[int]:
        messages = self._messages
        if not messages:
            return range(0)
        first, last = _number(messages[0]), _number(messages[-1])
        if last - first == len(messages) - 1:  # offsets rise, so there is no hole: the usual case, and free
            return range(first, last + 1)
        return [_number(message) for message in messages]

    @cached_property
    def keys(self) -> Sequence[bytes | None]:
        return list(map(_key, self._messages))

    @cached_property
    def values(self) -> Sequence[bytes | None]:
        return list(map(_value, self._messages))

    @cached_property
    def timestamps_ms(self) -> Sequence[int]:
        # (kind, ms); a message without a timestamp says (0, 0) or -1
        return [ms if kind else -1 for kind, ms in map(Message.timestamp, self._messages)]

    @cached_property
    def headers(self) -> Sequence[Headers]:
        # Each message is asked once, for all parts that it is cut into: see _headers_of; the second time no error is pending.
        read = self._headers_read
        for message in self._messages:
            if id(message) not in read:
                read[id(message)] = _headers_of(message)
        return [read[id(message)] for message in self._messages]

    def part(self, first: int, end: int) -> KafkaMessages:
        """The messages numbered first <= n < end."""
        return KafkaMessages(self._messages[first:end], self._headers_read)

    def __reduce__(self) -> tuple[Any, ...]:
        # Message objects of librdkafka don't pickle whole.
        return (Columns, (self.offsets, self.keys, self.values, self.timestamps_ms, self.headers))


def _number(message: Message) -> int:
    offset = _offset(message)
    assert offset is not None
    return offset


def _headers_of(message: Message) -> Headers:
    try:
        # By way of `map`: for such a name the client library (2.16) gives a list with a null pointer in it and leaves the error
        # pending. A call from C notices that, one from bytecode may not, and the process dies.
        headers: Any = next(map(_headers, (message,)))
    except (SystemError, UnicodeDecodeError):
        # Kafka's protocol wants UTF-8 and brokers don't look; the client library then gives none of the message's headers.
        return [("(a header whose name is not UTF-8)", None)]
    return [(name, value) for name, value in headers] if headers else ()
