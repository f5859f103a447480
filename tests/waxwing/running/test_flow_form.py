"""`@waxwing.flow` and `waxwing.run`: a flow in a process of its own, in a test, and inside a program that stays as it was."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink, TestingSource, run_main
from pydantic import SecretStr

import waxwing
from sinks import Append, MemoryTarget, SqlTarget, Upsert, sink
from sources import read
from sources.kafka import KafkaSource
from sources.memory import MemorySource
from waxwing.errors import ConfigError, DataError
from waxwing.operators import filter as keep
from waxwing.operators import map as rows
from waxwing.operators import parse
from waxwing.running.state import current
from waxwing.settings import KafkaSettings, SqlSettings

ROOT = Path(__file__).parents[3]


class Payment(msgspec.Struct):
    """A record."""

    id: str
    amount: Decimal


def table(name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.String(36), primary_key=True), sa.Column("amount", sa.Numeric(12, 2)))


class Settings(waxwing.Settings):
    """What the flow is told."""

    kafka: KafkaSettings
    shop: SqlSettings
    alarms: SqlSettings = waxwing.prefixed("ALARMS")
    alarm_above: Decimal = Decimal(1000)


def told(**values: Any) -> Settings:
    """Settings made in code: values that are left out have their defaults."""
    return Settings(**values)


@waxwing.flow(Settings)
def payments_flow(settings: Settings) -> Dataflow:
    """Payments, and the large ones once more."""
    flow = Dataflow("payments")
    payments = parse("parse", read("kafka", flow, KafkaSource(settings.kafka)), Payment)
    sink("table", rows("row", payments, lambda one: one), SqlTarget(settings.shop, table("payments"), Upsert(keys=("id",))))
    large = keep("large", payments, lambda one: one.amount > settings.alarm_above)
    sink("alarms", large, SqlTarget(settings.alarms, table("alarms"), Append()))
    return flow


PAYMENTS: list[Any] = [{"id": "p1", "amount": 12.5}, {"id": "p2", "amount": 2000}, b"?"]


def sqlite(path: Path, name: str) -> SqlSettings:
    return SqlSettings(database_url=SecretStr(f"sqlite:///{path}/{name}.sqlite"), flush_interval_s=0.0)


def stored(path: Path, name: str, table: str) -> list[Any]:
    return sqlite3.connect(path / f"{name}.sqlite").execute(f"SELECT id, amount FROM {table} ORDER BY id").fetchall()


# -- in tests --------------------------------------------------------------------------------------


def test_the_very_flow_runs_over_memory() -> None:
    shop, alarms = MemoryTarget(), MemoryTarget()
    run_main(payments_flow(kafka=MemorySource(PAYMENTS), table=shop, alarms=alarms))
    assert shop.rows == [Payment("p1", Decimal("12.5")), Payment("p2", Decimal(2000))]
    assert alarms.rows == [Payment("p2", Decimal(2000))]
    assert [letter.stage for letter in shop.dead_letters] == ["parse"]
    assert payments_flow.kind is Settings


def test_a_source_of_memory_feeds_the_flow_s_own_databases(tmp_path: Path) -> None:
    settings = told(shop=sqlite(tmp_path, "shop"), alarms=sqlite(tmp_path, "alarms"), alarm_above=Decimal(10))
    run_main(payments_flow(settings, kafka=MemorySource(PAYMENTS)))
    assert stored(tmp_path, "shop", "payments") == stored(tmp_path, "alarms", "alarms") == [("p1", 12.5), ("p2", 2000)]


def test_what_stands_for_no_step_or_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^No step 'kafak' reads or writes\. There are: alarms, kafka, table"):
        payments_flow(kafak=1, kafka=MemorySource([]), table=MemoryTarget(), alarms=MemoryTarget())
    with pytest.raises(ConfigError, match=r"Nothing stands for SqlTarget of step 'alarms', and its settings have no address"):
        payments_flow(kafka=MemorySource([]), table=MemoryTarget())
    with pytest.raises(ConfigError, match=r"Nothing stands for KafkaSource of step 'kafka', and its settings have no address"):
        payments_flow(table=MemoryTarget(), alarms=MemoryTarget())
    with pytest.raises(ConfigError, match=r"The flow's settings are Settings, not SqlSettings"):
        payments_flow(SqlSettings())  # type: ignore[arg-type]  # the mistake


def test_called_outside_of_a_run_it_raises_and_reads_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALARM_ABOVE", "much")
    with pytest.raises(ConfigError, match="ALARM_ABOVE: must be a valid decimal"):
        payments_flow()
    with pytest.raises(ConfigError, match="ALARM_ABOVE: must be a valid decimal"):
        waxwing.run(payments_flow)


# -- inside a program ------------------------------------------------------------------------------


def process_now() -> tuple[Any, ...]:
    """What a run may not change."""
    handlers = tuple(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return handlers, wakeup, sys.excepthook, gc.get_threshold(), gc.get_freeze_count(), current()


@waxwing.flow(Settings)
def from_memory(settings: Settings) -> Dataflow:
    """A flow that a program runs."""
    flow = Dataflow("from_memory")
    records = parse("parse", read("in", flow, MemorySource(PAYMENTS[:2])), Payment)
    sink("table", records, SqlTarget(settings.shop, table("payments"), Upsert(keys=("id",))))
    return flow


def test_a_program_runs_a_flow_any_number_of_times_and_stays_as_it_was(tmp_path: Path) -> None:
    waxwing.run(from_memory, settings=told(shop=sqlite(tmp_path, "first")))  # what is imported late, is imported
    gc.collect()
    before = process_now()
    for name in ("a", "b"):
        waxwing.run(from_memory, settings=told(shop=sqlite(tmp_path, name)))
        assert stored(tmp_path, name, "payments") == [("p1", 12.5), ("p2", 2000)]
    waxwing.run(from_memory(told(shop=sqlite(tmp_path, "c"))))
    waxwing.run(lambda: from_memory(told(shop=sqlite(tmp_path, "d"))), stop=threading.Event())
    assert stored(tmp_path, "c", "payments") == stored(tmp_path, "d", "payments") == [("p1", 12.5), ("p2", 2000)]
    gc.collect()
    assert process_now() == before


class Endless(DynamicSource[int]):
    """Says that it reads, then waits to be stopped."""

    def __init__(self, reads: threading.Event) -> None:
        self.reads, self.done = reads, False

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[int]:
        source = self

        class Part(StatelessSourcePartition[int]):
            def next_batch(self) -> list[int]:
                source.reads.set()
                if current().stop.is_set():
                    source.done = True
                    raise StopIteration
                return []

        return Part()


def endless(source: Endless) -> Dataflow:
    flow = Dataflow("endless")
    op.output("out", op.input("in", flow, source), TestingSink([]))
    return flow


def test_an_event_stops_a_run_in_another_thread_and_a_second_one_is_refused_meanwhile(tmp_path: Path) -> None:
    source, stop = Endless(threading.Event()), threading.Event()
    thread = threading.Thread(target=waxwing.run, args=(endless(source),), kwargs={"stop": stop})
    thread.start()
    assert source.reads.wait(30)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ConfigError, match="This process runs a flow already"):
        waxwing.run(from_memory, settings=told(shop=sqlite(tmp_path, "x")))
    stop.set()
    thread.join(30)
    assert source.done
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_the_main_thread_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    source = Endless(threading.Event())

    def ask() -> None:
        source.reads.wait(30)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    waxwing.run(endless(source))
    asking.join()
    assert source.done


def test_errors_are_raised_as_they_are(tmp_path: Path) -> None:
    def fails(error: BaseException) -> Dataflow:
        def step(_: int) -> int:
            raise error

        flow = Dataflow("fails")
        op.output("out", op.map("step", op.input("in", flow, TestingSource([1])), step), TestingSink([]))
        return flow

    for error in (DataError("of ours", hint="What to do."), KeyError("the user's own")):
        with pytest.raises(type(error)) as raised:
            waxwing.run(fails(error))
        assert raised.value is error
    broken = told(shop=SqlSettings(database_url=SecretStr(f"sqlite:///{tmp_path}/nowhere/x.sqlite"), retry_max_s=0.0))
    with pytest.raises(waxwing.errors.WaxwingError, match="nowhere"):
        waxwing.run(from_memory, settings=broken)
    with pytest.raises(ConfigError, match="The flow gives no Dataflow"):
        waxwing.run(lambda: 1)  # type: ignore[arg-type, return-value]  # the mistake
    with pytest.raises(ConfigError, match=r"The flow can't be built: ZeroDivisionError: division by zero \(test_flow_form.py:"):
        waxwing.run(lambda: 1 / 0)  # type: ignore[arg-type, return-value]  # the mistake
    waxwing.run(from_memory, settings=told(shop=sqlite(tmp_path, "after")))
    assert stored(tmp_path, "after", "payments") == [("p1", 12.5), ("p2", 2000)]


# -- in a process of its own -----------------------------------------------------------------------

IMPORTS = """
import gc, logging, os, signal, sys, threading
def now():
    handlers = [signal.getsignal(number) for number in range(1, 32) if number not in (9, 19)]
    loggers = [type(one) for name in ("", "waxwing") for one in logging.getLogger(name).handlers]
    collector = gc.get_threshold(), gc.get_freeze_count()
    return handlers, loggers, collector, sys.excepthook, sorted(os.listdir("/proc/self/fd")), threading.active_count()
