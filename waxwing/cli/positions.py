"""`waxwing status`, `resume`, `step rename`, `step drop` and `flow rename`: what databases remember of a flow."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import typer
from bytewax.dataflow import Dataflow
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from rich.console import Console
from rich.table import Table

from sinks import SqlWindows
from sinks.sql.steps import KeptOfStep, SqlSteps, refuse_own
from waxwing import log
from waxwing.cli.flows import module
from waxwing.cli.places import PositionsSettings, databases, places_of, places_of_step, positions_settings
from waxwing.errors import ConfigError
from waxwing.kafka_client import client_config, make_client, reason_of
from waxwing.settings import KafkaSettings

KAFKA_TIMEOUT_S = 10.0
REASONS_SHOWN = 30


def resume(flow: str, records: int) -> None:
    """Let the next records of every step and partition pass without limits on bad rows."""
    for place, steps in places_of(flow):
        for step in _with_positions(steps):
            partitions = place.accept_bad_rows(step, records)
            log.info(
                "resumed",
                f"{flow}, step {step} in {place.place}: the next {records:,} records of {partitions} partitions pass "
                "without limits.",
                step=step,
            )


def rename(flow: str, old: str, new: str) -> None:
    """Give all that is kept of a step to another name."""
    found = places_of_step(flow, old)
    for place, steps in places_of(flow) if old != new else ():
        refuse_own(str(place.place), flow, {new}.intersection(_with_positions(steps)))
    for place, kept in found:
        meets = place.to_give_way(old, flow=flow, name=new)
        way = f" {_number(meets, 'dead letter')} of an earlier step of that name, of the same records, give way." if meets else ""
        log.info("step_renaming", f"{flow} in {place.place}: {_amount(kept)} of step {old} are given to step {new}.{way}")
        replaced = place.rename([old], flow=flow, steps=[new])
        log.info("step_renamed", f"{flow}: {_amount(kept)} of step {old} belong to step {new} now.{_replaced(replaced)}")


def drop(flow: str, step: str, *, yes: bool, dead_letters: bool) -> None:
    """Forget the positions of a step, and its dead letters where that is asked for."""
    places = places_of_step(flow, step)
    for place, kept in places:
        kept_on = (
            ""
            if dead_letters or not kept.dead_letters
            else f" Its {_number(kept.dead_letters, 'dead letter')} stay (--with-dead-letters forgets them, too)."
        )
        what = _amount(kept if dead_letters else kept._replace(dead_letters=0))
        log.info("step_dropping", f"{flow} in {place.place}: {what} of step {step} are about to be forgotten.{kept_on}")
    if not yes:
        typer.confirm(
            f"Forget them? A step {step} of flow {flow} would write everything again, "
            "beside or into the rows that its table has.",
            abort=True,
        )
    for place, kept in places:
        place.drop(step, dead_letters=dead_letters)
        what = _amount(kept if dead_letters else kept._replace(dead_letters=0))
        stay = "" if dead_letters else f" {_number(kept.dead_letters, 'dead letter')} stay."
        log.info("step_dropped", f"{flow}: {what} of step {step} are forgotten.{stay}")


def rename_flow(old: str, new: str) -> None:
    """Give all that is kept of a flow to another name."""
    settings = positions_settings(old)
    places = places_of(old)
    if old != new:  # before anything is done in any of them
        for place, _ in databases(old):
            refuse_own(str(place.place), new, _with_positions(SqlSteps(place.settings, new).kept()))
    for place, steps in places:
        every = ", ".join(f"{step} ({_amount(kept)})" for step, kept in steps.items())
        log.info("flow_renaming", f"{old} in {place.place}: steps {every} are given to flow {new}.")
    for place, steps in places:
        replaced = place.rename(list(steps), flow=new, steps=list(steps))
        log.info(
            "flow_renamed",
            f"{place.place}: {_number(len(steps), 'step')} of flow {old} belong to {new} now.{_replaced(replaced)}",
        )
    if not settings.kafka_group_id:
        log.info(
            "group_offsets",
            f"Kafka's group offsets are not carried over: they serve lag tools only, stay under waxwing-{old}, and the flow "
            f"commits to waxwing-{new} from now on.",
        )


def rebucket(flow: str) -> None:
    """Divide the state of a flow's windows anew."""
    positions_settings(flow)
    built = getattr(module(flow), "flow", lambda: None)()
    if not isinstance(built, Dataflow):
        raise ConfigError(
            f"Flow {flow!r} gives no Dataflow.", hint="Does its module have a flow(), and does that end with `return flow`?"
        )
    targets = [one for one in vars(built).get("_waxwing_windows", ()) if isinstance(one, SqlWindows)]
    if not targets:
        raise ConfigError(f"Flow {flow!r} keeps no state of windows.")
    for target in targets:
        buckets = target.rebucket()
        log.info(
            "rebucketed", f"{flow}, step {target.step}: {buckets} buckets are {target.window_buckets} now.", step=target.step
        )


