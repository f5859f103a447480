"""A writer's way into a topic: rows, dead letters, positions and open windows in one transaction of its producer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sinks.kafka.ledger import KafkaLedger
from sinks.kafka.producers import Overtaken, Refused, Sender
from sinks.kafka.records import Record, position_record, state_records
from sinks.kafka.values import MESSAGE_HEAD_BYTES, Message
from waxwing.batch import Stream
from waxwing.change import Change, DeadLetter, Position
from waxwing.errors import ConfigError, RowError, TransientError, TryLater
from waxwing.ledger.ledger import UNFED_HINT
from waxwing.ledger.store import Step
from waxwing.target import Session

if TYPE_CHECKING:
    from sinks.kafka.target import KafkaTarget


# What the headers of ours take, the reason among them.
LETTER_HEAD_BYTES = 20_000


class KafkaSession(Session):
    """A session of one sink partition.

    Args:
        target: whose.
        ledger: of its step.
        part: the partition.
        token: of this owner.
    """

    def __init__(self, target: KafkaTarget, ledger: KafkaLedger, part: str, token: str) -> None:
        self._target, self._ledger, self._part, self._token = target, ledger, part, token
        self._chunks: dict[Stream, int] = {}  # of what is kept of each stream, as it was written last

    @override
    def take_over(self, stream: Stream) -> Position:
        ledger = self._ledger
        with ledger.held():
            contents = ledger.load_all()
            ledger.demand_owned(contents, self._token)
            row = contents.positions.get((self._target.own_step, stream))
            if row is None:
                raise ConfigError(f"{self._target.name} has no position of {stream}.", hint=UNFED_HINT, step=self._target.step)
            self._chunks[stream] = ledger.chunks_of(stream)
            state = contents.states.get((self._target.own_step, stream), b"") if self._target.keeps_state else None
            return row.position._replace(state=state)

    @override
    def commit(self, change: Change) -> None:
        sender = self._ledger.sender(self._token, self._part)
        try:
            if sender.in_doubt:  # it is this very change that was tried before
                sender.commit()
            else:
                self._write(sender, change, self._target.messages(change))
        except Overtaken as error:
            self._overtaken(change, error)
        kept = {stream: after.state for stream, after in change.after.items() if after.state is not None}
        self._chunks |= {stream: -(-len(state) // self._ledger.chunk_bytes) for stream, state in kept.items()}

    def _write(self, sender: Sender, change: Change, messages: list[Message]) -> None:
        try:
            self._send(sender, change, messages)
            return
        except Refused as refusal:
            reason = str(refusal)
        # One after the other is told what became of it: only where something was refused, since that takes time.
        bad: dict[int, str] = {}
        try:
            self._send(sender, change, messages, bad)
        except Refused:
            if not bad:  # dead letters or positions
                raise TransientError(f"{self._target.name}: a message is refused: {reason}") from None
            numbers = self._target.numbers(change)
            raise RowError(f"{len(bad)} messages are refused", bad={numbers[n]: why for n, why in bad.items()}) from None

    def _send(self, sender: Sender, change: Change, messages: list[Message], bad: dict[int, str] | None = None) -> None:
        sender.begin()
        try:
            sender.send_all(self._target.topic, messages, named=None if bad is None else bad.setdefault)
            for letter in change.dead_letters:
                message = _letter(letter, self._target.own_step, self._target.letter_bytes_max)
                sender.send(self._target.letters_topic, **message)
            if not self._ledger.transactional:
                sender.acknowledged()  # a position never comes before its rows
            sender.send_records(self._ledger.topic, self._records(change))
        except BaseException:
            sender.abort()
            raise
        sender.commit()

    def _records(self, change: Change) -> list[Record]:
        out: list[Record] = []
        for stream, after in change.after.items():
            emission = "" if after.state is None else secrets.token_hex(8)
            out.append(position_record(after, emission))
            if after.state is not None:
                out += state_records(stream, after.state, emission, self._chunks.get(stream, 0), self._ledger.chunk_bytes)
        return out

    def _overtaken(self, change: Change, error: Overtaken) -> None:
        """The producer is of no more use: was this change committed, and whose is the step?"""
        ledger = self._ledger
        with ledger.held():
            contents = ledger.load_all()
        ledger.demand_owned(contents, self._token)
        stands = {stream: contents.positions[self._target.own_step, stream].position.place for stream in change.after}
        if all(stands[stream] == after.place for stream, after in change.after.items()):
            return
        raise TryLater(
            f"{self._target.name}: the broker has ended a transaction of this process ({error}).",
            hint=self._target.settings.told(
                "It was open for longer than KAFKA_TRANSACTION_TIMEOUT_S. Nothing of it was written; the next start goes on from "
                "the stored positions."
            ),
        ) from error

    @override
    def close(self) -> None:
        """Its producer belongs to the ledger: another session goes on with it."""


def _letter(letter: DeadLetter, step: Step, bytes_max: int) -> dict[str, Any]:
    """A dead letter as a message: the source's own, with what is known of its end in headers that begin with waxwing.

    Of one that is too large for the topic as much stands there as it takes; the header waxwing.bytes says how much it was.
    """
    known: Sequence[tuple[str, object]] = (
        ("flow", step.flow),
        ("step", step.name),
        ("stage", letter.stage),
        ("error", letter.reason),
        ("source", letter.stream.source),
        ("source_id", letter.stream.source_id),
        ("partition", letter.stream.partition),
        ("offset", letter.offset),
        ("row", letter.row),
        # As a header: brokers refuse messages of the future, and let go of old ones sooner.
        *((("timestamp", letter.timestamp_ms),) if letter.timestamp_ms > 0 else ()),
    )
    key, value = letter.key, letter.value
    own: list[tuple[str, bytes | None]] = [(f"waxwing.{name}", str(text).encode()) for name, text in known]
    headers = [*letter.headers, *own]
    head = MESSAGE_HEAD_BYTES + sum(len(name) + len(text or b"") + 10 for name, text in headers)
    if head + len(key or b"") + len(value or b"") > bytes_max:
        size = len(value or b"")
        if head + len(key or b"") > bytes_max // 2:  # then they are no better
            key, headers, head = None, own, LETTER_HEAD_BYTES
        headers = [*headers, ("waxwing.bytes", str(size).encode())]
        value = None if value is None else value[: max(bytes_max - head - len(key or b"") - 100, 0)]
    return {"key": key, "value": value, "headers": headers}
