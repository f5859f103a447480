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
from sources import kafka_lane
from sources.kafka import KafkaSource
from sources.kafka_broker import Broker
from sources.kafka_lane import Reader, lane_config
from sources.kafka_start import Bounds, LaneState, Lost, OpenPart, missing, part, recreated, start_time_ms
from waxwing.batch import Stream
from waxwing.errors import ConfigError
from waxwing.kafka_client import REFUSED, client_config, make_client, refusal
from waxwing.positions import StartAt
from waxwing.settings import KafkaSettings
from waxwing.target import Position

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


def test_without_targets_the_recovery_store_decides_with_them_the_lower_offset() -> None:
    log = Bounds(0, 100)
    assert part(STREAM, StartAt(50), log, 70, alone=True) == OpenPart(STREAM, 70, (), None)
    assert part(STREAM, StartAt(50, (60,)), log, 70, alone=False) == OpenPart(STREAM, 50, (60,), None)
    assert part(STREAM, StartAt(50, (60,), 90), log, 20, alone=False) == OpenPart(STREAM, 20, (50, 60), 90)


def test_lost_positions_move_onto_the_log_and_are_counted_in_one_message() -> None:
    assert part(STREAM, StartAt(5, (8, 20)), Bounds(10, 30), None, alone=False) == OpenPart(STREAM, 10, (20,), None)
    other = STREAM._replace(partition=1)
    error = missing([Lost(STREAM, 4), Lost(other, 40)], {0: Bounds(10, 30), 1: Bounds(10, 30)})
    assert error is not None
    assert error.context["offsets_lost"] == 6 + 10
    assert "orders[0] stands at offset 4" in str(error)
    assert "orders[1] stands at offset 40" in str(error)
    assert missing([Lost(STREAM, 10), Lost(other, 30)], {0: Bounds(10, 30), 1: Bounds(10, 30)}) is None


def test_only_positions_of_an_earlier_topic_alone_mean_that_it_was_recreated() -> None:
    old, new = Position(STREAM._replace(source_id="old"), 5, 0), Position(STREAM, 1, 0)
    assert recreated("orders", "id", [old]) is not None
    assert recreated("orders", "id", [old, new]) is None
    assert recreated("orders", "id", []) is None
    assert recreated("other", "id", [old]) is None


def test_a_recovery_state_is_of_its_topic_and_knows_an_unfinished_run() -> None:
    state = LaneState("id", {0: 5}, {0: 9})
    assert pickle.loads(pickle.dumps(state)) == state
    assert state.offset(STREAM) == 5
    assert state.offset(STREAM._replace(source_id="new")) is None
    assert state.unfinished
    assert not LaneState("id", {0: 9}, {0: 9}).unfinished


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
    reader = Reader("lane-000", OpenPart(STREAM, 0, tuple(sorted(splits - {0})), end))
    batches = []
    rest = offsets
    for size in fetches:
        if reader.done:
            break
        fetched, rest = rest[:size], rest[size:]
        batches += reader.take([message(offset) for offset in fetched], eof if not rest else None)
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
    assert broker.offsets("t", [0, 1], OffsetSpec.earliest()) == {0: 7, 1: 7}
    assert broker._admin.answers == []  # type: ignore[attr-defined]  # its own


def test_an_idle_partition_says_so_again_for_windows_that_wait_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(kafka_lane, "time", SimpleNamespace(monotonic=lambda: now_s))
    reader = Reader("lane-000", OpenPart(Stream("flow", "t", "id", 0), 0, (), None))
    assert reader.idle([2.0]) == [], "the log's end was not met yet"
    reader.take([], eof=0)
    said = []
    for now_s in (1.9, 2.0, 2.1, 6.9, 7.0, 11.0, 12.5, 20.1):
        said += [(now_s, mark.idle_s) for mark in reader.idle([2.0, 20.0])]
    assert said == [(at, at) for at in (2.0, 7.0, 12.5, 20.1)]
    reader.take([], eof=0)
    assert reader.idle([2.0]) == []
