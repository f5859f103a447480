"""A storm: the orders flow killed, frozen, stalled and restarted while it works off a topic; then everything compared.

    python -m tests.faults.storm --database postgresql --orders 1000000 --kills 50 --seed 1

With `--totals on_close` or `--totals live` it is the flow's totals per minute that are compared, over orders that come out of
order, some of them very late, in partitions of unequal sizes.

The schedule is made of the seed and the counts before anything starts (`--schedule` only prints it); what is under way
when an event strikes differs from one time to the next. It starts the servers that it needs, and ends them. When
something is wrong it prints the schedule and the command to do it again, and keeps all that there is to look at.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import sqlalchemy as sa

from tests.faults.recompute import messages, plain_engine
from tests.faults.storm_databases import DATABASES
from tests.faults.storm_load import Load
from tests.faults.storm_run import Storm
from tests.faults.storm_schedule import Counts, schedule
from tests.faults.storm_told import Places, StormError, Told
from tests.faults.watch import await_progress, produce, taken_in
from tests.faults.window_load import TimedLoad
from tests.faults.window_storm import Live, OnClose
from tests.servers import Kafka, Unavailable

__all__ = ["await_progress", "produce", "storm", "taken_in"]

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


def main() -> None:
    """Servers, orders, a storm for each database, the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="all", help="all: every one that can be had here")
    parser.add_argument("--totals", choices=STORMS, default="off", help="compare the totals per minute, in one form or the other")
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--bad", type=float, default=0.001, help="share of bad orders")
    parser.add_argument("--kills", type=int, default=10, help="kill -9 of one or all processes")
    parser.add_argument("--freezes", type=int, default=1)
    parser.add_argument("--stalls", type=int, default=1, help="the database blocked by a lock, then a kill")
    parser.add_argument("--stall", type=float, default=15.0, help="seconds of each stall")
    parser.add_argument("--database-restarts", type=int, default=2, help="SQLite: locks by another process")
    parser.add_argument("--lock-s", type=float, default=20.0, help="seconds of each lock in place of a restart")
    parser.add_argument("--broker-restarts", type=int, default=2)
    parser.add_argument("--partitions-added", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedule", action="store_true", help="print the schedule, and do nothing")
    args = parser.parse_args()
    counts = Counts(
        kills=args.kills,
        freezes=args.freezes,
        stalls=args.stalls,
        stall_s=args.stall,
        database_restarts=args.database_restarts,
        broker_restarts=args.broker_restarts,
        partitions_added=args.partitions_added,
    )
    if args.schedule:
        print(*schedule(args.seed, counts), sep="\n")
        return
    failed = False
    for database in DATABASES if args.database == "all" else [args.database]:
        print(f"== {database}, seed {args.seed}", flush=True)
        try:
            told = on_own_servers(database, args, counts)
        except Unavailable as missing:
            print(f"== {database}: not here: {missing}", flush=True)
            failed |= args.database != "all"
        except StormError as error:
            print(f"== {database}: FAILED: {error}", flush=True)
            failed = True
        else:
            print(f"== {database}, seed {args.seed}: {told}", flush=True)
    sys.exit(1 if failed else 0)


def on_own_servers(database: str, args: argparse.Namespace, counts: Counts) -> Told:
    """A storm with a broker and a database of its own; the folder goes when all is well."""
    kind = DATABASES[database]
    server = kind.server() if kind.server else None
    with contextlib.ExitStack() as stack:
        if server is not None:
            stack.callback(server.close)
            server.start()
        kafka = stack.enter_context(Kafka())
        topic = kafka.new_topic(PARTITIONS)
        folder = Path(tempfile.mkdtemp(prefix=f"waxwing-storm-{database}-"))
        url = server.new_database() if server else f"sqlite:///{folder}/orders.sqlite"
        places = Places(database=database, url=url, server=server, kafka=kafka, topic=topic, folder=folder)

        def say(line: str) -> None:
            print(line, flush=True)

        told = storm(
            places,
            orders=args.orders,
            counts=counts,
            seed=args.seed,
            totals=args.totals,
            bad=args.bad,
            lock_s=args.lock_s,
            say=say,
        )
        shutil.rmtree(folder)
        return told


if __name__ == "__main__":
    main()
