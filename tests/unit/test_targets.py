"""Targets and steps: which go together, and what becomes of a record that is no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from sinks import SqlTarget, SqlWindows, Upsert, sink, window_sink
from sources.memory import MemorySource
from waxwing import operators as ww
from waxwing.databases import ledger
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SqlWindowSettings


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
    letters = ledger.dead_letters
    found = written(tmp_path, sa.select(letters.c.topic_offset, letters.c.reason).order_by(letters.c.topic_offset))
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
    records = ww.parse("parse", op.input("in", flow, MemorySource({0: [{"id": 7}]}, lanes=1)), Numbered)
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
    assert "feeds=" in error.hint
