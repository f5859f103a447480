"""Several topics in one Kafka source, by name and by a pattern, against a real broker and real databases."""

from __future__ import annotations

import secrets
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from sinks import MemoryWindows
from sources import kafka_start
from sources.kafka import group_offsets
from sources.kafka import source as kafka_source
from tests.faults.cluster import Cluster
from tests.faults.reading import FLOW, Start, a_target, committed, contiguous, numbered, produce
from tests.servers import Kafka, PostgreSQL
from tests.servers.process import until
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.target import Expected


def topics(kafka: Kafka, *partitions: int) -> list[str]:
    return [kafka.new_topic(number) for number in partitions]


def by_topic(target: object) -> dict[str, int]:
    out: dict[str, int] = {}
    for position in target.positions():  # type: ignore[attr-defined]  # a target's
        out[position.stream.source] = out.get(position.stream.source, 0) + position.offset_next
    return out


def test_three_topics_by_name_are_read_to_their_ends_and_on(kafka: Kafka, read: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_offsets, "COMMIT_INTERVAL_S", 0.1)
    names = topics(kafka, 1, 3, 1)
    target = a_target()
    for number, name in enumerate(names):
        produce(kafka, name, *numbered(number * 100, number * 100 + 10))
    group = f"group-of-{names[0]}"
    reading = read(",".join(names), target, until="end", batch_records_max=4).to_end()
    assert sorted(reading.some_values, key=int) == numbered(0, 10) + numbered(100, 110) + numbered(200, 210)
    assert by_topic(target) == dict.fromkeys(names, 10)
    assert sorted(reading.marks) == sorted([(0, 10, "end")] * 3 + [(1, 0, "end"), (2, 0, "end")])
    for name in names:
        produce(kafka, name, b"more")
        ranges = [(b.offset_first, b.offset_next) for b in reading.batches if b.stream[1::2] == (name, 0)]
        assert contiguous(ranges)
        assert (ranges[0][0], ranges[-1][1]) == (0, 10)
    again = read(",".join(names), target, kafka_group_id=group)
    again.until(lambda: again.values == [b"more"] * 3)
    again.until(lambda: [committed(kafka, group, name).get(0) for name in names] == [11] * 3)


def test_latest_is_one_moment_for_all_topics_and_one_that_comes_later_is_read_from_its_start(kafka: Kafka, read: Start) -> None:
    there, also = topics(kafka, 1, 2)
    later = f"{there}-later"
    produce(kafka, there, b"old")
    produce(kafka, also, b"old", b"old", partition=1)
    target = a_target()
    reading = read(f"{there},{also},{later}", target, start="latest")  # the third does not exist yet: the others are read
    reading.until(lambda: len(target.positions()) == 3)
    produce(kafka, there, b"new")
    reading.until(lambda: target.rows == [b"new"])
    kafka.create_topic(later)
    produce(kafka, later, b"its first")
    reading.until(lambda: target.rows == [b"new", b"its first"])
    assert {p.stream.source: p.offset_start for p in target.positions() if p.stream.partition == 0} == {
        there: 1,
        also: 0,
        later: 0,
    }
    with pytest.raises(ConfigError, match=f"'{later}-no' does not exist"):
        read(f"{there},{later}-no", a_target(), on_unknown_topic="fail").to_end()


def test_what_is_wrong_with_one_topic_is_told_of_that_one(kafka: Kafka, read: Start) -> None:
    good, made_anew, overtaken = topics(kafka, 1, 1, 1)
    target = a_target()
    for name in (good, made_anew, overtaken):
        produce(kafka, name, *numbered(0, 5))
    names = f"{good},{made_anew},{overtaken}"
    read(names, target, until="end").to_end()
    kafka.delete_topic(made_anew)
    kafka.create_topic(made_anew)
    produce(kafka, made_anew, b"100", b"101")
    with pytest.raises(DataLoss, match=f"Topic {made_anew} was deleted and created again"):
        read(names, target).to_end()
    produce(kafka, overtaken, *numbered(5, 9))
    kafka.delete_records(overtaken, {0: 7})
    with pytest.raises(DataLoss, match=rf"{overtaken}\[0\] stands at offset 5, but the log begins at 7"):
        read(f"{good},{overtaken}", target).to_end()
    target.rows.clear()
    read(names, target, until="end", on_data_loss="continue", start="latest").to_end()
    assert sorted(target.rows) == [b"100", b"101", b"7", b"8"]
    running = read(names, target)
    produce(kafka, good, b"on")
    running.until(lambda: b"on" in target.rows)
    kafka.delete_topic(good)
    kafka.create_topic(good)
    with pytest.raises(DataLoss, match=f"Topic {good} was deleted and created again"):
        running.until(lambda: False)


