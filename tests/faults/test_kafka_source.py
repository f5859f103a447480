"""The Kafka source against a real broker: what it reads, where it starts and ends, and what happens when something is wrong."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import cluster_main
from confluent_kafka import Producer
from pydantic import SecretStr
from typing_extensions import override

from sinks import MemoryTarget, sink
from sources.kafka import KafkaSource, group_offsets
from sources.kit.starting.feeds import Durable, Feeds
from tests.faults.reading import FLOW, STEP, Start, a_target, committed, contiguous, numbered, produce
from tests.servers import Kafka
from tests.servers.process import until
from waxwing import runtime
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss, TransientError
from waxwing.settings import KafkaSettings, SinkSettings

# -- batches -----------------------------------------------------------------------------------------


def test_transaction_markers_and_aborted_records_leave_no_gap_between_batches(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    producer = Producer({**kafka.client(), "transactional.id": topic})
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number)
        producer.flush()  # an abort would drop what was not sent yet
        producer.commit_transaction() if number % 2 == 0 else producer.abort_transaction()
    until(lambda: kafka.end_offsets(topic) == {0: 8}, timeout_s=180, what="the last marker is written")
    reading = read(topic, until="end", batch_records_max=1).to_end()
    assert reading.values == [b"0", b"2"]
    assert contiguous(reading.ranges())
    assert reading.ranges()[0][0] == 0
    assert reading.ranges()[-1][1] == 8


def test_markers_behind_the_last_record_move_the_position_by_an_empty_batch(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    target = a_target()
    reading = read(topic, target)
    produce(kafka, topic, b"first")
    reading.until(lambda: reading.values == [b"first"])
    producer = Producer({**kafka.client(), "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"never")
    producer.flush()
    producer.abort_transaction()
    reading.until(lambda: [p.offset_next for p in target.positions()] == [3])  # behind the aborted record and its marker
    assert reading.values == [b"first"]
    assert len(reading.batches[-1].messages) == 0
    assert contiguous(reading.ranges())


def test_compaction_leaves_no_gap_between_batches(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(
        cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001", delete_retention_ms="0"
    )
    for number in range(20):
        produce(kafka, topic, b"%d" % number, key=b"same")

    def compacted() -> bool:
        produce(kafka, topic, b"x", key=b"other")  # the last segment is never compacted, so there has to be another one
        return len(read(topic, until="end").to_end().values) < 15

    until(compacted, timeout_s=180, what="the log is compacted")
    reading = read(topic, until="end", batch_records_max=3).to_end()
    assert len(reading.values) < kafka.end_offsets(topic)[0]
    assert contiguous(reading.ranges())
    assert (reading.ranges()[0][0], reading.ranges()[-1][1]) == (0, kafka.end_offsets(topic)[0])


class Transactions:
    """A producer of transactions in one topic."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._topic, self._producer = topic, Producer({**kafka.client(), "transactional.id": topic})
        self._producer.init_transactions()

    def begin(self, *values: bytes) -> None:
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(self._topic, value, b"key")
        self._producer.flush()  # an abort would drop what was not sent yet

    def aborted(self, *values: bytes) -> None:
        self.begin(*values)
        self._producer.abort_transaction()

    def committed(self, *values: bytes) -> None:
        self.begin(*values)
        self.commit()

    def commit(self) -> None:
        self._producer.commit_transaction()


def stands_at(target: MemoryTarget) -> list[int]:
    return [position.offset_next for position in target.positions()]


def test_a_topic_of_aborted_transactions_alone_goes_on_in_every_form(kafka: Kafka, read: Start) -> None:
    topic, target = kafka.new_topic(), a_target()
    transactions = Transactions(kafka, topic)
    transactions.aborted(b"never", b"never")
    transactions.aborted(b"never")
    until(lambda: kafka.end_offsets(topic) == {0: 5}, timeout_s=180, what="the last marker is written")
    for _ in range(2):  # a bounded run, and the next one, which has nothing to do
        assert read(topic, target, until="end").to_end().values == []
        assert stands_at(target) == [5]
    reading, late = read(topic, target), a_target()
    transactions.aborted(b"never")
    reading.until(lambda: stands_at(target) == [7])
    transactions.committed(b"at last")
    reading.until(lambda: target.rows == [b"at last"] and stands_at(target) == [9])
    assert read(topic, late, until="end", start="latest").to_end().values == []
    assert read(topic, a_target(), until="end").to_end().values == [b"at last"]


