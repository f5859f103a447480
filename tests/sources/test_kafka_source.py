"""The Kafka source without a broker: its configuration, its decisions, and how it cuts batches."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sinks import MemoryTarget
from sources import kafka_start
from sources.kafka import KafkaSource
from sources.kafka.broker import Broker
from sources.kafka.consumer import lane_config
from sources.kafka.messages import KafkaMessages
from sources.kit import Log, Run
from sources.kit.reading import stream
from sources.kit.reading.stream import StreamReader
from sources.kit.starting.opening import Lost, missing, part, recreated, start_time_ms
from sources.kit.starting.positions import StartAt
from sources.kit.state import LaneState, StreamState
from sources.kit.words import OpenPart
from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.errors import ConfigError
from waxwing.kafka_client import REFUSED, client_config, make_client, refusal
from waxwing.settings import KafkaSettings

STREAM = Stream("flow", "orders", "id", 0)


def settings(**given: Any) -> KafkaSettings:
    return KafkaSettings(**{"kafka_bootstrap_servers": "127.0.0.1:9", **given})


SASL = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "SCRAM-SHA-256",
    "kafka_sasl_username": "alice",
    "kafka_sasl_password": SecretStr("alice-secret"),
}

# -- configuration -----------------------------------------------------------------------------------


def test_a_flow_that_is_named_otherwise_than_that_of_its_targets_is_refused() -> None:
    target = MemoryTarget()
    target.bind("orders", "out")
    source = KafkaSource(settings(source_topic="orders"), feeds=[target], flow="payments")
    with pytest.raises(ConfigError, match=r"flow='payments'\) feeds targets of the flow 'orders'"):
        source.build_part("orders.in", "lane-000", None)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_key_that_exactness_rests_on_is_refused_with_its_reason_and_without_its_value(key: str) -> None:
    with pytest.raises(ConfigError, match=key) as raised:
        client_config(settings(kafka_config={key: "the-value"}))
    assert REFUSED[key] in str(raised.value)
    assert "the-value" not in str(raised.value)


def test_further_settings_win_over_ours_but_for_what_exactness_rests_on() -> None:
    config = lane_config(settings(kafka_config={"fetch.queue.backoff.ms": 50, "fetch.max.bytes": 1_000_000}))
    assert (config["fetch.queue.backoff.ms"], config["fetch.max.bytes"]) == (50, 1_000_000)
    assert (config["enable.auto.commit"], config["auto.offset.reset"], config["isolation.level"]) == (
        False,
        "error",
        "read_committed",
    )


def test_the_login_and_the_files_reach_the_client() -> None:
    config = client_config(settings(**SASL, kafka_ssl_ca_file="ca.pem", kafka_ssl_key_password=SecretStr("key-secret")))
    assert (config["sasl.mechanism"], config["sasl.username"], config["sasl.password"]) == (
        "SCRAM-SHA-256",
        "alice",
        "alice-secret",
    )
    assert (config["ssl.ca.location"], config["ssl.key.password"]) == ("ca.pem", "key-secret")


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"kafka_sasl_mechanism": "PLAIN"}, ["KAFKA_SASL_MECHANISM", "KAFKA_SECURITY_PROTOCOL"]),
        ({"kafka_security_protocol": "SASL_SSL"}, ["KAFKA_SASL_MECHANISM", "KAFKA_SECURITY_PROTOCOL"]),
        ({**SASL, "kafka_sasl_password": SecretStr("")}, ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"]),
        ({"kafka_bootstrap_servers": ""}, ["KAFKA_BOOTSTRAP_SERVERS"]),
    ],
)
def test_settings_that_contradict_are_named(wrong: dict[str, Any], names: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        KafkaSource(settings(**wrong))
    assert all(name in str(raised.value) for name in names)


def test_a_missing_file_and_an_unknown_key_are_named_before_anything_starts(tmp_path: Path) -> None:
    missing_file = settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=str(tmp_path / "no.pem"))
    with pytest.raises(ConfigError, match=r"KAFKA_SSL_CA_FILE.*no\.pem"):
        make_client(AdminClient, client_config(missing_file), missing_file)
    unknown = settings(kafka_config={"fetch.max.bites": 1}, **SASL)
    with pytest.raises(ConfigError, match=r"fetch\.max\.bites") as raised:
        make_client(Consumer, lane_config(unknown), unknown)
    assert "KAFKA_CONFIG" in raised.value.hint
    assert "alice-secret" not in str(raised.value)


def test_a_file_that_is_no_certificate_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    wrong = settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=str(tmp_path / "bad.pem"))
    with pytest.raises(ConfigError) as raised:
        make_client(AdminClient, client_config(wrong), wrong)
    assert "KAFKA_SSL_CA_FILE" in raised.value.hint


def test_a_start_time_is_taken_with_its_zone() -> None:
    assert start_time_ms("1970-01-01T01:00:01+01:00") == start_time_ms("1970-01-01T00:00:01Z") == 1000


def test_errors_that_may_pass_are_no_refusals() -> None:
    assert refusal(KafkaError(KafkaError._TRANSPORT), settings()) is None
    assert isinstance(refusal(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), settings()), ConfigError)


# -- where to start ----------------------------------------------------------------------------------


def log_of(first: int, end: int, number: int = 0) -> Log:
    return Log("orders", "id", number, first=first, end=end)


def test_without_targets_the_recovery_store_decides_with_them_the_lower_offset() -> None:
    log, stood = log_of(0, 100), StreamState(70)
    assert part(STREAM, StartAt(50), log, stood, alone=True) == OpenPart(STREAM, 70, (), None)
    assert part(STREAM, StartAt(50, (60,)), log, stood, alone=False) == OpenPart(STREAM, 50, (60,), None)
    assert part(STREAM, StartAt(50, (60,), 90), log, StreamState(20), alone=False) == OpenPart(STREAM, 20, (50, 60), 90)


def test_lost_positions_move_onto_the_log_and_are_counted_in_one_message() -> None:
    assert part(STREAM, StartAt(5, (8, 20)), log_of(10, 30), None, alone=False) == OpenPart(STREAM, 10, (20,), None)
    other = STREAM._replace(partition=1)
    logs = {STREAM: log_of(10, 30), other: log_of(10, 30, 1)}
    error = missing([Lost(STREAM, 4), Lost(other, 40)], logs)
    assert error is not None
    assert error.context["offsets_lost"] == 6 + 10
    assert "orders[0] stands at offset 4" in str(error)
    assert "orders[1] stands at offset 40" in str(error)
    assert missing([Lost(STREAM, 10), Lost(other, 30)], logs) is None


def test_only_positions_of_an_earlier_topic_alone_mean_that_it_was_recreated() -> None:
    old, new = Position(STREAM._replace(source_id="old"), 5, 0), Position(STREAM, 1, 0)
    assert recreated("topic", "orders", {"id"}, [old]) is not None
    assert recreated("topic", "orders", {"id"}, [old, new]) is None
    assert recreated("topic", "orders", {"id"}, []) is None
    assert recreated("topic", "other", {"id"}, [old]) is None


# Lane 0 of LANES=2 at the end of a bounded run of `orders`, whose partition 2 had not come to its end: pickled by 12ee004.
OF_12EE004 = bytes.fromhex(
    "80049546000000000000008c13736f75726365732e6b61666b615f7374617274948c094c616e6553746174659493948c0269"
    "64947d94284b004b054b024b03757d94284b004b054b024b0975879481942e"
)


def test_a_recovery_state_of_an_earlier_release_is_read_and_knows_an_unfinished_run() -> None:
    old = pickle.loads(OF_12EE004)
    assert isinstance(old, kafka_start.LaneState)
    state = LaneState.of(old, "orders")
    assert state is not None
    assert state.stream(STREAM) == StreamState(5, 5)
    assert state.stream(STREAM._replace(partition=2)) == StreamState(3, 9)
    assert state.stream(STREAM._replace(source_id="new")) is None
    assert (state.unfinished, state.lanes, state.ids("orders")) == (True, 0, {"id"})


def test_a_recovery_state_holds_several_topics_in_plain_values() -> None:
    streams = {("orders", "id", 0): StreamState(5, 9), ("returns", "id2", 1): StreamState(7, None, b"token", 6)}
    kept = LaneState(4, streams).kept()
    assert b"sources" not in pickle.dumps(kept), "no class of ours, whose module could move"
    assert LaneState.of(pickle.loads(pickle.dumps(kept)), "") == LaneState(4, streams)
    assert not LaneState(4, {("orders", "id", 0): StreamState(9, 9)}).unfinished
    assert LaneState.of(None, "orders") is None
    with pytest.raises(ConfigError, match="something else"):
        LaneState.of(("waxwing lane", 2, 4, {}), "")


@pytest.mark.parametrize(
    ("topic", "lanes", "kept", "told"),
    [
        ("orders", 4, LaneState(2, {("orders", "id", 1): StreamState(5)}).kept(), "LANES was 2"),
        ("orders", 4, kafka_start.LaneState("id", {1: 5, 3: 5}, {}), "LANES or what is read was another"),
        ("orders,returns", 4, LaneState(4, {("orders", "id", 1): StreamState(5)}).kept(), "LANES or what is read was another"),
        ("orders,returns", 4, kafka_start.LaneState("id", {1: 5}, {}), "of an earlier Waxwing and of one topic"),
        ("orders", 4, kafka_start.LaneState("id", {1: 5, 5: 5}, {}), ""),
        ("orders", 4, LaneState(4, {("orders", "id", 1): StreamState(5)}).kept(), ""),
    ],
)
def test_a_recovery_store_of_other_lanes_is_told(topic: str, lanes: int, kept: Any, told: str) -> None:
    source = KafkaSource(settings(source_topic=topic, lanes=lanes))
    if not told:
        assert source.resumed(1, kept) is not None
        return
    with pytest.raises(ConfigError, match=told):
        source.resumed(1, kept)
    source.feed(object(), MemoryTarget())
    assert source.resumed(1, kept) is not None, "where targets remember, lanes may change"


def test_lanes_take_the_partitions_of_several_topics_by_a_stable_hash() -> None:
    one, several = KafkaSource(settings(source_topic="orders")), KafkaSource(settings(source_topic=" orders, returns ,orders"))
    assert several.names == ("orders", "returns")
    assert [one.lane_of(STREAM._replace(partition=p)) for p in range(6)] == [0, 1, 2, 3, 0, 1]
    at = {name: several.lane_of(Stream("flow", name, "id", 0)) for name in ("orders", "returns")}
    assert at == {"orders": 2, "returns": 1}, "stored with -r: it must never change"
    assert [several.lane_of(STREAM._replace(partition=p)) for p in range(4)] == [2, 3, 0, 1]
    pattern = KafkaSource(settings(source_topic_pattern=r"orders\..+"))
    topics = [Stream("flow", f"orders.{n}", "id", 0) for n in range(100)]
    assert len({pattern.lane_of(topic) for topic in topics}) == 4, "topics of one partition are spread"
    assert [name for name in ("orders.de", "orders.", "my.orders.de", "orders-de") if pattern.fits(name)] == ["orders.de"]


def test_topics_and_a_pattern_of_them_are_refused_together_but_for_a_flow_s_own_default() -> None:
    with pytest.raises(ConfigError, match="SOURCE_TOPIC and SOURCE_TOPIC_PATTERN"):
        KafkaSource(settings(source_topic="orders", source_topic_pattern="orders.*"))

    class OfOrders(KafkaSettings):
        source_topic: str = "raw_orders"

    source = KafkaSource(OfOrders(kafka_bootstrap_servers="127.0.0.1:9", source_topic_pattern="orders.*"))
    assert (source.names, source.pattern) == ((), "orders.*")
    for wrong in ({"source_topic": "a,,b"}, {"source_topic": "a b"}, {"source_topic_pattern": "("}):
        with pytest.raises(ValueError, match="must be"):
            settings(**wrong)


# -- cutting batches ---------------------------------------------------------------------------------


def message(offset: int) -> Message:
    return Message(topic="orders", partition=0, offset=offset, value=b"%d" % offset)


@given(
    offsets=st.lists(st.integers(0, 60), unique=True).map(sorted),
    fetches=st.lists(st.integers(1, 8), min_size=61, max_size=61),
    splits=st.sets(st.integers(0, 70), max_size=6),
    eof=st.integers(61, 70),
    end=st.none() | st.integers(0, 61),
)
def test_any_fetches_give_an_unbroken_run_of_batches_that_end_at_every_split_point(
    offsets: list[int], fetches: list[int], splits: set[int], eof: int, end: int | None
) -> None:
    reader = StreamReader("lane-000", OpenPart(STREAM, 0, tuple(sorted(splits - {0})), end))
    batches = []
    rest = offsets
    for size in fetches:
        if reader.done:
            break
        fetched, rest = rest[:size], rest[size:]
        offset_next = eof if not rest else fetched[-1] + 1
        batches += reader.take(Run(KafkaMessages([message(offset) for offset in fetched]), offset_next), at_end=not rest)
        assert pickle.loads(pickle.dumps(batches)) is not None
    last = eof if end is None else end
    assert reader.position == last
    edges = [0, *[batch.offset_next for batch in batches]]
    assert [batch.offset_first for batch in batches] == edges[:-1]
    assert all(left < right for left, right in pairwise(edges))
    assert {split for split in splits if split < last} <= set(edges)
    taken = [offset for batch in batches for offset in batch.messages.offsets]
    assert taken == [offset for offset in offsets if offset < last]
    for batch in batches:
        assert list(batch.records) == [b"%d" % offset for offset in batch.messages.offsets]
        assert all(batch.offset_first <= offset < batch.offset_next for offset in batch.messages.offsets)


class Leaderless:
    """An administrator whose first answers have no offset in them."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    def list_offsets(self, asked: Iterable[TopicPartition], **_: object) -> dict[TopicPartition, Future[Any]]:
        answer: Future[Any] = Future()
        answer.set_result(SimpleNamespace(offset=self.answers.pop(0)))
        return dict.fromkeys(asked, answer)

    def poll(self, timeout_s: float) -> None:
        """Nothing comes."""


def test_an_answer_without_an_offset_is_asked_for_again() -> None:
    broker = Broker(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"), threading.Event())
    broker._admin = Leaderless(OFFSET_INVALID, OFFSET_INVALID, 7)  # type: ignore[assignment]  # a stand-in
    assert broker.offsets([("t", 0), ("t", 1)], OffsetSpec.earliest()) == {("t", 0): 7, ("t", 1): 7}
    assert broker._admin.answers == []  # type: ignore[attr-defined]  # its own


def test_an_idle_partition_says_so_again_for_windows_that_wait_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: now_s))
    reader = StreamReader("lane-000", OpenPart(Stream("flow", "t", "id", 0), 0))
    assert reader.idle([2.0]) == [], "the log's end was not met yet"
    reader.take(Run(KafkaMessages([]), 0), at_end=True)
    said = []
    for now_s in (1.9, 2.0, 2.1, 6.9, 7.0, 11.0, 12.5, 20.1):
        said += [(now_s, mark.idle_s) for mark in reader.idle([2.0, 20.0])]
    assert said == [(at, at) for at in (2.0, 7.0, 12.5, 20.1)]
    reader.take(Run(KafkaMessages([]), 0), at_end=True)
    assert reader.idle([2.0]) == []
