"""Windows over event time whose answer is a function of the topic alone: what a user writes, and the core that computes it."""

from waxwing.ledger.windows import NEVER, UNSEEN
from waxwing.operators.windows.aggregates.functions import Aggregate, Count, First, Fold, Last, Max, Mean, Min, Sum
from waxwing.operators.windows.bucket.bucket import Bucket, Emission
from waxwing.operators.windows.definition import MESSAGE_TIME, Calendar, Hopping, Session, Tumbling, Windows
from waxwing.operators.windows.pieces import Held, Late, Mark, Opening, Piece, first_held, first_opening, openings
from waxwing.operators.windows.rows import LateEntries, Rows
from waxwing.operators.windows.stream.fold import StreamFold

__all__ = [
    "MESSAGE_TIME",
    "NEVER",
    "UNSEEN",
    "Aggregate",
    "Bucket",
    "Calendar",
    "Count",
    "Emission",
    "First",
    "Fold",
    "Held",
    "Hopping",
    "Last",
    "Late",
    "LateEntries",
    "Mark",
    "Max",
    "Mean",
    "Min",
    "Opening",
    "Piece",
    "Rows",
    "Session",
    "StreamFold",
    "Sum",
    "Tumbling",
    "Windows",
    "first_held",
    "first_opening",
    "openings",
]
