"""Waxwing's own tables, beside the data: schema version, positions, owners, dead letters.

Names of columns avoid words that some database reserves (offset, index, key, partition).
Lengths keep each key within 900 bytes, the smallest limit (SQL Server's clustered index).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from waxwing import log
from waxwing.batch import Stream
from waxwing.databases import address
from waxwing.errors import ConfigError
from waxwing.target import Position

SCHEMA_VERSION = 1
FLOW_CHARACTERS_MAX = STEP_CHARACTERS_MAX = 100

metadata = sa.MetaData()

schema_version = sa.Table("waxwing_schema", metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))

progress = sa.Table(
    "waxwing_progress",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column("topic_id", sa.String(255), primary_key=True),
    sa.Column("topic_partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("topic", sa.String(255), nullable=False),
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
)

# Which table a step writes: the same one, filled from the same topic by another flow, means that the flow was renamed. Steps of a
# Waxwing before 0.1.0's release have no row until they run again.
steps = sa.Table(
    "waxwing_steps",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column(
        "table_name", sa.String(2_000), nullable=False
    ),  # schema.table, the default schema as "", what is not ASCII escaped
)

owners = sa.Table(
    "waxwing_owners",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("place", sa.String(255), nullable=False),
    sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
)

dead_letters = sa.Table(
    "waxwing_dead_letters",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column("topic_id", sa.String(255), primary_key=True),
    sa.Column("topic_partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("topic_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("row_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("topic", sa.String(255), nullable=False),
    sa.Column("stage", sa.String(100), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message_key", sa.LargeBinary(2**24)),
    sa.Column("message_value", sa.LargeBinary(2**24)),
    sa.Column("message_headers", sa.Text, nullable=False),
    sa.Column("message_timestamp_ms", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.now()),
)


# Windows keep their state beside their rows. A bucket is a row of waxwing_progress (its stream: `bucket`), with the number of its
# emissions in place of an offset.
windows = sa.Table(
    "waxwing_windows",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column("buckets", sa.Integer, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("streams", sa.Text, nullable=False),  # JSON, a list of each: its topic to the partition, then `Known`
)

window_state = sa.Table(
    "waxwing_window_state",
    metadata,
    sa.Column("flow", sa.String(FLOW_CHARACTERS_MAX), primary_key=True),
    sa.Column("step", sa.String(STEP_CHARACTERS_MAX), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.LargeBinary(2**24), nullable=False),
)

BUCKETS_TOPIC = BUCKETS_TOPIC_ID = "waxwing:windows"


def bucket(flow: str, number: int) -> Stream:
    """The stream that stands for a bucket of windows in waxwing_progress."""
    return Stream(flow, BUCKETS_TOPIC, BUCKETS_TOPIC_ID, number)


def make(connection: sa.Connection) -> None:
    """Make what is missing, and check the schema version. Two processes may do so at once: the later one may have to call again.

    Raises:
        ConfigError: the tables were made by a newer Waxwing.
    """
    there = set(sa.inspect(connection).get_table_names())
    lacking = [table for table in metadata.sorted_tables if table.name not in there]
    if lacking:
        metadata.create_all(connection, tables=lacking)
        names = ", ".join(table.name for table in lacking)
        log.info("table_made", f"Waxwing's own tables are made, in {address.place(connection.engine.url)}: {names}.")
    version = connection.scalar(sa.select(sa.func.max(schema_version.c.version)))
    if version is None:
        connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
    elif version != SCHEMA_VERSION:
        raise ConfigError(
            f"Waxwing's own tables in this database have schema version {version}, this Waxwing knows version {SCHEMA_VERSION}.",
            hint="Run the Waxwing that made them, or a newer one.",
        )


def of_step(table: sa.Table, flow: str, step: str) -> sa.ColumnElement[bool]:
    """The rows of one step."""
    return sa.and_(table.c.flow == flow, table.c.step == step)


def of_stream(step: str, stream: Stream) -> sa.ColumnElement[bool]:
    """The position of one stream in one step."""
    return sa.and_(
        of_step(progress, stream.flow, step),
        progress.c.topic_id == stream.source_id,
        progress.c.topic_partition == stream.partition,
    )


def position(row: sa.Row[tuple[object, ...]]) -> Position:
    """A row of waxwing_progress as a Position."""
    r = row._mapping
    return Position(
        Stream(r["flow"], r["topic"], r["topic_id"], r["topic_partition"]),
        r["offset_next"],
        r["offset_start"],
        r["offset_end"],
        r["records_seen"],
        r["records_bad"],
        r["bad_run"],
        r["limits_from"],
    )


def positions_of(connection: sa.Connection, flow: str, step: str) -> int:
    """How many positions a step has."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(progress).where(of_step(progress, flow, step))) or 0)


def alive(connection: sa.Connection, flow: str, step: str, now_ms: sa.ColumnElement[int], stale_s: float) -> str:
    """Where an owner of the step runs whose heartbeat is fresh; else empty."""
    fresh = owners.c.heartbeat_ms > now_ms - int(stale_s * 1000)
    return connection.scalars(sa.select(owners.c.place).where(of_step(owners, flow, step), fresh)).first() or ""


def locking(query: sa.Select[Any]) -> sa.Select[Any]:
    """A locking read: a plain one may show the past."""
    table = query.get_final_froms()[0]
    return query.with_for_update().with_hint(
        table, "WITH (UPDLOCK, ROWLOCK)", "mssql"
    )  # which has no FOR UPDATE, and says nothing
