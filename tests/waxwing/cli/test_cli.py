"""The `waxwing` command, as a person runs it: its processes, what they print, their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bytewax.operators as op
import psutil
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from dataflows.orders import OrdersSettings, RawOrder, build, orders
from sinks import SqlTarget, Upsert, sink
from sources.memory import MemorySource, Message
from tests.servers import Kafka
from waxwing.cli import positions
from waxwing.cli.produce import Where, produce_orders
from waxwing.cli.supervisor import verdict
from waxwing.errors import ConfigError
from waxwing.operators import parse

ROOT = Path(__file__).parents[3]
NONE: Mapping[str, str] = {}
FAILING = "tests.fixtures.failing"


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "waxwing", *args]


def environment(values: Mapping[str, str]) -> dict[str, str]:
    ours = ("KAFKA_", "DATABASE_", "BYTEWAX_", "SOURCE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**clean, "PYTHONPATH": str(ROOT), **values}


def waxwing(*args: str, cwd: Path = ROOT, values: Mapping[str, str] = NONE) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*args),
        cwd=cwd,
        env=environment(values),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def until(there: Callable[[], Any], timeout_s: float = 180) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := there()):
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
    return found


# -- help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["run"],
        ["produce"],
        ["produce", "orders"],
        ["produce", "sensors"],
        ["resume"],
        ["step", "rename"],
        ["step", "drop"],
        ["status"],
        ["settings"],
    ],
)
def test_every_command_explains_itself(args: list[str]) -> None:
    done = waxwing(*args, "--help", values={"COLUMNS": "200"})
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout) > 400


def test_help_comes_at_once_for_nothing_heavy_is_imported() -> None:
    heavy = "bytewax sqlalchemy confluent_kafka pydantic msgspec dataflows"
    code = f"import sys, waxwing.cli.app; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_flow_that_is_not_there_is_one_clear_message() -> None:
    done = waxwing("settings", "nothing")
    assert (done.returncode, done.stdout) == (78, "")
    (event,) = events(done.stderr)
    assert event["message"].startswith("There is no flow 'nothing': no module dataflows.nothing.")


# -- settings ---------------------------------------------------------------------------------------


def test_settings_are_listed_with_where_they_come_from_and_without_secrets(tmp_path: Path) -> None:
    tmp_path.joinpath(".env").write_text("LANES=7\nDATABASE_URL=postgresql://u:s3cret@h/x\n")
    done = waxwing("settings", cwd=tmp_path, values={"KAFKA_BROKERS": "a:1"})
    listed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0
    assert listed["LANES"] == "7\t.env"
    assert listed["KAFKA_BOOTSTRAP_SERVERS"] == "a:1\tenvironment"
    assert listed["DATABASE_URL"] == "postgresql://u:***@h/x\t.env"
    assert listed["START"] == "earliest\tdefault"
    assert listed.keys() == {field.upper() for field in OrdersSettings.model_fields}


@pytest.mark.parametrize(
    "url",
    [
        "mssql://u@127.0.0.1:1/shop?Encrypt=no&PWD=S3cretPw",
        "mssql://?odbc_connect=SERVER%3D127.0.0.1%3BUID%3Du%3BPWD%3DS3cretPw",
    ],
)
def test_a_password_among_the_options_of_a_url_is_not_listed(tmp_path: Path, url: str) -> None:
    done = waxwing("settings", cwd=tmp_path, values={"DATABASE_URL": url})
    assert "DATABASE_URL=mssql://" in done.stdout
    assert "S3cret" not in done.stdout + done.stderr


def test_wrong_settings_are_listed_and_then_refused(tmp_path: Path) -> None:
    done = waxwing("settings", cwd=tmp_path, values={"LANES": "x"})
    assert done.returncode == 78
    assert "LANES=x\tenvironment" in done.stdout
    assert "LANES: must be a valid integer" in done.stderr


# -- run --------------------------------------------------------------------------------------------


@contextmanager
def running(tmp_path: Path, processes: int, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`waxwing run` of a flow without end, once all of its processes have started; and where it logs to."""
    log = tmp_path / "run.log"
    with log.open("wb") as out:
        parent = subprocess.Popen(
            command("run", FAILING, "--processes", str(processes), *args),
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: log.read_text().count('"event": "started"') >= processes)
        yield parent, log
    finally:
        for child in children(parent):
            child.kill()
        parent.kill()
        parent.wait()


