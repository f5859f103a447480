"""A topic of one partition, read as a map: of each key the last value."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sinks.kafka.records import EMISSION, Entry
from waxwing.errors import ConfigError, TransientError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaClientSettings

# One answer of the broker is waited for so long; whoever asks may ask again.
ANSWER_S = 10.0
# A transaction in the topic is as good as over once its writer is fenced; one that hangs is somebody's mistake.
SETTLES_S = 30.0
_TAKEN_AT_ONCE, _WAIT_S = 10_000, 0.05
# The end of the log; and rights to its group, which it never uses.
_NO_MATTER = {KafkaError._PARTITION_EOF, KafkaError.GROUP_AUTHORIZATION_FAILED}


class CompactedTopic:
    """The map, read on from where the last look ended. Used by one thread at a time.

    Args:
        settings: the brokers.
        topic: its name.
        committed: leave out what is in no committed transaction, and so what comes behind one that is open.
        history_of: a key.

    Attributes:
        found: the last record of each key.
        history: all records of the key `history_of`, in their order.
        offset_next: of the first record that was not read.
    """

    def __init__(self, settings: KafkaClientSettings, topic: str, *, committed: bool, history_of: bytes = b"") -> None:
        self._settings, self._topic = settings, topic
        self._refused: ConfigError | None = None
        level = "read_committed" if committed else "read_uncommitted"
        config: dict[str, Any] = {
            **client_config(settings),
            "group.id": "waxwing",  # a consumer has to have one
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": level,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 20,  # a look waits for an answer about the end
            "error_cb": self._on_error,
        }
        self._consumer = make_client(Consumer, config, settings)
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self.offset_next = 0
        self.found: dict[bytes, Entry] = {}
        self.history: list[Entry] = []
        self._history_of = history_of

    def end(self) -> int:
        """Where the log ends: for one that leaves out what is not committed, where the first open transaction begins.

        Raises:
            TransientError: no answer.
            ConfigError: login, TLS or permission refused.
        """
        try:
            return int(self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=ANSWER_S)[1])
        except KafkaException as error:
            raise self._error(error.args[0]) from error

    def read(self, end: int | None = None) -> None:
        """Read on, to this offset, or to where the log ends now.

        Raises:
            TransientError: no answer; or a transaction before this offset stays open.
            ConfigError: login, TLS or permission refused.
        """
        until = self.end() if end is None else end
        give_up_s = time.monotonic() + (ANSWER_S if end is None else SETTLES_S)
        while self.offset_next < until:
            first = self._consumer.poll(_WAIT_S)  # `consume` would wait for as many as it may bring
            for message in [first, *self._consumer.consume(_TAKEN_AT_ONCE, 0.0)] if first is not None else ():
                self._take(message)
            if self._refused is not None:
                raise self._refused
            if self.offset_next < until and time.monotonic() > give_up_s:
                raise TransientError(
                    f"Topic {self._topic} can't be read beyond offset {self.offset_next}, and ends at {until}.",
                    hint="Does the broker answer? Or does a transaction of somebody else's hang in this topic "
                    "(kafka-transactions.sh find-hanging)?",
                )

    def _take(self, message: KafkaMessage) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self.offset_next = max(self.offset_next, message.offset() or 0)
            if error.code() in _NO_MATTER:
                return
            raise self._error(error)
        self.offset_next = (message.offset() or 0) + 1
        key: Any = message.key()
        value: Any = message.value()
        if value is None:
            self.found.pop(key, None)
            return
        emission = next((text.decode() for name, text in _headers(message) if name == EMISSION and text), "")
        entry = Entry(value, emission, message.timestamp()[1], message.offset() or 0)
        self.found[key] = entry
        if key == self._history_of:
            self.history.append(entry)

    def _error(self, error: KafkaError) -> ConfigError | TransientError:
        known = self._refused or refusal(error, self._settings)
        return known or TransientError(
            f"Kafka at {self._settings.kafka_bootstrap_servers}, topic {self._topic}: {reason_of(error)}."
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.code() not in _NO_MATTER:
            self._refused = refusal(error, self._settings) or self._refused

    def close(self) -> None:
        self._consumer.close()


def _headers(message: KafkaMessage) -> Sequence[tuple[str, bytes | None]]:
    found: Any = message.headers()  # a list of pairs, whatever its type says
    return found or ()
