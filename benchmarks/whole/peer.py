"""Beside a peer: the same orders into PostgreSQL, the whole process from its start until its last row is visible, in pairs."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import sqlalchemy as sa

from benchmarks.databases import Place
from benchmarks.shapes import Topic
from benchmarks.spread import Spread
from benchmarks.whole.runs import turns
from benchmarks.whole.sending import cpu_s
from benchmarks.whole.trees import Tree
from tests.faults.cluster import LAUNCH, ROOT, Cluster
from tests.faults.recompute import plain_engine, records

PROGRAM = "benchmarks/programs/pathway_orders.py"
TABLE = "peer_orders"  # the program's, which can't be imported here
LOOK_INTERVAL_S = 0.02
TIMEOUT_S = 600.0
# The orders' own table, but that the peer writes doubles and keeps the name `id` for itself.
MAKE = (
    f"""CREATE TABLE {TABLE} (
        row_id varchar(36) PRIMARY KEY, order_id varchar(255) NOT NULL, customer varchar(255), quantity integer NOT NULL,
        unit_price double precision, total_value double precision, processed_at bigint,
        created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now()
    )""",
    f"CREATE INDEX ON {TABLE} (order_id)",
    f"CREATE INDEX ON {TABLE} (processed_at)",
)
COLUMNS = ("process", "seconds", "own CPU, s", "peak memory, MB")
RATIOS = ("the peer takes, times our seconds", "CPU", "memory")


@dataclass(frozen=True)
class Process:
    """One process from its start until its last row was visible."""

    seconds: float
    cpu_s: float
    peak_mb: float


def version(python: str) -> str:
    """Which Pathway that Python has; empty: none."""
    code = "from importlib.metadata import version; print(version('pathway'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def measure(
    place: Place, topic: Topic, folder: Path, trees: Sequence[Tree], python: str, repeats: int
) -> Mapping[str, Sequence[Process]]:
    """By tree (and "peer"), the repeats; the order within them changes."""
    last = _last_orders(topic)
    done: dict[str, list[Process]] = defaultdict(list)
    for repeat in range(repeats):
        for tree in [*turns(trees, repeat), None]:
            url = place.empty("peer")
            if tree is None:
                done["peer"].append(_peer(url, topic, folder, python, last))
                continue
            began_s = time.perf_counter()
            with Cluster(topic.shape.flow, {**topic.env(url), **tree.env}, folder, root=tree.root) as cluster:
                done[tree.title].append(
                    _until_visible(url, "orders", last, topic.records, cluster.pids, began_s, cluster.running)
                )
    return done


def _last_orders(topic: Topic) -> Sequence[str]:
    """The last order of each partition: each comes behind all others of its own."""
    out = {partition: message.value() for partition, _, message in records(topic.bootstrap, topic.name)}
    return [orjson.loads(value or b"")["order_id"] for value in out.values()]


def _peer(url: str, topic: Topic, folder: Path, python: str, last: Sequence[str]) -> Process:
    engine, address = plain_engine(url), sa.make_url(url)
    with engine.begin() as connection:
        for statement in MAKE:
            connection.execute(sa.text(statement))
    words = [topic.bootstrap, topic.name, address.host, str(address.port), address.username, address.password, address.database]
    with (folder / "peer.log").open("wb") as log:
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [*LAUNCH, python, str(ROOT / PROGRAM), *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        return _until_visible(url, TABLE, last, topic.records, [process.pid], began_s, lambda: process.poll() is None)
    finally:
        process.kill()
        process.wait()


def _until_visible(
    url: str,
    table: str,
    last: Sequence[str],
    rows: int,
    pids: Sequence[int],
    began_s: float,
    running: Callable[[], bool],
) -> Process:
    """Wait for the last orders by their index, which disturbs nobody; then the rows are counted."""
    names = ", ".join(f"'{order_id}'" for order_id in last)
    there = sa.text(f"SELECT count(*) FROM {table} WHERE order_id IN ({names})")
    with plain_engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while _scalar(connection, there) < len(last):
            if not running() or time.perf_counter() - began_s > TIMEOUT_S:
                raise SystemExit(f"{table} was not filled")
            time.sleep(LOOK_INTERVAL_S)
        made = Process(time.perf_counter() - began_s, cpu_s(pids), _peak_mb(pids))
        if (found := _scalar(connection, sa.text(f"SELECT count(*) FROM {table}"))) != rows:
            raise SystemExit(f"{table}: {found:,} rows instead of {rows:,} were there with the last order of each partition")
    return made


def _scalar(connection: sa.Connection, query: sa.TextClause) -> int:
    try:
        return int(connection.scalar(query) or 0)
    except sa.exc.DBAPIError:  # not made yet
        return 0


def _peak_mb(pids: Sequence[int]) -> float:
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return max(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("VmHWM")) / 1024


def cells(done: Mapping[str, Sequence[Process]]) -> list[list[str]]:
    """The rows of the table (COLUMNS and RATIOS)."""
    peer, out = _spreads(done["peer"]), []
    for who, found in done.items():
        ours = _spreads(found)
        row = [who, *(spread.text(form) for spread, form in zip(ours, (".2f", ".2f", ".0f"), strict=True))]
        out.append([*row, *("" if who == "peer" else one.over(mine).text(".2f") for one, mine in zip(peer, ours, strict=True))])
    return out


def _spreads(found: Sequence[Process]) -> tuple[Spread, Spread, Spread]:
    return (
        Spread([each.seconds for each in found]),
        Spread([each.cpu_s for each in found]),
        Spread([each.peak_mb for each in found]),
    )
