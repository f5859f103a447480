"""Where a start begins, and what it refuses: flows and steps renamed, dropped, begun anew, on every database."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from sinks import Append, SqlLiveWindows, SqlTarget, SqlWindows, Upsert, sink, window_sink
from sinks.sql.steps import KeptOfStep, SqlSteps
from sources.memory import MemorySource
from tests.conformance.place import Place, make_place
from waxwing import operators as ww
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError, DataError, WaxwingError
from waxwing.ledger.windows import bucket_stream
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SqlWindowSettings

_numbers = count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql_place", "mariadb_place"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where flows are quick to start; SQL Server has a test of its own."""
    if request.param == "sqlite":
        return make_place(sa.make_url(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/starts.sqlite"))
    return cast("Place", request.getfixturevalue(request.param))


class Record(msgspec.Struct):
    id: int
    at: int = 0


def at(place: Place, target: Any) -> Any:
    """The target, over the place's engine: where a new connection costs seconds it keeps some."""
    target.place.database, target.place.engine = place.database, place.engine
    return target


def settings(place: Place) -> SqlWindowSettings:
    url = SecretStr(place.url.render_as_string(hide_password=False))
    return SqlWindowSettings(
        database_url=url, flush_interval_s=0.0, lanes=1, window_buckets=2, window_snapshot_interval_s=0.0, owner_stale_s=1.0
    )


def table(place: Place) -> sa.Table:
    return place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


def steps_of(place: Place, flow: str) -> SqlSteps:
    made: SqlSteps = at(place, SqlSteps(settings(place), flow))
    return made


def run(
    place: Place,
    flow: str,
    data: Sequence[Any],
    to: sa.Table,
    *,
    step: str = "out",
    mode: Any = None,
    topic: str,
    begin: Any = "",
    alone: bool = True,
) -> None:
    """Run a flow with one step over these messages."""
    target = at(place, SqlTarget(settings(place), to, mode or Upsert(keys=("id",))))
    graph = Dataflow(flow)
    source = MemorySource(list(data), feeds=[target], topic=topic, begin=begin)
    records = ww.parse("parse", op.input("in", graph, source), Record)
    sink(step, ww.map("row", records, lambda record: (record.id,)), target)
    play(graph, *([place] if alone else []))


def play(graph: Dataflow, *places: Place) -> None:
    """Run it, until nobody is alive in these places; what Bytewax wraps comes out as it was."""
    try:
        run_main(graph)
    except BaseException as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, WaxwingError):
            found = found.__cause__ or found.__context__
        raise found or error from None
    finally:
        for place in places:
            place.stopped(graph.flow_id)


def said(text: str, event: str) -> list[str]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["event"] == event]


def names() -> tuple[str, str, str]:
    """A flow, its other name, and a topic, which nobody else has."""
    number = next(_numbers)
    return f"flow{number}", f"renamed{number}", f"topic{number}"


def letters(place: Place, flow: str) -> list[tuple[Any, ...]]:
    t = schema.dead_letters
    query = sa.select(t.c.step, t.c.source_offset, t.c.reason).where(t.c.flow == flow).order_by(t.c.step, t.c.source_offset)
    with place.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_flow_is_kept_under_the_name_that_its_setting_gives_it(place: Place) -> None:
    flow, name, topic = names()
    to = table(place)
    target = at(place, SqlTarget(settings(place).model_copy(update={"flow_name": name}), to, Upsert(keys=("id",))))
    graph = Dataflow(flow)
    records = ww.parse("parse", op.input("in", graph, MemorySource([{"id": 1}, b"?"], topic=topic)), Record)
    sink("out", ww.map("row", records, lambda record: (record.id,)), target)
    play(graph, place)
    assert target.flow == name
    assert steps_of(place, name).kept() == {"out": KeptOfStep(positions=1, dead_letters=1)}
    assert steps_of(place, flow).kept() == {}


