"""map, filter and flat_map over the records of batches: one call of the engine per batch, plain functions per record."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar, overload

import bytewax.operators as op
from bytewax.dataflow import Stream as Flowing

from waxwing.batch import Batch, Headers, Reject, Stream, row_numbers
from waxwing.errors import ConfigError, WaxwingError
from waxwing.operators.declared import declare, declare_key, key_type, record_type, returned
from waxwing.operators.parse import without
from waxwing.operators.reasons import RAISED, reason_of, stopped

R = TypeVar("R")
S = TypeVar("S")


class Message:
    """The message that a record was made of. Each field is read when it is asked for."""

    __slots__ = ("_at", "_batch")

    def __init__(self, batch: Batch[Any], at: int) -> None:
        self._batch, self._at = batch, at

    @property
    def source(self) -> str:
        """The name of what it was read from: a topic."""
        return self._batch.stream.source

    @property
    def partition(self) -> int:
        """The number of the partition, 0 where there is one."""
        return self._batch.stream.partition

    @property
    def offset(self) -> int:
        """Its number in the partition."""
        return self._batch.messages.offsets[self._at]

    @property
    def key(self) -> bytes | None:
        """Its key as it came."""
        return self._batch.messages.keys[self._at]

    @property
    def timestamp_ms(self) -> int:
        """Its timestamp, epoch milliseconds, -1 where it has none."""
        return self._batch.messages.timestamps_ms[self._at]

    @property
    def headers(self) -> Headers:
        """Its headers in their order, pairs of a name and bytes: a name may come twice."""
        return self._batch.messages.headers[self._at]


class Origin(NamedTuple):
    """Where records come from: a batch's stream, and its messages' fields by the message's number.

    `origin.offsets[at]` is the offset of message number `at`, and so on.
    """

    stream: Stream
    batch: Batch[Any]

    def offset(self, at: int) -> int:
        """The offset of message number `at`."""
        return self.batch.messages.offsets[at]

    def key(self, at: int) -> bytes | None:
        """The key of message number `at`."""
        return self.batch.messages.keys[at]

    def timestamp_ms(self, at: int) -> int:
        """The timestamp of message number `at`, epoch milliseconds, -1 where it has none."""
        return self.batch.messages.timestamps_ms[at]

    def headers(self, at: int) -> Headers:
        """The headers of message number `at`."""
        return self.batch.messages.headers[at]


@overload
def map(step_id: str, up: Flowing[Batch[R]], fn: Callable[[R], S]) -> Flowing[Batch[S]]: ...
@overload
def map(
    step_id: str, up: Flowing[Batch[R]], fn: Callable[[R, Message], S], *, with_message: Literal[True]
) -> Flowing[Batch[S]]: ...
def map(step_id: str, up: Flowing[Batch[R]], fn: Callable[..., S], *, with_message: bool = False) -> Flowing[Batch[S]]:
    """Turn each record into another. What `fn` raises rejects that one record.

    The reason is the exception, such as `KeyError: 'rate' (payments.py:72 in row)`. A ValueError of your own says it in your
    words alone: `raise ValueError("amount is not positive")`.

    Args:
        step_id: the step's name.
        up: batches of records.
        fn: from a record to another; `with_message` it gets the record's Message as well: its key, offset, timestamp, headers.
        with_message: see `fn`.

    Parallelism: where the batch is.
    Delivery: as the source and the target (tests/waxwing/operators/test_operators.py); `fn` must be a
        function of the record (and its message) alone, for it is read again after a crash.
    """
    made = op.map(step_id, up, lambda batch: _applied(step_id, batch, fn, batch.records, *_messages(batch, with_message)))
    return declare_key(declare(made, returned(fn)), key_type(up))


def map_batch(step_id: str, up: Flowing[Batch[R]], make: Callable[[Origin], Callable[[R, int], S]]) -> Flowing[Batch[S]]:
    """As `map`, for functions that need more than the record: `make(origin)` is called once a batch and
    returns the function, which gets the record and its message's number (see Origin).

    Parallelism: where the batch is.
    Delivery: as `map` (tests/waxwing/operators/test_operators.py).

    Raises:
        ConfigError: `make` itself raised, and no record is to blame.
    """

    def mapped(batch: Batch[R]) -> Batch[S]:
        try:
            fn = make(Origin(batch.stream, batch))
        except RAISED as error:
            if isinstance(error, WaxwingError):
                raise
            raise ConfigError(
                f"Step {step_id}: {reason_of(error)}.",
                hint="What makes the function of a batch raised: no record is to blame. Nothing of the batch was written.",
                step=step_id,
            ) from error
        return _applied(step_id, batch, fn, batch.records, batch.at)

    return declare_key(op.map(step_id, up, mapped), key_type(up))


@overload
def filter(step_id: str, up: Flowing[Batch[R]], keep: Callable[[R], bool]) -> Flowing[Batch[R]]: ...
@overload
def filter(
    step_id: str, up: Flowing[Batch[R]], keep: Callable[[R, Message], bool], *, with_message: Literal[True]
) -> Flowing[Batch[R]]: ...
def filter(step_id: str, up: Flowing[Batch[R]], keep: Callable[..., bool], *, with_message: bool = False) -> Flowing[Batch[R]]:
    """Keep the records for which `keep` is true. What it raises rejects that one record. `with_message` as for `map`.

    Parallelism: where the batch is.
    Delivery: as `map` (tests/waxwing/operators/test_operators.py); the position passes over what is left out.
    """

    def filtered(batch: Batch[R]) -> Batch[R]:
        judged = _applied(step_id, batch, _judge(keep), batch.records, *_messages(batch, with_message))
        pairs = [(record, at) for (record, good), at in zip(judged.records, judged.at, strict=True) if good]
        return judged.with_records([record for record, _ in pairs], [at for _, at in pairs])

    return declare_key(declare(op.map(step_id, up, filtered), record_type(up)), key_type(up))


@overload
def flat_map(step_id: str, up: Flowing[Batch[R]], fn: Callable[[R], Iterable[S]]) -> Flowing[Batch[S]]: ...
@overload
def flat_map(
    step_id: str, up: Flowing[Batch[R]], fn: Callable[[R, Message], Iterable[S]], *, with_message: Literal[True]
) -> Flowing[Batch[S]]: ...
def flat_map(
    step_id: str, up: Flowing[Batch[R]], fn: Callable[..., Iterable[S]], *, with_message: bool = False
) -> Flowing[Batch[S]]:
    """Turn each record into any number of records; all of them stay in one transaction. What `fn` raises rejects the record.
    `with_message` as for `map`.

    Parallelism: where the batch is.
    Delivery: as `map` (tests/waxwing/operators/test_operators.py).
    """

    def flat(batch: Batch[R]) -> Batch[S]:
        lists = _applied(step_id, batch, _listed(fn), batch.records, *_messages(batch, with_message))
        at = [at for at, made in zip(lists.at, lists.records, strict=True) for _ in made]
        return lists.with_records(list(chain.from_iterable(lists.records)), at)

    return declare_key(op.map(step_id, up, flat), key_type(up))


def without_rejects(step_id: str, up: Flowing[Batch[R]]) -> Flowing[Batch[R]]:
    """The batches without what was rejected so far: for further sinks of a flow, where the first one keeps the dead letters.

    Parallelism: where the batch is.
    Delivery: as `map` (tests/waxwing/operators/test_operators.py).
    """
    bare = op.map(step_id, up, lambda batch: replace(batch, rejects=()) if batch.rejects else batch)
    return declare_key(declare(bare, record_type(up)), key_type(up))


def unbatch(step_id: str, up: Flowing[Batch[R]]) -> Flowing[R]:
    """The records one by one, for plain Bytewax steps behind. Rejects and positions end here.

    Parallelism: where the batch is.
    Delivery: at least once, with Bytewax's recovery (`-r`); a plain sink remembers nothing (tests/faults/test_kafka_source.py).
    """
    return op.flat_map(step_id, up, lambda batch: batch.records)


def _listed(fn: Callable[..., Iterable[S]]) -> Callable[..., list[S]]:
    return lambda *arguments: list(fn(*arguments))


def _judge(keep: Callable[..., bool]) -> Callable[..., tuple[Any, bool]]:
    return lambda record, *message: (record, keep(record, *message))


def _messages(batch: Batch[Any], wanted: bool) -> tuple[Sequence[Message], ...]:
    return ([Message(batch, at) for at in batch.at],) if wanted else ()


def _applied(step_id: str, batch: Batch[Any], fn: Callable[..., S], *arguments: Sequence[Any]) -> Batch[S]:
    """The batch with the function's results for its records; where computing one raises, that record becomes a reject.

    A `map` object is drained: after an exception it goes on behind the record that raised, and `extend` has kept
    what came before. So a bad record costs nothing to the others.
    """
    size = len(batch.records)
    results = builtins.map(fn, *builtins.map(iter, arguments))
    out: list[S] = []
    bad: dict[int, str] = {}
    while len(out) + len(bad) < size:
        try:
            out.extend(results)
        except RAISED as error:
            n = len(out) + len(bad)
            bad[n] = reason_of(error, batch.records[n])
        else:
            if (n := len(out) + len(bad)) < size:
                bad[n] = stopped(fn, *[each[n] for each in arguments])
    if not bad:
        return batch.with_records(out, batch.at)
    return without_bad(step_id, batch, bad, out)


def without_bad(step_id: str, batch: Batch[Any], bad: Mapping[int, str], records: Sequence[S]) -> Batch[S]:
    """The batch with what was made of the records that are not bad; these, by their numbers, are rejects of the step."""
    rows = row_numbers(batch, list(bad))
    rejects = [Reject(batch.at[n], step_id, reason, row) for (n, reason), row in zip(bad.items(), rows, strict=True)]
    return batch.with_records(records, without(batch.at, bad), [*batch.rejects, *rejects])
