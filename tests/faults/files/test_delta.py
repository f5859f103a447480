"""A flow into Delta tables is killed again and again, on a disk and in an object store, while others read, compact and vacuum:
each row is there once."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from tests.faults.cluster import Cluster
from tests.faults.files.flow import EACH, PARTITIONS, Reading, messages
from tests.servers.process import until
from tests.servers.s3 import S3

ENV = {
    "FORM": "delta",
    "LANES": "3",
    "WINDOW_BUCKETS": "2",
    "DELTA_COMMIT_AGE_S": "0.05",
    "WINDOW_SNAPSHOT_INTERVAL_S": "0.05",
    "OWNER_STALE_S": "0.5",
    "PATH": os.environ["PATH"],
}
FLOW = "tests.faults.files.flow:flow"


class Lake:
    """What others see of the tables: what was there stays, and nothing comes twice."""

    def __init__(self, lake: str, options: Mapping[str, str]) -> None:
        self.path, self._options = lake, dict(options)
        self.rows = 0

    def table(self, name: str) -> DeltaTable:
        return DeltaTable(f"{self.path}/{name}", storage_options=self._options)

    def read(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table(name).to_pyarrow_table().to_pylist()
        return found

    def look(self) -> int:
        """How many rows there are."""
        try:
            ids = [row["id"] for row in self.read("readings")]
        except TableNotFoundError:
            return 0
        assert len(ids) == len(set(ids)), "a row is there twice"
        assert len(ids) >= self.rows, "a row is gone"
        self.rows = len(ids)
        return self.rows

    def count(self) -> int:
        """The same, as the log says."""
        try:
            return self.table("readings").count()
        except TableNotFoundError:
            return 0

    def tidy(self) -> None:
        """What somebody does to tables now and then."""
        for name in ("readings", "readings_dead_letters", "minutes"):
            table = self.table(name)
            table.optimize.compact()
            table.vacuum(0, dry_run=False, enforce_retention_duration=False)
            table.create_checkpoint()

    def check(self) -> None:
        """All is there once: rows, dead letters, windows."""
        good = [msgspec.json.decode(m, type=Reading) for p in range(PARTITIONS) for m in messages(p) if m != b"?"]
        rows = sorted((row["id"], row["kafka_partition"], row["kafka_offset"], row["hour"]) for row in self.read("readings"))
        assert rows == [(one.id, one.id // EACH, one.id % EACH, one.at.hour) for one in good]
        letters = sorted((row["partition"], row["offset"]) for row in self.read("readings_dead_letters"))
        assert letters == [(p, n) for p in range(PARTITIONS) for n in range(99, EACH, 100)]
        want: dict[int, list[int]] = {}
        for one in good:
            want.setdefault(int(one.at.timestamp()) // 60 * 60, []).append(one.id)
        found = sorted((int(row["window_start"].timestamp()), row["n"], row["total"]) for row in self.read("minutes"))
        assert found == [(start, len(ids), sum(ids)) for start, ids in sorted(want.items())]


def storm(lake: Lake, env: Mapping[str, str], logs: Path, *, processes: int, kills: int) -> str:
    """Kills, and a last run to the end. What was said."""
    rng, told = random.Random(processes), ""
    for kill in range(kills):
        with Cluster(FLOW, env, logs, processes=processes, name=f"run-{kill}") as cluster:
            after = lake.rows + rng.randint(1, 1_000)

            def came_further(cluster: Cluster = cluster, after: int = after) -> bool:
                return lake.count() >= after or not cluster.running()

            until(came_further, timeout_s=120, what="it comes further")
            assert cluster.running() or set(cluster.codes()) == {0}, cluster.output()[-3_000:]
            cluster.kill_one(kill)
            told += cluster.output()
        lake.look()
        lake.tidy()
        lake.look()
    with Cluster(FLOW, env, logs, processes=processes, name="last") as cluster:
        assert cluster.wait(240) == [0] * processes, cluster.output()[-3_000:]
        told += cluster.output()
    lake.check()
    return told


@pytest.mark.slow
def test_a_mesh_that_is_killed_while_others_compact_and_vacuum_writes_each_row_once(tmp_path: Path) -> None:
    storm(Lake(f"{tmp_path}/lake", {}), {**ENV, "FOLDER": f"{tmp_path}/lake"}, tmp_path, processes=2, kills=2)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as store:
        yield store


@pytest.mark.slow
def test_a_flow_into_an_object_store_that_is_killed_writes_each_row_once_and_tells_no_secret(s3: S3, tmp_path: Path) -> None:
    options = msgspec.json.encode(s3.options).decode()
    lake = Lake("s3://lake/of/ours", s3.options)
    env = {**ENV, "FOLDER": lake.path, "DELTA_STORAGE_OPTIONS": options, "LANES": "2", "DELTA_COMMIT_AGE_S": "0.5"}
    told = storm(lake, {**env, "WINDOW_SNAPSHOT_INTERVAL_S": "0.5"}, tmp_path, processes=1, kills=1)
    assert '"begins"' in told
    assert all(s3.options[f"AWS_{name}"] not in told for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
