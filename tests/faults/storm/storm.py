"""One storm: a schedule carried out, what came out compared, and all kept that there is to look at when it is wrong."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from tests.faults.recompute import messages, plain_engine
from tests.faults.storm.load import Load
from tests.faults.storm.run import Storm
from tests.faults.storm.schedule import Counts, schedule
from tests.faults.storm.told import Places, StormError, Told
from tests.faults.storm.window_load import TimedLoad
from tests.faults.storm.window_storm import Live, OnClose

PARTITIONS = 4
STORMS: Mapping[str, tuple[type[Storm], type[Load]]] = {
    "off": (Storm, Load),
    "on_close": (OnClose, TimedLoad),
    "live": (Live, TimedLoad),
}


def storm(
    places: Places,
    *,
    orders: int,
    counts: Counts,
    seed: int,
    totals: str = "off",
    bad: float = 0.001,
    lock_s: float = 20.0,
    say: Callable[[str], None] = print,
) -> Told:
    """Carry out the schedule of a seed over `orders` orders, and compare what came out.

    Raises:
        StormError: lost, doubled or changed rows, exit codes that may not be, a standstill. The message tells how to do it
            again; the topic and the database are dumped into the storm's folder, beside the processes' logs.
    """
    events = schedule(seed, counts)
    kind, of_load = STORMS[totals]
    load = of_load(places.kafka.bootstrap(), places.topic, orders, bad=bad, seed=seed)
    try:
        return kind(places, events, load, lock_s, say).run()
    except Exception as error:
        command = (
            f"python -m tests.faults.storm --database {places.database} --orders {orders} --bad {bad} --kills {counts.kills} "
            f"--freezes {counts.freezes} --stalls {counts.stalls} --stall {counts.stall_s} "
            f"--database-restarts {counts.database_restarts} --lock-s {lock_s} --broker-restarts {counts.broker_restarts} "
            f"--partitions-added {counts.partitions_added} --totals {totals} --seed {seed}"
        )
        lines = [
            f"{type(error).__name__}: {error}",
            f"seed {seed}; again: {command}",
            *(f"  {event}" for event in events),
            f"kept in {places.folder}: {', '.join(keep(places))}",
        ]
        story = "\n".join(lines)
        (places.folder / "storm.txt").write_text(story)
        raise StormError(story) from error
    finally:
        load.close()


def keep(places: Places) -> list[str]:
    """Dump the topic, every table and the servers' logs into the storm's folder. Returns what is there."""
    kept = ["the log of every process"]
    try:
        with gzip.open(places.folder / "topic.jsonl.gz", "wt", compresslevel=1) as out:
            for partition, offset, value in messages(places.kafka.bootstrap(), places.topic):
                text = None if value is None else value.decode("latin-1")
                out.write(json.dumps([partition, offset, text]) + "\n")
        kept.append("topic.jsonl.gz")
        engine = plain_engine(places.url)
        for table in sa.inspect(engine).get_table_names():
            with gzip.open(places.folder / f"{table}.jsonl.gz", "wt", compresslevel=1) as out, engine.connect() as connection:
                for row in connection.execute(sa.text(f"SELECT * FROM {table}")):
                    out.write(json.dumps([*row], default=str) + "\n")
            kept.append(f"{table}.jsonl.gz")
    except Exception as error:  # it must not hide what went wrong before
        kept.append(f"(no more, because of {type(error).__name__}: {error})")
    for server in (places.kafka, places.server):
        if server is not None:
            shutil.copy(server.folder / "server.log", places.folder / f"{server.name}.log")
            kept.append(f"{server.name}.log")
    return kept