def test_without_targets_what_an_earlier_release_kept_is_read_on(kafka: Kafka, read: Start) -> None:
    (topic,) = topics(kafka, 2)
    for partition in (0, 1):
        produce(kafka, topic, *numbered(0, 5), partition=partition)
    first = read(topic, until="end").to_end()
    topic_id = first.batches[0].stream.source_id
    kept = {f"lane-00{n}": kafka_start.LaneState(topic_id, {n: 3}, {n: None}) for n in (0, 1)}
    assert sorted(read(topic, resume=kept, until="end").to_end().some_values) == [b"3", b"3", b"4", b"4"]
    with pytest.raises(DataLoss, match="The recovery store's positions are of the old one"):
        read(topic, resume={"lane-000": kafka_start.LaneState("another", {0: 3}, {})}).to_end()


def test_without_targets_the_recovery_store_knows_several_topics(kafka: Kafka, read: Start) -> None:
    first, second = topics(kafka, 2, 1)
    for name in (first, second):
        produce(kafka, name, b"0", b"1")
    reading = read(f"{first},{second}", start="earliest")
    reading.until(lambda: sorted(reading.some_values) == [b"0", b"0", b"1", b"1"])
    kept = reading.snapshots()
    produce(kafka, first, b"2")
    produce(kafka, second, b"3")
    again = read(f"{first},{second}", resume=kept, start="latest", until="end").to_end()
    assert sorted(again.some_values) == [b"2", b"3"]
    with pytest.raises(ConfigError, match="LANES was 2"):
        read(f"{first},{second}", resume=kept, lanes=3)


def test_a_pattern_s_topics_that_come_later_are_read_from_their_start_and_windows_expect_them(
    kafka: Kafka, read: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "PATTERN_REFRESH_S", 0.1)
    prefix = f"shop{secrets.token_hex(4)}"
    target, pattern = a_target(), rf"{prefix}\..+"
    totals = MemoryWindows(Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0))
    totals.bind(FLOW, "totals", target._flow_targets)
    reading = read("", target, source_topic_pattern=pattern, start="latest")
    reading.source._targets._given = (target, totals)
    kafka.create_topic(f"my{prefix}.de")  # fits, but not from end to end
    kafka.create_topic(f"{prefix}.de")
    produce(kafka, f"my{prefix}.de", b"no")
    reading.until(lambda: len(target.positions()) == 1)
    produce(kafka, f"{prefix}.de", b"de")
    reading.until(lambda: target.rows == [b"de"])
    kafka.create_topic(f"{prefix}.fr", 2)
    produce(kafka, f"{prefix}.fr", b"fr", partition=1)
    reading.until(lambda: target.rows == [b"de", b"fr"])
    assert by_topic(target) == {f"{prefix}.de": 1, f"{prefix}.fr": 1}
    reading.source.list_parts()
    assert totals.expected == {Expected(pattern, pattern=True)}
    assert totals.not_begun([Stream(FLOW, f"{prefix}.fr", "id", 0)]) == set()
    with pytest.raises(ConfigError, match=f"Topic of the pattern 'no{prefix}' does not exist"):
        read("", a_target(), source_topic_pattern=f"no{prefix}", on_unknown_topic="fail").to_end()


