"""The Kafka source: a topic as batches, in a fixed number of lanes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from bytewax.inputs import FixedPartitionedSource
from typing_extensions import override

from sources.group_offsets import Durable, GroupOffsets
from sources.kafka_lane import Lane, Raw
from sources.kafka_start import LaneState
from sources.kafka_topic import TopicWatch
from sources.kit.feeds import Feeds
from waxwing import runtime
from waxwing.batch import lane_name
from waxwing.errors import ConfigError
from waxwing.kafka_client import client_config
from waxwing.settings import KafkaSettings
from waxwing.target import Target

__all__ = ["KafkaSource"]


class KafkaSource(FixedPartitionedSource[Raw, LaneState | None]):
    """A topic's records, in batches of one partition each.

    Args:
        settings: brokers, topic, where to start and end, what to do about lost data.
        feeds: the targets that say where to start; by default those of all sinks behind this source.
        flow: the flow's name in the keys of positions; by default the Dataflow's own.

    Parallelism: `LANES` readers over all workers and processes; lane i reads every partition p with p % LANES == i, added
        ones too. The number may change from one start to the next where targets remember.
    Delivery: exactly once into the targets behind it (tests/faults/test_kafka_source.py). Into a plain Bytewax sink, as
        Bytewax's recovery gives it: at least once with `-r`, else whatever START says.

    Raises:
        ConfigError: no topic is given, settings contradict, login or TLS refused, no such topic (ON_UNKNOWN_TOPIC=fail), a step
            was renamed.
        DataError: the flow was renamed.
        DataLoss: the topic was re-created, or its log does not hold the stored position (ON_DATA_LOSS=fail).
        TransientError: no broker answered for KAFKA_AWAY_MAX_S.
    """

    def __init__(self, settings: KafkaSettings, feeds: Sequence[Target] | None = None, flow: str = "") -> None:
        client_config(settings)  # what is wrong with them is said before anything starts
        if not settings.source_topic:
            raise ConfigError(f"{settings.name_of('source_topic')} is not given.", hint="Set it to the topic to read.")
        self._settings, self._targets, self._flow = settings, Feeds(feeds), flow
        self._shared: tuple[TopicWatch, Durable] | None = None
        self._lock = threading.Lock()

    def feed(self, graph: object, target: Target) -> None:
        """A sink of this graph stands behind it."""
        self._targets.add(graph, target)

    @property
    def _feeds(self) -> Sequence[Target]:
        return self._targets.targets

    @override
    def list_parts(self) -> list[str]:
        for feed in self._feeds:
            feed.expect(self._settings.source_topic)
        return [lane_name(lane) for lane in range(self._settings.lanes)]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: LaneState | None) -> Lane:
        named = self._settings.flow_name or self._flow
        flow = next((feed.flow for feed in self._feeds if feed.flow), "") or named or step_id.partition(".")[0]
        if named and flow != named:
            by_setting = f"A source whose {self._settings.name_of('flow_name')} is {named!r}"
            who = by_setting if self._settings.flow_name else f"KafkaSource(flow={named!r})"
            runtime.fail(
                ConfigError(
                    f"{who} feeds targets of the flow {flow!r}.",
                    hint=f"Leave flow= out, or name the flow so: Dataflow({named!r}); or by FLOW_NAME, for all of it.",
                )
            )
        if not self._settings.kafka_group_id:
            self._settings = self._settings.model_copy(update={"kafka_group_id": f"waxwing-{flow}"})
        with self._lock:  # workers of one process build their lanes at once
            try:
                topic, durable = self._shared_by_lanes(flow)
                return Lane(self._settings, self.list_parts().index(for_part), topic, durable, resume_state)
            except Exception as error:  # noqa: BLE001 - the process ends by it, or it is raised
                runtime.fail(error)

    def _shared_by_lanes(self, flow: str) -> tuple[TopicWatch, Durable]:
        """What all lanes of this process share; a second run of the same source begins anew."""
        if self._shared is None or self._shared[0].closed:
            for feed in self._feeds:
                feed.claim(self._settings.source_topic, self)
            topic = TopicWatch(self._settings, self._feeds, flow)
            durable = Durable(self._feeds, self._settings.source_topic, lambda: topic.topic_id)
            self._shared = (topic, durable)
            offsets = GroupOffsets(self._settings, durable.positions, lambda: topic.closed)
            topic.start()
            offsets.start()
            runtime.at_end(offsets.finish)
        return self._shared
