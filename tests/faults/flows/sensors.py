"""Readings and their statistics, into files, a topic and a table by one flow, which is killed, frozen and restarted; everything
that it wrote is held against another computation, and its files are read all the while.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from dataflows.sensors_generator import readings
from tests.conformance.targets.kinds import read_committed
from tests.dataflows.recompute_sensors import COLUMNS, expected, reading_of
from tests.faults.flows.files import FORMATS, Files
from tests.faults.flows.storm import PARTITIONS, Events, FlowStorm, StormError
from tests.faults.recompute import plain_engine, records
from tests.faults.storm.load import Load
from tests.faults.storm.window_load import Timed, TimedSender
from tests.servers import Kafka

FIRST_S = 1_767_225_600.0
EACH_S = 1.0  # from one reading of a sensor to its next
SETTINGS = {
    # Small and young files, so that a kill finds some under way.
    "PARQUET_FILE_AGE_S": "1",
    "PARQUET_FILE_ROWS_MAX": "3000",
    "DELTA_COMMIT_AGE_S": "1",
    "DELTA_COMMIT_ROWS_MAX": "3000",
    "WINDOW_SNAPSHOT_INTERVAL_S": "0.5",
}


class ReadingsLoad(Load):
    """Readings from all partitions in turn, each with its own time or its message's."""

    sender = TimedSender

    def __init__(self, bootstrap: str, topic: str, count: int, *, bad: float, seed: int, sensors: int) -> None:
        self._sensors = sensors
        super().__init__(bootstrap, topic, count, bad=bad, seed=seed)

    def _chunks(self) -> Iterator[Sequence[Timed]]:
        n, step_s = 0, EACH_S / self._sensors
        of = {"sensors": self._sensors, "ts": "mixed", "first_s": FIRST_S, "step_s": step_s, "late_ratio": 0.005}
        for chunk in readings(self._count, bad_ratio=self._bad, seed=self._seed, **of):  # type: ignore[arg-type]
            timed = []
            for key, value in chunk:
                timed.append((n % PARTITIONS, round((FIRST_S + n * step_s) * 1000), key, value))
                n += 1
            yield timed

    def _total(self) -> int:
        return self._count


class SensorsStorm(FlowStorm):
    """The flow sensors with its outputs."""

    module = "dataflows.sensors"

    def __init__(
        self,
        kafka: Kafka,
        folder: Path,
        *,
        readings: int,
        events: Events,
        outputs: Sequence[str],
        sensors: int = 20,
        url: str = "",
        form: str = "parquet",
        say: Callable[[str], None] = print,
    ) -> None:
        self._topic, self._url, self._outputs = kafka.new_topic(PARTITIONS), url, outputs
        self._stats = f"{self._topic}-stats"
        self._files = Files(FORMATS[form], folder / "files")
        load = ReadingsLoad(kafka.bootstrap(), self._topic, readings, bad=0.001, seed=events.seed, sensors=sensors)
        super().__init__(kafka, folder, load, events, say)
        told = {
            "SOURCE_TOPIC": self._topic,
            "SENSOR_STATS_TOPIC": self._stats,
            "SENSOR_OUTPUTS": ",".join(outputs),
            "SENSORS_PATH": str(self._files.folder),
            "SENSORS_FORMAT": form,
            "DATABASE_URL": url,
            "FLOW_NAME": f"sensors-{self._topic}",
        }
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        if "files" in outputs:
            self._watcher = threading.Thread(target=self._files.watch, args=(self._stop,), name="watch")
            self._watcher.start()
        self.parts = {"sensors": {**(SETTINGS if events.kills else {}), **told}}

    def stop_watching(self) -> None:
        if self._watcher is not None:
            self._stop.set()
            self._watcher.join()

    def compare(self) -> str:
        taken = [(p, offset, m.value(), m.timestamp()[1]) for p, offset, m in records(self._kafka.bootstrap(), self._topic)]
        want = expected(taken)
        stats = sorted((*key, *row) for key, row in want.rows.items())
        places = Counter([*want.bad, *want.late])
        said = [f"equal: {len(taken):,} readings"]
        if "files" in self._outputs:
            kept = Counter(found for *_, value, ms in taken if (found := reading_of(value, ms)) is not None)
            _same("readings in files", self._files.readings(), kept)
            _same("refused in files", self._files.letters("sensor_data"), Counter(want.bad))
            _same("statistics in files", self._files.statistics(), Counter(stats))
            _same("refused statistics in files", self._files.letters("sensor_data_stats"), Counter(want.late))
            said.append(self._files.told())
        if "topic" in self._outputs:
            _same("messages", self._in_topic(), Counter(stats))
            letters = (headers for _, _, headers in read_committed(self._kafka, f"{self._stats}.dead_letters"))
            of_letters = Counter((int(one["waxwing.partition"]), int(one["waxwing.offset"])) for one in letters)
            _same("refused beside the topic", of_letters, places)
        if "table" in self._outputs:
            rows, of_letters = self._in_table()
            _same("rows", rows, Counter(stats))
            _same("refused beside the table", of_letters, places)
        said.append(
            f"{len(stats):,} statistics in {' and '.join(self._outputs)}; refused: {len(want.bad)}, late: {len(want.late)}"
        )
        return "; ".join(said)

    def _in_topic(self) -> Counter[tuple[Any, ...]]:
        found: Counter[tuple[Any, ...]] = Counter()
        for key, value, _ in read_committed(self._kafka, self._stats):
            row = msgspec.json.decode(value)
            assert key == row["sensor"].encode()
            times = (datetime.fromisoformat(row[name]) for name in ("window_start", "ts"))
            found[row["sensor"], *times, *(row[name] for name in COLUMNS)] += 1
        return found

    def _in_table(self) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[int, int]]]:
        columns = ", ".join(COLUMNS)
        with plain_engine(self._url).connect() as connection:
            rows = connection.execute(sa.text(f"SELECT sensor, window_start, ts, {columns} FROM sensor_data_stats")).all()
            letters = connection.execute(sa.text("SELECT source_partition, source_offset FROM waxwing_dead_letters")).all()
        return (
            Counter((row[0], _utc(row[1]), _utc(row[2]), *row[3:]) for row in rows),
            Counter((partition, offset) for partition, offset in letters),
        )


def _utc(value: Any) -> datetime:
    """A time of the table; SQLite has it as a text."""
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).replace(tzinfo=UTC)


def _same(what: str, found: Counter[Any], wanted: Counter[Any]) -> None:
    if found != wanted:
        lost, more = wanted - found, found - wanted
        some = lost.most_common(3), more.most_common(3)
        raise StormError(f"{what}: {lost.total()} are missing, {more.total()} too many: {some}")