def test_two_live_flows_of_one_name_are_told_and_a_stopped_one_is_as_before(place: Place) -> None:
    flow, _, topic = names()
    to = table(place)
    run(place, flow, [{"id": 1}], to, step="first", topic=topic)
    other = at(place, SqlTarget(settings(place), to, Upsert(keys=("id",))))
    other.bind(flow, "first")
    assert other.ownership.take() == ""
    try:
        with pytest.raises(ConfigError) as told:
            run(place, flow, [{"id": 2}], table(place), step="second", topic="another", alone=False)
    finally:
        other.ownership.release()
        place.stopped(flow)
    assert f"A flow of the name {flow} is alive (" in str(told.value)
    assert f"pid {os.getpid()}" in str(told.value)
    assert "by steps that this one lacks: first. Is it another flow? Give one of the two another FLOW_NAME" in str(told.value)
    with pytest.raises(ConfigError, match=r"under steps that it no longer has: first.*another FLOW_NAME"):
        run(place, flow, [{"id": 2}], table(place), step="second", topic="another")


def test_a_start_says_where_each_step_begins_and_that_a_table_is_made(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    flow, _, topic = names()
    to = table(place)
    run(place, flow, [{"id": 1}, {"id": 2}], to, topic=topic)
    text = capfd.readouterr().err
    assert said(text, "begins") == [f"Flow {flow}, step out: {topic}[0] begins anew at 0."]
    made = [message for message in said(text, "table_made") if message.startswith(f"Table {to.name} in ")]
    assert [message.endswith(" was not there and is made.") for message in made] == [True]
    run(place, flow, [{"id": 1}, {"id": 2}, {"id": 3}], to, topic=topic)
    text = capfd.readouterr().err
    assert said(text, "begins") == [f"Flow {flow}, step out: {topic}[0] goes on at 2."]
    assert said(text, "table_made") == []
    assert place.read(to) == [(1,), (2,), (3,)]
    to.drop(place.engine)
    run(place, flow, [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}], to, topic=topic)
    [message] = said(capfd.readouterr().err, "table_made")
    assert (
        "was not there any more and is made. The step goes on at its stored positions: what it wrote before is missing" in message
    )
    assert place.read(to) == [(4,)]


@pytest.mark.parametrize("earlier_release", [False, True])
def test_a_renamed_flow_is_refused_until_it_is_carried_over_or_meant(
    place: Place, capfd: pytest.CaptureFixture[str], earlier_release: bool
) -> None:
    flow, renamed, topic = names()
    to, other = table(place), table(place)
    run(place, flow, [{"id": 1}, b"?", {"id": 2}], to, topic=topic)
    if earlier_release:  # which kept no table's name
        place.run("DROP TABLE waxwing_tables")
    with pytest.raises(DataError, match=f"filled from {topic} by step out of flow {flow}") as refused:
        run(place, renamed, [{"id": 3}], to, topic=topic)
    assert refused.value.exit_code == 65
    assert f"waxwing flow rename {flow} {renamed}" in refused.value.hint
    assert "BEGIN=anew" in refused.value.hint
    assert place.read(to) == [(1,), (2,)]
    # Another table, or another topic, is nobody's business.
    run(place, f"{renamed}-b", [{"id": 3}], other, topic=topic)
    run(place, f"{renamed}-c", [{"id": 9}], to, topic=f"{topic}-c")
    capfd.readouterr()

    kept = KeptOfStep(1, 1)
    assert steps_of(place, flow).kept() == {"out": kept}
    assert steps_of(place, flow).rename(["out"], flow=renamed, steps=["out"]) == 0
    assert steps_of(place, renamed).kept() == {"out": kept}
    assert steps_of(place, flow).kept() == {}
    run(place, renamed, [{"id": 1}, b"?", {"id": 2}, {"id": 4}], to, topic=topic)
    assert place.read(to) == [(1,), (2,), (4,), (9,)]
    assert said(capfd.readouterr().err, "begins") == [f"Flow {renamed}, step out: {topic}[0] goes on at 3."]

    # Meant: it begins once, and a restart with the same setting goes on.
    for goes_on in (False, True):
        run(place, f"{renamed}-d", [{"id": 5}], to, topic=topic, begin="anew")
        text = capfd.readouterr().err
        assert bool(said(text, "begins_anew")) is not goes_on
        (line,) = said(text, "begins")
        assert ("goes on at 1. BEGIN=anew does nothing" in line) is goes_on
    with pytest.raises(ConfigError, match=f"Flow {renamed} has positions of its own"):
        steps_of(place, f"{renamed}-d").rename(["out"], flow=renamed, steps=["out"])


