"""`waxwing status`, `resume`, `step rename` and `step drop`: what the database remembers of a flow."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import sqlalchemy as sa
import typer
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from rich.console import Console
from rich.table import Table

from sinks import Append, SqlTarget, SqlWindows
from waxwing import log
from waxwing.cli.flows import module
from waxwing.configuration import load
from waxwing.databases import address, database_for
from waxwing.errors import ConfigError
from waxwing.kafka_client import client_config, make_client, reason_of
from waxwing.settings import KafkaSettings, SqlSettings
from waxwing.target import Position

KAFKA_TIMEOUT_S = 10.0
REASONS_SHOWN = 30
# The commands touch Waxwing's own tables only; a target wants a table of yours as well.
_NO_TABLE = sa.Table("waxwing_progress", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


class PositionsSettings(KafkaSettings, SqlSettings):
    """Where the positions are, and the topics that they belong to."""


def resume(flow: str, records: int) -> None:
    """Let the next records of every step and partition pass without limits on bad rows."""
    settings = _settings()
    for step in _steps(settings, flow):
        partitions = _target(settings, flow, step).accept_bad_rows(records)
        log.info(
            "resumed",
            f"{flow}, step {step}: the next {records:,} records of {partitions} partitions pass without limits.",
            step=step,
        )


def rename(flow: str, old: str, new: str) -> None:
    """Give the positions of a step to another name."""
    settings = _settings()
    steps = _steps(settings, flow)
    _demand(flow, old, steps)
    if new in steps:
        raise ConfigError(
            f"Step {new!r} of flow {flow!r} has positions of its own.", hint=f"Drop them first: waxwing step drop {flow} {new}"
        )
    positions = _target(settings, flow, new).rename_step(old, new)
    log.info("step_renamed", f"{flow}: {positions} positions of step {old} belong to step {new} now.")


def drop(flow: str, step: str, *, yes: bool) -> None:
    """Forget the positions of a step."""
    settings = _settings()
    _demand(flow, step, _steps(settings, flow))
    if not yes:
        typer.confirm(
            f"Forget the positions of step {step} of flow {flow}? A step of that name would write everything again, "
            "beside or into the rows that its table has.",
            abort=True,
        )
    positions = _target(settings, flow, step).drop_step(step)
    log.info("step_dropped", f"{flow}: {positions} positions of step {step} are forgotten.")


def rebucket(flow: str) -> None:
    """Divide the state of a flow's windows anew."""
    _settings()
    targets = [one for one in vars(module(flow).flow()).get("_waxwing_windows", ()) if isinstance(one, SqlWindows)]
    if not targets:
        raise ConfigError(f"Flow {flow!r} keeps no state of windows.")
    for target in targets:
        buckets = target.rebucket()
        log.info(
            "rebucketed", f"{flow}, step {target.step}: {buckets} buckets are {target.window_buckets} now.", step=target.step
        )


def status(flow: str) -> None:
    """Print positions, lag and dead letters."""
    settings = _settings()
    positions: list[tuple[str, Position]] = []
    letters: list[tuple[str, str, str, int]] = []
    for step in _steps(settings, flow):
        target = _target(settings, flow, step)
        positions += [(step, position) for position in target.positions()]
        letters += [(step, *one) for one in target.dead_letter_reasons()]
    ends = _ends(settings, sorted({(p.stream.topic, p.stream.partition) for _, p in positions}))
    rows = []
    for step, position in sorted(positions):
        stream = position.stream
        end = ends.get((stream.topic, stream.partition))
        lag = "" if end is None else f"{end - position.offset_next:,}"
        rows.append((step, stream.topic, str(stream.partition), f"{position.offset_next:,}", lag))
    _print(f"flow {flow}: the next offset of each partition", ("step", "topic", "partition", "next offset", "behind by"), rows)
    if letters:
        total = sum(number for *_, number in letters)
        shown = [(step, stage, f"{number:,}", reason) for step, stage, reason, number in letters[:REASONS_SHOWN]]
        _print(f"{total:,} dead letters", ("step", "stage", "number", "reason"), shown)
        if len(letters) > REASONS_SHOWN:
            sys.stdout.write(f"... and {len(letters) - REASONS_SHOWN:,} further reasons, in the table waxwing_dead_letters.\n")


def _settings() -> PositionsSettings:
    settings = load(PositionsSettings, partial=True)
    if not settings.database_url.get_secret_value():
        raise ConfigError("DATABASE_URL is not given.", hint="Set it to the database that holds the flow's rows.")
    return settings


def _target(settings: SqlSettings, flow: str, step: str) -> SqlTarget:
    target = SqlTarget(settings, _NO_TABLE, Append())
    target.bind(flow, step)
    return target


def _steps(settings: SqlSettings, flow: str) -> Sequence[str]:
    """The steps of a flow that have positions.

    Raises:
        ConfigError: none has.
    """
    target = _target(settings, flow, "")
    try:
        steps = sorted(target.steps())
    except ConfigError:
        if not _never_used(settings):
            raise
        steps = []
    if not steps:
        where = target.name.partition(" in ")[2]
        raise ConfigError(f"There are no positions of a flow {flow!r} in {where}.", hint="Is DATABASE_URL the flow's?")
    return steps


def _never_used(settings: SqlSettings) -> bool:
    """Is this a database without Waxwing's tables?"""
    url = address.parsed(settings.database_url.get_secret_value())
    engine = database_for(url).engine(
        url,
        connect_timeout_s=settings.database_connect_timeout_s,
        lock_timeout_s=settings.database_lock_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
    )
    with contextlib.suppress(sa.exc.DBAPIError), engine.connect() as connection:
        return not sa.inspect(connection).has_table(_NO_TABLE.name)
    return False


def _demand(flow: str, step: str, steps: Sequence[str]) -> None:
    if step not in steps:
        raise ConfigError(f"Step {step!r} of flow {flow!r} has no positions.", hint=f"Steps that have: {', '.join(steps)}.")


def _ends(settings: KafkaSettings, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Where the logs end; nothing where Kafka is not given or not there."""
    if not settings.kafka_bootstrap_servers:
        return {}
    admin = make_client(AdminClient, client_config(settings), settings)
    ends = {}
    try:
        asked = admin.list_offsets(
            {TopicPartition(*one): OffsetSpec.latest() for one in partitions}, request_timeout=KAFKA_TIMEOUT_S
        )
        for place, future in asked.items():
            if (end := future.result(KAFKA_TIMEOUT_S).offset) >= 0:
                ends[place.topic, place.partition] = end
    except (KafkaException, TimeoutError) as error:
        why = reason_of(error.args[0]) if isinstance(error, KafkaException) else f"no answer within {KAFKA_TIMEOUT_S:.0f} s"
        log.warning("kafka_away", f"Kafka at {settings.kafka_bootstrap_servers} did not say how long the logs are: {why}.")
    return ends


def _print(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        sys.stdout.writelines("\t".join(row) + "\n" for row in (names, *rows))
        return
    table = Table(*names, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
