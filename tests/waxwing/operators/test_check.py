"""`check`: records that a table can't hold leave a stream before it branches, for the reasons that its sink would give."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr
from typing_extensions import TypedDict

import waxwing
from sinks import Append, MemoryTarget, MemoryWindows, SqlLiveWindows, SqlTarget, Upsert, sink, window_sink
from sinks.sql.table import Looked
from sources import read
from sources.memory import MemorySource
from waxwing import operators as ww
from waxwing.databases.sqlite.database import DIALECT as SQLITE
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Sum, Tumbling, Windows
from waxwing.settings import SqlSettings
from waxwing.tables.planning import plan


class Payment(TypedDict):
    id: str
    account: str | None
    amount: Decimal
    at: int


class Numbered(TypedDict):
    id: int
    n: int


class Bare(TypedDict):
    n: int


def payments() -> sa.Table:
    return sa.Table(
        "payments",
        sa.MetaData(),
        sa.Column("id", sa.String(4), primary_key=True),
        sa.Column("account", sa.String(5), nullable=False),
        sa.Column("amount", sa.Numeric(6, 2), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


WINDOWS = Windows(
    by=("account",),
    time="at",
    kind=Tumbling(60),
    aggregates={"n": Count(), "amount": Sum("amount")},
    lateness_s=0,
)
MESSAGES: list[Any] = [
    {"id": "a", "account": "Anna", "amount": 1, "at": 0},
    {"id": "b", "account": "Annabel", "amount": 2, "at": 0},  # too long
    {"id": "c", "account": "Anna", "amount": 1.005, "at": 0},  # not in cents
    {"id": "d", "account": "Anna", "amount": 100_000, "at": 0},  # too many digits
    {"id": "e", "account": None, "amount": 1, "at": 0},
    {"id": "f", "account": "Anna", "amount": 4, "at": 0},
]


def sqlite(folder: Path) -> SqlSettings:
    return SqlSettings(database_url=SecretStr(f"sqlite:///{folder}/check.sqlite"))


def run(table: Any, target: Any, *, by_check: bool = True) -> tuple[list[Any], list[Any]]:
    """Rows of the windows, and of all dead letters the offset, stage and reason."""
    totals = MemoryWindows(WINDOWS)
    flow = Dataflow("flow")
    rows = ww.parse("parse", read("in", flow, MemorySource(MESSAGES)), Payment)
    if by_check:
        rows = ww.check("fits", rows, table)
    sink("payments", rows, target)
    window_sink("totals", ww.without_rejects("accepted", rows), totals)
    run_main(flow)
    return [(row["account"], row["n"], row["amount"]) for row in totals.rows], _letters(target)


def _letters(target: Any) -> list[Any]:
    if isinstance(target, MemoryTarget):
        return [(one.offset, one.stage, one.reason) for one in target.dead_letters]
    query = "SELECT source_offset, stage, reason FROM waxwing_dead_letters ORDER BY source_offset"
    with sa.create_engine(target.settings.database_url.get_secret_value()).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("by", ["target", "table"])
def test_a_table_and_its_windows_agree_and_reasons_are_those_of_the_sink(kind: str, by: str, tmp_path: Path) -> None:
    def target(table: sa.Table, folder: str) -> Any:
        (tmp_path / folder).mkdir()
        mode = Upsert(keys=("id",))
        return MemoryTarget(mode, table=table) if kind == "memory" else SqlTarget(sqlite(tmp_path / folder), table, mode)

    table = payments()
    judged = target(table, "judged")
    totals, letters = run(judged if by == "target" else table, judged)
    assert totals == [("Anna", 2, Decimal(5))]
    assert [offset for offset, _, _ in letters] == [1, 2, 3, 4]
    assert {stage for _, stage, _ in letters} == {"fits"}
    _, of_sink = run(None, target(payments(), "bare"), by_check=False)
    assert [(offset, reason) for offset, _, reason in letters] == [(offset, reason) for offset, _, reason in of_sink]
    assert {stage for _, stage, _ in of_sink} == {"sink"}


def test_columns_are_judged_as_they_were_last_found(tmp_path: Path) -> None:
    target = SqlTarget(sqlite(tmp_path), payments(), Upsert(keys=("id",)))
    rows = [("a", "Anna", Decimal(1), 0), ("b", "Annabel", Decimal(1), 0)]
    assert target.misfits(rows) == {1: "column account: 7 characters, at most 5"}
    table = target.tables.one
    narrow = payments()
    narrow.c.account.type = sa.String(3)
    found = plan(narrow, Upsert(keys=("id",)), dialect=SQLITE)
    table.looked = Looked(found, (1,))
    told = {0: "column account: 4 characters, at most 3", 1: "column account: 7 characters, at most 3"}
    assert target.misfits(rows) == told
    table.forget((1,))  # until the sink has looked again
    assert target.misfits(rows) == told


def test_a_table_that_no_target_of_the_flow_writes_judges_by_what_it_declares() -> None:
    elsewhere = MemoryTarget()
    totals, letters = run(payments(), elsewhere)
    assert totals == [("Anna", 2, Decimal(5))]
    assert [row["id"] for row in elsewhere.rows] == ["a", "f"]
    assert [(offset, stage) for offset, stage, _ in letters] == [(1, "fits"), (2, "fits"), (3, "fits"), (4, "fits")]


def test_a_number_of_the_table_s_own_is_judged_where_records_bring_it() -> None:
    def run(*steps: Any) -> list[Any]:
        table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.SmallInteger))
        target, flow = MemoryTarget(), Dataflow("flow")
        rows = ww.parse("parse", read("in", flow, MemorySource([{"id": 1, "n": 1}, {"id": 2**40, "n": 1}])), Numbered)
        for number, step in enumerate(steps):
            rows = ww.map(f"map{number}", rows, step)
        sink("t", ww.check("fits", rows, table), target)
        waxwing.run(flow)
        return target.rows

    def bare(record: Numbered) -> Bare:
        return {"n": record["n"]}

    assert run() == [{"id": 1, "n": 1}]
    assert run(bare) == [{"n": 1}, {"n": 1}]
    with pytest.raises(ConfigError, match="nobody knows whether records bring id"):
        run(lambda record: record)


def test_what_can_t_judge_and_records_that_never_fit_are_told_at_the_start(tmp_path: Path) -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("account", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    counts = Windows(by=("account",), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    totals = sa.Table(
        "totals",
        sa.MetaData(),
        sa.Column("window_start", sa.DateTime, primary_key=True),
        sa.Column("account", sa.String(9), primary_key=True),
        sa.Column("n", sa.Integer),
    )
    for target, says in (
        (MemoryWindows(WINDOWS), "folds windows"),
        (SqlLiveWindows(sqlite(tmp_path), totals, counts), "folds windows"),
        (SqlTarget(sqlite(tmp_path), {"t": (table, Append())}), "several tables"),
        (MemoryTarget(table=table), "has no column amount"),
    ):
        rows = ww.parse("parse", read("in", Dataflow("flow"), MemorySource([])), Payment)
        with pytest.raises(ConfigError, match=says):
            ww.check("fits", rows, target)
