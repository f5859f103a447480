"""Targets and steps: which go together, and what becomes of a record that is no row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from sinks import MemoryTarget, SqlTarget, SqlWindows, Upsert, sink, window_sink
from sinks.windows.target import with_starts
from sources.kafka import KafkaSource
from sources.memory import MemorySource
from waxwing import log
from waxwing import operators as ww
from waxwing.batch import Stream
from waxwing.change import Start
from waxwing.configuration import load
from waxwing.databases.ledger import schema
from waxwing.errors import BadRowsLimit, ConfigError
from waxwing.ledger.windows import Known
from waxwing.operators.windows import Count, Held, Tumbling, Windows
from waxwing.settings import KafkaSettings, SqlSettings, SqlWindowSettings


class Numbered(msgspec.Struct):
    """A record."""

    id: int


def settings(path: Path, **changes: Any) -> SqlWindowSettings:
    return SqlWindowSettings(database_url=SecretStr(f"sqlite:///{path}/db.sqlite"), lanes=1, **changes)


def table(name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))


def written(path: Path, selected: sa.Select[Any]) -> list[Any]:
    engine = sa.create_engine(f"sqlite:///{path}/db.sqlite")
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(selected)]
    engine.dispose()
    return found


def two_sinks(path: Path, *names: str) -> None:
    flow, made = Dataflow("two"), settings(path, database_table="one")
    targets = [SqlTarget(made, table(name), Upsert(keys=("id",))) for name in names]
    records = ww.parse("parse", op.input("in", flow, MemorySource({0: [{"id": 1}]}, feeds=targets, lanes=1)), Numbered)
    for number, target in enumerate(targets):
        sink(f"sink_{number}", records, target)
    run_main(flow)


def test_a_setting_that_names_one_table_is_refused_where_two_are_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DATABASE_TABLE names one table, and the flow writes two: first and second"):
        two_sinks(tmp_path, "first", "second")


def test_a_setting_that_names_one_table_is_taken_where_two_steps_write_it(tmp_path: Path) -> None:
    two_sinks(tmp_path, "first", "first")
    assert written(tmp_path, sa.select(table("one"))) == [(1,)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_none_instead_of_a_row_is_a_dead_letter(tmp_path: Path, size: int) -> None:
    flow, target = Dataflow("none"), SqlTarget(settings(tmp_path), table("t"), Upsert(keys=("id",)))
    source = MemorySource({0: [{"id": n} for n in range(1, 6)]}, feeds=[target], lanes=1, batch_records=size)
    records = ww.parse("parse", op.input("in", flow, source), Numbered)
    sink("sink", ww.map("rows", records, lambda row: row if row.id % 2 else None), target)
    run_main(flow)
    assert written(tmp_path, sa.select(table("t"))) == [(1,), (3,), (5,)]
    letters = schema.dead_letters
    found = written(tmp_path, sa.select(letters.c.source_offset, letters.c.reason).order_by(letters.c.source_offset))
    assert [offset for offset, _ in found] == [1, 3]
    assert all("None, where a row is needed" in reason for _, reason in found)


DEFINITION = Windows(by=(), time="id", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=5)


def test_windows_need_a_target_that_keeps_them(tmp_path: Path) -> None:
    flow = Dataflow("windows")
    records = ww.parse("parse", op.input("in", flow, MemorySource({0: []}, lanes=1)), Numbered)
    with pytest.raises(ConfigError, match="SqlTarget keeps none"):
        window_sink("totals", records, SqlTarget(settings(tmp_path), table("t"), Upsert(keys=("id",))))  # type: ignore[arg-type]  # the mistake


def test_windows_whose_source_does_not_know_them_are_refused_with_what_to_do(tmp_path: Path) -> None:
    flow = Dataflow("windows")
    records = ww.parse("parse", op.input("in", flow, MemorySource({0: [{"id": 7}]}, feeds=[], lanes=1)), Numbered)
    totals = sa.Table(
        "totals", sa.MetaData(), sa.Column("window_start", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer)
    )
    window_sink("totals", records, SqlWindows(settings(tmp_path), totals, DEFINITION))
    with pytest.raises(BaseException, match=r"does not know this target|error") as caught:
        run_main(flow)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    assert isinstance(error, ConfigError)
    assert "sources.read" in error.hint


def test_two_sources_of_one_topic_name_into_one_step_are_refused_before_anything_is_read() -> None:
    for _ in range(2):
        target, flow = MemoryTarget(), Dataflow("two")
        sources = [MemorySource([b"a"], topic=topic, feeds=[target]) for topic in ("one", "other")]
        sink("out", op.merge("merge", *(op.input(f"in{n}", flow, source) for n, source in enumerate(sources))), target)
        run_main(flow)
        assert target.rows == [b"a", b"a"]
    target, flow = MemoryTarget(), Dataflow("two")
    sources = [MemorySource([b"a"], feeds=[target]) for _ in range(2)]
    sink("out", op.merge("merge", *(op.input(f"in{n}", flow, source) for n, source in enumerate(sources))), target)
    with pytest.raises(BaseException, match=r"Two sources|error") as caught:
        run_main(flow)
    assert "Flow two reads 'memory' twice into step out" in str(config_error(caught.value))
    assert target.rows == []


def test_two_kafka_sources_of_one_topic_into_one_step_are_refused() -> None:
    target, flow = MemoryTarget(), Dataflow("two")
    settings = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9", source_topic="t")
    first, second = KafkaSource(settings, feeds=[target]), KafkaSource(settings, feeds=[target])
    sink("out", op.input("in", flow, first), target)
    lane = first.build_part("two.in", "lane-000", None)
    with pytest.raises(ConfigError, match="Flow two reads 't' twice into step out"):
        second.build_part("two.in2", "lane-000", None)
    lane.close()


def test_a_flow_of_one_s_own_has_no_default_topic() -> None:
    with pytest.raises(ConfigError, match=r"SOURCE_TOPIC is not given\."):
        KafkaSource(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9"))


def config_error(error: BaseException | None) -> ConfigError:
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "postgresql://user:s3cretpw@127.0.0.1:5432",
            "ALARMS_DATABASE_URL: The URL of the PostgreSQL database names no database",
        ),
        (
            "postgresql://user:s3cretpw@127.0.0.1:5432/",
            "ALARMS_DATABASE_URL: The URL of the PostgreSQL database names no database",
        ),
        ("mysql://user:s3cretpw@127.0.0.1:3306", "ALARMS_DATABASE_URL: The URL of the MySQL database names no database"),
        ("postgresql://user:s3cretpw@h/x?sslmod=require", "ALARMS_DATABASE_URL has the option sslmod, which"),
        ("postgresql://user:s3cretpw@h/x?prepare_threshold=few", "ALARMS_DATABASE_URL has prepare_threshold=few"),
        ("mysql://user:s3cretpw@h/x?connect_timeout=soon", "An option of the database's URL can't be read"),
        ("mysql://user:s3cretpw@h:99999/x", "ALARMS_DATABASE_URL has the port 99999"),
        ("sqlite://shop/x", "ALARMS_DATABASE_URL has two slashes"),
    ],
)
def test_a_second_url_that_can_t_be_meant_is_refused_by_the_name_of_its_setting_alone(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALARMS_DATABASE_URL", url)
    with pytest.raises(ConfigError) as refused:
        load(Alarms)
    with pytest.raises(ConfigError) as refused_by_target:
        SqlTarget(SqlSettings(database_url=SecretStr(url)), table("t"), Upsert(keys=("id",)))
    for text in map(str, (refused.value, refused_by_target.value)):
        assert told in text
        assert not re.search(r"\bDATABASE_URL", text)
        assert "s3cretpw" not in text


class Alarms(KafkaSettings, SqlSettings):
    """A flow with a second database."""

    alarms_database_url: SecretStr = SecretStr("")


def test_what_lasts_is_said_once_for_all_who_meet_it_and_again_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(8):
        log.lasting("retry", "orders in db at h: refused", f"orders: attempt {part}")
        log.lasting("target_away", "totals in db at h: refused", "totals: still trying")
    log.lasting("retry", "orders in db at h: another reason", "orders: otherwise")
    monkeypatch.setattr(log, "SAY_AGAIN_S", 0.0)
    log.lasting("retry", "orders in db at h: refused", "orders: attempt 9")
    said = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "orders: attempt 0",
        "orders: otherwise",
        "orders: attempt 9 (15 more times since that was last said)",
    ]


def test_a_limit_on_bad_rows_names_step_database_and_the_command(tmp_path: Path) -> None:
    flow, target = Dataflow("limited"), SqlTarget(settings(tmp_path, bad_run_max=2), table("t"), Upsert(keys=("id",)))
    records = ww.parse("parse", op.input("in", flow, MemorySource([b"?"] * 9, feeds=[target], lanes=1)), Numbered)
    sink("out", records, target)
    with pytest.raises(BaseException, match=r"in a row|error") as caught:
        run_main(flow)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, BadRowsLimit):
        error = error.__cause__ or error.__context__
    assert error is not None
    assert f"Step out, t in sqlite at {tmp_path}/db.sqlite: memory[0]: 3 bad records in a row, up to offset 2" in str(error)
    assert "waxwing resume limited" in str(error)


def test_deletes_and_versions_contradict_each_other_whatever_the_target() -> None:
    with pytest.raises(ConfigError, match="takes no newer_by"):
        Upsert(keys=("id",), newer_by="version", delete_on_tombstone=True)


def test_a_run_that_finds_nothing_to_do_lets_go_of_its_targets(tmp_path: Path) -> None:
    """Bytewax makes a sink's partition for its first item: where none comes, no writer is there to let go."""
    totals = sa.Table(
        "totals", sa.MetaData(), sa.Column("window_start", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer)
    )
    for _ in range(3):
        flow = Dataflow("idle")
        source = MemorySource({0: [{"id": 7}]}, lanes=1, ends=False)
        window_sink(
            "totals",
            ww.parse("parse", op.input("in", flow, source), Numbered),
            SqlWindows(settings(tmp_path), totals, DEFINITION),
        )
        run_main(flow)
        owners = written(tmp_path, sa.select(schema.owners.c.heartbeat_ms))
        assert owners
        assert all(heartbeat_ms <= 0 for (heartbeat_ms,) in owners)


def test_a_bounded_run_is_unfinished_while_a_bucket_has_not_begun_a_stream() -> None:
    first, added = Stream("flow", "topic", "id", 0), Stream("flow", "topic", "id", 1)
    streams = {first: Known(0, 9), added: Known(0, 5)}
    held = [{first: Held(0, 9, 0), added: Held(0, 5, 0)}, {first: Held(0, 9, 0)}]  # killed before the second one's commit
    ends = with_starts(streams, held, [Start(first, 0, 12), Start(added, 0, 8)])
    assert {stream: one.offset_end for stream, one in ends.items()} == {first: 12, added: 5}