def children(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(parent.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_processes_cleanly(tmp_path: Path, processes: int, number: signal.Signals) -> None:
    with running(tmp_path, processes) as (parent, log):
        parent.send_signal(number)
        assert parent.wait(180) == 0, log.read_text()
        last = events(log.read_text())[-1]
        assert (last["event"], last["restarts"]) == ("run_summary", 0)


def test_a_killed_process_means_a_restart_of_all(tmp_path: Path) -> None:
    with running(tmp_path, 2) as (parent, log):
        first = children(parent)
        first[0].kill()
        until(lambda: log.read_text().count('"event": "started"') == 4)
        assert not alive(first)
        assert len(alive(children(parent))) == 2
        parent.terminate()
        assert parent.wait(180) == 0, log.read_text()
        said = events(log.read_text())
    restarting = [event for event in said if event["event"] == "restarting"]
    assert len(restarting) == 1
    assert "was killed (SIGKILL)" in restarting[0]["message"]
    assert said[-1]["restarts"] == 1


def test_restarts_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, 1, "--restarts-max", "0") as (parent, log):
        children(parent)[0].kill()
        assert parent.wait(180) == 75
        assert events(log.read_text())[-1]["event"] == "gave_up"


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    with running(tmp_path, 2) as (parent, _):
        orphans = children(parent)
        assert len(orphans) == 2
        parent.kill()
        until(lambda: not alive(orphans))


@pytest.mark.parametrize(("kind", "code"), [("DataError", 65), ("Fenced", 76), ("ConfigError", 78), ("bug", 70)])
def test_a_failure_that_a_restart_does_not_mend_stops_all_with_its_code(kind: str, code: int) -> None:
    done = waxwing("run", FAILING, "-p", "2", values={"FAIL_WHERE": "source", "FAIL_KIND": kind})
    assert done.returncode == code, done.stderr
    said = events(done.stderr)
    assert [event for event in said if event.get("exit_code") == code and event["event"] != "run_summary"]
    assert said[-1]["exit_code"] == code


def test_arguments_behind_two_dashes_go_to_bytewax() -> None:
    done = waxwing("run", FAILING, "--", "--no-such-option")
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr


@pytest.mark.parametrize(
    ("codes", "stopping", "code"),
    [
        ([0, 0], None, 0),
        ([-9, 75], None, None),
        ([75, 0], None, None),
        ([75, 65], None, 65),
        ([75, 78, 76], None, 78),
        ([1, 75], None, 1),
        ([0, -15], signal.SIGTERM, 0),
        ([0, -9], signal.SIGTERM, 75),
        ([130, 0], signal.SIGINT, 130),
    ],
)
def test_what_the_codes_of_the_processes_amount_to(codes: list[int], stopping: signal.Signals | None, code: int | None) -> None:
    assert verdict(codes, stopping) == code


@pytest.mark.slow
def test_the_embedded_demonstration_runs_shows_and_ends_by_itself(tmp_path: Path) -> None:
    for _ in range(2):  # the second run finds the file of the first
        done = waxwing("run", "orders", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = {event["event"]: event for event in events(done.stderr)}
        assert "KAFKA_BOOTSTRAP_SERVERS=" in said["demonstration"]["message"]
        assert "DATABASE_URL=" in said["demonstration"]["message"]
        letters = sum(said["demonstration_done"]["dead_letters"].values())
        assert said["run_summary"]["records"] == 50_000
        with contextlib.closing(sqlite3.connect(tmp_path / "var/demonstration.sqlite")) as file:
            [(totals,)] = file.execute("SELECT count(*) FROM order_totals")
        assert said["run_summary"]["rows"] == 50_000 - letters + totals
        assert len(said["demonstration_done"]["dead_letters"]) >= 12


def test_the_embedded_demonstration_refuses_several_processes(tmp_path: Path) -> None:
    done = waxwing("run", "orders", "-p", "2", cwd=tmp_path)
    assert done.returncode == 78
    assert "started with -i/-a" in done.stderr


# -- produce ----------------------------------------------------------------------------------------


def test_produced_orders_are_all_there_and_the_topic_is_made(kafka: Kafka) -> None:
    values = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap()}
    done = waxwing("produce", "orders", "--count", "5000", "--bad", "0.01", "--topic", "made", "--partitions", "3", values=values)
    assert done.returncode == 0, done.stderr
    ends = kafka.end_offsets("made")
    assert len(ends) == 3
    assert sum(ends.values()) == 5_000
    refused = waxwing("produce", "orders", "--count", "1", "--topic", "made", "--partitions", "4", values=values)
    assert refused.returncode == 78
    assert "Topic made has 3 partitions, not 4." in refused.stderr


def test_orders_come_no_faster_than_asked(kafka: Kafka) -> None:
    done = waxwing(
        "produce",
        "orders",
        "--count",
        "300",
        "--rate",
        "200",
        "--topic",
        "paced",
        values={"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap()},
    )
    assert events(done.stderr)[-1]["seconds"] >= 1.4


@pytest.mark.slow
def test_produce_without_a_broker_is_try_again_later() -> None:
    done = waxwing("produce", "orders", values={"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert done.returncode == 75
    assert "Does it run, and is KAFKA_BOOTSTRAP_SERVERS right?" in done.stderr


# -- status, resume, step ---------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database in which the orders flow has run."""
    url = f"sqlite:///{tmp_path / 'orders.sqlite'}"
    target = SqlTarget(OrdersSettings(database_url=SecretStr(url)), orders, Upsert(keys=("id",)))
    good: dict[str, Any] = {"order_id": "ORD-001", "quantity": 3, "unit_price": 25.50}
    run_main(build(MemorySource({0: [good, b"{}"], 1: [good, b"", Message(b"", offset=2_000)]}, feeds=[target]), target))
    return url


def test_status_shows_positions_and_dead_letters_by_reason(database: str) -> None:
    with sa.create_engine(database).begin() as connection:  # a bounded run that was ended before its end
        connection.execute(sa.text("UPDATE waxwing_progress SET offset_end = 5 WHERE source_partition = 0"))
    done = waxwing("status", "orders", values={"DATABASE_URL": database})
    assert done.stdout.splitlines() == [
        "step\tsource\tpartition\tnext offset\tbehind by",
        "orders\tmemory\t0\t2\t3 to UNTIL=end",
        "orders\tmemory\t1\t2001\t",
        "step\tstage\tnumber\treason",
        "orders\tparse\t2\tempty value",
        "orders\tparse\t1\tObject missing required field `order_id`",
        "3 dead letters of 3 records.",
    ]


def test_a_step_is_renamed_and_dropped(database: str) -> None:
    values = {"DATABASE_URL": database}
    assert waxwing("step", "rename", "orders", "orders", "table", values=values).returncode == 0
    assert "table\tmemory\t0\t2\t" in waxwing("status", "orders", values=values).stdout
    again = waxwing("step", "rename", "orders", "orders", "table", values=values)
    assert again.returncode == 78
    assert "Step 'orders' of flow 'orders' has no positions. Steps that have: table." in again.stderr
    asked = waxwing("step", "drop", "orders", "table", values=values)  # nobody said yes
    assert asked.returncode == 1
    assert "2 positions of step table are about to be forgotten. Its 3 dead letters stay" in asked.stderr
    renamed = waxwing("flow", "rename", "orders", "shop", values=values)
    assert "steps table (2 positions and 3 dead letters) are given to flow shop" in renamed.stderr
    assert "stay under waxwing-orders" in renamed.stderr
    dropped = waxwing("step", "drop", "shop", "table", "--yes", values=values)
    assert (dropped.returncode, "3 dead letters stay" in dropped.stderr) == (0, True)
    assert "3 dead letters of 3 records." in waxwing("status", "shop", values=values).stdout
    assert waxwing("step", "drop", "shop", "table", "--yes", "--with-dead-letters", values=values).returncode == 0
    gone = waxwing("status", "orders", values=values)
    assert gone.returncode == 78
    assert "no positions of a flow 'orders'" in gone.stderr


def test_resume_lets_the_next_records_pass(database: str) -> None:
    done = waxwing("resume", "orders", "--records", "500", values={"DATABASE_URL": database})
    assert done.returncode == 0
    assert "the next 500 records" in done.stderr
    target = SqlTarget(OrdersSettings(database_url=SecretStr(database)), orders, Upsert(keys=("id",)))
    target.bind("orders", "orders")
    assert {position.limits_from - position.offset_next for position in target.positions()} == {500}


def test_without_a_database_the_commands_say_which_setting_is_missing(tmp_path: Path) -> None:
    done = waxwing("status", "orders", cwd=tmp_path)
    assert done.returncode == 78
    assert "DATABASE_URL is not given." in done.stderr


def test_a_database_in_which_no_flow_has_run_is_told(tmp_path: Path) -> None:
    done = waxwing("status", "orders", values={"DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite'}"})
    assert done.returncode == 78
    assert "no positions of a flow 'orders'" in done.stderr


def test_commands_look_at_each_of_a_flow_s_databases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = {"DATABASE_URL": f"sqlite:///{tmp_path / 'shop.sqlite'}", "B_DATABASE_URL": f"sqlite:///{tmp_path / 'alarms.sqlite'}"}
    monkeypatch.chdir(tmp_path)
    flow = Dataflow("two-databases")
    targets = [SqlTarget(OrdersSettings(database_url=SecretStr(url)), orders, Upsert(keys=("id",))) for url in urls.values()]
    read = op.input("in", flow, MemorySource([b"{}", b"?", None], feeds=targets))
    for step, target in zip(("table", "alarms"), targets, strict=True):
        sink(step, parse("parse_" + step, read, RawOrder), target)
    run_main(flow)
    for name, url in urls.items():
        monkeypatch.setenv(name, url)
    positions.status("two-databases")
    shown = capsys.readouterr().out.splitlines()
    for path, step in (("shop", "table"), ("alarms", "alarms")):
        assert f"sqlite at {tmp_path}/{path}.sqlite" in shown
        assert f"{step}\tmemory\t0\t3\t" in shown
    assert shown.count("3 dead letters of 3 records.") == 2
    with pytest.raises(ConfigError, match=r"positions of its own in sqlite at .*alarms.sqlite, of alarms"):
        positions.rename("two-databases", "table", "alarms")
    taken, target = (
        Dataflow("taken"),
        SqlTarget(OrdersSettings(database_url=SecretStr(urls["B_DATABASE_URL"])), orders, Upsert(keys=("id",))),
    )
    sink("alarms", parse("parse", op.input("in", taken, MemorySource([], feeds=[target], topic="t")), RawOrder), target)
    run_main(taken)
    with pytest.raises(ConfigError, match=r"Flow taken has positions of its own in sqlite at .*alarms.sqlite, of alarms"):
        positions.rename_flow("two-databases", "taken")
    capsys.readouterr()
    positions.resume("two-databases", 10)
    positions.rename_flow("two-databases", "renamed")
    said = capsys.readouterr().err
    for text in ("the next 10 records", "1 position and 3 dead letters", "belong to renamed now"):
        assert said.count(text) == 2
    positions.drop("renamed", "alarms", yes=True, dead_letters=True)
    positions.status("renamed")
    assert f"sqlite at {tmp_path}/alarms.sqlite" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"There are no positions of a flow 'two-databases' in .*shop.sqlite, .*alarms.sqlite"):
        positions.status("two-databases")


def test_orders_go_to_one_topic_of_several_only_where_somebody_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in ({"SOURCE_TOPIC": "a,b"}, {"SOURCE_TOPIC_PATTERN": "orders.*"}):
        with monkeypatch.context() as given:
            for name, value in {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", **values}.items():
                given.setenv(name, value)
            with pytest.raises(ConfigError, match=r"The flow reads several topics: (a,b|orders\.\*)\.") as raised:
                produce_orders(Where(), 1, bad=0.0, seed=1)
            assert "--topic NAME" in raised.value.hint
