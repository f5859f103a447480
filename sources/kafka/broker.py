"""What a source asks the brokers: topics' ids and partitions, and offsets. Waits out a broker that is away, bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import OFFSET_INVALID, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription

from sources.kit.watch import Stopped
from sources.kit.words import NotThere
from waxwing import log, runtime
from waxwing.errors import ConfigError, TransientError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaSettings

T = TypeVar("T")

# Attempts grow from the first to the second; each waits that long for an answer, so a broker that returns is seen at once.
ATTEMPT_FIRST_S = 1.0
ATTEMPT_MAX_S = 15.0
# A refused connection answers at once: then the attempts stand this far apart at most.
BACKOFF_MAX_S = 5.0
POLL_S = 0.02
# Kafka's own spelling of "none": brokers before 2.8 have no topic ids.
NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
# The cluster inside librdkafka has neither topic ids nor a DescribeTopics that answers.
MOCK_CLUSTER = "mockCluster"
# A topic's name and a partition's number.
Where = tuple[str, int]
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError._NOENT}


@dataclass(frozen=True)
class Topic:
    """A topic as it is now."""

    id: str
    partitions: frozenset[int]


class Broker:
    """An administrator's connection. Used by one thread."""

    def __init__(self, settings: KafkaSettings, closing: threading.Event) -> None:
        self._settings, self._closing = settings, closing
        self._refused: ConfigError | None = None
        self._reason = ""
        # A refused login ends a start at once; later it may be a broker that is just starting, and is waited out.
        self.prompt = True
        self._admin = make_client(AdminClient, {**client_config(settings), "error_cb": self._on_error}, settings)
        self._cluster = ""

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """The id and partitions of those of these topics that there are.

        Raises:
            ConfigError: login, TLS or permission refused.
            TransientError: no broker answered within KAFKA_AWAY_MAX_S.
        """
        if not names:
            return {}
        if not self._cluster:
            self._cluster = self._retry(self._cluster_id)
        if self._cluster.startswith(MOCK_CLUSTER):
            found = self._listed()
            return {name: Topic(f"name:{name}", found[name]) for name in names if name in found}
        told = self._retry(lambda timeout_s: self._answers(self._describe(names, timeout_s), timeout_s, may_lack=True))
        return {
            name: Topic(
                f"name:{name}" if str(one.topic_id) == NO_TOPIC_ID else str(one.topic_id), frozenset(p.id for p in one.partitions)
            )
            for name, one in told.items()
        }

    def names(self) -> Collection[str]:
        """Of all topics that may be seen, but for Kafka's own.

        Raises:
            ConfigError: login, TLS or permission refused.
            TransientError: no broker answered within KAFKA_AWAY_MAX_S.
        """
        return sorted(name for name in self._listed() if not name.startswith("__"))

    def _listed(self) -> dict[str, frozenset[int]]:
        told = self._retry(lambda timeout_s: self._admin.list_topics(timeout=timeout_s)).topics
        return {name: frozenset(one.partitions) for name, one in told.items()}

    def offsets(self, places: Collection[Where], spec: OffsetSpec, *, committed: bool = True) -> dict[Where, int]:
        """The offset of each partition that the spec means. `committed`: the log ends where an open transaction begins.

        Raises:
            NotThere: a topic, or one of the partitions, is gone.
        """
        if not places:
            return {}
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        asked = {TopicPartition(*place): spec for place in places}

        def ask(timeout_s: float) -> dict[Where, int]:
            told = self._answers(self._admin.list_offsets(asked, isolation_level=level, request_timeout=timeout_s), timeout_s)
            found = {(place.topic, place.partition): result.offset for place, result in told.items()}
            if OFFSET_INVALID in found.values():  # and no error: a new topic has no leader yet
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            return found

        return self._retry(ask)

    def _describe(self, names: Sequence[str], timeout_s: float) -> Mapping[str, Future[TopicDescription]]:
        found: dict[str, Future[TopicDescription]] = self._admin.describe_topics(
            TopicCollection(list(names)), request_timeout=timeout_s
        )
        return found

    def _cluster_id(self, timeout_s: float) -> str:
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._admin.cluster_id(timeout=0.25)
            except KafkaException:
                if time.monotonic() > until_s:
                    raise
            self._admin.poll(0)
            self._look_up()

    def _answers(self, futures: Mapping[Any, Future[T]], timeout_s: float, *, may_lack: bool = False) -> dict[Any, T]:
        """What each of them says; `may_lack`: but for those of topics that are not there."""
        until_s = time.monotonic() + timeout_s + 1.0
        while wait(futures.values(), timeout=POLL_S).not_done:
            self._admin.poll(0)
            self._look_up()
            if time.monotonic() > until_s:  # librdkafka's own time-out comes first, as a rule
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        out = {}
        for key, future in futures.items():
            error = future.exception()
            if error is None:
                out[key] = future.result()
            elif not isinstance(error, KafkaException) or error.args[0].code() not in _UNKNOWN:
                raise error
            elif not may_lack:
                raise NotThere(str(getattr(key, "topic", key)))
        return out

    def _look_up(self) -> None:
        if self._closing.is_set() or runtime.stopping():
            raise Stopped
        if self.prompt and self._refused:
            raise self._refused

    def _retry(self, call: Callable[[float], T]) -> T:
        began_s, timeout_s, said = time.monotonic(), ATTEMPT_FIRST_S, False
        self._reason = ""  # the last of these attempts: not each of them hears one
        while True:
            attempt_s = time.monotonic()
            self._refused = None
            try:
                answer = call(timeout_s)
            except KafkaException as error:
                self._admin.poll(0)
                self._judge(error.args[0])
                away_s = time.monotonic() - began_s
                reason = self._reason or reason_of(error.args[0])
                brokers = self._settings.kafka_bootstrap_servers
                if away_s >= self._settings.kafka_away_max_s:
                    hint = "Check KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and whether the broker runs; then start again."
                    message = f"No answer from Kafka at {brokers} for {away_s:.0f} s: {reason}."
                    raise TransientError(message, hint=self._settings.told(hint)) from error
                what = f"Kafka at {brokers} does not answer ({reason})"
                log.lasting("kafka_away", what, f"{what}; still trying.", away_s=round(away_s, 1))
                said = True
                timeout_s = min(timeout_s * 2, ATTEMPT_MAX_S, max(1.0, self._settings.kafka_away_max_s - away_s))
                if (rest_s := min(timeout_s / 2, BACKOFF_MAX_S) - (time.monotonic() - attempt_s)) > 0:
                    self._closing.wait(rest_s)
                self._look_up()
                continue
            if said:
                log.info("kafka_back", "Kafka answers again.")
            return answer

    def _judge(self, error: KafkaError) -> None:
        """Raise what trying again would not change."""
        if found := refusal(error, self._settings):
            raise found
        self._look_up()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # it only counts
            self._reason = reason_of(error)
        self._refused = refusal(error, self._settings) or self._refused
