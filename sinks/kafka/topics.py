"""Topics that a target writes: made where they are missing, else looked at."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from sinks.kafka.names import step_of
from waxwing import log
from waxwing.errors import ConfigError, TransientError, WaxwingError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaTargetSettings

ANSWER_S = 15.0
# What is overwritten is given back soon, since an opening reads the topic as a whole; heartbeats bear the broker's time.
POSITIONS_CONFIG: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "segment.bytes": str(64 * 2**20),
    "min.cleanable.dirty.ratio": "0.1",
    "message.timestamp.type": "LogAppendTime",
}
# The cluster inside librdkafka makes a topic, of four partitions, when a producer's client asks for it by name, and in no other
# way; it tells nothing of its configuration, and compacts nothing.
MOCK_CLUSTER = "mockCluster"
MESSAGE_BYTES_DEFAULT = 1_048_588
_NOT_MADE = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_REQUEST,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_VERSION,
}


class Topic(NamedTuple):
    """A topic as it is, and whether it has just been made."""

    message_bytes_max: int
    compacted: bool
    made: bool = False


class Topics:
    """What an administrator asks and makes.

    Args:
        settings: the brokers.
    """

    def __init__(self, settings: KafkaTargetSettings) -> None:
        self._settings = settings
        self._refused: ConfigError | None = None
        self._reason = ""
        self._admin = make_client(AdminClient, {**client_config(settings), "error_cb": self._on_error}, settings)

    def names(self) -> set[str]:
        """Of all topics that may be seen.

        Raises:
            TransientError: no answer.
            ConfigError: login, TLS or permission refused.
        """
        try:
            return set(self._admin.list_topics(timeout=ANSWER_S).topics)
        except KafkaException as error:
            raise self._error(error.args[0]) from error

    def ensure(self, name: str, partitions: int, config: Mapping[str, str]) -> Topic:
        """Make a topic where it is missing.

        Args:
            name: of it.
            partitions: of one that is made; 0: the broker's own number.
            config: of one that is made.

        Raises:
            TransientError: no answer.
            ConfigError: login, TLS or permission refused.
        """
        if self._is_mock():
            self._admin.list_topics(name, timeout=ANSWER_S)
            return Topic(MESSAGE_BYTES_DEFAULT, compacted=True)
        if missing := name not in self.names():
            new = NewTopic(name, partitions or -1, self._settings.kafka_topic_replication or -1, config=dict(config))
            try:
                self._admin.create_topics([new], request_timeout=ANSWER_S)[name].result(ANSWER_S)
                self._await(name)
                log.info("topic_made", f"Topic {name} was not there and is made.")
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster
                    raise self._error(error.args[0], name) from error
        return self._described(name)._replace(made=missing)

    def _await(self, name: str) -> None:
        """Until a topic that was just made has its leaders, so that clients can use it."""
        give_up_s = time.monotonic() + ANSWER_S
        while time.monotonic() < give_up_s:
            found = self._admin.list_topics(timeout=ANSWER_S).topics.get(name)
            if found is not None and found.error is None and all(part.leader >= 0 for part in found.partitions.values()):
                return
            time.sleep(0.05)

    def _described(self, name: str) -> Topic:
        resource = ConfigResource(ResourceType.TOPIC, name)
        try:
            found = self._admin.describe_configs([resource], request_timeout=ANSWER_S)[resource].result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                log.warning(
                    "topic_unseen", f"Topic {name}: its configuration may not be read (DescribeConfigs), and is not checked."
                )
                return Topic(MESSAGE_BYTES_DEFAULT, compacted=True)
            raise self._error(error.args[0], name) from error
        return Topic(int(found["max.message.bytes"].value), found["cleanup.policy"].value == "compact")

    def ensure_positions(self, name: str) -> Topic:
        """The compacted topic of a step's positions. Raises as `ensure` does, and ConfigError where it forgets what it holds."""
        topic = self.ensure(name, 1, POSITIONS_CONFIG)
        if not topic.compacted:
            raise ConfigError(
                f"Topic {name} keeps the positions of a step, and its cleanup.policy would lose them.",
                hint=f"kafka-configs.sh --alter --topic {name} --add-config cleanup.policy=compact",
            )
        partitions = self._partitions(name)
        if partitions > 1 and not self._is_mock():  # where the first one serves
            raise ConfigError(f"Topic {name} keeps the positions of a step, and has {partitions} partitions in place of one.")
        return topic

    def _partitions(self, name: str) -> int:
        try:
            found = self._admin.list_topics(timeout=ANSWER_S).topics.get(name)
        except KafkaException as error:
            raise self._error(error.args[0], name) from error
        return 1 if found is None else len(found.partitions)

    def ids(self, names: Collection[str]) -> set[str]:
        """The ids of topics, which no other topic of any cluster has (old brokers tell none). Raises as `names` does."""
        if self._is_mock():
            return set()
        try:
            asked = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=ANSWER_S)
            return {str(future.result(ANSWER_S).topic_id) for future in asked.values()}
        except KafkaException as error:
            raise self._error(error.args[0]) from error

    def holds_records(self, name: str) -> bool:
        """Is there anything in a topic, as far as offsets tell? Raises as `names` does."""
        if self._is_mock() or name not in self.names():
            return False
        places = [TopicPartition(name, number) for number in range(self._partitions(name))]
        first, last = (self._offsets(places, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
        return any(last[place] > first[place] for place in last)

    def _offsets(self, places: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        try:
            asked = self._admin.list_offsets(
                dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ANSWER_S
            )
            return {place.partition: future.result(ANSWER_S).offset for place, future in asked.items()}
        except KafkaException as error:
            raise self._error(error.args[0]) from error

    def _is_mock(self) -> bool:
        give_up_s = time.monotonic() + ANSWER_S
        while time.monotonic() < give_up_s:
            try:
                return self._admin.cluster_id(timeout=0.25).startswith(MOCK_CLUSTER)
            except KafkaException:  # what librdkafka says of it is about brokers of 2016
                self._admin.poll(0)
                if self._refused is not None:
                    break
        raise self._refused or TransientError(
            f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer{self._reason}.",
            hint=self._settings.told("Check KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and whether the broker runs."),
        )

    def _error(self, error: KafkaError, topic: str = "") -> WaxwingError:
        if (known := self._refused or refusal(error, self._settings, write=True)) is not None:
            return known
        where = f", topic {topic}" if topic else ""
        message = f"Kafka at {self._settings.kafka_bootstrap_servers}{where}: {reason_of(error)}."
        if error.code() == KafkaError.TOPIC_EXCEPTION:
            return ConfigError(message, hint="Name a topic of letters, digits, '.', '_' and '-'.")
        if error.code() in _NOT_MADE:
            hint = "Set KAFKA_TOPIC_PARTITIONS and KAFKA_TOPIC_REPLICATION as the brokers take them, or make the topic by hand"
            by_hand = f", with one partition and {_as_text(POSITIONS_CONFIG)}" if step_of(topic) is not None else ""
            return ConfigError(message, hint=self._settings.told(f"{hint}{by_hand}."))
        return TransientError(message)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # it only counts
            self._reason = f" ({reason_of(error)})"
        self._refused = refusal(error, self._settings, write=True) or self._refused


def _as_text(config: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items())
