"""Topics as targets on a real broker: what is made and checked, rights, limits, stalls, and brokers without transactions."""

from __future__ import annotations

import random
import threading
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from sinks import sink
from sinks.kafka import KafkaTarget
from sinks.kafka.producers import Sender
from sources import read
from sources.kafka import KafkaSource
from sources.memory import MemorySource, Message
from tests.conformance.targets.kinds import ITEMS, Item, read_committed, table
from tests.conformance.targets.test_targets import play
from tests.servers import Kafka
from tests.servers.process import until
from waxwing.errors import ConfigError, DataError, TransientError, TryLater, WaxwingError
from waxwing.operators import parse
from waxwing.settings import KafkaSettings, KafkaTargetSettings

QUICK: dict[str, Any] = {"lanes": 2, "owner_stale_s": 1.0, "retry_max_s": 30.0}
GOOD = [{"id": n, "name": f"n{n}", "amount": "1.00"} for n in range(20)]


def settings(kafka: Kafka, **more: Any) -> KafkaTargetSettings:
    return KafkaTargetSettings(**({"kafka_bootstrap_servers": kafka.bootstrap()} | QUICK | more))


def run(kafka: Kafka, flow: str, data: Any, topic: str, *, given: KafkaTargetSettings | None = None, **more: Any) -> None:
    graph = Dataflow(flow)
    target = KafkaTarget(given or settings(kafka), topic, table("items", ITEMS), key="name", **more)
    sink("out", parse("parse", read("in", graph, MemorySource(data, batch_records=7)), Item, on_tombstone="delete"), target)
    play(graph)


def values(kafka: Kafka, topic: str) -> list[int]:
    return sorted(msgspec.json.decode(value)["id"] for _, value, _ in read_committed(kafka, topic) if value)


