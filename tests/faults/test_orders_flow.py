"""The orders flow on real servers, as a user runs it: stopped, frozen, refused. Messages and exit codes are what a user sees."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import confluent_kafka
import psycopg
import pytest
import sqlalchemy as sa

from tests.faults.cluster import ROOT, Cluster
from tests.faults.frozen import frozen
from tests.faults.recompute import compare, expected, plain_engine
from tests.faults.storm.databases import rows_locked
from tests.faults.watch import await_progress, produce, taken_in
from tests.servers import Kafka, MariaDB, PostgreSQL, SQLServer
from tests.servers.process import free_ports, until

FLOW = "dataflows.orders"
Database = PostgreSQL | MariaDB | SQLServer


# What is decided above the database is shown on one: the conformance suite asks each who owns what, and where a step begins.
# Each start takes SQL Server's test server seconds of a core.
@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each database server in turn."""
    server: Database = request.getfixturevalue(request.param)
    return server


def settings(kafka: Kafka, url: str, topic: str, **more: str) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(),
        "DATABASE_URL": url,
        "SOURCE_TOPIC": topic,
        "OWNER_STALE_S": "1",
        "ORDER_TOTALS": "off",  # the one step that these tests look at; windows: test_window_storm.py
        **more,
    }


def ended(env: Mapping[str, str], folder: Path, code: int, *words: str, timeout_s: float = 300.0, name: str = "run") -> str:
    """Run the flow to its end; what it wrote. It must have one message with these words, and this exit code."""
    with Cluster(FLOW, env, folder, name=name) as run:
        codes = run.wait(timeout_s)
        output = run.output()
    assert codes == [code], output
    assert "Traceback" not in output
    assert "panicked" not in output
    for word in words:
        assert word in output, output
    assert "-secret" not in output
    return output


