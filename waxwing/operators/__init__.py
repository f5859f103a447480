"""Operators over batches. `step_id` first, functions that take and return streams, as everywhere in Bytewax."""

from waxwing.operators.check import check
from waxwing.operators.exchange import bucket_of, key_by
from waxwing.operators.parse import parse
from waxwing.operators.records import Message, Origin, filter, flat_map, map, map_batch, unbatch, without_rejects

__all__ = [
    "Message",
    "Origin",
    "bucket_of",
    "check",
    "filter",
    "flat_map",
    "key_by",
    "map",
    "map_batch",
    "parse",
    "unbatch",
    "without_rejects",
]
