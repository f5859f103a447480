"""Readings into files, Delta tables and topics: the whole flow beside decoding and the bare writer, one after the other."""

from __future__ import annotations

import gc
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.dataset as ds
from confluent_kafka import Producer
from deltalake import DeltaTable

from benchmarks.outputs.bare import OUTPUTS, decoded, writers
from benchmarks.report import Report
from benchmarks.shapes import PARTITIONS, START_RECORDS
from benchmarks.spread import Spread
from benchmarks.whole.runs import Run, run
from dataflows.sending import PRODUCER_CONFIG, Sender
from dataflows.sensors_generator import readings
from tests.faults.watch import end_offsets
from tests.servers import Kafka

FLOW = "benchmarks.outputs.flow"
SENSORS = 1_000
# So many readings a second they are of, so that a million fall into a few hours.
STEP_S, FIRST_S = 0.005, 1_767_225_600.0
COLUMNS = (
    "into",
    "readings/s",
    "running",
    "of decoding, then the bare writer",
    "bare writer alone, readings/s",
    "own CPU, us/reading",
    "running",
    "peak memory, MB",
)


def fill(kafka: Kafka, topic: str, count: int) -> None:
    """A topic of readings, all of them good."""
    kafka.create_topic(topic, PARTITIONS)
    sender = Sender(Producer({**PRODUCER_CONFIG, "bootstrap.servers": kafka.bootstrap()}), topic)
    for chunk in readings(count, bad_ratio=0, seed=1, sensors=SENSORS, ts="fraction", first_s=FIRST_S, step_s=STEP_S):
        sender.send(chunk)
    if missing := sender.finish():
        raise SystemExit(f"{missing:,} readings were not acknowledged: {sender.refused}")


def measure(report: Report, kafka: Kafka, folder: Path, records: int, repeats: int) -> None:
    """The table."""
    for name, count in (("readings", records), ("readings-start", START_RECORDS)):
        fill(kafka, name, count)
    runs: dict[str, list[Run]] = defaultdict(list)
    starts: dict[str, list[Run]] = defaultdict(list)
    bare: dict[str, list[float]] = defaultdict(list)
    decoding: list[float] = []
    for repeat in range(repeats):
        rows, seconds = decoded(kafka.bootstrap(), "readings", records)
        decoding.append(seconds)
        for output, write in writers(kafka.bootstrap()).items():
            place = _place(kafka, folder, f"bare-{output}-{repeat}", output)
            gc.collect()
            began_s = time.perf_counter()
            write(rows, place)
            bare[output].append(time.perf_counter() - began_s)
        del rows
        for output in bare:
            for name, count, found in (("readings", records, runs), ("readings-start", START_RECORDS, starts)):
                found[output].append(_run(kafka, folder, output, name, f"{name}-{output}-{repeat}", count))
    cells = []
    for output, done in runs.items():
        middle = Run(
            START_RECORDS, *(median(getattr(one, name) for one in starts[output]) for name in ("seconds", "cpu_s", "peak_mb"))
        )
        running = [one.without(middle) for one in done]
        limit = Spread([records / (first + then) for first, then in zip(decoding, bare[output], strict=True)])
        rate = Spread([one.rate for one in running])
        shown: Sequence[tuple[Spread, str]] = [
            (Spread([one.rate for one in done]), ",.0f"),
            (rate, ",.0f"),
            (rate.over(limit), ".2f"),
            (Spread([records / seconds for seconds in bare[output]]), ",.0f"),
            (Spread([one.cpu_us for one in done]), ".2f"),
            (Spread([one.cpu_us for one in running]), ".2f"),
            (Spread([one.peak_mb for one in done]), ".0f"),
        ]
        cells.append([output, *(spread.text(form) for spread, form in shown)])
    report.table(f"{records:,} readings of {SENSORS:,} sensors", COLUMNS, cells)


def measure_memory(report: Report, kafka: Kafka, folder: Path, records: int) -> None:
    """Peak memory of a flow over a tenth of the readings and of one over all, told as they come."""
    cells = []
    for count in (records // 10, records):
        fill(kafka, f"backlog-{count}", count)
    for output in OUTPUTS:
        peaks = []
        for count in (records // 10, records):
            name = f"backlog-{output}-{count}"
            done = _run(kafka, folder, output, f"backlog-{count}", name, count)
            report.say(f"{output}, {count:,} readings after {done.seconds:.0f} s: peak {done.peak_mb:.0f} MB")
            peaks.append(done)
        cells.append([output, *(f"{one.peak_mb:.0f}" for one in peaks), f"{peaks[-1].seconds:.0f}", f"{peaks[-1].cpu_us:.2f}"])
    shutil.rmtree(folder / "outputs")
    columns = ("into", f"peak memory over {records // 10:,}, MB", f"over {records:,}", "seconds", "own CPU, us/reading")
    report.table(f"A backlog of {records:,} readings", columns, cells)


def _run(kafka: Kafka, folder: Path, output: str, topic: str, name: str, count: int) -> Run:
    """The flow over a whole topic, into a new place; all must be there."""
    place = _place(kafka, folder, name, output)
    env = {"SOURCE_TOPIC": topic, "OUTPUT": output, "OUTPUT_PLACE": place, "FLOW_NAME": name}
    done = run(FLOW, {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), **env}, folder, count)
    if (there := _count(kafka, place, output)) < count:
        raise SystemExit(f"{output}: {there:,} of {count:,} readings in {place}")
    return done


def _place(kafka: Kafka, folder: Path, name: str, output: str) -> str:
    """Where they go: a topic, or a folder that is not there."""
    if output == "kafka":
        kafka.create_topic(name, PARTITIONS)
        return name
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    return str(folder / "outputs" / name)


def _count(kafka: Kafka, place: str, output: str) -> int:
    if output == "kafka":
        return sum(end_offsets(kafka.bootstrap(), place).values())
    found: Any = DeltaTable(place).to_pyarrow_dataset() if output == "delta" else ds.dataset(place, partitioning="hive")
    return int(found.count_rows())
