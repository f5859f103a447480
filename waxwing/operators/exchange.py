"""The keyed exchange: batches split into buckets, so that the records of one key meet on one worker."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any, TypeVar
from zlib import crc32

import bytewax.operators as op
from bytewax.dataflow import Stream as Flowing

from waxwing.batch import Batch, Columns, Delete, Messages, Reject
from waxwing.errors import ConfigError
from waxwing.operators.records import _applied

R = TypeVar("R")

Key = str | bytes | int

BUCKETS_MAX = 1_000


def key_by(step_id: str, up: Flowing[Batch[R]], key_fn: Callable[[R], Key], buckets: int) -> Flowing[tuple[str, Batch[R]]]:
    """Split each batch into one piece a bucket; records of equal keys are in equal buckets, whatever lane they came by.

    EVERY bucket gets a piece of every batch, an empty one too, in the batches' order: each can tell by the offsets how far
    each partition has come. A piece holds the messages of its own records only. Rejects travel with the first bucket, deletes
    with the bucket of the message's key. What `key_fn` raises rejects that one record.

    The number of buckets is part of the state of what stands behind: changing it moves keys. Pieces of one batch cover the
    same offsets, so they are for steps that fold them; a sink takes whole batches.

    Parallelism: Bytewax spreads the buckets over all workers.
    Delivery: first in, first out for each partition and bucket (tests/waxwing/operators/test_operators.py).

    Raises:
        ConfigError: a number of buckets that is out of bounds.
    """
    if not 1 <= buckets <= BUCKETS_MAX:
        raise ConfigError(
            f"key_by {step_id}: {buckets} buckets.", hint=f"Take 1 to {BUCKETS_MAX:,}, a few for each worker to come."
        )
    names = [bucket_name(bucket) for bucket in range(buckets)]

    def placed(record: R) -> tuple[int, R]:
        return bucket_of(key_fn(record), buckets), record

    def split(batch: Batch[R]) -> list[tuple[str, Batch[R]]]:
        judged = _applied(step_id, batch, placed, batch.records)
        return list(zip(names, _pieces(judged, buckets), strict=True))

    return op.flat_map(step_id, up, split)


def bucket_of(key: Key, buckets: int) -> int:
    """The bucket of a key: the same in every process and after every restart, which Python's own hash() is not.

    A text and its UTF-8 bytes are the same key.

    Raises:
        TypeError: a key whose bytes might differ from run to run.
    """
    if isinstance(key, str):
        key = key.encode()
    elif isinstance(key, int):
        key = b"%d" % key
    elif not isinstance(key, bytes):
        raise TypeError(f"a key is text, bytes or a whole number, not {type(key).__name__}")
    return crc32(key) % buckets


def bucket_name(bucket: int) -> str:
    """The name of a bucket, zero-padded: Bytewax sorts names as text."""
    return f"bucket-{bucket:03}"


def _pieces(batch: Batch[tuple[int, R]], buckets: int) -> list[Batch[R]]:
    records: list[list[R]] = [[] for _ in range(buckets)]
    places: list[list[int]] = [[] for _ in range(buckets)]
    for (bucket, record), at in zip(batch.records, batch.at, strict=True):
        records[bucket].append(record)
        places[bucket].append(at)
    rejects: list[list[Reject]] = [list(batch.rejects), *([] for _ in range(buckets - 1))]
    deletes: list[list[Delete]] = [[] for _ in range(buckets)]
    for delete in batch.deletes:
        deletes[bucket_of(batch.messages.keys[delete.at] or b"", buckets)].append(delete)
    return [_piece(batch, *parts) for parts in zip(records, places, rejects, deletes, strict=True)]


def _piece(batch: Batch[Any], records: list[R], places: list[int], rejects: list[Reject], deletes: list[Delete]) -> Batch[R]:
    kept = sorted({*places, *(reject.at for reject in rejects), *(delete.at for delete in deletes)})
    at = {old: new for new, old in enumerate(kept)}
    return replace(
        batch,
        messages=_chosen(batch.messages, kept),
        records=records,
        at=[at[old] for old in places],
        rejects=[reject._replace(at=at[reject.at]) for reject in rejects],
        deletes=[delete._replace(at=at[delete.at]) for delete in deletes],
    )


def _chosen(messages: Messages, numbers: list[int]) -> Columns:
    """Some of the messages, by their numbers."""
    if not numbers:
        return Columns((), (), (), (), ())
    # itemgetter is the fastest way, but for one number it returns no tuple.
    take = itemgetter(*numbers) if len(numbers) > 1 else lambda values: (values[numbers[0]],)
    fields = (messages.offsets, messages.keys, messages.values, messages.timestamps_ms, messages.headers)
    return Columns(*builtins.map(take, fields))