def config_of(kafka: Kafka, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = kafka.admin.describe_configs([resource])[resource].result(30)
    return {name: entry.value for name, entry in found.items()}


def test_topics_are_made_as_they_have_to_be(kafka: Kafka) -> None:
    given = settings(kafka, kafka_topic_partitions=5)
    run(kafka, "making", GOOD, "made-here", given=given, compacted=True)
    topics = kafka.admin.list_topics(timeout=30).topics
    assert [len(topics[name].partitions) for name in ("made-here", "made-here.dead_letters", "waxwing.making.out.positions")] == [
        5,
        5,
        1,
    ]
    assert config_of(kafka, "made-here")["cleanup.policy"] == "compact"
    of_positions = config_of(kafka, "waxwing.making.out.positions")
    assert of_positions["cleanup.policy"] == "compact"
    assert of_positions["message.timestamp.type"] == "LogAppendTime"


def test_a_topic_that_would_forget_positions_is_refused(kafka: Kafka) -> None:
    kafka.create_topic("waxwing.forgetful.out.positions", cleanup_policy="delete")
    with pytest.raises(ConfigError, match=r"would lose them.*cleanup\.policy=compact"):
        run(kafka, "forgetful", GOOD, "forgotten")
    kafka.create_topic("waxwing.several.out.positions", 2, cleanup_policy="compact")
    with pytest.raises(ConfigError, match="has 2 partitions in place of one"):
        run(kafka, "several", GOOD, "forgotten")


def test_a_topic_that_can_not_be_made_ends_the_start_and_says_how_to_make_it(kafka: Kafka) -> None:
    with pytest.raises(ConfigError, match="bad/name"):
        run(kafka, "naming", GOOD, "bad/name")
    with pytest.raises(ConfigError, match=r"(?s)KAFKA_TOPIC_REPLICATION.*by hand"):
        run(kafka, "copied", GOOD, "copied", given=settings(kafka, kafka_topic_replication=3))
    kafka.create_topic("copied")
    kafka.create_topic("copied.dead_letters")
    with pytest.raises(ConfigError, match=r"waxwing\.copied\.out\.positions(?s:.*)one partition and cleanup\.policy=compact"):
        run(kafka, "copied", GOOD, "copied", given=settings(kafka, kafka_topic_replication=3))


def test_a_topic_that_was_there_is_not_made_compacted_and_this_is_said(kafka: Kafka, capfd: pytest.CaptureFixture[str]) -> None:
    kafka.create_topic("kept", cleanup_policy="delete")
    run(kafka, "keeping", GOOD, "kept", compacted=True)
    assert "Topic kept is to be compacted" in capfd.readouterr().err
    assert config_of(kafka, "kept")["cleanup.policy"] == "delete"


def test_keys_lie_where_other_producers_put_them(kafka: Kafka) -> None:
    kafka.create_topic("meeting", 7)
    run(kafka, "meeting", GOOD, "meeting")
    config = {**kafka.client(), "partitioner": "murmur2"}
    producer, theirs = Producer(config), dict[bytes, int]()
    for record in GOOD:
        name = str(record["name"]).encode()

        def told(error: KafkaError | None, message: Any, name: bytes = name) -> None:
            assert error is None
            theirs[name] = message.partition()

        producer.produce("meeting", b"{}", key=name, on_delivery=told)
    producer.flush(30)
    consumer, ours = Consumer({**kafka.client(), "group.id": "x", "enable.partition.eof": True}), dict[bytes, int]()
    consumer.assign([TopicPartition("meeting", number, 0) for number in range(7)])
    ended = 0
    while ended < 7:
        message = consumer.poll(30)
        assert message is not None
        if message.error() is not None:
            ended += 1
        elif message.value() != b"{}":
            ours[message.key() or b""] = message.partition() or 0
    consumer.close()
    assert ours == theirs
    assert len(set(ours.values())) > 3


def test_a_step_that_has_filled_one_topic_fills_no_other(kafka: Kafka) -> None:
    run(kafka, "moving", GOOD[:5], "first-place")
    with pytest.raises(ConfigError, match=r"has filled topic first-place, and is now to fill second-place"):
        run(kafka, "moving", GOOD, "second-place")
    run(kafka, "moving", GOOD, "first-place")
    assert values(kafka, "first-place") == list(range(20))


@pytest.mark.parametrize("read_topic", ["circle", "circle.dead_letters"])
def test_a_flow_that_would_read_what_it_writes_is_refused(kafka: Kafka, read_topic: str) -> None:
    run(kafka, "before", GOOD, "circle")
    given = KafkaSettings(kafka_bootstrap_servers=kafka.bootstrap(), source_topic=read_topic, until="end")
    graph = Dataflow("circles")
    items = parse("parse", read("in", graph, KafkaSource(given)), Item)
    sink("out", items, KafkaTarget(settings(kafka), "circle", table("items", ITEMS), key="name"))
    with pytest.raises(ConfigError, match=f"writes into topic {read_topic}, which the flow reads"):
        play(graph)


def test_a_topic_that_is_gone_is_made_anew_and_this_is_said(kafka: Kafka, capfd: pytest.CaptureFixture[str]) -> None:
    run(kafka, "gone", GOOD[:5], "gone-out")
    assert "was not there any more" not in capfd.readouterr().err
    kafka.delete_topic("gone-out")
    run(kafka, "gone", GOOD, "gone-out")
    assert "Topic gone-out was not there any more and is made." in capfd.readouterr().err
    assert values(kafka, "gone-out") == list(range(5, 20))


def test_letters_alone_tell_that_positions_are_gone(kafka: Kafka) -> None:
    run(kafka, "letters", [b"?"], "letters-only")
    kafka.delete_topic("waxwing.letters.out.positions")
    with pytest.raises(DataError, match=r"letters-only\.dead_letters.*BEGIN=anew"):
        run(kafka, "letters", [b"?"], "letters-only")


def test_records_of_the_future_are_written_like_any_other(kafka: Kafka) -> None:
    at_ms = 4_102_444_800_000
    data = [Message(msgspec.json.encode(GOOD[0]), timestamp_ms=at_ms), Message(b"?", timestamp_ms=at_ms), GOOD[1]]
    run(kafka, "future", data, "future")
    assert values(kafka, "future") == [0, 1]
    ((_, _, headers),) = read_committed(kafka, "future.dead_letters")
    assert headers["waxwing.timestamp"] == str(at_ms).encode()


def test_tombstones_go_through(kafka: Kafka) -> None:
    run(kafka, "deleting", [GOOD[0], Message(None, key=b"n0"), GOOD[1]], "deleted")
    assert [(key, value is None) for key, value, _ in read_committed(kafka, "deleted")] == [
        (b"n0", False),
        (b"n0", True),
        (b"n1", False),
    ]


def test_what_is_too_large_is_a_dead_letter_as_far_as_it_fits(kafka: Kafka) -> None:
    kafka.create_topic("small", max_message_bytes="2000")
    kafka.create_topic("small.dead_letters", max_message_bytes="1500")
    wide = sa.Table(
        "wide", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("name", sa.Text), sa.Column("amount", sa.Numeric(9, 2))
    )
    graph = Dataflow("wide")
    data = [GOOD[0], {"id": 99, "name": "x" * 5_000, "amount": "1.00"}, GOOD[1]]
    target = KafkaTarget(settings(kafka), "small", wide)
    sink("out", parse("parse", read("in", graph, MemorySource(data)), Item), target)
    play(graph)
    assert values(kafka, "small") == [0, 1]
    ((_, value, headers),) = read_committed(kafka, "small.dead_letters")
    assert b'"id":99' in value.replace(b" ", b"")
    assert len(value) < 1_500
    assert int(headers["waxwing.bytes"]) > 5_000
    assert b"max.message.bytes" in headers["waxwing.error"]


def test_batches_are_no_larger_than_the_topics_take(kafka: Kafka) -> None:
    rng = random.Random(1)
    for topic in ("narrow", "narrow.dead_letters"):
        kafka.create_topic(topic, max_message_bytes="5000")
    good = [{"id": n, "name": rng.randbytes(5).hex(), "amount": "1.00"} for n in range(500)]
    graph = Dataflow("narrow")
    target = KafkaTarget(settings(kafka), "narrow", table("items", ITEMS))
    data: list[Any] = [*good, *(b"?" + rng.randbytes(500).hex().encode() for _ in range(50))]
    sink("out", parse("parse", read("in", graph, MemorySource(data)), Item), target)
    play(graph)
    assert values(kafka, "narrow") == list(range(500))
    assert len(read_committed(kafka, "narrow.dead_letters")) == 50


def test_at_least_once_is_said_at_the_start(kafka: Kafka, capfd: pytest.CaptureFixture[str]) -> None:
    given = settings(kafka, kafka_transactions="no")
    run(kafka, "plain", [*GOOD[:12], b"?"], "plain", given=given)
    run(kafka, "plain", [*GOOD[:12], b"?", *GOOD[12:]], "plain", given=given)
    assert values(kafka, "plain") == list(range(20))
    assert len(read_committed(kafka, "plain.dead_letters")) == 1
    assert "at least once" in capfd.readouterr().err


def test_a_transaction_that_takes_too_long_ends_the_run_and_nothing_of_it_is_there(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, given = Sender.commit, settings(kafka, kafka_transaction_timeout_s=1.0)
    stalled: list[int] = []

    def stalls(sender: Sender) -> None:
        if not stalled and _writes(sender):
            stalled.append(1)
            sender.acknowledged()
            until(lambda: not _is_open(kafka, "stalling"), timeout_s=120, what="the broker has ended it")
        real(sender)

    monkeypatch.setattr(Sender, "commit", stalls)
    with pytest.raises(TryLater, match="KAFKA_TRANSACTION_TIMEOUT_S"):
        run(kafka, "stalling", GOOD, "stalling", given=given)
    assert stalled
    assert values(kafka, "stalling") == []
    monkeypatch.setattr(Sender, "commit", real)
    run(kafka, "stalling", GOOD, "stalling")
    assert values(kafka, "stalling") == list(range(20))


def test_what_a_crash_left_open_is_ended_by_the_next_start_and_not_waited_for(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, given = Sender.commit, settings(kafka, kafka_transaction_timeout_s=600.0, retry_max_s=5.0)
    crashed: list[int] = []

    def crashes(sender: Sender) -> None:
        if not crashed and _writes(sender):
            crashed.append(1)
            sender.acknowledged()  # all of it lies in the log, and is undecided
            raise RuntimeError("crash")
        real(sender)

    monkeypatch.setattr(Sender, "commit", crashes)
    with pytest.raises(BytewaxRuntimeError):
        run(kafka, "crashing", GOOD, "crashing", given=given)
    assert _is_open(kafka, "crashing")
    run(kafka, "crashing", GOOD, "crashing", given=given)
    assert values(kafka, "crashing") == list(range(20))


def _writes(sender: Sender) -> bool:
    """Is it a writer's, not the anchor's?"""
    return sender.name.count(":") > 2


def _is_open(kafka: Kafka, topic: str) -> bool:
    """Is a transaction open in a topic? Then its last stable offset lies before its end."""
    place = TopicPartition(topic, 0)
    ends = [
        kafka.admin.list_offsets({place: OffsetSpec.latest()}, isolation_level=level)[place].result(30).offset
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    ]
    return bool(ends[0] < ends[1])


def test_a_broker_that_restarts_inside_a_commit_changes_nothing(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    real, once = Sender._again, threading.Lock()

    def restart() -> None:
        kafka.start()
        threading.Event().wait()  # a server ends with the thread that started it: this one is for the tests behind

    thread = threading.Thread(target=restart, daemon=True)

    def again(sender: Sender, call: Any, *, committing: bool = False) -> None:
        if committing and _writes(sender) and once.acquire(blocking=False):
            kafka.kill()
            thread.start()
        real(sender, call, committing=committing)

    monkeypatch.setattr(Sender, "_again", again)
    run(kafka, "restarting", GOOD, "restarting", given=settings(kafka, retry_max_s=240.0))
    assert once.locked()
    assert values(kafka, "restarting") == list(range(20))


# -- rights -----------------------------------------------------------------------------------------------------------------


def allow(kafka: Kafka, kind: Any, name: str, *operations: Any, user: str = "alice") -> None:
    admin: AdminClient = kafka.admin
    bindings = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for future in admin.create_acls(bindings).values():
        future.result(30)


def as_alice(kafka: Kafka, **more: Any) -> KafkaTargetSettings:
    return settings(
        kafka,
        kafka_bootstrap_servers=kafka.bootstrap("SASL_SSL"),
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username=kafka.sasl_user,
        kafka_sasl_password=SecretStr(kafka.sasl_password),
        kafka_ssl_ca_file=str(kafka.certificates.ca),
        **more,
    )


def test_missing_rights_are_named_and_a_broker_without_transactions_is_written_at_least_once(kafka: Kafka) -> None:
    kafka.create_topic("guarded")
    kafka.create_topic("guarded.dead_letters")
    kafka.create_topic("waxwing.guard.out.positions", cleanup_policy="compact")
    mine = (
        (ResourceType.TOPIC, "guarded"),
        (ResourceType.TOPIC, "waxwing.guard."),
        (ResourceType.TRANSACTIONAL_ID, "waxwing:guard"),
    )
    for kind, name in mine:
        allow(kafka, kind, name, AclOperation.DESCRIBE, user="somebody-else")
    writing = (AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    with pytest.raises((ConfigError, TransientError)) as caught:
        run(kafka, "guard", GOOD, "guarded", given=as_alice(kafka, retry_max_s=1.0))
    assert isinstance(caught.value, WaxwingError)
    for kind, name in mine[:2]:
        allow(kafka, kind, name, AclOperation.READ, *writing)
    with pytest.raises(ConfigError, match="KAFKA_TRANSACTIONS=no"):
        run(kafka, "guard", GOOD, "guarded", given=as_alice(kafka))
    run(kafka, "guard", GOOD[:5], "guarded", given=as_alice(kafka, kafka_transactions="no"))
    assert values(kafka, "guarded") == list(range(5))
    allow(kafka, *mine[2], AclOperation.WRITE, AclOperation.DESCRIBE)
    run(kafka, "guard", GOOD, "guarded", given=as_alice(kafka))
    assert values(kafka, "guarded") == list(range(20))


def test_a_time_for_transactions_beyond_the_broker_s_is_named(kafka: Kafka) -> None:
    with pytest.raises(ConfigError, match=r"KAFKA_TRANSACTION_TIMEOUT_S is 800.*transaction\.max\.timeout\.ms"):
        run(kafka, "long", GOOD, "long", given=settings(kafka, kafka_transaction_timeout_s=800.0))
