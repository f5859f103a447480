"""Operators over batches. `step_id` first, functions that take and return streams, as everywhere in Bytewax."""

from waxwing.operators.parse import parse
from waxwing.operators.records import Origin, filter, flat_map, map, map_batch, unbatch

__all__ = ["Origin", "filter", "flat_map", "map", "map_batch", "parse", "unbatch"]
