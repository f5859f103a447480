"""Topics as a source: what a cluster has of them, and how they are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from confluent_kafka.admin import OffsetSpec
from typing_extensions import override

from sources.kafka.broker import Broker, Topic
from sources.kafka.consumer import SharedConsumer
from sources.kafka.group_offsets import GroupOffsets
from sources.kafka.lane import KafkaLane
from sources.kit import Alert, Begin, LaneReader, LaneSource, Log, Options
from sources.kit.starting.feeds import Durable
from waxwing import runtime
from waxwing.batch import Stream
from waxwing.errors import ConfigError
from waxwing.kafka_client import client_config
from waxwing.settings import KafkaSettings
from waxwing.target import Target

# How often all topics of the cluster are asked for, where a pattern is read: that is much to ask of a large one.
PATTERN_REFRESH_S = 5.0
CREATE_HINT = "Create it, correct SOURCE_TOPIC, or set ON_UNKNOWN_TOPIC=wait."
AWAIT_HINT = "Waiting for it to be created (ON_UNKNOWN_TOPIC=wait); is SOURCE_TOPIC right?"


class KafkaSource(LaneSource):
    """Records of topics, in batches of one partition each.

    Args:
        settings: brokers, topics, where to start and end, what to do about lost data. SOURCE_TOPIC may be several names with
            commas between them; SOURCE_TOPIC_PATTERN a regular expression that a topic's name has to fit from end to end: those
            that come later are read from their log's start.
        feeds: the targets that say where to start; by default those of all sinks behind this source.
        flow: the flow's name in the keys of positions; by default the Dataflow's own.

    Parallelism: `LANES` readers over all workers and processes; of one topic lane i reads every partition p with
        p % LANES == i, of several (a stable hash of the topic + p) % LANES == i; added ones too. The number may change from one
        start to the next where targets remember.
    Delivery: exactly once into the targets behind it (tests/faults/test_kafka_source.py). Into a plain Bytewax sink, as
        Bytewax's recovery gives it: at least once with `-r`, else whatever START says.

    Raises:
        ConfigError: no topic is given, settings contradict, login or TLS refused, no such topic (ON_UNKNOWN_TOPIC=fail), a step
            was renamed, the recovery store is of other LANES.
        DataError: the flow was renamed.
        DataLoss: a topic was re-created, or its log does not hold the stored position (ON_DATA_LOSS=fail).
        TransientError: no broker answered for KAFKA_AWAY_MAX_S.
    """

    noun = "topic"
    lost_aside = " (transactions' markers and aborted records may be among them)"

    def __init__(self, settings: KafkaSettings, feeds: Sequence[Target] | None = None, flow: str = "") -> None:
        client_config(settings)  # what is wrong with them is said before anything starts
        # (A flow's own default is no topic that somebody has asked for beside the pattern.)
        by_pattern = bool(settings.source_topic_pattern)
        names = settings.source_topic.split(",") if settings.source_topic else []
        if not names and not by_pattern:
            raise ConfigError(f"{settings.name_of('source_topic')} is not given.", hint="Set it to the topic to read.")
        if by_pattern and "source_topic" in settings.model_fields_set and names:
            raise ConfigError(
                f"{settings.name_of('source_topic')} and {settings.name_of('source_topic_pattern')} are both given.",
                hint="Take one: a pattern may name topics as well (a|b).",
            )
        super().__init__(
            *(() if by_pattern else names),
            pattern=settings.source_topic_pattern,
            options=options_of(settings),
            feeds=feeds,
            flow=flow,
        )
        if named := settings.flow_name:
            self._flow, self.flow_by = named, f"A source whose {settings.name_of('flow_name')} is {named!r}"
        self.create_hint, self.await_hint = settings.told(CREATE_HINT), settings.told(AWAIT_HINT)
        self.place = f" at {settings.kafka_bootstrap_servers}"
        self._settings = settings
        self._broker: Broker | None = None
        self._consumers: dict[int, SharedConsumer] = {}  # by thread
        self._fitting: tuple[float, list[str]] = (0.0, [])  # topics of the pattern, and until when that holds

    @override
    def started(self, flow: str, closing: threading.Event, durable: Durable) -> None:
        if not self._settings.kafka_group_id:
            self._settings = self._settings.model_copy(update={"kafka_group_id": f"waxwing-{flow}"})
        self._broker, self._consumers = Broker(self._settings, closing), {}
        offsets = GroupOffsets(self._settings, durable.positions, closing.is_set)
        offsets.start()
        runtime.at_end(offsets.finish)

    @override
    def begun(self) -> None:
        self._asked.prompt = False

    @property
    def _asked(self) -> Broker:
        assert self._broker is not None  # nobody asks before it has started
        return self._broker

    def _topics(self) -> Mapping[str, Topic]:
        """Those that are there and have partitions."""
        names = list(self.names)
        if self.pattern:
            until_s, names = self._fitting
            if time.monotonic() > until_s or not names:
                names = [name for name in self._asked.names() if self.fits(name)]
                self._fitting = (time.monotonic() + PATTERN_REFRESH_S, names)
        return {name: topic for name, topic in self._asked.topics(names).items() if topic.partitions}

    @override
    def listed(self) -> Collection[tuple[str, str, int]]:
        return [(name, topic.id, number) for name, topic in self._topics().items() for number in topic.partitions]

    @override
    def describe(self) -> Sequence[Log]:
        topics = self._topics()
        places = [(name, number) for name, topic in topics.items() for number in sorted(topic.partitions)]
        firsts = self._asked.offsets(places, OffsetSpec.earliest())
        ends = self._asked.offsets(places, OffsetSpec.latest())
        written = self._asked.offsets(places, OffsetSpec.latest(), committed=False)
        return [
            Log(
                name,
                topics[name].id,
                number,
                first=firsts[name, number],
                end=max(firsts[name, number], ends[name, number]),
                written=written[name, number],
            )
            for name, number in places
        ]

    @override
    def at_time(self, time_ms: int, logs: Mapping[Stream, Log]) -> Mapping[Stream, Begin]:
        found = self._asked.offsets([(s.source, s.partition) for s in logs], OffsetSpec.for_timestamp(time_ms))
        # -1: all records are older
        at = {s: found[s.source, s.partition] for s in logs}
        return {s: Begin(offset if offset >= 0 else logs[s].end or 0) for s, offset in at.items()}

    @override
    def lane(self, name: str, alert: Alert) -> LaneReader:
        consumer = self._consumers.get(threading.get_ident())
        if consumer is None or consumer.closed:
            consumer = self._consumers[threading.get_ident()] = SharedConsumer(self._settings)
        return KafkaLane(consumer, alert)

    @override
    def close(self) -> None:
        self._broker, self._fitting = None, (0.0, [])


def options_of(settings: KafkaSettings) -> Options:
    """What any source is told, as Kafka's settings say it."""
    return Options.of(
        settings,
        on_unknown=settings.on_unknown_topic,
        batch_records_max=settings.batch_records_max,
        refresh_interval_s=settings.partition_refresh_interval_s,
        away_max_s=settings.kafka_away_max_s,
    )
