"""What a step keeps in its topic, read while others write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Timer

import pytest
from confluent_kafka import Producer

from sinks.kafka.ledger import KafkaLedger
from sinks.kafka.names import positions_topic
from sinks.kafka.producers import Overtaken, Sender
from sinks.kafka.records import (
    EMISSION,
    OWNERS,
    WINDOWS,
    Entry,
    Record,
    dump_owners,
    position_record,
    state_records,
    stream_key,
    stream_record,
)
from sinks.kafka.topics import Topics
from tests.servers import Kafka
from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.errors import DataError
from waxwing.ledger.contents import OwnerRow
from waxwing.ledger.members import Member
from waxwing.ledger.store import Race, Step
from waxwing.settings import KafkaTargetSettings

STREAM = Stream("flow", "orders", "id", 0)
TOKEN = "token"


class Writing:
    """One transaction in the step's topic, open until `commit`."""

    def __init__(self, kafka: Kafka, topic: str, name: str) -> None:
        self._producer, self._topic = Producer({"bootstrap.servers": kafka.bootstrap(), "transactional.id": name}), topic
        self._producer.init_transactions(30)
        self._producer.begin_transaction()

    def send(self, *records: Record) -> None:
        for record in records:
            headers: list[tuple[str, str | bytes | None]] = [(EMISSION, record.emission.encode())]
            self._producer.produce(self._topic, record.value, record.key, 0, headers=headers)
        assert self._producer.flush(30) == 0

    def commit(self) -> None:
        self._producer.commit_transaction(30)


def kept(offset: int, state: bytes) -> Sequence[Record]:
    """A position, and what windows keep beside it."""
    emission, position = f"emission-{offset}", Position(STREAM, offset, 0)
    return [position_record(position, emission), *state_records(STREAM, state, emission, 0)]


@pytest.fixture
def ledger(kafka: Kafka, request: pytest.FixtureRequest) -> KafkaLedger:
    """Of a step that has an owner, and a stream at 5."""
    settings, step = KafkaTargetSettings(kafka_bootstrap_servers=kafka.bootstrap()), Step(request.node.name, "totals")
    Topics(settings).ensure_positions(positions_topic(step))
    writing = Writing(kafka, positions_topic(step), f"first-{step.flow}")
    member = Member("run", 0, "own")
    writing.send(Record(OWNERS, dump_owners({1: OwnerRow(TOKEN, member, "here", 1)})))
    writing.send(stream_record(Position(STREAM, 5, 0), 1), *kept(5, b"old"))
    writing.commit()
    return KafkaLedger(settings, step, "totals", 1)


def test_a_transaction_that_is_read_in_parts_is_waited_for(kafka: Kafka, ledger: KafkaLedger) -> None:
    parted, open_longer = Writing(kafka, ledger.topic, "parted"), Writing(kafka, ledger.topic, "open longer")
    position, *state = kept(9, b"new")
    parted.send(position)
    open_longer.send(Record(b'["proof"]', b""))
    parted.send(*state)
    parted.commit()
    # What is committed ends where the other one begins: behind the position, before its state.
    assert ledger.beat(TOKEN)
    ends = Timer(0.5, open_longer.commit)
    ends.start()
    contents = ledger.load()
    ends.join()
    assert [one.position.offset_next for one in contents.positions.values()] == [9]
    assert list(contents.states.values()) == [b"new"]


@pytest.mark.parametrize("damaged", [lambda records: records[:-1], lambda records: records[:1]])
def test_what_does_not_fit_together_and_stays_so_is_damage(
    kafka: Kafka, ledger: KafkaLedger, damaged: Callable[[Sequence[Record]], Sequence[Record]]
) -> None:
    writing = Writing(kafka, ledger.topic, f"damage-{ledger.topic}")
    writing.send(*damaged(kept(9, b"new")))
    writing.commit()
    with pytest.raises(DataError, match="does not fit together"):
        ledger.load()


class Held:
    """A topic with these records."""

    offset_next, history = 9, ()

    def __init__(self, *records: Record) -> None:
        self.found = {one.key: Entry(one.value or b"", one.emission, 0, n) for n, one in enumerate(records)}

    def end(self) -> int:
        return self.offset_next

    def read(self, end: int | None = None) -> None: ...


def holding(*records: Record) -> KafkaLedger:
    ledger = KafkaLedger(KafkaTargetSettings(), Step("flow", "totals"), "totals", 1)
    vars(ledger).update(_committed=Held(*records), _all=Held(*records))
    return ledger


@pytest.mark.parametrize("key", [b"hello", b"{}", b'["stream"]', b'["stream","a"]', b'["stream",{"a":1},null,"x"]', b"\xff"])
def test_records_of_others_are_passed_over(key: bytes) -> None:
    ledger = holding(stream_record(Position(STREAM, 5, 0), 1), *kept(5, b"old"), Record(key, b"x"))
    assert [one.position.offset_next for one in ledger.load().positions.values()] == [5]


@pytest.mark.parametrize("key", [OWNERS, WINDOWS, *(stream_key(kind, STREAM) for kind in ("stream", "position", "head"))])
@pytest.mark.parametrize("value", [b"x", b"[7]", b"7"])
def test_strange_values_are_told(key: bytes, value: bytes) -> None:
    ledger = holding(stream_record(Position(STREAM, 5, 0), 1), *kept(5, b"old"), Record(key, value))
    with pytest.raises(DataError, match="is none of Waxwing's"):
        ledger.load()


def test_an_owner_s_second_try_is_not_ended_by_who_saw_the_first(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, step = KafkaTargetSettings(kafka_bootstrap_servers=kafka.bootstrap()), Step("tries", "totals")
    Topics(settings).ensure_positions(positions_topic(step))
    ours, theirs = (KafkaLedger(settings, step, "totals", 1) for _ in range(2))

    def take(ledger: KafkaLedger, token: str) -> None:
        with ledger.held():
            contents = ledger.load()
            ledger.fence(contents, step, [token])
            contents.owners[step, len(contents.owners)] = OwnerRow(token, Member("run", 0, token), "here", 1)
            ledger.save(contents)

    real = Sender.commit

    def overtaken(sender: Sender) -> None:
        """Another one becomes the anchor's writer while this one's opening lies in the topic, undecided."""
        sender.acknowledged()
        raise Overtaken

    with monkeypatch.context() as first_try:
        commits = iter([real, overtaken])  # its proof, its opening

        def commit(sender: Sender) -> None:
            next(commits)(sender)

        first_try.setattr(Sender, "commit", commit)
        with pytest.raises(Race):
            take(ours, "ours")

    made, is_ours = KafkaLedger._made, Event()

    def meanwhile(ledger: KafkaLedger, name: str) -> Sender:
        """They end the writers of those that they saw; by then our second try is done."""
        if ledger is theirs and "theirs" in name:
            ours._raced = False  # without its wait
            take(ours, "ours")
            is_ours.set()
        elif ledger is theirs:
            assert is_ours.wait(30)
        return made(ledger, name)

    monkeypatch.setattr(KafkaLedger, "_made", meanwhile)
    with pytest.raises(Race):
        take(theirs, "theirs")
    writer = ours.sender("ours", "lane-000")
    writer.begin()
    writer.send_records(ours.topic, [Record(b'["proof"]', b"")])
    writer.commit()
