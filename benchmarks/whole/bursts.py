"""A flood and a trickle in turns, for minutes: does latency drift, does memory grow?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.databases import Place
from benchmarks.report import Report
from benchmarks.spread import Spread
from benchmarks.whole.latency import running
from benchmarks.whole.sending import Pacer, Sent, Watcher, percentile
from benchmarks.whole.trees import OURS
from tests.faults.cluster import Cluster
from tests.servers import Kafka

FLOOD, TRICKLE = 50_000, 10
TURN_S = 10.0
# A turn's producer is started while the one before still sends; it makes its orders first.
PRODUCER_START_S = 4.0
COLUMNS = ("orders/s", "turns", "p50, ms", "p99, ms", "max, ms", "memory at the end of a turn, MB")


@dataclass(frozen=True)
class Turn:
    """One turn: latencies by second of sending, and the flow's memory at its end."""

    rate: int
    seconds: Sequence[Sequence[float]]
    memory_mb: float

    @property
    def ordered(self) -> Sequence[float]:
        """All of its latencies, sorted."""
        return sorted(latency for second in self.seconds for latency in second)


def measure(report: Report, place: Place, kafka: Kafka, folder: Path, minutes: float) -> None:
    """The turns, told as they end; at the end the first ones beside the last ones."""
    turns = max(round(minutes * 60 / TURN_S), 2)
    done = []
    with running(place, kafka, folder, OURS) as watched:
        for number, turn in enumerate(_turns(watched.watcher, watched.cluster, kafka, watched.topic, folder, turns)):
            done.append(turn)
            for second, latencies in enumerate(turn.seconds):
                ordered = sorted(latencies)
                p50, p99, most = (f"{percentile(ordered, share):>7.1f} ms" for share in (0.5, 0.99, 1.0))
                at_s = number * TURN_S + second
                report.say(f"{at_s:>4.0f} s  {len(ordered):>6,} orders  p50 {p50}  p99 {p99}  max {most}")
            report.say(f"        memory {turn.memory_mb:.0f} MB")
        interval_ms = watched.watcher.interval_ms()
    what = f"{FLOOD:,} orders a second and {TRICKLE}, in turns of {TURN_S:.0f} s for {turns * TURN_S / 60:.1f} minutes"
    report.table(f"{place.kind.title}, {what} (looks each {interval_ms:.1f} ms)", COLUMNS, list(_drift(done)))


def _turns(watcher: Watcher, cluster: Cluster, kafka: Kafka, topic: str, folder: Path, turns: int) -> Iterator[Turn]:
    first_s = time.monotonic() + PRODUCER_START_S

    def pacer(number: int) -> Pacer:
        rate = TRICKLE if number % 2 else FLOOD
        return Pacer(kafka.bootstrap(), topic, rate, TURN_S, folder, begin_s=first_s + number * TURN_S)

    coming = pacer(0)
    for number in range(turns):
        now, begin_s, next_s = coming, first_s + number * TURN_S, first_s + (number + 1) * TURN_S
        if number + 1 < turns:
            time.sleep(max(next_s - PRODUCER_START_S - time.monotonic(), 0))
            coming = pacer(number + 1)
        sent = now.sent()
        memory_mb = _resident_mb(cluster)
        yield Turn(TRICKLE if number % 2 else FLOOD, _by_second(sent, watcher, begin_s), memory_mb)


def _by_second(sent: Sent, watcher: Watcher, begin_s: float) -> Sequence[Sequence[float]]:
    out: dict[int, list[float]] = defaultdict(list)
    for sent_s, latency_ms in zip(sent.sent_s, watcher.latencies_ms(sent), strict=True):
        out[int(sent_s - begin_s)].append(latency_ms)
    return [out[second] for second in sorted(out)]


def _drift(done: Sequence[Turn]) -> Iterator[list[str]]:
    """By rate, the first quarter of its turns and the last, one at least."""
    for rate in (FLOOD, TRICKLE):
        turns = [turn for turn in done if turn.rate == rate]
        few = max(len(turns) // 4, 1)
        for name, some in ((f"first {few}", turns[:few]), (f"last {few}", turns[-few:])):
            ordered = [turn.ordered for turn in some]
            spreads = [Spread([percentile(each, share) for each in ordered]) for share in (0.5, 0.99, 1.0)]
            memory = Spread([turn.memory_mb for turn in some])
            yield [f"{rate:,}", name, *(spread.text(".1f") for spread in spreads), memory.text(".0f")]


def _resident_mb(cluster: Cluster) -> float:
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in cluster.pids]
    return max(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("VmRSS")) / 1024