@pytest.mark.parametrize("step", ["other", "out"])
def test_the_table_tells_a_renamed_flow_whatever_its_steps_and_the_table_s_schema_are_called(place: Place, step: str) -> None:
    flow, renamed, topic = names()
    to = table(place)
    run(place, flow, [{"id": 1}], to, topic=topic, mode=Append())
    schema = sa.inspect(place.engine).default_schema_name
    same = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), name=to.name, schema=schema)
    with pytest.raises(DataError, match="every row would stand there twice"):
        run(place, renamed, [{"id": 2}], same, topic=topic, step=step, mode=Append())


def test_a_flow_is_told_that_was_renamed_together_with_its_table(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    flow, renamed, topic = names()
    to, other = table(place), table(place)
    odd = place.table(sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), name=f"Öd 'd\" {topic}")
    run(place, flow, [{"id": 1}], to, topic=topic, mode=Append())
    # Another table, even one that holds rows, is nobody's business while that of the flow is there.
    run(place, f"{renamed}-b", [{"id": 9}], other, topic=f"{topic}-b")
    run(place, f"{renamed}-c", [{"id": 1}], other, topic=topic, mode=Append())
    quote = place.engine.dialect.identifier_preparer.quote
    place.run(f"ALTER TABLE {to.name} RENAME TO {quote(odd.name)}")
    with pytest.raises(DataError, match=f"by step out of flow {flow}") as refused:
        run(place, renamed, [{"id": 1}, {"id": 2}], odd, topic=topic, mode=Append())
    assert f"waxwing flow rename {flow} {renamed}" in refused.value.hint
    assert place.read(odd) == [(1,)]
    steps_of(place, flow).rename(["out"], flow=renamed, steps=["out"])
    capfd.readouterr()
    run(place, renamed, [{"id": 1}, {"id": 2}], odd, topic=topic, mode=Append())
    assert place.read(odd) == [(1,), (2,)]
    (said_so,) = said(capfd.readouterr().err, "table_changed")
    assert f"what it wrote so far stands in {to.name}" in said_so
    with pytest.raises(ConfigError, match="That is its name already"):
        steps_of(place, renamed).rename(["out"], flow=renamed, steps=["out"])


def test_a_flow_is_told_that_was_renamed_beside_a_copy_of_its_mysql_database(mariadb: Any) -> None:
    flow, renamed, topic = names()
    to, copy = make_place(sa.make_url(mariadb.new_database())), make_place(sa.make_url(mariadb.new_database()))
    column = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    both = to.table(column, name="same")
    run(to, flow, [{"id": 1}], both, topic=topic)
    with to.engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
    copy.run(
        *(
            statement
            for name in tables
            for statement in (
                f"CREATE TABLE {name} LIKE {to.url.database}.{name}",
                f"INSERT INTO {name} SELECT * FROM {to.url.database}.{name}",
            )
        )
    )
    with pytest.raises(DataError, match=f"by step out of flow {flow}"):
        run(copy, renamed, [{"id": 2}], both, topic=topic)


MINUTES = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)


def fold(place: Place, flow: str, data: Sequence[Any], to: sa.Table, kind: Any, topic: str, *, ends: bool) -> None:
    target = at(place, kind(settings(place), to, MINUTES))
    graph = Dataflow(flow)
    source = MemorySource(list(data), feeds=[target], topic=topic, ends=ends)
    window_sink("totals", ww.parse("parse", op.input("in", graph, source), Record), target)
    play(graph, place)


