"""What a schedule is about: a topic with its records, and what every step must hold of them in the end. Knows no code of ours."""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import dataclass, field

from waxwing.batch import Stream
from waxwing.change import Position

FLOW, TOPIC, TOPIC_ID = "flow", "topic", "id"
# The last one sends one sum a batch, which can't be cut; the others send rows.
STEPS = ("orders", "copies", "sums")
# Stands for sinks.writer.admission.RATIO_BLOCK_RECORDS, so that blocks end within a schedule.
BLOCK_RECORDS = 7
# How far from each other rows may be of which one needs the other.
NEED_OFFSETS_MAX = 6

Row = tuple[int, int]
Rows = dict[Row, int]


@dataclass(frozen=True, slots=True)
class Record:
    """A message that makes `rows` rows; `rejected` by a step before the sink, or with rows that the database refuses.

    A row that `needs` another (offset, row) is refused where that one is neither there nor comes with it.
    """

    offset: int
    rows: int
    rejected: bool
    bad_rows: frozenset[int]
    needs: dict[int, Row] = field(default_factory=dict)


@dataclass
class Log:
    """One partition. Offsets have holes; `end` is how far it is filled by now, `first` where the log begins.

    `tokens`: the places that have one, where transactions end; none at all, where offsets say it all. A place may have more than
    one, of transactions that no record is of.
    """

    stream: Stream
    records: list[Record]
    first: int
    end: int
    end_max: int
    tokens: frozenset[int] = frozenset()

    def token(self, place: int, times: int = 0) -> bytes | None:
        """What the source calls a place, if it has a name for it."""
        return b"%d.%d" % (place, times) if place in self.tokens else None

    def place(self, token: bytes) -> int:
        """The place that the source calls so."""
        return int(token.partition(b".")[0])

    def wrong_token(self, position: Position) -> str:
        """What is wrong with the token of a position; empty: nothing."""
        token, number = position.token, position.token_offset
        if token is None or number is None:
            return "" if token is None and number is None else f"token {token!r} has the number {number}"
        if (place := self.place(token)) not in self.tokens:
            return f"nobody calls a place {token!r}"
        right = place == number <= position.offset_next
        return "" if right else f"{token!r} has the number {number}, behind it is {position.offset_next}"

    def ends(self, position: Position) -> bool:
        """Has all been taken in?"""
        return position.offset_next >= self.end

    def move(self, step: str, process: int, before: Position, after: Position) -> str:
        """What is wrong with a move by a process, as far as the log knows; empty: nothing."""
        return ""

    def between(self, offset_first: int, offset_next: int, step: str = "") -> list[Record]:
        """The records with offset_first <= offset < offset_next (of a step, where each has its own)."""
        return [record for record in self.records if offset_first <= record.offset < offset_next]

    @property
    def needs(self) -> dict[Row, Row]:
        """The row that each row needs."""
        return {(record.offset, row): needed for record in self.records for row, needed in record.needs.items()}


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
    _draw_needs(chance, records)
    end_max = offset + chance.choice((0, 0, 2))
    return Log(Stream(FLOW, TOPIC, TOPIC_ID, partition), records, first, chance.randint(first, end_max), end_max)


def draw_tokens(chance: random.Random, log: Log) -> None:
    """Transactions of the log, and so its tokens: always at both ends."""
    log.tokens = frozenset({log.first, log.end_max, *(place for place in range(log.first, log.end_max) if chance.random() < 0.3)})


def _draw_needs(chance: random.Random, records: list[Record]) -> None:
    """Some rows need others, before or behind them; some two need each other. No longer circles."""
    share = chance.choice((0, 0.2, 0.6))
    rows = [(record, n) for record in records for n in range(record.rows) if n not in record.bad_rows and not record.rejected]
    chance.shuffle(rows)
    for number, (record, row) in enumerate(rows[1:], 1):
        other, needed = rows[chance.randrange(number)]
        if chance.random() >= share or abs(other.offset - record.offset) > NEED_OFFSETS_MAX:
            continue
        record.needs[row] = (other.offset, needed)
        if needed not in other.needs and chance.random() < 0.3:
            other.needs[needed] = (record.offset, row)


def bad_rows(step: str, record: Record, buried: Container[Row]) -> set[int]:
    """The numbers of the record's dead letters in a step. A sum is good as a whole, so that step refuses nothing itself.

    Where rows lacked what they need depends on the transactions; `Database.commit` looks at each.
    """
    if record.rejected:
        return {0}
    if step == "tables":  # which of the bad rows anybody met, its judge says
        return {row for row in record.bad_rows if (record.offset, row) in buried}
    return set() if step == "sums" else {*record.bad_rows, *(row for row in record.needs if (record.offset, row) in buried)}


def expected(step: str, log: Log, offset_first: int, offset_next: int, buried: Container[Row]) -> tuple[Rows, set[Row]]:
    """The rows and dead letters that a step holds of these offsets: (offset, number of the row among the record's)."""
    rows: Rows = {}
    letters: set[Row] = set()
    for record in log.between(offset_first, offset_next, step):
        bad = bad_rows(step, record, buried)
        letters |= {(record.offset, number) for number in bad}
        if not record.rejected:
            rows |= {(record.offset, number): 1 for number in range(record.rows) if number not in bad}
    return rows, letters


def counters(step: str, log: Log, offset_first: int, offset_next: int, buried: Container[Row]) -> tuple[int, int, int]:
    """records_seen, records_bad and bad_run of the position behind these offsets, counted one record at a time."""
    seen = bad = run = 0
    for record in log.between(offset_first, offset_next, step):
        if not record.rejected and not record.rows:
            continue  # it makes no row, and so does not reach the sink
        is_bad = bool(bad_rows(step, record, buried))
        seen, bad, run = seen + 1, bad + is_bad, run + 1 if is_bad else 0
        if seen == BLOCK_RECORDS:
            seen = bad = 0
    return seen, bad, run


def good_after_all(condemned: set[Row], written: Container[Row], needs: dict[Row, Row], *, row_by_row: bool) -> set[Row]:
    """Those among the condemned rows that could have been written with those that were."""
    if row_by_row:  # one after the other, what is needed first
        good: set[Row] = set()
        while more := {row for row in condemned - good if needs[row] in written or needs[row] in good}:
            good |= more
        return good
    good = set(condemned)
    while lacking := {row for row in good if needs[row] not in written and needs[row] not in good}:
        good -= lacking
    return good