def test_sigterm_under_load_ends_soon_and_no_row_is_written_a_second_time(
    kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    url, topic = postgresql.new_database(), kafka.new_topic(4)
    produce(kafka.bootstrap(), topic, 100_000, bad=0.001, seed=3)
    env = settings(kafka, url, topic, UNTIL="end")
    with Cluster(FLOW, env, tmp_path, name="first") as run:
        await_progress(url, run, 20_000)
        asked_s = time.monotonic()
        run.signal(signal.SIGTERM)
        assert run.wait(180) == [0], run.output()
        took_s = time.monotonic() - asked_s
    assert took_s < 60  # a transaction or two are under way: seconds, on a slow machine too
    stopped_at = taken_in(url)
    assert 20_000 <= stopped_at < 100_000
    ended(env, tmp_path, 0, name="second")
    difference = compare(url, expected(kafka.bootstrap(), topic))
    assert difference.equal, difference
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'orders'"
        # The server's statistics come a little later.
        until(lambda: (connection.execute(query).fetchone() or (0,))[0] >= difference.rows, timeout_s=180, what="the statistics")
        inserted, updated = connection.execute(query).fetchone() or (0, 0)
    # A COPY that met an existing key and was undone counts its rows as inserted; here no key comes twice.
    assert (inserted, updated) == (difference.rows, 0)


@pytest.mark.parametrize(
    ("server", "processes", "standing_by", "totals"),
    [
        ("postgresql", 2, False, "live"),
        ("mariadb", 1, False, "off"),
    ],  # SQL Server: test_sql_target.py, and the long form
)
def test_a_process_frozen_inside_a_transaction_is_overtaken_and_fenced(
    server: str, processes: int, standing_by: bool, totals: str, kafka: Kafka, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At the default time limits but one; the long form is `python -m tests.faults.frozen`."""
    told = frozen(
        kafka,
        server,
        request.getfixturevalue(server).new_database(),
        tmp_path,
        processes=processes,
        standing_by=standing_by,
        totals=totals,
        freeze_s=2.0,
        orders=60_000,
        settings={"OWNER_STALE_S": "4"},
    )
    assert told.right, told


# SQL Server: `make storm DATABASE=sqlserver`, and a connection cut at any moment (test_sqlserver_requests.py)
def test_writes_blocked_then_killed_then_restarted(kafka: Kafka, database: Database, tmp_path: Path) -> None:
    url, topic = database.new_database(), kafka.new_topic(4)
    produce(kafka.bootstrap(), topic, 25_000, bad=0.001, seed=6)
    env = settings(kafka, url, topic, UNTIL="end", FLUSH_ROWS_MAX="2000", BATCH_RECORDS_MAX="500")
    with Cluster(FLOW, env, tmp_path, name="first") as run:
        await_progress(url, run, 10_000)
        with rows_locked(url):
            time.sleep(2)
            run.kill()
    ended(env, tmp_path, 0, name="second")
    difference = compare(url, expected(kafka.bootstrap(), topic))
    assert difference.equal, difference


def test_a_trickle_is_visible_without_waiting_for_more(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    """How soon is the benchmarks' matter."""
    url, topic = postgresql.new_database(), kafka.new_topic(1)
    with Cluster(FLOW, settings(kafka, url, topic), tmp_path) as run:
        for number in (1, 2):
            produce(kafka.bootstrap(), topic, 1, bad=0.0, seed=number, partitions=1)
            until(lambda number=number: taken_in(url) == number, timeout_s=120, what=f"order {number} is visible")  # type: ignore[misc]
        run.signal(signal.SIGTERM)
        assert run.wait(180) == [0]


@pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])
def test_the_database_is_restarted_while_it_runs(kafka: Kafka, kind: type[Database], tmp_path: Path) -> None:
    with kind() as own:
        url, topic = own.new_database(), kafka.new_topic(4)
        produce(kafka.bootstrap(), topic, 60_000, bad=0.001, seed=8)
        env = settings(kafka, url, topic, UNTIL="end", FLUSH_ROWS_MAX="2000", BATCH_RECORDS_MAX="500")
        with Cluster(FLOW, env, tmp_path) as run:
            for number in (1, 2):
                await_progress(url, run, 15_000)
                own.kill() if number == 1 else own.stop()
                own.start()
            assert run.wait(180) == [0], run.output()
            assert '"event": "retry"' in run.output()
        difference = compare(url, expected(kafka.bootstrap(), topic))
        assert difference.equal, difference


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_database_that_is_down_is_waited_for_then_75(kafka: Kafka, scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://postgres:postgres-secret@127.0.0.1:{free_ports(1)[0]}/shop"
    ended(settings(kafka, url, kafka.new_topic(), RETRY_MAX_S="3"), tmp_path, 75, "127.0.0.1", "refused")


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlserver"], indirect=True)
def test_a_wrong_password_of_the_database_is_78_and_names_the_setting(kafka: Kafka, database: Database, tmp_path: Path) -> None:
    url = database.new_database().replace(database.sql_password, "not-the-password")
    output = ended(settings(kafka, url, kafka.new_topic()), tmp_path, 78, "DATABASE_URL", "password")
    assert "not-the-password" not in output


def test_a_table_that_does_not_fit_is_78_with_all_differences(kafka: Kafka, database: Database, tmp_path: Path) -> None:
    url = database.new_database()
    with plain_engine(url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id varchar(20) PRIMARY KEY, order_id int NOT NULL, must int NOT NULL)")
    ended(settings(kafka, url, kafka.new_topic()), tmp_path, 78, "order_id", "must", "quantity")


def test_a_second_deployment_stands_by_while_the_first_is_alive(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    url, topic = postgresql.new_database(), kafka.new_topic(1)
    produce(kafka.bootstrap(), topic, 10_000, bad=0.0, seed=1, partitions=1)
    env = settings(kafka, url, topic, OWNER_STALE_S="4")  # the first one's heartbeat comes in time on a busy machine, too
    with Cluster(FLOW, env, tmp_path, name="first") as first:
        await_progress(url, first, 10_000)
        ended({**env, "RETRY_MAX_S": "2"}, tmp_path, 75, "alive", "Stop that one first", name="impatient")
        with Cluster(FLOW, env, tmp_path, name="stopped") as stopped:
            until(lambda: '"event": "standing_by"' in stopped.output(), timeout_s=180, what="it stands by")
            stopped.signal(signal.SIGTERM)
            assert stopped.wait(180) == [0], stopped.output()
        with Cluster(FLOW, env, tmp_path, name="second") as second:
            until(lambda: '"event": "standing_by"' in second.output(), timeout_s=180, what="it stands by")
            produce(kafka.bootstrap(), topic, 1_000, bad=0.0, seed=2, partitions=1)
            until(lambda: taken_in(url) == 11_000, timeout_s=180, what="the first one's progress")
            first.signal(signal.SIGTERM)
            assert first.wait(180) == [0], first.output()
            produce(kafka.bootstrap(), topic, 1_000, bad=0.0, seed=3, partitions=1)
            until(lambda: taken_in(url) == 12_000, timeout_s=180, what="the second one's progress")
            second.signal(signal.SIGTERM)
            assert second.wait(180) == [0], second.output()


def test_too_many_bad_records_stop_the_flow_and_resume_lets_them_pass(kafka: Kafka, mariadb: MariaDB, tmp_path: Path) -> None:
    url, topic = mariadb.new_database(), kafka.new_topic(1)
    produce(kafka.bootstrap(), topic, 3_000, bad=1.0, seed=1, partitions=1)
    env = settings(kafka, url, topic, UNTIL="end", BAD_RUN_MAX="500")
    for attempt in ("first", "second"):  # a restart does not reset the limit
        ended(env, tmp_path, 65, "bad records in a row", "waxwing resume orders", name=attempt)
    waxwing(env, "resume", "orders")
    ended(env, tmp_path, 0, name="third")
    with plain_engine(url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM waxwing_dead_letters")) == 3_000


def test_sigterm_while_a_write_is_blocked_ends_in_time(kafka: Kafka, database: Database, tmp_path: Path) -> None:
    url, topic = database.new_database(), kafka.new_topic(1)
    produce(kafka.bootstrap(), topic, 1_000, bad=0.0, seed=1, partitions=1)
    if isinstance(database, MariaDB):
        waiting = (
            "SELECT variable_value + 0 FROM information_schema.global_status "
            "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'"
        )
    else:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with Cluster(FLOW, settings(kafka, url, topic), tmp_path) as run, plain_engine(url).connect() as watch:

        def waits() -> bool:
            found = watch.scalar(sa.text(waiting))
            watch.rollback()  # the next look sees what is there then
            return bool(found)

        await_progress(url, run, 1_000)
        with rows_locked(url):
            produce(kafka.bootstrap(), topic, 1_000, bad=0.0, seed=2, partitions=1)
            until(waits, timeout_s=180, what="a write that waits")
            run.signal(signal.SIGTERM)
            assert run.wait(180) == [75], run.output()
        assert "Nothing is lost" in run.output()


def test_a_dropped_step_writes_everything_again(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    url, topic = postgresql.new_database(), kafka.new_topic(1)
    produce(kafka.bootstrap(), topic, 2_000, bad=0.05, seed=1, partitions=1)
    env = settings(kafka, url, topic, UNTIL="end")
    ended(env, tmp_path, 0, name="first")
    waxwing(env, "step", "drop", "orders", "orders", "--yes")
    ended(env, tmp_path, 0, name="second")
    difference = compare(url, expected(kafka.bootstrap(), topic))
    assert difference.equal, difference


def test_transactions_that_take_too_long_are_made_smaller(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    url, topic = postgresql.new_database(), kafka.new_topic(1)
    ended(settings(kafka, url, topic, UNTIL="end"), tmp_path, 0, name="makes the table")
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END'"
        )
        connection.execute("CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION slow()")
    produce(kafka.bootstrap(), topic, 1_500, bad=0.0, seed=1, partitions=1)
    output = ended(settings(kafka, url, topic, UNTIL="end", DATABASE_STATEMENT_TIMEOUT_S="1"), tmp_path, 0, name="run")
    assert "in halves" in output
    difference = compare(url, expected(kafka.bootstrap(), topic))
    assert difference.equal, difference


def test_a_header_whose_name_is_no_utf_8_stops_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """In two processes over SQLite, so that batches are pickled too."""
    topic, url = kafka.new_topic(2), f"sqlite:///{tmp_path}/orders.sqlite"
    produce(kafka.bootstrap(), topic, 100, bad=0.0, seed=1, partitions=2)
    for partition, value in enumerate((b"no order", b'{"order_id":"o","quantity":1,"unit_price":1}')):
        produce_with_header(kafka.bootstrap(), topic, partition, b"caf\xe9", value)
    with Cluster(FLOW, settings(kafka, url, topic, UNTIL="end"), tmp_path, processes=2) as run:
        assert run.wait(180) == [0, 0], run.output()
    difference = compare(url, expected(kafka.bootstrap(), topic))
    assert difference.equal, difference
    assert difference.dead_letters == 1


def waxwing(env: Mapping[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "waxwing", *words]
    subprocess.run(command, check=True, env={**env, "PATH": ""}, cwd=ROOT, timeout=60, capture_output=True)


def produce_with_header(bootstrap: str, topic: str, partition: int, name: bytes, value: bytes) -> None:
    """One message by librdkafka itself: its Python binding can't send such a header name, others can."""
    library = next(Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka-*"))
    kafka = ctypes.CDLL(str(library))
    kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = ctypes.c_void_p
    conf = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), None, ctypes.c_size_t(0))
    producer = ctypes.c_void_p(kafka.rd_kafka_new(0, conf, None, ctypes.c_size_t(0)))
    # rdkafka.h, rd_kafka_vtype_t: 1 topic, 3 partition, 4 value, 7 flags (2: copy the value), 9 header, 0 end
    words = [1, topic.encode(), 3, partition, 4, value, ctypes.c_size_t(len(value)), 7, 2, 9, name, b"x", ctypes.c_ssize_t(1), 0]
    assert kafka.rd_kafka_producev(producer, *(ctypes.c_int(word) if isinstance(word, int) else word for word in words)) == 0
    assert kafka.rd_kafka_flush(producer, 10_000) == 0
    kafka.rd_kafka_destroy(producer)
