"""How far buckets have come, as it is stored."""

from __future__ import annotations

from waxwing.batch import Stream
from waxwing.ledger.store import Transaction
from waxwing.ledger.windows import BUCKETS_SOURCE, bucket_stream
from waxwing.operators.windows import Bucket, Held


def held_by_buckets(transaction: Transaction, flow: str) -> list[dict[Stream, Held]]:
    """By the heads of their states; of one that is longer than what is read of it (of many tokens) by all of it."""
    heads = transaction.heads(BUCKETS_SOURCE)
    whole = [
        head if Bucket.has_positions(head) else transaction.state(bucket_stream(flow, number))
        for number, head in enumerate(heads)
    ]
    return [Bucket.positions(one) for one in whole]
