"""Databases as a release leaves them half-way: `python -m tests.migration.make --release 9766af2`.

That release's own flows run on a real topic and real databases: a first run is stopped, a second one killed with batches under
way. What it left is kept as text in `data/RELEASE/` (dump.py), for tests that let the present release go on from there.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import Producer, TopicCollection

from tests.faults.cluster import LAUNCH, ROOT
from tests.faults.recompute import plain_engine
from tests.faults.watch import taken_in
from tests.migration import dump, topic
from tests.servers import Kafka, MariaDB, PostgreSQL, SQLServer
from tests.servers.process import until

HERE = Path(__file__).parent
WHAT = ("databases", "definitions", "recovery", "code")
# In the second run buckets write when windows close, else not: the kill finds each at a place of its own, behind the rows.
SECOND_RUN = {"BATCH_RECORDS_MAX": "10", "WINDOW_SNAPSHOT_INTERVAL_S": "600"}
PATIENCE_S = 900.0
# Its test server takes a second or more for each new connection.
FEW_CONNECTIONS = {"LANES": "1", "WINDOW_BUCKETS": str(dump.buckets_of("sqlserver")), "DATABASE_STATEMENT_TIMEOUT_S": "300"}


@dataclass(frozen=True)
class Database:
    """One database to be filled, and by which flows."""

    kind: str
    totals: dump.Totals
    url: str
    made: Path  # where record.py notes what was made

    @property
    def flows(self) -> Sequence[str]:
        return ["dataflows.orders", "visits"] if self.totals == "on_close" else ["dataflows.orders"]


class Run:
    """One flow of a release, as a process of its own."""

    def __init__(self, code: Path, flow: str, database: Database, env: Mapping[str, str], log: Path) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("KAFKA_", "DATABASE_", "BYTEWAX_"))}
        env = {**clean, **env, "DATABASE_URL": database.url, "PYTHONPATH": f"{code}:{flows_of(code)}", "RETRY_MAX_S": "120"}
        if flow != "visits":
            env["ORDER_TOTALS"] = database.totals
        self.log = log
        with log.open("wb") as out:
            command = [*LAUNCH, sys.executable, "-P", str(HERE / "record.py"), str(database.made), flow]
            self.process = subprocess.Popen(command, env=env, cwd=code, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def check(self) -> bool:
        """It runs."""
        assert self.process.poll() is None, f"exit {self.process.returncode}: {self.log.read_text()[-3_000:]}"
        return True

    def stop(self) -> int:
        """Let it end as asked; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def lowest(database: Database, flow: str) -> int:
    """Records behind the positions of a flow's steps; for windows, which keep theirs inside, the emissions."""
    if flow == "dataflows.orders":
        return taken_in(database.url)
    with plain_engine(database.url).connect() as connection:
        try:
            return int(
                connection.exec_driver_sql("SELECT SUM(offset_next) FROM waxwing_progress WHERE flow = 'visits'").scalar() or 0
            )
        except Exception:  # no such table yet
            return 0


def fill(code: Path, database: Database, env: Mapping[str, str], logs: Path, *, last: bool) -> None:
    """Let the release's flows take in what is in the topic; then stop them, or kill them on the way."""
    for flow in database.flows:
        more = FEW_CONNECTIONS if database.kind == "sqlserver" else {}
        log = logs / f"{database.kind}-{database.totals}-{flow}.log"
        run = Run(code, flow, database, {**env, **more, **(SECOND_RUN if last else {})}, log)
        try:
            if flow == "visits":
                await_taken(run, database, flow, lowest(database, flow) + 1)
            else:
                await_taken(run, database, flow, topic.SECOND if last else topic.FIRST)
            ended = "killed" if last else f"stopped ({run.stop()})"
        finally:
            run.kill()
        print(f"  {database.kind}, {database.totals}: {flow} {ended} at {lowest(database, flow)}", flush=True)


def await_taken(run: Run, database: Database, flow: str, goal: int) -> None:
    until(lambda: run.check() and lowest(database, flow) >= goal, timeout_s=PATIENCE_S, what=f"{flow} took in {goal}")


def archived(release: str) -> None:
    """Keep what the release runs by, for tests that have no history."""
    tar = subprocess.run(
        ["git", "archive", release, "waxwing", "sinks", "sources", "dataflows"], cwd=ROOT, check=True, capture_output=True
    )
    (topic.DATA / release / "code.tar.xz").write_bytes(lzma.compress(tar.stdout, preset=9 | lzma.PRESET_EXTREME))


def definitions(release: str, code: Path) -> None:
    """Keep what the release writes of every kind of windows."""
    env = {**os.environ, "PYTHONPATH": f"{code}:{flows_of(code)}"}
    command = [sys.executable, "-P", str(flows_of(code) / "definitions.py")]
    done = subprocess.run(command, env=env, cwd=code, check=True, capture_output=True, text=True)
    keep(release, "definitions.json", json.loads(done.stdout))