def test_where_aborted_transactions_were_deleted_too_nobody_knows_what_they_were(kafka: Kafka, read: Start) -> None:
    topic, target = kafka.new_topic(), a_target()
    assert read(topic, target, until="end").to_end().values == []
    transactions = Transactions(kafka, topic)
    for _ in range(3):
        transactions.aborted(b"never")
    until(lambda: kafka.end_offsets(topic) == {0: 6}, timeout_s=180, what="the last marker is written")
    kafka.delete_records(topic, {0: 5})
    with pytest.raises(DataLoss) as raised:
        read(topic, target).to_end()
    assert raised.value.exit_code == 65
    assert "stands at offset 0, but the log begins at 5: 5 offsets are gone unread" in raised.value.message
    assert "markers and aborted records may be among them" in raised.value.message
    assert read(topic, target, until="end", on_data_loss="continue").to_end().values == []
    assert stands_at(target) == [6]


def test_a_compacted_log_with_gaps_and_an_aborted_transaction_at_its_end_is_read_to_the_end(kafka: Kafka, read: Start) -> None:
    topic, target = (
        kafka.new_topic(cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001", delete_retention_ms="0"),
        a_target(),
    )
    transactions = Transactions(kafka, topic)
    for number in range(10):
        transactions.committed(b"%d" % number)
    transactions.aborted(b"never")

    def compacted() -> bool:
        produce(kafka, topic, b"x", key=b"other")  # the last segment is never compacted, so there has to be another one
        return len(read(topic, until="end").to_end().values) < 8

    until(compacted, timeout_s=180, what="the log is compacted")
    end = kafka.end_offsets(topic)[0] + 2
    transactions.aborted(b"never")
    until(lambda: kafka.end_offsets(topic) == {0: end}, timeout_s=180, what="the last marker is written")
    reading = read(topic, target, until="end", batch_records_max=2).to_end()
    assert contiguous(reading.ranges())
    assert (reading.ranges()[0][0], stands_at(target)) == (0, [end])
    assert b"9" in reading.values
    assert b"never" not in reading.values
    assert read(topic, target, until="end").to_end().values == []


def test_a_bounded_run_ends_before_an_open_transaction_which_the_next_one_takes_in(kafka: Kafka, read: Start) -> None:
    topic, target = kafka.new_topic(), a_target()
    transactions = Transactions(kafka, topic)
    transactions.committed(b"0")
    until(lambda: kafka.end_offsets(topic) == {0: 2}, timeout_s=180, what="the marker is written")
    transactions.begin(b"open")
    produce(kafka, topic, b"behind it")
    reading = read(topic, target, until="end").to_end()
    assert reading.values == [b"0"]
    assert reading.marks == [(0, 2, "end")]
    assert stands_at(target) == [2]
    transactions.commit()
    until(lambda: kafka.end_offsets(topic) == {0: 5}, timeout_s=180, what="the marker is written")
    assert read(topic, target, until="end").to_end().values == [b"open", b"behind it"]
    assert stands_at(target) == [5]


def test_batches_keep_keys_headers_timestamps_and_offsets_and_pickle(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    producer = Producer({**kafka.client(), "linger.ms": 60_000})  # one record batch, so one fetch: flush() sends at once
    producer.produce(topic, b"value", b"key", headers=[("h", b"1"), ("h", None)], timestamp=1_700_000_000_123)
    producer.produce(topic, None, timestamp=1_700_000_000_124)
    assert producer.flush(20) == 0
    reading = read(topic, until="end").to_end()
    (batch,) = reading.batches
    for one in (batch, pickle.loads(pickle.dumps(batch))):
        messages = one.messages
        assert list(messages.values) == list(one.records) == [b"value", None]
        assert list(messages.keys) == [b"key", None]
        assert list(messages.headers) == [[("h", b"1"), ("h", None)], ()]
        assert list(messages.timestamps_ms) == [1_700_000_000_123, 1_700_000_000_124]
        assert list(messages.offsets) == [0, 1]
        assert list(messages.part(1, 2).offsets) == [1]
        assert (one.stream.flow, one.stream.source, one.lane) == (FLOW, topic, "lane-000")


def test_a_batch_ends_at_every_position_that_a_target_holds(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, 10))
    behind, middle, ahead = a_target("a"), a_target("b"), a_target("c")
    read(topic, behind, middle, ahead, until="end").step()
    opening = read(topic, behind, middle, ahead)
    opening.until(lambda: bool(opening.batches))
    stream = opening.batches[0].stream
    for target, at in ((behind, 2), (middle, 5), (ahead, 7)):
        target.jump(stream, 10, at)
    reading = read(topic, behind, middle, ahead, until="end").to_end()
    assert reading.ranges() == [(2, 5), (5, 7), (7, 10)]
    assert reading.values == numbered(2, 10)


def test_a_second_run_goes_on_where_the_first_ended(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(partitions=3)
    target = a_target()
    for partition in range(3):
        produce(kafka, topic, *numbered(0, 50), partition=partition)
    read(topic, target, until="end", batch_records_max=7).to_end()
    for partition in range(3):
        produce(kafka, topic, *numbered(50, 60), partition=partition)
    second = read(topic, target, until="end").to_end()
    assert sorted(target.rows, key=int) == sorted(numbered(0, 60) * 3, key=int)
    assert len(second.values) == 30


@pytest.mark.parametrize("workers", [1, 2])
def test_bytewax_runs_a_bounded_flow_to_its_end_and_again(kafka: Kafka, workers: int) -> None:
    topic = kafka.new_topic(partitions=3)
    for partition in range(3):
        produce(kafka, topic, *numbered(0, 100), partition=partition)
    target = MemoryTarget(settings=SinkSettings(lanes=2, flush_interval_s=0.0))
    settings = KafkaSettings(kafka_bootstrap_servers=kafka.bootstrap(), source_topic=topic, lanes=2, until="end")
    for _ in range(2):
        flow = Dataflow(FLOW)
        source = KafkaSource(settings, feeds=[target])
        sink(STEP, op.input("kafka", flow, source), target)
        cluster_main(flow, [], 0, worker_count_per_proc=workers)
        assert source._shared is not None
        assert source._shared[0].closed  # its lanes were closed, so no thread is left behind
    assert sorted(target.rows, key=int) == sorted(numbered(0, 100) * 3, key=int)


def test_a_stop_that_was_asked_for_ends_the_lanes(kafka: Kafka, read: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read(kafka.new_topic(), a_target())
    reading.step()
    monkeypatch.setattr(runtime, "stopping", lambda: True)
    reading.to_end()


def test_the_cluster_inside_librdkafka_is_read_too(read: Start) -> None:
    inside = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = inside.list_topics(timeout=10).brokers.values()
    inside.produce("demo", b"hello", partition=0)
    assert inside.flush(10) == 0
    target = a_target()
    address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    assert read("demo", target, kafka_bootstrap_servers=address, until="end").to_end().values == [b"hello"]
    assert {position.stream.source_id for position in target.positions()} == {"name:demo"}


# -- where it starts ---------------------------------------------------------------------------------


def test_latest_is_resolved_once_so_a_restart_loses_nothing_that_arrived_meanwhile(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(partitions=2)
    produce(kafka, topic, b"old")
    target = a_target()
    killed = read(topic, target, start="latest")
    until(lambda: len(target.positions()) == 2, timeout_s=180, what="positions are stored")
    killed.close()
    produce(kafka, topic, b"new")
    produce(kafka, topic, b"new in the other", partition=1)
    reading = read(topic, target, start="latest", until="end").to_end()
    assert sorted(reading.some_values) == [b"new", b"new in the other"]


def test_a_start_time_is_resolved_per_partition_and_only_where_nothing_is_stored(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(partitions=2)
    second = 1_700_000_000_000
    for number in range(5):
        produce(kafka, topic, b"%d" % number, timestamp=second + number * 1000)
    produce(kafka, topic, b"older", partition=1, timestamp=second)
    target = a_target()
    at = datetime.fromtimestamp(second / 1000 + 3, UTC).isoformat()
    assert read(topic, target, start=at, until="end").to_end().values == [b"3", b"4"]
    assert read(topic, target, start="earliest", until="end").to_end().values == []


def test_a_step_added_later_begins_where_the_others_began(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"before")
    first, added = a_target("first"), a_target("added")
    reading = read(topic, first, start="latest")
    until(lambda: len(first.positions()) == 1, timeout_s=180, what="the position is stored")
    produce(kafka, topic, b"one", b"two")
    reading.until(lambda: first.rows == [b"one", b"two"])
    reading.close()
    read(topic, first, added, start="latest", until="end").to_end()
    assert first.rows == added.rows == [b"one", b"two"]


def test_added_partitions_are_picked_up_from_their_start_while_running(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    target = a_target()
    reading = read(topic, target, start="latest")
    until(lambda: len(target.positions()) == 1, timeout_s=180, what="the position is stored")
    kafka.create_partitions(topic, 3)
    produce(kafka, topic, b"in the added one", partition=2)
    reading.until(lambda: target.rows == [b"in the added one"])
    assert {p.stream.partition: p.offset_start for p in target.positions()} == {0: 0, 1: 0, 2: 0}


def test_an_interrupted_bounded_run_keeps_its_end_and_a_finished_one_takes_a_new_one(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, 6))
    target = a_target()
    killed = read(topic, target, until="end", batch_records_max=2)
    killed.until(lambda: bool(target.rows))
    killed.close()
    assert len(target.rows) < 6
    produce(kafka, topic, b"later")
    read(topic, target, until="end").to_end()
    assert target.rows == numbered(0, 6)
    read(topic, target, until="end").to_end()
    assert target.rows == [*numbered(0, 6), b"later"]


def test_a_run_without_until_forgets_the_bounded_end(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    target = a_target()
    read(topic, target, until="end").to_end()
    reading = read(topic, target)
    produce(kafka, topic, b"more")
    reading.until(lambda: target.rows == [b"more"])
    assert [p.offset_end for p in target.positions()] == [None]


def test_without_targets_the_recovery_store_decides(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(partitions=2)
    produce(kafka, topic, *numbered(0, 4))
    first = read(topic, start="earliest")
    first.until(lambda: first.values == numbered(0, 4))
    kept = first.snapshots()
    produce(kafka, topic, b"4")
    kafka.create_partitions(topic, 3)
    produce(kafka, topic, b"new partition", partition=2)
    again = read(topic, resume=kept, start="latest", until="end").to_end()
    assert sorted(again.some_values) == [b"4", b"new partition"]


def test_a_lower_offset_of_the_recovery_store_is_read_again(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, 4))
    target = a_target()
    first = read(topic, target, batch_records_max=1)
    first.until(lambda: len(target.rows) == 2)
    kept = first.snapshots()
    first.until(lambda: len(target.rows) == 4)
    again = read(topic, target, resume=kept, until="end").to_end()
    assert again.ranges() == [(2, 4)]
    assert target.rows == numbered(0, 4)


def test_positions_under_a_step_that_the_flow_no_longer_has_stop_the_start(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    target = a_target("old_name")
    read(topic, target, until="end").to_end()
    # What an edit of the flow does, in a process of its own.
    target._step, target._flow_targets = "new_name", {"new_name": target}
    with pytest.raises(ConfigError, match="old_name"):
        read(topic, target).to_end()


# -- data loss ---------------------------------------------------------------------------------------


def taken_in(kafka: Kafka, read: Start, records: int) -> tuple[str, MemoryTarget]:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, records))
    target = a_target()
    read(topic, target, until="end").to_end()
    return topic, target


def test_a_recreated_topic_stops_the_start_and_continue_reads_it_from_its_start(kafka: Kafka, read: Start) -> None:
    topic, target = taken_in(kafka, read, 5)
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    produce(kafka, topic, *numbered(100, 110))
    with pytest.raises(DataLoss, match="created again") as raised:
        read(topic, target).to_end()
    assert raised.value.exit_code == 65
    assert "ON_DATA_LOSS=continue" in raised.value.hint
    read(topic, target, start="latest", on_data_loss="continue", until="end").to_end()
    assert target.rows == numbered(0, 5) + numbered(100, 110)
    assert read(topic, target, until="end").to_end().values == []  # the next start is an ordinary one


def test_retention_that_overtook_the_position_stops_the_start_and_continue_goes_on(kafka: Kafka, read: Start) -> None:
    topic, target = taken_in(kafka, read, 5)
    produce(kafka, topic, *numbered(5, 20))
    kafka.delete_records(topic, {0: 12})
    with pytest.raises(DataLoss, match=r"stands at offset 5, but the log begins at 12: 7 offsets") as raised:
        read(topic, target).to_end()
    assert raised.value.context["offsets_lost"] == 7
    reading = read(topic, target, on_data_loss="continue", until="end").to_end()
    assert reading.ranges() == [(12, 20)]
    assert target.rows == numbered(0, 5) + numbered(12, 20)


def test_a_position_beyond_the_logs_end_stops_the_start_and_continue_goes_on_at_the_end(kafka: Kafka, read: Start) -> None:
    topic, target = taken_in(kafka, read, 5)
    (position,) = target.positions()
    target.jump(position.stream, 5, 9)
    with pytest.raises(DataLoss, match=r"stands at offset 9, but the log ends at 5: 4 offsets"):
        read(topic, target).to_end()
    reading = read(topic, target, on_data_loss="continue")
    until(lambda: target.positions()[0].offset_next == 5, timeout_s=180, what="the position is moved")
    produce(kafka, topic, b"new")
    reading.until(lambda: target.rows == [*numbered(0, 5), b"new"])


@pytest.mark.parametrize(("policy", "error"), [("fail", DataLoss), ("continue", TransientError)])
def test_a_topic_recreated_while_running_stops_the_flow(kafka: Kafka, read: Start, policy: str, error: type[Exception]) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, 5))
    target = a_target()
    reading = read(topic, target, on_data_loss=policy)
    reading.until(lambda: len(target.rows) == 5)
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    with pytest.raises(error, match="created again"):
        reading.until(lambda: False)


def test_retention_that_overtakes_a_running_lane_stops_the_flow_with_the_count(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, *numbered(0, 300), batch=1)
    target = a_target()
    reading = read(topic, target, batch_records_max=1, kafka_config={"queued.min.messages": 1, "fetch.message.max.bytes": 100})
    reading.until(lambda: bool(target.rows))
    kafka.delete_records(topic, {0: 300})
    with pytest.raises(DataLoss, match="the log begins at 300"):
        reading.until(lambda: False)


# -- brokers and topics that are not there -----------------------------------------------------------


def test_an_unknown_topic_is_waited_for_with_one_line(kafka: Kafka, read: Start, capsys: pytest.CaptureFixture[str]) -> None:
    topic = f"{kafka.new_topic()}-created-later"
    target = a_target()
    reading = read(topic, target)
    said: list[str] = []

    def told() -> bool:
        said.append(capsys.readouterr().err)
        return "does not exist" in "".join(said)

    reading.until(told)
    kafka.create_topic(topic)
    produce(kafka, topic, b"hello")
    reading.until(lambda: target.rows == [b"hello"])
    said.append(capsys.readouterr().err)
    assert "".join(said).count("does not exist") == 1


def test_an_unknown_topic_fails_where_it_should(kafka: Kafka, read: Start) -> None:
    with pytest.raises(ConfigError, match="no-such-topic") as raised:
        read("no-such-topic", a_target(), on_unknown_topic="fail").to_end()
    assert raised.value.exit_code == 78


WRONG = "not-the-password"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_names_the_setting_and_no_secret(
    kafka: Kafka, read: Start, mechanism: str, capfd: pytest.CaptureFixture[str]
) -> None:
    login = {"kafka_sasl_mechanism": mechanism, "kafka_sasl_username": kafka.sasl_user, "kafka_sasl_password": SecretStr(WRONG)}
    with pytest.raises(ConfigError, match="refuses the login") as raised:
        read(
            kafka.new_topic(),
            kafka_bootstrap_servers=kafka.bootstrap("SASL_PLAINTEXT"),
            kafka_security_protocol="SASL_PLAINTEXT",
            **login,
        ).to_end()
    assert "KAFKA_SASL_PASSWORD" in raised.value.hint
    assert WRONG not in f"{raised.value} {raised.value.context} {capfd.readouterr()}"


def test_a_broker_of_another_authority_names_the_setting(kafka: Kafka, read: Start) -> None:
    with pytest.raises(ConfigError, match="TLS") as raised:
        read(
            kafka.new_topic(),
            kafka_bootstrap_servers=kafka.bootstrap("SSL"),
            kafka_security_protocol="SSL",
            kafka_ssl_ca_file=str(kafka.certificates.other_ca),
        ).to_end()
    assert "KAFKA_SSL_CA_FILE" in raised.value.hint


def test_mutual_tls_and_scram_over_tls_read_by_settings_alone(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"hello")
    tls = {"kafka_ssl_ca_file": str(kafka.certificates.ca), "until": "end"}
    mutual = read(
        topic,
        kafka_bootstrap_servers=kafka.bootstrap("SSL"),
        kafka_security_protocol="SSL",
        kafka_ssl_certificate_file=str(kafka.certificates.client),
        kafka_ssl_key_file=str(kafka.certificates.client_key),
        **tls,
    )
    scram = read(
        topic,
        kafka_bootstrap_servers=kafka.bootstrap("SASL_SSL"),
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-256",
        kafka_sasl_username=kafka.sasl_user,
        kafka_sasl_password=SecretStr(kafka.sasl_password),
        **tls,
    )
    assert mutual.to_end().values == scram.to_end().values == [b"hello"]


def test_a_broker_that_stays_away_ends_the_start_within_its_time(
    kafka: Kafka, read: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TransientError, match="No answer from Kafka") as raised:
        read("any", kafka_bootstrap_servers="127.0.0.1:9", kafka_away_max_s=2.0).to_end()
    assert raised.value.exit_code == 75
    said = capfd.readouterr().err
    assert "rdkafka#" not in said  # librdkafka's own lines stay inside
    assert "still trying" in said
    assert "refused" in said


def test_a_broker_away_at_the_start_is_waited_for(kafka: Kafka, read: Start, capsys: pytest.CaptureFixture[str]) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"hello")
    kafka.stop()
    reading = read(topic, a_target(), until="end")
    reading.until(lambda: "does not answer" in capsys.readouterr().err)
    kafka.start()
    assert reading.to_end().values == [b"hello"]


def test_a_broker_that_comes_back_while_running_is_read_on(kafka: Kafka, read: Start, capsys: pytest.CaptureFixture[str]) -> None:
    topic = kafka.new_topic()
    produce(kafka, topic, b"one")
    target = a_target()
    reading = read(topic, target)
    reading.until(lambda: target.rows == [b"one"])
    kafka.stop()
    reading.until(lambda: "does not answer" in capsys.readouterr().err)
    kafka.start()
    produce(kafka, topic, b"two")
    reading.until(lambda: target.rows == [b"one", b"two"], timeout_s=180)
    assert contiguous(reading.ranges())


# -- group offsets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fed", [True, False], ids=["a target", "snapshots"])
def test_group_offsets_follow_what_is_durable(kafka: Kafka, read: Start, monkeypatch: pytest.MonkeyPatch, fed: bool) -> None:
    monkeypatch.setattr(group_offsets, "COMMIT_INTERVAL_S", 0.1)
    topic = kafka.new_topic(partitions=2)
    produce(kafka, topic, *numbered(0, 3))
    produce(kafka, topic, *numbered(0, 5), partition=1)
    reading = read(topic, *([a_target()] if fed else []), kafka_group_id=f"group-of-{topic}")

    def seen() -> bool:
        reading.snapshots()
        return committed(kafka, f"group-of-{topic}", topic) == {0: 3, 1: 5}

    reading.until(seen)


def test_without_targets_only_what_an_ended_epoch_covers_is_durable() -> None:
    durable, stream = Durable(Feeds(()), lambda _: True), Stream(FLOW, "topic", "id", 0)
    durable.snapshot_of(0, {stream: 5})
    assert durable.positions(False) == {}  # taken, but the epoch may not have ended everywhere
    durable.next_batch_of(0)
    assert durable.positions(False) == {stream: 5}
    durable.snapshot_of(0, {stream: 7})
    assert durable.positions(False) == {stream: 5}
    assert durable.positions(True) == {stream: 7}  # a run that ended well


class Impatient(MemoryTarget):
    """A target that asks for marks of idle partitions."""

    def __init__(self, after_s: float = 0.3) -> None:
        super().__init__()
        self._after_s = after_s

    @property
    @override
    def idle_after_s(self) -> float | None:
        return self._after_s


def test_a_bounded_run_marks_the_end_of_every_partition_empty_ones_too(kafka: Kafka, read: Start) -> None:
    topic = kafka.new_topic(2)
    produce(kafka, topic, *numbered(0, 5))
    reading = read(topic, a_target(), until="end", batch_records_max=2).to_end()
    assert sorted(reading.marks) == [(0, 5, "end"), (1, 0, "end")]


def test_a_partition_at_its_logs_end_is_marked_as_idle_once_for_each_time_asked_for(kafka: Kafka, read: Start) -> None:
    topic, target, other = kafka.new_topic(2), Impatient(), Impatient(0.6)
    target.bind(FLOW, "s")
    other.bind(FLOW, "t", target._flow_targets)
    produce(kafka, topic, *numbered(0, 5))
    reading = read(topic, target, other)
    reading.until(lambda: len(reading.marks) == 4)
    assert sorted(reading.marks) == [(0, 5, "idle")] * 2 + [(1, 0, "idle")] * 2
    produce(kafka, topic, *numbered(5, 6))
    reading.until(lambda: (0, 6, "idle") in reading.marks)
    assert reading.values == numbered(0, 6)
