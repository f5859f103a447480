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
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.storm.databases import DATABASES
from tests.faults.storm.schedule import Counts, schedule
from tests.faults.storm.storm import PARTITIONS, STORMS, storm
from tests.faults.storm.told import Places, StormError, Told
from tests.servers import Kafka, Unavailable


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


main()
