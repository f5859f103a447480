"""Waxwing's own tables, beside the data: schema version, positions, owners, dead letters, state.

Names of columns avoid words that some database reserves (offset, index, key, partition).
Lengths keep each key within 900 bytes, the smallest limit (SQL Server's clustered index).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from waxwing.batch import SOURCE_CHARACTERS_MAX, TOKEN_BYTES_MAX, Stream
from waxwing.change import Position
from waxwing.ledger.members import Member, Record
from waxwing.ledger.store import Step, Stored
from waxwing.tables.dialect import Dialect

SCHEMA_VERSION = 2
FLOW_CHARACTERS_MAX = STEP_CHARACTERS_MAX = 100
PLACE_CHARACTERS_MAX = 255

metadata = sa.MetaData()


def _of_step() -> Sequence[sa.Column[Any]]:
    return (
        sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
        sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    )


def _of_stream() -> Sequence[sa.Column[Any]]:
    return (
        sa.Column("source_id", sa.String(SOURCE_CHARACTERS_MAX), primary_key=True),
        sa.Column("source_partition", sa.Integer, primary_key=True, autoincrement=False),
    )


# One row, of the version; two while an earlier one is being migrated (the higher one keeps earlier releases out).
schema_version = sa.Table("waxwing_schema", metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))

progress = sa.Table(
    "waxwing_progress",
    metadata,
    *_of_step(),
    *_of_stream(),
    sa.Column("source", sa.String(SOURCE_CHARACTERS_MAX), nullable=False),
    sa.Column("offset_start", sa.BigInteger, nullable=False),
    sa.Column("offset_next", sa.BigInteger, nullable=False),
    sa.Column("offset_end", sa.BigInteger),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.BigInteger, nullable=False),
    sa.Column("owner_token", sa.String(32), nullable=False),
    sa.Column("records_seen", sa.BigInteger, nullable=False),
    sa.Column("records_bad", sa.BigInteger, nullable=False),
    sa.Column("bad_run", sa.BigInteger, nullable=False),
    sa.Column("limits_from", sa.BigInteger, nullable=False),
    # Where the source begins to read, in its own words, and the number of the first record there.
    sa.Column("token", sa.LargeBinary(TOKEN_BYTES_MAX)),
    sa.Column("token_offset", sa.BigInteger),
    # Rows that stand for no one record (of closed windows), counted as records are.
    sa.Column("rows_seen", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_bad", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_bad_run", sa.BigInteger, nullable=False, server_default="0"),
)

# Which tables a step writes: one of them, filled from the same source by another flow, means that the flow was renamed.
tables = sa.Table(
    "waxwing_tables",
    metadata,
    *_of_step(),
    sa.Column("table_key", sa.String(32), primary_key=True),  # a digest of the name, which is too long for a key
    # schema.table, the default schema as "", what is not ASCII escaped
    sa.Column("table_name", sa.String(2_000), nullable=False),
)

owners = sa.Table(
    "waxwing_owners",
    metadata,
    *_of_step(),
    sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(32), nullable=False),
    # Of which start it is, which of its processes, and that one's own name; where it runs, for people.
    sa.Column("run", sa.String(100), nullable=False),
    sa.Column("process", sa.Integer, nullable=False),
    sa.Column("process_token", sa.String(32), nullable=False),
    sa.Column("place", sa.String(PLACE_CHARACTERS_MAX), nullable=False),
    sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
)

# Public: users read it, and tools may.
dead_letters = sa.Table(
    "waxwing_dead_letters",
    metadata,
    *_of_step(),
    sa.Column("source", sa.String(SOURCE_CHARACTERS_MAX), nullable=False),
    *_of_stream(),
    sa.Column("source_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("row_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("stage", sa.String(100), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message_key", sa.LargeBinary(2**24)),
    sa.Column("message_value", sa.LargeBinary(2**24)),
    sa.Column("message_headers", sa.Text, nullable=False),
    sa.Column("message_timestamp_ms", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.now()),
    sa.Column("replayed_at", sa.DateTime),
)

# Windows keep their state beside their rows. A bucket is a row of waxwing_progress (its stream: `bucket_stream`), with the number
# of its emissions in place of an offset.
windows = sa.Table(
    "waxwing_windows",
    metadata,
    *_of_step(),
    sa.Column("buckets", sa.Integer, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("streams", sa.Text, nullable=False),  # JSON, a list of each: its source to the partition, then `Known`
)

# What a step keeps with a position, in parts: no server takes values of any size.
state = sa.Table(
    "waxwing_state",
    metadata,
    *_of_step(),
    *_of_stream(),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.LargeBinary(2**24), nullable=False),
)

# All that belongs to a step, positions last: whoever still writes finds them gone.
OF_STEPS = (owners, state, windows, tables, dead_letters, progress)


def of_step(table: sa.Table, step: Step) -> sa.ColumnElement[bool]:
    """The rows of one step."""
    return sa.and_(table.c.flow == step.flow, table.c.step == step.name)


def of_stream(table: sa.Table, step: Step, stream: Stream) -> sa.ColumnElement[bool]:
    """The rows of one stream in one step."""
    c = table.c
    return sa.and_(of_step(table, step), c.source_id == stream.source_id, c.source_partition == stream.partition)


# What of a position a compare-and-set moves.
MOVED = (
    *("offset_next", "records_seen", "records_bad", "bad_run"),
    *("rows_seen", "rows_bad", "rows_bad_run"),
)
TOKEN = ("token", "token_offset")
_KEPT = (*MOVED, *TOKEN, "offset_start", "offset_end", "limits_from")


def values_of(step: Step, position: Position, generation: int) -> dict[str, Any]:
    """A new position as a row."""
    stream = position.stream
    values: dict[str, Any] = {"flow": stream.flow, "step": step.name, "source": stream.source, "source_id": stream.source_id}
    values |= {"source_partition": stream.partition, "version": 0, "owner": generation, "owner_token": ""}
    return values | {name: getattr(position, name) for name in _KEPT}


def stored(row: sa.Row[tuple[object, ...]]) -> Stored:
    """A row of waxwing_progress."""
    r = row._mapping
    stream = Stream(r["flow"], r["source"], r["source_id"], r["source_partition"])
    kept = {name: r[name] for name in _KEPT}
    if kept["token"] is not None:
        kept["token"] = bytes(kept["token"])
    return Stored(Position(stream, **kept), r["owner"], r["owner_token"])


def record(row: Any) -> Record:
    """A row of waxwing_owners with its `age`."""
    member = Member(row.run, row.process, row.process_token)
    return Record(row.generation, row.token, member, row.place, row.heartbeat_ms, row.age)


def locking(query: sa.Select[Any], dialect: Dialect) -> sa.Select[Any]:
    """A locking read: a plain one may show the past. (A database without FOR UPDATE says nothing, and locks nothing.)"""
    table = query.get_final_froms()[0]
    return query.with_for_update().with_hint(table, dialect.locking_read) if dialect.locking_read else query.with_for_update()
