"""Producers: what is sent through one belongs to its transaction, or, without transactions, is acknowledged before it counts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from sinks.kafka.records import EMISSION, Record
from sinks.kafka.values import Message
from waxwing.errors import ConfigError, TransientError, WaxwingError
from waxwing.kafka_client import client_config, make_client, reason_of, refusal
from waxwing.settings import KafkaTargetSettings

# So much may wait inside a producer; more than one transaction takes.
_QUEUE_MESSAGES, _QUEUE_KBYTES = 1_000_000, 262_144
_SENT_AT_ONCE = 5_000
BATCH_BYTES = 1_000_000  # as librdkafka has it
# One call to the transactions' coordinator waits so long for its answer; it is then made again.
ANSWER_S = 10.0
_FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
}
# A message is not taken, whoever sends it and whenever.
_UNFIT = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP}
_NO_TRANSACTIONS = {KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError._UNSUPPORTED_FEATURE}
# Fatal for the client, and the fault of settings or rights.
_REFUSED = {*_NO_TRANSACTIONS, KafkaError.INVALID_TRANSACTION_TIMEOUT}


# librdkafka writes of fatal errors to stderr by itself; whoever meets one says so.
_SILENT = logging.getLogger("waxwing.librdkafka.producers")
_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())


class Overtaken(Exception):
    """The producer is of no more use: another one of its name was made, or the broker has ended its transaction."""


class Refused(Exception):
    """The broker (or the client before it) takes no message like this one; the transaction is undone."""


class Sender:
    """A producer of one transaction after the other. Used by one thread at a time.

    Args:
        settings: the brokers.
        transactional_id: its name; empty: it has no transactions.
        message_bytes_max: of one message.
        batch_bytes_max: of several that go together: topics take no larger batch than they take a message.
        reports: whether it is told of what was acknowledged, not of errors alone: for heartbeats, of which one may come twice.

    Attributes:
        name: the transactional id.
        in_doubt: whether a commit is under way whose outcome nobody knows.
    """

    def __init__(
        self,
        settings: KafkaTargetSettings,
        transactional_id: str = "",
        message_bytes_max: int = BATCH_BYTES,
        batch_bytes_max: int = BATCH_BYTES,
        *,
        reports: bool = False,
    ) -> None:
        self.name, self._settings, self._transactional = transactional_id, settings, bool(transactional_id)
        self._refused: ConfigError | None = None
        self._failed: list[KafkaError] = []
        config: dict[str, Any] = {
            "partitioner": "murmur2_random",  # as Java's clients do it
            "compression.type": settings.kafka_compression,
            "linger.ms": settings.kafka_linger_ms,
            "batch.size": min(BATCH_BYTES, batch_bytes_max),
            "queue.buffering.max.messages": _QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": _QUEUE_KBYTES,
            **client_config(settings),
            "enable.idempotence": not reports,
            "acks": "all",
            "message.max.bytes": max(BATCH_BYTES, message_bytes_max),
            "delivery.report.only.error": not reports,
            "error_cb": self._on_error,
        }
        config.setdefault("logger", _SILENT)
        if transactional_id:
            config |= {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": round(settings.kafka_transaction_timeout_s * 1000),
            }
        self._producer = make_client(Producer, config, settings)
        self.in_doubt = self._open = False

    def init(self, topic: str) -> None:
        """Fence all others of its name, and end what they left open. The topic is one that is there.

        Raises:
            ConfigError: refused: rights, or a broker without transactions.
            Overtaken: another one of its name was made at the same time.
            TransientError: no answer for so long.
        """
        # Once it is connected it has its answer in milliseconds; else librdkafka looks again half a second later.
        self._again(lambda timeout_s: self._producer.list_topics(topic, timeout=timeout_s))
        if self._transactional:
            self._again(self._producer.init_transactions)

    def begin(self) -> None:
        """Begin a transaction.

        Raises:
            Overtaken: it is of no more use.
        """
        self._failed = []
        if self._transactional:
            self._again(lambda _: self._producer.begin_transaction())
        self._open = True

    def send_all(self, topic: str, messages: Sequence[Message], *, named: Callable[[int, str], object] | None = None) -> None:
        """Messages in this order.

        Args:
            topic: where they go.
            messages: each with key, value, time and headers.
            named: is told the number, and why, of each that is refused; asking for it costs time.

        Raises:
            TransientError: they can't be handed over, since nothing goes out.
        """
        produce, report = self._producer.produce, self._report
        for first in range(0, len(messages), _SENT_AT_ONCE):
            for number, (key, value, timestamp_ms, headers) in enumerate(messages[first : first + _SENT_AT_ONCE], first):
                if named is not None:
                    report = partial(self._report_of, named, number)
                try:  # by position, which takes three quarters of the time that names take
                    produce(topic, value, key, -1, report, report, timestamp_ms, headers)
                except (BufferError, KafkaException):
                    self.send(topic, report, key=key, value=value, timestamp=timestamp_ms, headers=headers)
            self._producer.poll(0)

    def send(
        self, topic: str, on_delivery: Callable[[KafkaError | None, KafkaMessage], None] | None = None, **message: Any
    ) -> None:
        """One message; waits while the queue is full.

        Raises:
            TransientError: nothing goes out.
        """
        give_up_s = time.monotonic() + ANSWER_S
        while True:
            try:
                self._producer.produce(topic, on_delivery=on_delivery or self._report, **message)
                return
            except BufferError:
                self._producer.poll(0.1)
                if time.monotonic() > give_up_s:
                    raise TransientError(f"Kafka at {self._settings.kafka_bootstrap_servers} takes no messages.") from None
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise self._error(error.args[0]) from error
                (on_delivery or self._report)(error.args[0], None)  # type: ignore[arg-type]  # it was never a message
                return

    def send_records(self, topic: str, records: Sequence[Record]) -> None:
        """Records of a step's own topic. Raises as `send` does."""
        for record in records:
            headers = [(EMISSION, record.emission.encode())] if record.emission else None
            more: dict[str, Any] = {} if headers is None else {"headers": headers}
            self.send(topic, key=record.key, value=record.value, partition=0, **more)

    def acknowledged(self, timeout_s: float = 0.0) -> None:
        """Wait until all that was sent has been acknowledged, for as long as a transaction may take, or for `timeout_s`.

        Raises:
            Refused: a message was not.
            TransientError: no answer.
        """
        give_up_s = time.monotonic() + (timeout_s or self._settings.kafka_transaction_timeout_s)
        while self._left(min(timeout_s or 1.0, 1.0)):
            self._look_up()
            if time.monotonic() > give_up_s:
                self._producer.purge()
                raise TransientError(f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer.")
        self._look_up()
        if self._failed:
            self._judge(self._failed[0])

    def _left(self, timeout_s: float) -> int:
        """How many messages are not acknowledged yet, after so long at most."""
        try:
            return self._producer.flush(timeout_s)
        except SystemError as raised:  # so a fatal error comes out where a report of delivery is given while it is raised
            raise Overtaken("it was fenced, or its transaction was ended") from raised
        except Exception as raised:
            error: object = raised  # its type does not say that it can be raised
            if not isinstance(error, KafkaError):
                raise
            if _is_over(error):
                raise Overtaken(reason_of(error)) from raised
            raise self._error(error) from raised

    def commit(self) -> None:
        """Make the transaction durable. Called again where the outcome of the last call is unknown.

        Raises:
            Refused: a message was not taken; undone.
            Overtaken: it is of no more use; whether it was committed has to be looked up.
            TransientError: no answer; its `committing` says whether the outcome is unknown.
        """
        if not self._transactional:
            self.acknowledged()
            self._open = False
            return
        if not self.in_doubt:
            try:
                self.acknowledged()
            except BaseException:
                self.abort()
                raise
        self.in_doubt = True
        self._again(self._producer.commit_transaction, committing=True)
        self.in_doubt = self._open = False

    def abort(self) -> None:
        """Undo the transaction; what can't be undone now is undone by the broker, later."""
        if not self._open or self.in_doubt:
            return
        self._open = False
        if not self._transactional:
            self._producer.purge()
            return
        with contextlib.suppress(Overtaken, WaxwingError):
            self._again(self._producer.abort_transaction)

    def timestamp_ms(self, topic: str, key: bytes, value: bytes) -> int:
        """Send one record by itself, and wait for its time, by the broker's clock where the topic has it.

        Raises:
            TransientError: no answer.
        """
        answers: list[KafkaMessage | KafkaError] = []

        def on_delivery(error: KafkaError | None, message: KafkaMessage) -> None:
            answers.append(message if error is None else error)

        self.send(topic, key=key, value=value, partition=0, on_delivery=on_delivery)
        give_up_s = time.monotonic() + ANSWER_S
        while not answers:
            self._producer.poll(0.05)
            self._look_up()
            if time.monotonic() > give_up_s:
                self._producer.purge()
                raise TransientError(f"Kafka at {self._settings.kafka_bootstrap_servers} does not answer.")
        (answer,) = answers
        if isinstance(answer, KafkaError):
            raise self._error(answer)
        return int(answer.timestamp()[1])

    # -- errors ------------------------------------------------------------------------------------

    def _again(self, call: Callable[[float], object], *, committing: bool = False) -> None:
        """Call until there is an answer; the argument is for how long it may wait."""
        until_s = time.monotonic() + self._settings.retry_max_s
        while True:
            try:
                call(ANSWER_S)
                return
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                self._look_up()
                if _is_over(error):
                    raise Overtaken(reason_of(error)) from raised
                if committing and error.txn_requires_abort():
                    self.in_doubt = False
                    self.abort()
                    self._judge(error)
                if not (error.retriable() or error.code() == KafkaError._TIMED_OUT):
                    raise self._error(error) from raised
                if time.monotonic() > until_s:
                    raise TransientError(self._about(error), committing=committing) from raised
                time.sleep(0.1)

    def _judge(self, error: KafkaError) -> None:
        """Raises what a message that was not taken means."""
        if _is_over(error):
            raise Overtaken(reason_of(error))
        if error.code() in _UNFIT:
            raise Refused(reason_of(error))
        raise self._error(error)

    def _error(self, error: KafkaError) -> WaxwingError:
        if error.code() in _NO_TRANSACTIONS:
            return ConfigError(
                self._settings.told(
                    f"Kafka at {self._settings.kafka_bootstrap_servers} takes no transactions of ours: {reason_of(error)}."
                ),
                hint=self._settings.told(
                    "Give the user Write and Describe on the transactional ids that begin with waxwing: (prefixed); or, where "
                    "the broker has none, set KAFKA_TRANSACTIONS=no, and rows are written at least once."
                ),
            )
        if error.code() == KafkaError.INVALID_TRANSACTION_TIMEOUT:
            return ConfigError(
                self._settings.told(
                    f"KAFKA_TRANSACTION_TIMEOUT_S is {self._settings.kafka_transaction_timeout_s:g}: {reason_of(error)}."
                ),
                hint="It may be no more than the broker's transaction.max.timeout.ms.",
            )
        return refusal(error, self._settings, write=True) or TransientError(self._about(error))

    def _about(self, error: KafkaError) -> str:
        return f"Kafka at {self._settings.kafka_bootstrap_servers}: {reason_of(error)}."

    def _look_up(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _on_error(self, error: KafkaError) -> None:
        if not error.fatal():
            self._refused = refusal(error, self._settings, write=True) or self._refused

    def _report(self, error: KafkaError | None, _: KafkaMessage) -> None:
        if error is not None:
            self._failed.append(error)

    def _report_of(self, named: Callable[[int, str], object], number: int, error: KafkaError | None, _: KafkaMessage) -> None:
        if error is not None:
            self._failed.append(error)
            if error.code() in _UNFIT:
                # Without a colon: what stands behind one may be a row's own, and is not told.
                named(number, f"Kafka refuses it ({reason_of(error).replace(': ', ', ')})")


def _is_over(error: KafkaError) -> bool:
    """Was the producer fenced, or its transaction ended? What is refused for good is fatal as well, and says so itself."""
    return error.code() in _FENCED or (error.fatal() and error.code() not in _REFUSED)
