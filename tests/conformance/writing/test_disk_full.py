"""A full disk: the flow ends with 75 and says what to do; once there is room it goes on, and nothing is lost or doubled."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import SqlTarget, Upsert
from sinks.writer.writer import Writer
from tests.conformance.place import Place, make_place
from tests.servers import MariaDB, PostgreSQL
from tests.servers.disk import small_disk
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Start
from waxwing.errors import EXIT_TRY_AGAIN, TryLater
from waxwing.settings import SqlSettings

STREAM = Stream("full", "topic", "topic-id", 0)
ROWS, WIDTH = 200, 20_000


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder of a few megabytes, open to every user."""
    with small_disk(24) as folder:
        yield folder


def fill(disk: Path) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(b"x" * max(free - 400_000, 0))


def target(place: Place) -> SqlTarget:
    table = sa.Table("wide", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.Text))
    url = SecretStr(place.url.render_as_string(hide_password=False))
    to = SqlTarget(SqlSettings(database_url=url, owner_stale_s=1.0, retry_max_s=20.0), table, Upsert(keys=("id",)))
    to.bind("full", "full.out")
    to.prepare()
    to.begin([Start(STREAM, 0, None)])
    return to


def write(to: SqlTarget) -> None:
    messages = Columns(list(range(ROWS)), [None] * ROWS, [b""] * ROWS, [0] * ROWS, [()] * ROWS)
    # (No two rows are alike: servers compress long texts.)
    letters = random.Random(5)
    rows = [(number, letters.randbytes(WIDTH // 2).hex()) for number in range(ROWS)]
    writer = Writer(to, "lane-000")
    try:
        writer.put(Batch(STREAM, "lane-000", 0, ROWS, messages, rows, list(range(ROWS)), [], []))
        writer.flush()
    finally:
        writer.close()


def check(place: Place, full: Callable[[], object], room: Callable[[], object], hint: str) -> None:
    to = target(place)
    full()
    with pytest.raises(TryLater) as stopped:
        write(to)
    assert stopped.value.exit_code == EXIT_TRY_AGAIN
    assert hint in stopped.value.hint
    room()
    write(target(place))
    with place.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM wide")) == ROWS
        assert connection.scalar(sa.text("SELECT count(*) FROM waxwing_dead_letters")) == 0
        assert connection.scalar(sa.text("SELECT offset_next FROM waxwing_progress")) == ROWS


def test_sqlite_on_a_full_disk(disk: Path) -> None:
    check(
        make_place(sa.make_url(f"sqlite:///{disk}/x.sqlite")), partial(fill, disk), (disk / "ballast").unlink, "Free disk space"
    )


def test_postgresql_on_a_full_disk(disk: Path, postgresql: PostgreSQL) -> None:
    folder = disk / "tablespace"
    folder.mkdir()
    if postgresql.user != "-":
        shutil.chown(folder, postgresql.user)
    place = make_place(sa.make_url(postgresql.new_database()))
    admin = make_place(sa.make_url(postgresql.url()))
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
    place.run("CREATE TABLE wide (id integer PRIMARY KEY, v text STORAGE EXTERNAL) TABLESPACE small")
    try:
        check(place, partial(fill, disk), (disk / "ballast").unlink, "Free disk space on the database server")
    finally:
        place.run("DROP TABLE wide")
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("DROP TABLESPACE small")


def test_mariadb_on_a_full_tablespace() -> None:
    """(A disk of its own that is full makes InnoDB crash; a tablespace that may not grow says so.)"""
    sizes = {
        "innodb-file-per-table": "0",
        "innodb-data-file-path": "ibdata1:12M:autoextend:max:24M",
        "innodb-undo-tablespaces": "0",
    }
    with MariaDB(settings={**sizes, "innodb-buffer-pool-size": "32M"}) as server:
        place = make_place(sa.make_url(server.new_database()))
        place.run("CREATE TABLE ballast (v longtext)")

        def fill_it() -> None:
            for _ in range(100):
                place.run("INSERT INTO ballast VALUES (repeat('x', 900000))")

        full = partial(pytest.raises, sa.exc.OperationalError, fill_it)

        def room() -> None:
            server.stop()
            server._settings["innodb-data-file-path"] = "ibdata1:12M:autoextend"
            server.start()

        check(place, full, room, "full: make room")


def test_a_recovery_store_on_a_full_disk_ends_the_run_with_75(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "grows.py").write_text(
        "import bytewax.operators as op\n"
        "from bytewax.connectors.stdio import StdOutSink\n"
        "from bytewax.dataflow import Dataflow\n"
        "from bytewax.testing import TestingSource\n"
        "from waxwing.runtime import starting\n\n"
        "def flow():\n"
        "    with starting():\n"
        "        flow = Dataflow('grows')\n"
        "        items = op.input('in', flow, TestingSource([(f'k{n}', 'x' * 20_000) for n in range(500)]))\n"
        "        kept = op.stateful_map('keep', items, lambda state, value: (value, value))\n"
        "        op.output('out', op.filter('none', kept, lambda item: False), StdOutSink())\n"
        "        return flow\n"
    )
    store = disk / "store"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "1"], check=True)
    fill(disk)
    command = [sys.executable, "-m", "bytewax.run", "grows:flow()", "-r", str(store), "-s", "0", "-b", "0"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == EXIT_TRY_AGAIN, run.stderr
    assert "The recovery store (-r) can't be written: database or disk is full. Make room" in run.stderr
    assert "panicked" not in run.stderr
