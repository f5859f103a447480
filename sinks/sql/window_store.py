"""What windows keep in an SQL database, read and written: streams, and each bucket's state in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from sinks.windows.target import Known, Streams
from waxwing.batch import Stream
from waxwing.databases import ledger
from waxwing.operators.windows import Bucket, Held, Windows
from waxwing.target import Position

windows, window_state = ledger.windows, ledger.window_state

# No server takes statements of any size.
PART_BYTES = 1_000_000
# The head of the state, with the positions, lies in the first part as a whole.
PART_BYTES_MIN = 65_536


def kept(connection: sa.Connection, flow: str, step: str, *, lock: bool = False) -> Any:
    """What is remembered of a step's windows: its row of waxwing_windows, or None. Live ones have no buckets."""
    query = sa.select(windows).where(ledger.of_step(windows, flow, step))
    return connection.execute(ledger.locking(query) if lock else query).one_or_none()


def part_bytes(value_bytes_max: int) -> int:
    """The size of a part, where a server takes values up to this size."""
    return max(PART_BYTES_MIN, min(PART_BYTES, value_bytes_max))


def save(connection: sa.Connection, flow: str, step: str, bucket: int, state: bytes, part_size: int = PART_BYTES) -> None:
    """Write a bucket's state."""
    connection.execute(window_state.delete().where(_of_bucket(flow, step, bucket)))
    for number, first in enumerate(range(0, len(state), part_size)):
        part = state[first : first + part_size]
        connection.execute(window_state.insert().values(flow=flow, step=step, bucket=bucket, part=number, state=part))


def load(connection: sa.Connection, flow: str, step: str, bucket: int) -> bytes:
    """Read a bucket's state."""
    parts = sa.select(window_state.c.state).where(_of_bucket(flow, step, bucket)).order_by(window_state.c.part)
    return b"".join(connection.scalars(parts))


def held(connection: sa.Connection, flow: str, step: str) -> list[dict[Stream, Held]]:
    """How far each bucket has come: the head of its state says so."""
    first = sa.and_(ledger.of_step(window_state, flow, step), window_state.c.part == 0)
    return [
        Bucket.positions(state)
        for state in connection.scalars(sa.select(window_state.c.state).where(first).order_by(window_state.c.bucket))
    ]


def positions(connection: sa.Connection, flow: str, step: str) -> list[Position]:
    """The lowest position of each stream: for people."""
    row = kept(connection, flow, step)
    if row is None or not row.buckets:
        return []
    buckets = held(connection, flow, step)
    return [
        Position(stream, min(b[stream].offset_next if stream in b else known.offset_start for b in buckets), *known[:2])
        for stream, known in load_streams(flow, row.streams).items()
    ]


def change_streams(connection: sa.Connection, flow: str, step: str, change: Callable[[Streams], Streams]) -> Streams:
    """Change the streams that are kept; what is kept then."""
    row = kept(connection, flow, step, lock=True)
    streams = load_streams(flow, row.streams) if row is not None else {}
    changed = change(streams)
    if changed != streams:
        where = ledger.of_step(windows, flow, step)
        connection.execute(windows.update().where(where).values(streams=dump_streams(changed)))
    return changed


def rename(connection: sa.Connection, flow: str, step: str, row: Any, definition: Windows) -> None:
    """Keep the text of a definition that goes on where the kept one was."""
    if row.definition != definition.text:
        connection.execute(windows.update().where(ledger.of_step(windows, flow, step)).values(definition=definition.text))


def accept_bad_records(connection: sa.Connection, flow: str, step: str, records: int) -> int:
    """Let the next records of each stream that is read pass without limits. Returns the number of streams."""
    row = kept(connection, flow, step, lock=True)
    if row is None or not row.buckets:
        return 0
    buckets, streams = held(connection, flow, step), load_streams(flow, row.streams)
    # From the first bucket's place on: rejects travel by it.
    stands = {s: buckets[0][s].offset_next if s in buckets[0] else one.offset_start for s, one in streams.items()}
    accepted = {s: one._replace(limits_from=stands[s] + records) for s, one in streams.items()}
    changed = windows.update().where(ledger.of_step(windows, flow, step)).values(streams=dump_streams(accepted))
    connection.execute(changed)
    return sum(one.read for one in streams.values())


def dump_streams(streams: Streams) -> str:
    """As kept in waxwing_windows."""
    return json.dumps([[*stream[1:], *known] for stream, known in streams.items()])


def load_streams(flow: str, text: str) -> Streams:
    """As kept in waxwing_windows."""
    return {Stream(flow, *row[:3]): Known(*row[3:]) for row in json.loads(text)}


def _of_bucket(flow: str, step: str, bucket: int) -> sa.ColumnElement[bool]:
    return sa.and_(ledger.of_step(window_state, flow, step), window_state.c.bucket == bucket)