@pytest.mark.parametrize("kind", [SqlWindows, SqlLiveWindows])
def test_open_windows_go_on_under_the_flow_s_new_name(place: Place, kind: Any) -> None:
    flow, renamed, topic = names()
    to = place.table(sa.Column("window_start", sa.BigInteger, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    data = [{"id": n, "at": second} for n, second in enumerate((1, 2, 70, 3, 75, 130))]
    fold(place, flow, [*data[:3], b"?"], to, kind, topic, ends=False)
    with pytest.raises(DataError, match=f"by step totals of flow {flow}"):
        fold(place, renamed, data, to, kind, topic, ends=False)
    before = steps_of(place, flow).kept()["totals"]
    steps_of(place, flow).rename(["totals"], flow=renamed, steps=["totals"])
    assert steps_of(place, renamed).kept() == {"totals": before}
    fold(place, renamed, [*data[:3], b"?", *data[3:]], to, kind, topic, ends=True)
    # The fourth comes behind second 70: too late for its minute once that is closed, never so for live totals.
    assert place.read(to) == [(0, 3 if kind is SqlLiveWindows else 2), (60, 2), (120, 1)]
    late = [offset for _, offset, reason in letters(place, renamed) if reason.startswith("late")]
    assert late == ([] if kind is SqlLiveWindows else [4])


@pytest.mark.parametrize("first", ["rows", "live", "closed"])
def test_a_step_goes_on_with_what_it_wrote_so_far_and_with_nothing_else(place: Place, first: str) -> None:
    """Rows, windows as records come, windows once they are closed: positions of one say nothing of the others."""
    flow, _, topic = names()
    to = place.table(sa.Column("window_start", sa.BigInteger, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    data = [{"id": n, "at": second} for n, second in enumerate((1, 70, 3))]

    def write(what: str) -> None:
        if what != "rows":
            return fold(place, flow, data, to, SqlLiveWindows if what == "live" else SqlWindows, topic, ends=True)
        graph, target = Dataflow(flow), at(place, SqlTarget(settings(place), to, Upsert(keys=("window_start",))))
        source = MemorySource(data, feeds=[target], topic=topic)
        rows = ww.map("row", ww.parse("parse", op.input("in", graph, source), Record), lambda one: (one.at, 1))
        sink("totals", rows, target)
        return play(graph, place)

    write(first)
    before = place.read(to)
    for what in {"rows", "live", "closed"} - {first}:
        with pytest.raises(ConfigError, match=r"So far step totals wrote (rows|windows)") as caught:
            write(what)
        assert f"waxwing step drop {flow} totals" in caught.value.hint
    write(first)
    assert place.read(to) == before


def test_dropped_steps_leave_their_dead_letters_which_a_new_beginning_replaces(place: Place) -> None:
    flow, _, topic = names()
    to = table(place)
    data = [{"id": 1}, b"?", {"id": 2}, b"??", b"?"]
    run(place, flow, data, to, topic=topic)
    old = letters(place, flow)
    assert [offset for _, offset, _ in old] == [1, 3, 4]
    here = steps_of(place, flow)
    here.drop("out", dead_letters=False)
    assert here.kept() == {"out": KeptOfStep(0, 3)}
    t = schema.dead_letters
    with place.engine.begin() as connection:
        connection.execute(t.update().where(t.c.flow == flow).values(reason="of the first life"))
    # Begun anew, it meets its own letters: those of the same records give way, row by row, and others stay.
    run(place, flow, data[:4], to, topic=topic)
    assert [reason == "of the first life" for *_, reason in letters(place, flow)] == [False, False, True]
    assert here.kept() == {"out": KeptOfStep(1, 3)}
    # Another step refused the same records; it takes the name of the one that was dropped.
    run(place, flow, data, to, topic=topic, step="second", begin="anew")
    here.drop("out", dead_letters=False)
    assert here.dead_letters() == (6, 3)
    assert here.rename(["second"], flow=flow, steps=["out"]) == 3
    assert here.kept() == {"out": KeptOfStep(1, 3)}
    here.drop("out", dead_letters=True)
    assert here.kept() == {}


def test_late_records_that_a_dropped_step_left_are_never_met_by_later_ones(place: Place) -> None:
    flow, _, topic = names()
    to = place.table(sa.Column("window_start", sa.BigInteger, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))
    data = [{"id": n, "at": second} for n, second in enumerate((1, 70, 3))]
    fold(place, flow, data, to, SqlWindows, topic, ends=True)
    bucket = bucket_stream(flow, 0)
    t = schema.dead_letters
    of_bucket = {"flow": flow, "step": "totals", "source_id": bucket.source_id, "source_partition": 0, "source": bucket.source}
    with place.engine.begin() as connection:  # as a partition's that was idle
        row = {"source_offset": 7, "row_index": 0, "stage": "late", "reason": "kept", "message_headers": "[]"}
        connection.execute(t.insert().values(**of_bucket, **row, message_timestamp_ms=-1))
    here = steps_of(place, flow)
    here.drop("totals", dead_letters=False)
    fold(place, flow, data, to, SqlWindows, topic, ends=True)
    with place.engine.connect() as connection:
        emissions = connection.scalars(sa.select(schema.progress.c.offset_next).where(schema.progress.c.flow == flow)).all()
    assert min(emissions) >= 8
    assert [offset for _, offset, _ in letters(place, flow)] == [2, 7]


def test_nothing_is_renamed_or_dropped_while_the_flow_runs(place: Place) -> None:
    flow, renamed, topic = names()
    to = table(place)
    run(place, flow, [{"id": 1}], to, topic=topic)
    here = steps_of(place, flow)
    now = place.database.dialect.now_ms_sql
    place.run(f"UPDATE waxwing_owners SET heartbeat_ms = {now} + 600000 WHERE flow = '{flow}'")
    for call in (
        lambda: here.drop("out", dead_letters=True),
        lambda: here.rename(["out"], flow=flow, steps=["new"]),
        lambda: here.rename(["out"], flow=renamed, steps=["out"]),
    ):
        with pytest.raises(ConfigError, match=rf"Flow {flow} runs \(.+ pid "):
            call()
    assert here.kept() == {"out": KeptOfStep(1, 0)}
    with pytest.raises(ConfigError, match="must be ASCII"):
        here.rename(["out"], flow="é", steps=["out"])


def two_steps(places: Sequence[Place], steps: Sequence[str], tables: Sequence[sa.Table], flow: str, topic: str) -> None:
    """Run a flow whose two steps write these tables in these places."""
    targets = [
        at(place, SqlTarget(settings(place), to, Append(), columns=["n"])) for place, to in zip(places, tables, strict=True)
    ]
    graph = Dataflow(flow)
    records = ww.parse("parse", op.input("in", graph, MemorySource([{"id": 1}], feeds=targets, topic=topic)), Record)
    rows = ww.map("row", records, lambda record: (record.id,))
    for step, target in zip(steps, targets, strict=True):
        sink(step, rows, target)
    play(graph, *places)


def test_steps_that_change_places_are_refused(place: Place, tmp_path: Path) -> None:
    other = make_place(sa.make_url(f"sqlite:///{tmp_path}/other.sqlite"))
    for places, says in (([place, place], "which step . filled"), ([place, other], "no longer has there: .; it has .")):
        flow, _, topic = names()
        tables = [one.table(sa.Column("n", sa.Integer)) for one in places]
        two_steps(places, ["a", "b"], tables, flow, topic)
        with pytest.raises(ConfigError, match=says):
            two_steps(places, ["b", "a"], tables, flow, topic)
        two_steps(places, ["a", "b"], tables, flow, topic)
        for where, old, new in ((places[0], "a", "c"), (places[1], "b", "a"), (places[0], "c", "b")):
            steps_of(where, flow).rename([old], flow=flow, steps=[new])
        two_steps(places, ["b", "a"], tables, flow, topic)
        for one, to in zip(places, tables, strict=True):
            with one.engine.connect() as connection:
                assert connection.execute(sa.select(to)).all() == [(1,)]


def test_flows_whose_names_differ_by_a_blank_are_two(place: Place) -> None:
    flow, _, topic = names()
    for number, name in enumerate((flow, f"{flow} ")):
        run(place, name, [{"id": number}], table(place), topic=f"{topic}-{number}")
        assert steps_of(place, name).kept() == {"out": KeptOfStep(1, 0)}


def test_sql_server_which_passes_over_blanks_refuses_a_name_that_ends_in_one(sqlserver_place: Place) -> None:
    flow, _, topic = names()
    for name, step in ((f"{flow} ", "out"), (flow, "out ")):
        with pytest.raises(ConfigError, match="ends in a blank"):
            run(sqlserver_place, name, [{"id": 1}], table(sqlserver_place), step=step, topic=topic)


def test_sql_server_tells_a_renamed_flow_and_carries_it_over(sqlserver_place: Place) -> None:
    flow, renamed, topic = names()
    to = table(sqlserver_place)
    run(sqlserver_place, flow, [{"id": 1}, b"?"], to, topic=topic)
    with pytest.raises(DataError, match=f"by step out of flow {flow}"):
        run(sqlserver_place, renamed, [{"id": 3}], to, topic=topic)
    here = steps_of(sqlserver_place, flow)
    here.drop("out", dead_letters=False)
    run(sqlserver_place, flow, [{"id": 1}, b"?"], to, topic=topic)  # it meets the letter that was kept
    assert here.kept() == {"out": KeptOfStep(1, 1)}
    assert here.rename(["out"], flow=renamed, steps=["out"]) == 0
    assert steps_of(sqlserver_place, renamed).kept() == {"out": KeptOfStep(1, 1)}
