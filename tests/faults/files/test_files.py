"""A flow into folders of files is killed again and again, alone and as a mesh, while another program reads: each row once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import duckdb
import msgspec
import pytest

from tests.faults.cluster import Cluster
from tests.faults.files.flow import EACH, PARTITIONS, Reading, messages
from tests.servers.process import until


class Reader:
    """Another program that looks at the folders: what it has seen stays, and nothing comes twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = 0

    def look(self) -> int:
        """How many rows there are."""
        if not any((self._folder / "readings").rglob("*.parquet")):
            return 0
        with duckdb.connect() as connection:
            query = f"SELECT count(*), count(DISTINCT id) FROM '{self._folder}/readings/**/*.parquet'"
            found = connection.execute(query).fetchone()
        assert found is not None
        assert found[0] == found[1], "a row is there twice"
        assert found[0] >= self.rows, "a row is gone"
        self.rows = found[0]
        return self.rows


def check(folder: Path) -> None:
    """All is there once: rows, dead letters, windows."""
    good = [msgspec.json.decode(m, type=Reading) for p in range(PARTITIONS) for m in messages(p) if m != b"?"]
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT id FROM '{folder}/readings/**/*.parquet' ORDER BY id").fetchall()
        assert [row[0] for row in rows] == [one.id for one in good]
        letters = f'SELECT "partition", "offset" FROM \'{folder}/readings_dead_letters/*.parquet\' ORDER BY ALL'
        assert connection.execute(letters).fetchall() == [(p, n) for p in range(PARTITIONS) for n in range(99, EACH, 100)]
        windows = connection.execute(
            f"SELECT epoch(window_start)::bigint, n, total FROM '{folder}/minutes/*.parquet' ORDER BY 1"
        ).fetchall()
    want: dict[int, list[int]] = {}
    for one in good:
        want.setdefault(int(one.at.timestamp()) // 60 * 60, []).append(one.id)
    assert windows == [(start, len(ids), sum(ids)) for start, ids in sorted(want.items())]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 5), (2, 2)])
def test_a_flow_that_is_killed_while_another_program_reads_writes_each_row_once(
    tmp_path: Path, processes: int, kills: int
) -> None:
    rng, reader = random.Random(processes), Reader(tmp_path)
    env = {
        "FOLDER": str(tmp_path),
        "LANES": "3",
        "WINDOW_BUCKETS": "2",
        "PARQUET_FILE_AGE_S": "0",
        "WINDOW_SNAPSHOT_INTERVAL_S": "0.05",
        "OWNER_STALE_S": "0.5",
        "PATH": os.environ["PATH"],
    }
    for kill in range(kills):
        with Cluster("tests.faults.files.flow:flow", env, tmp_path, processes=processes, name=f"run-{kill}") as cluster:
            after = reader.rows + rng.randint(1, 4_500 // kills)

            def came_further(cluster: Cluster = cluster, after: int = after) -> bool:
                return reader.look() >= after or not cluster.running()

            until(came_further, timeout_s=120, what="it comes further")
            cluster.kill_one(kill)
    with Cluster("tests.faults.files.flow:flow", env, tmp_path, processes=processes, name="last") as cluster:
        until(lambda: reader.look() >= 0 and not cluster.running(), timeout_s=240, what="it ends")
        assert cluster.codes() == [0] * processes, cluster.output()[-3_000:]
    check(tmp_path)