FLOW_FILE = """
import os
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from pydantic import SecretStr
from sinks import Append, SqlTarget, SqlWindows, sink, window_sink
from sources import read
from sources.kafka import KafkaSource
from waxwing import operators as ww, runtime
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import KafkaSettings, SqlSettings, SqlWindowSettings

class Record(msgspec.Struct):
    id: str
    at: int

def flow():
    with runtime.starting():
        flow = Dataflow("several")
        source = KafkaSource(KafkaSettings(
            kafka_bootstrap_servers=os.environ["BROKERS"], source_topic_pattern=os.environ["PATTERN"], until=os.environ["UNTIL_"],
            batch_records_max=50, partition_refresh_interval_s=0.1, lanes=2,
        ))
        records = ww.parse("parse", read("kafka", flow, source), Record)
        rows = ww.map("row", records, lambda record: (record.id, record.at))
        for name in ("SQLITE", "POSTGRESQL"):
            url = SecretStr(os.environ[name])
            table = sa.Table("several", sa.MetaData(), sa.Column("id", sa.String(40)), sa.Column("at", sa.BigInteger))
            settings = SqlSettings(database_url=url, owner_stale_s=0.5, lanes=2)
            sink(name, rows, SqlTarget(settings, table, Append(), columns=("id", "at")))
        start = sa.Column("window_start", sa.BigInteger, primary_key=True, autoincrement=False)
        totals = sa.Table("totals", sa.MetaData(), start, sa.Column("n", sa.BigInteger))
        minutes = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
        settings = SqlWindowSettings(database_url=url, owner_stale_s=0.5, window_snapshot_interval_s=0.1)
        window_sink("totals", records, SqlWindows(settings, totals, minutes))
        return flow
"""


def test_a_pattern_whose_third_topic_is_made_while_it_runs_is_exact_in_two_databases_after_kills(
    kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    prefix = f"many{secrets.token_hex(4)}"
    names = [f"{prefix}.{name}" for name in ("a", "b", "c")]
    sqlite, database = tmp_path / "several.sqlite", sa.create_engine(url := postgresql.new_database(), poolclass=sa.NullPool)
    (tmp_path / "several.py").write_text(FLOW_FILE)
    env = {
        "BROKERS": kafka.bootstrap(),
        "PATTERN": rf"{prefix}\..",
        "SQLITE": f"sqlite:///{sqlite}",
        "POSTGRESQL": url,
        "UNTIL_": "",
    }
    produced: list[str] = []

    def more(name: str, count: int = 600) -> None:
        ids = [f"{name}-{len(produced) + n}" for n in range(count)]
        produce(kafka, name, *(b'{"id":"%s","at":%d}' % (one.encode(), n // 5) for n, one in enumerate(ids)))
        produced.extend(ids)

    def in_postgresql() -> list[str]:
        try:
            with database.connect() as connection:
                return sorted(connection.scalars(sa.text("SELECT id FROM several")))
        except sa.exc.ProgrammingError:  # the flow has not made it yet
            return []

    def some(held: int, of: str = "") -> bool:
        found = in_postgresql()
        return len(found) > held and any(one.startswith(of) for one in found)

    for name in names[:2]:
        kafka.create_topic(name, 2)
        more(name)
    for kills in range(3):
        with Cluster(str(tmp_path / "several.py"), env, tmp_path, name=f"kill-{kills}") as cluster:
            held = len(in_postgresql())
            if kills == 1:
                kafka.create_topic(names[2], 1)  # while it runs
            for name in names[: 2 + bool(kills)]:
                more(name)
            until(partial(some, held), timeout_s=120, what="some of it is written")
            if kills == 1:
                until(partial(some, -1, names[2]), timeout_s=120, what="the third topic is read")
            cluster.kill()
    with Cluster(str(tmp_path / "several.py"), {**env, "UNTIL_": "end"}, tmp_path, name="last") as cluster:
        assert cluster.wait(180) == [0], cluster.output()
    assert in_postgresql() == sorted(produced)
    with sqlite3.connect(sqlite) as connection:
        assert [one for (one,) in connection.execute("SELECT id FROM several ORDER BY id")] == sorted(produced)
    connection.close()
    with database.connect() as pg:
        counted = pg.scalar(sa.text("SELECT SUM(n) FROM totals")) or 0
        late = pg.scalar(sa.text("SELECT COUNT(*) FROM waxwing_dead_letters WHERE step = 'totals'")) or 0
    assert counted + late == len(produced), "each record is in one window or late for it"
