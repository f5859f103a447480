"""Storms over whole flows, with servers of their own; what is left in the folder when something is wrong are all processes' logs.

python -m tests.faults.flows orders --records 200000 --kills 20
python -m tests.faults.flows sensors --outputs files,topic,table --format delta --records 200000 --kills 50 --seed 2
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.faults.flows.orders import OrdersStorm
from tests.faults.flows.sensors import SensorsStorm
from tests.faults.flows.storm import Events, FlowStorm
from tests.servers import Kafka, PostgreSQL


def main() -> None:
    """Servers, records, the storm, its result."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.flows", description=__doc__.splitlines()[0])
    parser.add_argument("flow", choices=["orders", "sensors"])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=1)
    parser.add_argument("--broker-restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outputs", default="files,topic,table", help="of sensors")
    parser.add_argument("--format", default="parquet", choices=["parquet", "delta"], help="of sensors")
    parser.add_argument("--sensors", type=int, default=20)
    args = parser.parse_args()
    events = Events(kills=args.kills, freezes=args.freezes, broker_restarts=args.broker_restarts, seed=args.seed)
    folder = Path(tempfile.mkdtemp(prefix="waxwing-flow-storm-"))
    with PostgreSQL() as server, Kafka() as kafka:
        storm: FlowStorm
        url, outputs = server.new_database(), args.outputs.split(",")
        if args.flow == "orders":
            storm = OrdersStorm(kafka, url, folder, orders=args.records, events=events)
        else:
            told = {"readings": args.records, "sensors": args.sensors, "events": events, "url": url}
            storm = SensorsStorm(kafka, folder, **told, outputs=outputs, form=args.format)
        try:
            print(f"seed {args.seed}: {storm.run()}", flush=True)
        except BaseException:
            print(f"what there is to look at lies in {folder}", flush=True)
            raise
        finally:
            storm.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