before = now()
import waxwing, waxwing.runtime, waxwing.cli, waxwing.operators.windows, sources.kafka, sources.memory, sinks
waxwing.flow, waxwing.run, waxwing.Settings
import dataflows.orders
print(now() == before)
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "imports.py").write_text(IMPORTS + "sys.exit()\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for command in (["imports.py"], ["-m", "bytewax.run", "imports"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"


OWN = """
import msgspec
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
import waxwing
from sinks import SqlTarget, Append, sink
from sources import read
from sources.memory import MemorySource
from waxwing.operators import parse
from waxwing.settings import SqlSettings

class Row(msgspec.Struct):
    id: int

class Settings(waxwing.Settings):
    shop: SqlSettings = waxwing.prefixed("SHOP")
    rate: int = 1

@waxwing.flow(Settings)
def flow(settings):
    flow = Dataflow("own")
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    rows = parse("parse", read("in", flow, MemorySource([{"id": 1}, b"?", b"!"])), Row)
    sink("out", rows if settings.rate == 2 else 1 / 0, SqlTarget(settings.shop, table, Append()))
    return flow
"""


def test_by_bytewax_it_is_a_run_with_one_message_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))}
    url = {"SHOP_DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite"}
    for changes, code, told in (
        ({"RATE": "2", **url}, 0, "2 dead letters"),
        ({"RATE": "x"}, 78, "RATE: must be a valid integer"),
        (url, 78, r"The flow can't be built: ZeroDivisionError: division by zero (own.py:24 in flow)"),
        ({"RATE": "2"}, 78, "SHOP_DATABASE_URL is not given."),
    ):
        env = {**clean, "PYTHONPATH": f"{tmp_path}:{ROOT}", **changes}
        command = [sys.executable, "-m", "bytewax.run", "own"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr


RUNS = """
import gc, os, threading, waxwing
from own import flow
def now():
    gc.collect()
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(file) for file in files if os.path.lexists(file)], threading.active_count()
waxwing.run(flow)  # what is imported late, is imported
before = now()
for _ in range(3):
    waxwing.run(flow)
print(now() == before or (now(), before))
"""


def test_inside_a_program_it_leaves_no_file_open_and_no_thread(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    url = {"SHOP_DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite", "RATE": "2"}
    env = {**os.environ, **url, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", RUNS], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_what_is_said_are_records_of_python_s_logging(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    logger = logging.getLogger("waxwing")
    logger.addHandler(caplog.handler)
    try:
        run_main(from_memory(told(shop=sqlite(tmp_path, "x"))))
    finally:
        logger.removeHandler(caplog.handler)
    made = next(record for record in caplog.records if record.message.startswith("Table"))
    assert made.name.startswith("waxwing.")
    assert made.levelname == "INFO"
    assert vars(made)["event"]
    assert json.dumps(vars(made)["fields"])
