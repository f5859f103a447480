"""What a schedule is about: a topic with its records, and what every step must hold of them in the end. Knows no code of ours."""

from __future__ import annotations

import random
from dataclasses import dataclass

from waxwing.batch import Stream

FLOW, TOPIC, TOPIC_ID = "flow", "topic", "id"
# The last one sends one sum a batch, which can't be cut; the others send rows.
STEPS = ("orders", "copies", "sums")
# Stands for sinks.admission.RATIO_BLOCK_RECORDS, so that blocks end within a schedule.
BLOCK_RECORDS = 7

Rows = dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class Record:
    """A message that makes `rows` rows; `rejected` by a step before the sink, or with rows that the database refuses."""

    offset: int
    rows: int
    rejected: bool
    bad_rows: frozenset[int]


@dataclass
class Log:
    """One partition. Offsets have holes; `end` is how far it is filled by now, `first` where the log begins."""

    stream: Stream
    records: list[Record]
    first: int
    end: int
    end_max: int

    def between(self, offset_first: int, offset_next: int) -> list[Record]:
        """The records with offset_first <= offset < offset_next."""
        return [record for record in self.records if offset_first <= record.offset < offset_next]


def draw_log(chance: random.Random, partition: int) -> Log:
    """A log of up to a dozen records."""
    first = offset = chance.choice((0, 0, 3))
    records = []
    for _ in range(chance.randint(2, 12)):
        offset += chance.randint(0, 3) if chance.random() < 0.2 else 0
        rows = chance.choice((1, 1, 1, 1, 0, 2, 3))
        bad = frozenset(n for n in range(rows) if chance.random() < 0.12)
        records.append(Record(offset, rows, chance.random() < 0.1, bad))
        offset += 1
    end_max = offset + chance.choice((0, 0, 2))
    return Log(Stream(FLOW, TOPIC, TOPIC_ID, partition), records, first, chance.randint(first, end_max), end_max)


def bad_rows(step: str, record: Record) -> set[int]:
    """The numbers of the record's dead letters in a step. A sum is good as a whole, so that step refuses nothing itself."""
    if record.rejected:
        return {0}
    return set() if step == "sums" else set(record.bad_rows)


def expected(step: str, log: Log, offset_first: int, offset_next: int) -> tuple[Rows, set[tuple[int, int]]]:
    """The rows and dead letters that a step holds of these offsets: (offset, number of the row among the record's)."""
    rows: Rows = {}
    letters: set[tuple[int, int]] = set()
    for record in log.between(offset_first, offset_next):
        bad = bad_rows(step, record)
        letters |= {(record.offset, number) for number in bad}
        if not record.rejected:
            rows |= {(record.offset, number): 1 for number in range(record.rows) if number not in bad}
    return rows, letters


def counters(step: str, log: Log, offset_first: int, offset_next: int) -> tuple[int, int, int]:
    """records_seen, records_bad and bad_run of the position behind these offsets, counted one record at a time."""
    seen = bad = run = 0
    for record in log.between(offset_first, offset_next):
        is_bad = bool(bad_rows(step, record))
        seen, bad, run = seen + 1, bad + is_bad, run + 1 if is_bad else 0
        if seen == BLOCK_RECORDS:
            seen = bad = 0
    return seen, bad, run
