"""One consumer for several lanes: each gets what is its own, events and errors go to whom they concern, and nobody is flooded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError

from sources.kafka import consumer as module
from sources.kafka.consumer import WAITING_MAX, SharedConsumer
from sources.kafka.lane import KafkaLane
from sources.kit import Fetched, Place
from waxwing.batch import Stream
from waxwing.errors import DataError
from waxwing.settings import KafkaSettings

STREAMS = [Stream("flow", "orders", "id", number) for number in range(4)]


class Message:
    """As the client gives it."""

    def __init__(self, partition: int, offset: int, error: int | None = None, topic: str = "orders") -> None:
        self._partition, self._offset, self._topic = partition, offset, topic
        self._error = None if error is None else KafkaError(error)

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def topic(self) -> str:
        return self._topic

    def error(self) -> KafkaError | None:
        return self._error

    def value(self) -> bytes:
        return b"%d" % self._offset


class Client:
    """The client library's consumer."""

    def __init__(self, config: Any) -> None:
        self.queue: list[Message] = []
        self.asked: list[tuple[int, float]] = []
        self.closed = False

    def consume(self, number: int, timeout_s: float) -> list[Message]:
        self.asked.append((number, timeout_s))
        out, self.queue = self.queue[:number], self.queue[number:]
        return out

    def incremental_assign(self, places: object) -> None: ...
    def incremental_unassign(self, places: object) -> None: ...
    def close(self) -> None:
        self.closed = True


class Lanes:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "Message", Message)
        monkeypatch.setattr("sources.kafka.messages._offset", Message.offset)
        monkeypatch.setattr(module, "make_client", lambda _, config, __: Client(config))
        self.shared = SharedConsumer(KafkaSettings(kafka_bootstrap_servers="here:9092"))
        self.client: Client = self.shared._consumer  # type: ignore[assignment]  # the fake one
        self.alerts: list[tuple[int, Stream | None]] = []
        self.lanes = [KafkaLane(self.shared, self._alert(number)) for number in range(2)]
        for number, lane in enumerate(self.lanes):
            lane.open([Place(stream, 0, None) for stream in STREAMS[number::2]])

    def _alert(self, number: int) -> Any:
        return lambda stream=None: self.alerts.append((number, stream))


def told(fetched: Sequence[Fetched]) -> list[tuple[int, list[int], bool]]:
    return [(one.stream.partition, list(one.run.messages.offsets), one.at_end) for one in fetched]


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Lanes:
    return Lanes(monkeypatch)


def test_one_look_brings_each_lane_what_is_its_own(lanes: Lanes) -> None:
    lanes.client.queue = [Message(0, 0), Message(1, 0), Message(0, 1), Message(2, 7), Message(1, 1, KafkaError._PARTITION_EOF)]
    assert told(lanes.lanes[0].read(100)) == [(0, [0, 1], False), (2, [7], False)]
    assert told(lanes.lanes[1].read(100)) == [(1, [0], True)]
    assert lanes.client.asked == [(100, 0)], "the second one had it already"
    assert all(lane.found_little for lane in lanes.lanes)
    lanes.client.queue = [Message(3, n) for n in range(60)]
    assert told(lanes.lanes[0].read(100)) == []
    assert not lanes.lanes[0].found_little
    assert told(lanes.lanes[1].read(100)) == [(3, list(range(60)), False)]


def test_a_wait_ends_for_whichever_lane_it_is(lanes: Lanes) -> None:
    lanes.lanes[0].read(100)
    lanes.client.queue = [Message(3, 5), Message(3, 6)]
    lanes.lanes[0].wait(0.05)
    assert lanes.client.asked == [(100, 0), (1, 0.05), (99, 0)], "and what came with it"
    lanes.lanes[1].wait(0.05)
    assert len(lanes.client.asked) == 3, "it has something"
    assert told(lanes.lanes[1].read(100)) == [(3, [5, 6], False)]
    lanes.lanes[0].read(100)
    lanes.client.queue += [Message(3, n) for n in (7, 8)]
    lanes.lanes[0].wait(0.05)
    assert told(lanes.lanes[1].read(100)) == [(3, [7, 8], False)]
    assert lanes.lanes[0].waits_with is lanes.lanes[1].waits_with


def test_a_wait_takes_no_more_than_is_asked_for(lanes: Lanes) -> None:
    lanes.lanes[1].read(1)
    lanes.client.queue = [Message(3, 5), Message(3, 6)]
    lanes.lanes[1].wait(0.05)
    assert told(lanes.lanes[1].read(1)) == [(3, [5], False)]


def test_a_lane_that_does_not_ask_stops_the_others_from_filling_the_memory(lanes: Lanes) -> None:
    lanes.client.queue = [Message(1, n) for n in range(3 * WAITING_MAX)]
    for _ in range(10):
        lanes.lanes[0].read(WAITING_MAX // 2)
    assert len(lanes.client.queue) == 2 * WAITING_MAX
    assert sum(len(one.run.messages) for one in lanes.lanes[1].read(100)) == WAITING_MAX
    lanes.lanes[0].read(100)
    assert len(lanes.client.queue) == 2 * WAITING_MAX - 100


def test_what_is_odd_is_told_by_the_lane_that_it_concerns(lanes: Lanes) -> None:
    lanes.client.queue = [Message(1, 0, KafkaError._AUTO_OFFSET_RESET), Message(0, 0, KafkaError._UNKNOWN_PARTITION)]
    assert told(lanes.lanes[0].read(100)) == []
    assert lanes.alerts == [(1, STREAMS[1]), (0, None)]
    lanes.client.queue = [Message(2, 0, KafkaError._BAD_MSG)]
    with pytest.raises(DataError, match=r"orders\[2\]: Kafka's client can't read on"):
        lanes.lanes[1].read(100)


def test_what_was_on_its_way_for_a_stream_that_was_left_is_dropped(lanes: Lanes) -> None:
    lanes.lanes[0].leave(STREAMS[2])
    lanes.client.queue = [Message(2, 0), Message(0, 0)]
    assert told(lanes.lanes[0].read(100)) == [(0, [0], False)]
    assert told(lanes.lanes[1].read(100)) == []


def test_it_closes_with_its_last_lane(lanes: Lanes) -> None:
    told_closed = []
    for lane in lanes.lanes:
        lane.close()
        told_closed.append((lanes.client.closed, lanes.shared.closed))
    assert told_closed == [(False, False), (True, True)]