def keys_in(store: Path, step: str) -> int:
    """For how many keys of such a step there are snapshots."""
    with closing(sqlite3.connect(next(store.glob("part-*.sqlite3")))) as db:
        return int(db.execute("SELECT COUNT(DISTINCT state_key) FROM snaps WHERE step_id LIKE ?", (step,)).fetchone()[0])


def recovered(release: str, code: Path, env: Mapping[str, str], folder: Path, *, last: bool) -> None:
    """Let the release's flow into plain Bytewax sinks take in what is in the topic; keep what `-r` stored of it."""
    store = folder / "recovery"
    if not store.is_dir():
        store.mkdir()
        subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "1"], check=True)
    env = {**os.environ, **env, "PYTHONPATH": f"{code}:{flows_of(code)}", "UNTIL": "end" if last else ""}
    command = [*LAUNCH, sys.executable, "-P", "-m", "bytewax.run", "visits:plain", "-r", str(store), "-s", "1", "-b", "0"]
    with (folder / "plain.log").open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=code, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            if not last:
                seen = partial(keys_in, store, "plain.totals.lanes%")
                until(lambda: seen() == topic.PARTITIONS, timeout_s=PATIENCE_S, what="each partition has a snapshot")
                process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, (folder / "plain.log").read_text()[-3_000:]
        finally:
            process.kill()
            process.wait()
    with closing(sqlite3.connect(next(store.glob("part-*.sqlite3")))) as db:
        query = "SELECT step_id, state_key, ser_change FROM snaps ORDER BY snap_epoch"
        newest = {(step, key): pickled.hex() for step, key, pickled in db.execute(query) if pickled is not None}
    states = [[step, key, pickled] for (step, key), pickled in sorted(newest.items())]
    keep(release, f"recovery-{'ended' if last else 'stopped'}.json", states)


def keep(release: str, name: str, value: object) -> None:
    path = topic.DATA / release / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def flows_of(code: Path) -> Path:
    """Where the flows stand that only this needs: the release's own, where it has them."""
    own = code / "tests/migration"
    return own if own.is_dir() else HERE


def send(bootstrap: str, messages: Sequence[topic.Sent], name: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for one in messages:
        producer.produce(name, one.value, one.key, one.partition, timestamp=one.time_ms, headers=list(one.headers))
    assert producer.flush(60) == 0


@contextmanager
def code_of(release: str) -> Iterator[Path]:
    """The release's files, in a folder."""
    with tempfile.TemporaryDirectory(prefix="waxwing-release-") as folder:
        archive = subprocess.run(["git", "archive", release], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.migration.make", description=__doc__)
    parser.add_argument("--release", required=True, help="a commit; its short name becomes the folder's")
    parser.add_argument("--databases", nargs="*", default=["sqlite", "postgresql", "mariadb", "sqlserver"])
    parser.add_argument("--only", nargs="*", default=WHAT[:3], choices=WHAT)
    parser.add_argument("--new-messages", action="store_true", help="make the messages anew: then all releases' dumps have to be")
    arguments = parser.parse_args()
    if arguments.new_messages:
        topic.save(topic.made())
    messages = topic.stored()
    what = set(arguments.only)
    with ExitStack() as stack:
        code = stack.enter_context(code_of(arguments.release))
        if "code" in what:
            archived(arguments.release)
        if "definitions" in what:
            definitions(arguments.release, code)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waxwing-dumps-")))
        kafka = stack.enter_context(Kafka())
        bootstrap = kafka.bootstrap()
        name = f"{topic.NAME}-{arguments.release}"
        kafka.create_topic(name, topic.PARTITIONS)
        kinds = {"postgresql": PostgreSQL, "mariadb": MariaDB, "sqlserver": SQLServer}
        servers = {
            kind: stack.enter_context(kinds[kind]()) for kind in arguments.databases if kind != "sqlite" and "databases" in what
        }
        databases = []
        for kind in arguments.databases if "databases" in what else ():
            for totals in dump.OF_FORMS:
                url = f"sqlite:///{folder}/{totals}.sqlite" if kind == "sqlite" else servers[kind].new_database()
                databases.append(Database(kind, totals, url, folder / f"{kind}-{totals}.made"))
        env = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "SOURCE_TOPIC": name}
        for first, end in ((0, topic.FIRST), (topic.FIRST, topic.SECOND)):
            send(bootstrap, messages[first:end], name)
            last = end == topic.SECOND
            if "recovery" in what:
                recovered(arguments.release, code, env, folder, last=last)
            with ThreadPoolExecutor(max_workers=1 if arguments.databases == ["sqlserver"] else 2) as pool:
                for done in [pool.submit(fill, code, database, env, folder, last=last) for database in databases]:
                    done.result()
        described = kafka.admin.describe_topics(TopicCollection([name]))[name].result()
        for database in databases:
            made = list(dict.fromkeys(json.loads(line) for line in database.made.read_text().splitlines()))
            facts = dump.Facts(arguments.release, database.kind, database.totals, name, str(described.topic_id))
            path = dump.save(facts, database.url, made)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
