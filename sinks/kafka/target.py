"""Rows into a topic of Kafka, exactly once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from sinks.kafka.compacted import CompactedTopic
from sinks.kafka.ledger import KafkaLedger
from sinks.kafka.names import positions_topic, step_of
from sinks.kafka.records import CHUNK_BYTES, into_of, streams_in
from sinks.kafka.session import KafkaSession
from sinks.kafka.topics import MESSAGE_BYTES_DEFAULT, Topics
from sinks.kafka.values import MESSAGE_HEAD_BYTES, TOPIC, Header, Key, Message, MessageMaker, numbers_of
from sinks.ledger import LedgerTarget
from sinks.misfits import check_records
from waxwing import log
from waxwing.batch import Stream
from waxwing.change import Change, Start
from waxwing.errors import ConfigError
from waxwing.ledger.anchored import AnchoredOwners
from waxwing.ledger.store import Step, Transaction
from waxwing.ledger.whole import WholeStore
from waxwing.settings import KafkaTargetSettings


class KafkaTarget(LedgerTarget):
    """A topic, whose messages are JSON objects with the columns of a table.

    Numbers are numbers (a decimal with all its digits), times with a zone ISO 8601 in UTC with Z, bytes Base64. A message bears
    the time of the one that it was made of. Tombstones become messages without a value. A key's partition is the one that Java's
    clients choose, so that messages meet those of other producers.

    Positions lie in the compacted topic waxwing.FLOW.STEP.positions, dead letters in TOPIC.dead_letters: the message as it came,
    with waxwing.stage, .error, .source, .partition, .offset in its headers.

    Args:
        settings: the brokers, and how they are written to.
        topic: made where it is missing.
        table: the columns, with their types.
        key: what a message's key is: a column, as plain text; several, as a JSON object; a function of the record; None.
        headers: by their names: a column, as plain text, or a function of the record.
        columns: those that records bring; None: all.
        compacted: whether the topic keeps the last message of each key alone.

    Parallelism: one producer a lane.
    Delivery: exactly once, for consumers that read committed messages alone (tests/faults/flows/test_flows.py). With
        KAFKA_TRANSACTIONS=no at least once.

    Raises:
        ConfigError: the table, or what is to be the key or a header, does not fit.
    """

    def __init__(
        self,
        settings: KafkaTargetSettings,
        topic: str,
        table: sa.Table,
        *,
        key: Key | None = None,
        headers: Mapping[str, Header] | None = None,
        columns: Sequence[str] | None = None,
        compacted: bool = False,
    ) -> None:
        super().__init__(settings)
        self.kafka_settings, self.topic, self.letters_topic = settings, topic, f"{topic}.dead_letters"
        self.table_given = table
        self.writers = settings.lanes
        self._compacted = compacted
        self._maker = MessageMaker(table, columns, key, headers)
        self._ledger_made: tuple[Step, KafkaLedger] | None = None
        self._message_bytes_max = self.letter_bytes_max = MESSAGE_BYTES_DEFAULT
        self._prepared = False

    # -- what it is ----------------------------------------------------------------------------------

    @property
    @override
    def name(self) -> str:
        return f"topic {self.topic} at {self.kafka_settings.kafka_bootstrap_servers}"

    @property
    @override
    def columns(self) -> Sequence[str]:
        return self._maker.names

    @property
    @override
    def again(self) -> str:
        return "every message would stand there twice"

    @property
    @override
    def owners_kind(self) -> type[AnchoredOwners]:
        return AnchoredOwners

    @override
    def check_records(self, kind: Any) -> None:
        check_records(kind, self._maker.plan.columns, TOPIC, f"of topic {self.topic}")

    @override
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:
        return self._maker.misfits(records)

    # -- at the start --------------------------------------------------------------------------------

    @override
    def prepare_once(self) -> None:
        if not self._prepared:
            self.prepare()

    @override
    def prepare(self) -> None:
        topics, settings = Topics(self.kafka_settings), self.kafka_settings
        config = {"cleanup.policy": "compact"} if self._compacted else {}
        output = topics.ensure(self.topic, settings.kafka_topic_partitions, config)
        letters = topics.ensure(self.letters_topic, settings.kafka_topic_partitions, {})
        kept = topics.ensure_positions(positions_topic(self.own_step))
        if not self._prepared:
            self._demand_same_topic()
        if output.made and self._has_positions(self.own_step):
            log.warning(
                "topic_missing",
                f"Topic {self.topic} was not there any more and is made. The step goes on at its stored positions: what it wrote "
                f"before is missing. To have it written again, delete topic {positions_topic(self.own_step)} as well.",
                step=self.step,
            )
        self._message_bytes_max, self.letter_bytes_max = output.message_bytes_max, letters.message_bytes_max
        ledger, sizes = self.kafka_ledger, [one.message_bytes_max for one in (output, letters, kept)]
        ledger.message_bytes_max, ledger.batch_bytes_max = max(sizes), min(sizes) - MESSAGE_HEAD_BYTES
        ledger.chunk_bytes = min(CHUNK_BYTES, kept.message_bytes_max // 2)
        if not self._prepared and self._compacted and not output.compacted:
            log.warning(
                "not_compacted",
                f"Topic {self.topic} is to be compacted, and was there before with another cleanup.policy; it is left as it is.",
                step=self.step,
            )
        if not self._prepared and settings.kafka_transactions == "no":
            log.warning(
                "at_least_once",
                f"{self.name}: KAFKA_TRANSACTIONS=no, so messages are written at least once: those of the last moment before a "
                "crash come twice.",
                step=self.step,
            )
        self._prepared = True

    @override
    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        super().beginning(transaction, starts)
        self._refuse_circle([start.stream for start in starts])

    def _refuse_circle(self, streams: Collection[Stream]) -> None:
        own = {self.topic, self.letters_topic} & {stream.source for stream in streams}
        if own and Topics(self.kafka_settings).ids(own) & {stream.source_id for stream in streams}:
            raise ConfigError(
                f"Step {self.own_step.name} writes into topic {min(own)}, which the flow reads: it would never come to an end.",
                hint="Name another topic for one of the two.",
                step=self.step,
            )

    def _demand_same_topic(self) -> None:
        into = self._keys_of(self.own_step)[1]
        if into and into != self.topic:
            raise ConfigError(
                f"Flow {self.own_step.flow}, step {self.own_step.name} has filled topic {into}, and is now to fill {self.topic}: "
                f"its positions (topic {positions_topic(self.own_step)}) say how much of its sources that one holds.",
                hint="A flow that is another one needs a FLOW_NAME of its own. The same one into a new topic, from its sources' "
                "start, too: or delete the topic of its positions.",
                step=self.step,
            )

    @property
    def kafka_ledger(self) -> KafkaLedger:
        """What its step keeps."""
        if self._ledger_made is None or self._ledger_made[0] != self.own_step:
            self._ledger_made = self.own_step, KafkaLedger(self.kafka_settings, self.own_step, self.topic, self.writers)
        return self._ledger_made[1]

    @override
    def open_store(self, *, briefly: bool = False) -> WholeStore:
        return WholeStore(self.kafka_ledger, self.own_step)

    @override
    def steps(self) -> Mapping[str, int]:
        found = [step_of(name) for name in Topics(self.kafka_settings).names()]
        return {step.name: 1 for step in found if step is not None and step.flow == self.flow and self._has_positions(step)}

    def _has_positions(self, step: Step) -> bool:
        return bool(self._keys_of(step)[0])

    def _keys_of(self, step: Step) -> tuple[list[Stream], str]:
        """The streams that a step has positions of, and which topic it fills."""
        topic = CompactedTopic(self.kafka_settings, positions_topic(step), committed=True)
        try:
            topic.read()
            return streams_in(step.flow, topic.found), into_of(topic.found)
        finally:
            topic.close()

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        self._refuse_circle(streams)
        wanted = {stream[1:] for stream in streams}
        out = []
        for name in sorted(Topics(self.kafka_settings).names()):
            if (step := step_of(name)) is None or step == self.own_step:
                continue
            held, into = self._keys_of(step)
            if into == self.topic and wanted & {stream[1:] for stream in held}:
                out.append((step.flow, step.name))
        return out

    @override
    def forgets(self, flow: str, step: str) -> str:
        return f"delete topic {positions_topic(Step(flow, step))}"

    @override
    def left_behind(self) -> str:
        topics = Topics(self.kafka_settings)
        if topics.holds_records(self.topic):
            return "messages"
        return f"messages in {self.letters_topic}" if topics.holds_records(self.letters_topic) else ""

    # -- writing -------------------------------------------------------------------------------------

    def messages(self, change: Change) -> list[Message]:
        """What the change's rows are in the topic.

        Raises:
            RowError: rows that can't be messages.
        """
        return self._maker.of(change, self._message_bytes_max)

    def numbers(self, change: Change) -> list[int]:
        """By message, its number in a RowError."""
        return numbers_of(change.batches)

    @override
    def connect(self, part: str, token: str) -> KafkaSession:
        return KafkaSession(self, self.kafka_ledger, part, token)
