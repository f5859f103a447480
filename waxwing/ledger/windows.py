"""What a ledger keeps of a step's windows as a whole: their definition, and the streams that they take in."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import NamedTuple

from waxwing.batch import Stream

# Of a time in microseconds: before all others; and of a stream of which nothing was read yet.
NEVER, UNSEEN = -(2**62), 2**62
# Whether the first record of a stream was seen: nobody knows yet; none came for a while; it was.
UNKNOWN, IDLE, SEEN = range(3)
# The head of a bucket's state, with its positions, lies in so many bytes from its beginning.
STATE_HEAD_BYTES = 65_536
BUCKETS_SOURCE = "waxwing:windows"


class Known(NamedTuple):
    """A stream that windows take in: where it began, where a bounded run ends, whether it is still read, and the offset below
    which no limit on bad records is judged. `token`: what the source calls the place where it began.

    `place` (of Held) is kept here for live windows, and whether a record of the stream was `seen`; buckets know it themselves.
    """

    offset_start: int
    offset_end: int | None
    read: bool = True
    limits_from: int = 0
    place: int = NEVER
    seen: int = SEEN
    token: bytes | None = None


Streams = dict[Stream, Known]


class Defined(NamedTuple):
    """Windows as they are kept: how many buckets (0: live ones, which have none), the definition's text, and the streams."""

    buckets: int
    text: str
    streams: Streams


def bucket_stream(flow: str, number: int) -> Stream:
    """The stream that stands for a bucket: its position counts emissions."""
    return Stream(flow, BUCKETS_SOURCE, BUCKETS_SOURCE, number)


def dump_streams(streams: Streams) -> str:
    """As a text to be kept."""
    rows = [
        [*stream[1:], *known[:-1], *([] if known.token is None else [b64encode(known.token).decode()])]
        for stream, known in streams.items()
    ]
    return json.dumps(rows)


def load_streams(flow: str, text: str) -> Streams:
    """Of a text that was kept; an earlier release may have kept fewer fields."""
    out = {}
    for row in json.loads(text):
        *fields, token = [*row[3:], None] if len(row) < 3 + len(Known._fields) else row[3:]
        out[Stream(flow, *row[:3])] = Known(*fields)._replace(token=None if token is None else b64decode(token))
    return out