def status(flow: str) -> None:
    """Print positions, lag and dead letters of each of the flow's databases."""
    settings = positions_settings(flow)
    places = places_of(flow)
    for place, steps in places:
        if len(places) > 1:
            sys.stdout.write(f"{place.place}\n")
            sys.stdout.flush()
        _show(settings, flow, place, steps)


def _show(settings: PositionsSettings, flow: str, place: SqlSteps, steps: Mapping[str, KeptOfStep]) -> None:
    positions = [(step, position) for step in _with_positions(steps) for position in place.positions_of(step)]
    letters = [(step, *one) for step in steps for one in place.dead_letter_reasons(step)]
    ends = _ends(settings, sorted({(p.stream.source, p.stream.partition) for _, p in positions}))
    rows = []
    for step, position in sorted(positions):
        stream = position.stream
        end = ends.get((stream.source, stream.partition))
        lag = "" if end is None else _grouped(end - position.offset_next)
        if end is None and position.offset_end is not None:  # where a bounded run ends: the log may be longer by now
            lag = f"{_grouped(max(0, position.offset_end - position.offset_next))} to UNTIL=end"
        rows.append((step, stream.source, str(stream.partition), _grouped(position.offset_next), lag))
    _print(f"flow {flow}: the next offset of each partition", ("step", "source", "partition", "next offset", "behind by"), rows)
    if letters:
        total, records = place.dead_letters()
        shown = [(step, stage, _grouped(number), reason) for step, stage, reason, number in letters[:REASONS_SHOWN]]
        title = f"{_number(total, 'dead letter')} of {_number(records, 'record')}"
        _print(title, ("step", "stage", "number", "reason"), shown)
        if not sys.stdout.isatty():  # where tables have no title
            sys.stdout.write(f"{title}.\n")
        if len(letters) > REASONS_SHOWN:
            sys.stdout.write(f"... and {len(letters) - REASONS_SHOWN:,} further reasons, in the table waxwing_dead_letters.\n")


def _with_positions(steps: Mapping[str, KeptOfStep]) -> list[str]:
    return sorted(step for step, kept in steps.items() if kept.positions)


def _amount(kept: KeptOfStep) -> str:
    parts = [_number(kept.positions, "position")]
    if kept.dead_letters:
        parts.append(_number(kept.dead_letters, "dead letter"))
    return " and ".join(parts)


def _replaced(number: int) -> str:
    return f" {_number(number, 'dead letter')} of an earlier step of that name, of the same records, gave way." if number else ""


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _ends(settings: PositionsSettings, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Where the logs end; nothing where Kafka is not given or not there."""
    clusters = {one.source_topic: one for _, one in settings if isinstance(one, KafkaSettings)}
    of_cluster: dict[str, tuple[KafkaSettings, list[tuple[str, int]]]] = {}
    for topic, number in partitions:
        cluster = clusters.get(topic, settings)
        of_cluster.setdefault(cluster.kafka_bootstrap_servers, (cluster, []))[1].append((topic, number))
    ends: dict[tuple[str, int], int] = {}
    for servers, (cluster, its) in of_cluster.items():
        ends |= _ends_of(cluster, its) if servers else {}
    return ends


def _ends_of(settings: KafkaSettings, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
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


def _grouped(number: int) -> str:
    """For people; another program gets the plain number."""
    return f"{number:,}" if sys.stdout.isatty() else str(number)


def _print(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        sys.stdout.writelines("\t".join(row) + "\n" for row in (names, *rows))
        return
    table = Table(*names, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
