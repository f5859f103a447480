"""Writes down when another connection sees positions move: the rows behind them are visible from then on.

    python -m benchmarks.programs.watcher URL TABLE INTERVAL_S FILE

TABLE has a row for each partition, whose `offset_next` moves in the transaction that writes the rows: one look at a few rows
tells what is visible, and disturbs nobody. A line of FILE is a time of the machine's monotonic clock (when the answer was there),
a partition and its offset; once a second it is the time, -1 and how many looks there were so far. It waits for the table, and
then runs until it is killed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import sqlalchemy as sa

from tests.faults.recompute import plain_engine


def main() -> None:
    """As the arguments say."""
    url, table, interval_s, file = sys.argv[1:]
    address = sa.make_url(url)
    if address.get_backend_name() == "sqlite":
        address = address.set(database=f"file:{address.database}", query={"mode": "ro", "uri": "true"})
    query = f"SELECT source_partition, offset_next FROM {table}"
    connection = _connected(address.render_as_string(hide_password=False), query)
    cursor = connection.connection.cursor()
    seen: dict[int, int] = {}
    looks, told_s = 0, time.monotonic()
    with Path(file).open("w") as out:
        while True:
            began_s = time.monotonic()
            cursor.execute(query)
            rows = cursor.fetchall()
            now_s = time.monotonic()
            moved = [(partition, offset) for partition, offset in rows if seen.get(partition) != offset]
            out.writelines(f"{now_s:.6f} {partition} {offset}\n" for partition, offset in moved)
            seen.update(moved)
            looks += 1
            if now_s - told_s >= 1:
                out.write(f"{now_s:.6f} -1 {looks}\n")
                told_s = now_s
            if moved or told_s == now_s:
                out.flush()
            time.sleep(max(began_s + float(interval_s) - time.monotonic(), 0))


def _connected(url: str, query: str) -> sa.Connection:
    """A connection that sees the table."""
    engine = plain_engine(url)
    while True:
        try:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(query)
        except sa.exc.DBAPIError:  # not made yet, and the file neither
            time.sleep(0.02)
        else:
            return connection


if __name__ == "__main__":
    main()
