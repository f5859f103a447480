"""Group offsets: committed for lag tools once they are durable. Nothing reads them back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition
from typing_extensions import override

from waxwing import log
from waxwing.batch import Stream
from waxwing.errors import WaxwingError
from waxwing.kafka_client import client_config, make_client, reason_of
from waxwing.settings import KafkaSettings

COMMIT_INTERVAL_S = 5.0
LAST_COMMIT_MAX_S = 3.0
PASSES_WHEN_CLOSED = 2


class GroupOffsets(threading.Thread):
    """Commits durable positions every few seconds, as a client that is no member of the group.

    Args:
        settings: brokers and group.
        positions: the durable position of each stream; asked with True when the run has ended well.
        closed: has the source ended? Sinks may then still be writing, so it goes on for a moment.
    """

    def __init__(
        self, settings: KafkaSettings, positions: Callable[[bool], Mapping[Stream, int]], closed: Callable[[], bool]
    ) -> None:
        super().__init__(name="group-offsets", daemon=True)
        self._settings, self._positions, self._closed = settings, positions, closed
        self._ended = threading.Event()
        self._committed: dict[Stream, int] = {}
        self._said = False

    def finish(self) -> None:
        """Commit once more, and end; but a broker that is away holds nobody up for long."""
        self._ended.set()
        if self.ident is not None:
            self.join(LAST_COMMIT_MAX_S)

    @override
    def run(self) -> None:
        config = {**client_config(self._settings), "group.id": self._settings.kafka_group_id, "enable.auto.commit": False}
        consumer = make_client(Consumer, config, self._settings)
        try:
            passes = PASSES_WHEN_CLOSED
            while passes and not self._ended.wait(COMMIT_INTERVAL_S):
                self._commit(consumer, at_end=False)
                passes = passes - 1 if self._closed() else PASSES_WHEN_CLOSED
            self._commit(consumer, at_end=self._ended.is_set())
        finally:
            consumer.close()

    def _commit(self, consumer: Consumer, *, at_end: bool) -> None:
        try:
            positions = self._positions(at_end)
            moved = {stream: offset for stream, offset in positions.items() if self._committed.get(stream) != offset}
            if moved:
                places = [TopicPartition(stream.source, stream.partition, offset) for stream, offset in moved.items()]
                done = consumer.commit(offsets=places, asynchronous=False)
                for one in done or ():
                    if one.error is not None:
                        raise KafkaException(one.error)
                self._committed |= moved
        except KafkaException as error:
            reason = reason_of(error.args[0])
            self._warn(reason, f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer ({reason})")
        except WaxwingError as error:  # the target is away: its sink says so
            self._warn(error.message, error.message)
        else:
            self._said = False

    def _warn(self, reason: str, about: str) -> None:
        if not self._said:
            group = self._settings.kafka_group_id
            what = f"Offsets of group {group!r} could not be committed for lag tools: {reason.rstrip('.')}."
            log.lasting("group_offsets", about, f"{what} Reading is not affected.")
        self._said = True
