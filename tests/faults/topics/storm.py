"""Orders through a topic into a table, by two flows, either of which is killed, frozen and restarted; then everything compared.

    python -m tests.faults.topics.storm --orders 200000 --kills 20 --seed 1

Which flow an event strikes, in how many processes it starts again, and when, is drawn from the seed. It starts the servers that
it needs, and ends them; what it leaves in its folder when something is wrong are the logs of all processes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicCollection

from dataflows.orders_rules import Order
from tests.conformance.targets.kinds import read_committed
from tests.faults.cluster import Cluster
from tests.faults.recompute import compare, expected, messages, row_of
from tests.faults.storm.load import Load
from tests.faults.watch import end_offsets, positions
from tests.servers import Kafka, PostgreSQL

PARTITIONS = 4
PROCESSES_MAX = 3
STILL_MAX_S = 180.0
ZOMBIE_ENDS_S = 30.0
# What a run may end with by itself: it was done, or it gives way and is to be started again; a zombie that came back is fenced.
DONE, TRY_AGAIN, FENCED, KILLED = 0, 75, 76, -signal.SIGKILL
SETTINGS = {
    "OWNER_STALE_S": "2",
    "FLUSH_ROWS_MAX": "2000",
    "BATCH_RECORDS_MAX": "500",
    "ORDER_TOTALS": "off",
    "RETRY_MAX_S": "60",
    "KAFKA_TOPIC_PARTITIONS": str(PARTITIONS),
}


class StormError(AssertionError):
    """Something was lost, doubled, or ended as it must not."""


class TopicStorm:
    """One storm. `run` once."""

    def __init__(
        self,
        kafka: Kafka,
        url: str,
        folder: Path,
        *,
        orders: int,
        kills: int,
        freezes: int,
        restarts: int,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._kafka, self._url, self._folder, self._say = kafka, url, folder, say
        self._raw = kafka.new_topic(PARTITIONS)
        self._between = f"{self._raw}-enriched"
        self._rng = random.Random(seed)
        self._events = ["kill"] * kills + ["freeze"] * freezes + ["broker"] * restarts
        self._rng.shuffle(self._events)
        self._load = Load(kafka.bootstrap(), self._raw, orders, bad=0.001, seed=seed)
        self._running: dict[str, Cluster] = {}
        self._zombies: list[tuple[str, Cluster]] = []
        self._starts: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def run(self) -> str:
        """Carry it out, and compare.

        Raises:
            StormError: something is wrong.
        """
        share = self._load.total / (len(self._events) + 2)
        self._load.allow(share)
        for part in ("enrich", "store"):
            self._start(part)
        for event in self._events:
            self._load.allow(share)
            time.sleep(self._rng.uniform(0.5, 4.0))
            self._look()
            if event == "broker":
                self._say("  the broker is restarted")
                self._kafka.kill()
                self._kafka.start()
                continue
            part = self._rng.choice(("enrich", "store"))
            self._say(f"  {event} {part}")
            self._strike(event, part)
        self._load.finish()
        self._catch_up()
        for part, zombie in self._zombies:
            zombie.signal(signal.SIGCONT)
            give_up_s = time.monotonic() + ZOMBIE_ENDS_S
            while zombie.running() and time.monotonic() < give_up_s:
                time.sleep(0.2)
            zombie.signal(signal.SIGTERM)  # one that was frozen before it owned anything stands by
            codes = zombie.wait(120)
            self._count(f"{part} zombie", codes)
            if set(codes) - {DONE, FENCED, TRY_AGAIN, KILLED}:
                raise StormError(f"a zombie of {part} ended with {codes}")
        for part, flow in self._running.items():
            flow.signal(signal.SIGTERM)
            self._count(part, flow.wait(120))
        return self._compare()

    def close(self) -> None:
        """End all that runs."""
        self._load.close()
        for flow in (*self._running.values(), *(zombie for _, zombie in self._zombies)):
            flow.kill()

    # -- events ------------------------------------------------------------------------------------

    def _start(self, part: str) -> None:
        self._starts[part] += 1
        env = {
            **SETTINGS,
            "KAFKA_BOOTSTRAP_SERVERS": self._kafka.bootstrap(),
            "DATABASE_URL": self._url,
            "SOURCE_TOPIC": self._raw,
            "ENRICHED_TOPIC": self._between,
            "ORDERS_PART": part,
        }
        processes = self._rng.randint(1, PROCESSES_MAX)
        name = f"{part}-{self._starts[part]}"
        self._running[part] = Cluster("dataflows.orders", env, self._folder, processes=processes, name=name)

    def _strike(self, event: str, part: str) -> None:
        flow = self._running.pop(part)
        if event == "freeze":
            flow.stand_still()
            self._zombies.append((part, flow))
        elif self._rng.random() < 0.5:
            flow.kill_one(self._rng.randrange(len(flow.pids)))
        else:
            flow.kill()
        self._start(part)

    def _look(self) -> None:
        """What has ended by itself is started again, as a supervisor would."""
        for part, flow in list(self._running.items()):
            if None in (codes := flow.codes()):
                continue
            self._count(part, [code or 0 for code in codes])
            if set(codes) - {TRY_AGAIN, KILLED, DONE, FENCED}:
                raise StormError(f"{part} ended with {codes}: {flow.output()[-3000:]}")
            self._start(part)

    def _count(self, part: str, codes: list[int]) -> None:
        self.ended.update(f"{part} {code}" for code in codes)

    def _catch_up(self) -> None:
        """Until both have taken in all there is."""
        moved_s, last = time.monotonic(), -1
        while True:
            self._look()
            time.sleep(0.5)
            ends = end_offsets(self._kafka.bootstrap(), self._between)
            found = positions(self._url)
            taken = sum(found.values())
            raw = sum(end_offsets(self._kafka.bootstrap(), self._raw).values())
            done = self._enriched() >= raw and taken >= sum(ends.values())
            if done:
                return
            if (now := taken + sum(ends.values())) != last:
                moved_s, last = time.monotonic(), now
            if time.monotonic() - moved_s > STILL_MAX_S:
                logs = "\n".join(flow.output()[-2000:] for flow in self._running.values())
                raise StormError(f"nothing moves: between {ends}, taken in {found}\n{logs}")

    def _enriched(self) -> int:
        """How far the first flow has come."""
        topic = "waxwing.orders-enrich.enriched.positions"
        try:
            found = {key: value for key, value, _ in read_committed(self._kafka, topic) if key and key.startswith(b'["position"')}
        except KeyError:  # it is not made yet
            return 0
        own = (value for key, value in found.items() if msgspec.json.decode(key)[1] == self._raw)
        return sum(msgspec.json.decode(value)["offset_next"] for value in own)

    # -- what came out -----------------------------------------------------------------------------

    def _compare(self) -> str:
        wanted = expected(self._kafka.bootstrap(), self._raw)
        rows: Counter[tuple[Any, ...]] = Counter()
        for key, value, _ in read_committed(self._kafka, self._between):
            one = msgspec.json.decode(value, type=Order)
            if key != one.id.encode():
                raise StormError(f"message of {one.id} has the key {key!r}")
            rows[one.id, one.order_id, one.customer, one.quantity, one.unit_price, one.total_value] += 1
        good = self._good()
        if rows != good:
            lost, more = good - rows, rows - good
            some = lost.most_common(3), more.most_common(3)
            raise StormError(f"{sum(lost.values())} messages are missing, {sum(more.values())} too many: {some}")
        letters = Counter(
            (int(headers["waxwing.partition"]), int(headers["waxwing.offset"]))
            for _, _, headers in read_committed(self._kafka, f"{self._between}.dead_letters")
        )
        if letters != Counter(dict.fromkeys(wanted.bad, 1)):
            raise StormError(f"{sum(letters.values())} dead letters for {len(wanted.bad)} bad records")
        wanted.bad.clear()  # they never came into the topic between
        difference = compare(self._url, wanted)
        if not difference.equal:
            raise StormError(f"the table differs: {difference}")
        return (
            f"equal: {sum(rows.values()):,} messages, each once; {len(wanted.rows):,} rows; {sum(letters.values()):,} dead "
            f"letters, exactly the bad records; starts {dict(self._starts)}, ends {dict(self.ended)}"
        )

    def _good(self) -> Counter[tuple[Any, ...]]:
        """Each good record as a message, as often as it came."""
        topic_id = str(self._kafka.admin.describe_topics(TopicCollection([self._raw]))[self._raw].result().topic_id)
        out: Counter[tuple[Any, ...]] = Counter()
        for partition, offset, value in messages(self._kafka.bootstrap(), self._raw):
            place = hashlib.blake2b(f"{topic_id}/{partition}".encode(), digest_size=10).hexdigest()
            if (row := row_of(value, f"{place}{offset:016x}")) is not None:
                out[row[:4] + tuple(Decimal(money) for money in row[4:])] += 1
        return out


def main() -> None:
    """Servers, orders, the storm, its result."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.topics.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=1)
    parser.add_argument("--broker-restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="waxwing-topic-storm-"))
    with PostgreSQL() as server, Kafka() as kafka:
        storm = TopicStorm(
            kafka,
            server.new_database(),
            folder,
            orders=args.orders,
            kills=args.kills,
            freezes=args.freezes,
            restarts=args.broker_restarts,
            seed=args.seed,
            say=lambda line: print(line, flush=True),
        )
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
