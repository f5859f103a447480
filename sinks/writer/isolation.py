"""Bad rows: taking them out of their batches, and turning rejects into dead letters.

A batch that is whole can't be cut, since its rows stand for all its messages. Its bad rows are looked for among its rows, and a
dead letter of one holds the row itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import msgspec

from waxwing.batch import Batch, Reject, row_numbers
from waxwing.change import DeadLetter


def without_rows(batches: list[Batch[Any]], bad: Mapping[int, str], columns: Sequence[str] = ()) -> list[Batch[Any]]:
    """The batches without these rows, which become rejects.

    Rows are numbered over the records of all batches first, then over their deletes, as in RowError.bad. `columns` are
    names of the values of rows that are plain tuples.
    """
    out = []
    record, delete = 0, sum(len(batch.records) for batch in batches)
    for batch in batches:
        records = {n - record: bad[n] for n in range(record, record + len(batch.records)) if n in bad}
        deletes = {n - delete: bad[n] for n in range(delete, delete + len(batch.deletes)) if n in bad}
        record, delete = record + len(batch.records), delete + len(batch.deletes)
        out.append(_without(batch, records, deletes, columns) if records or deletes else batch)
    return out


def _without(batch: Batch[Any], records: dict[int, str], deletes: dict[int, str], columns: Sequence[str]) -> Batch[Any]:
    stay = [n for n in range(len(batch.records)) if n not in records]
    rejects = list(batch.rejects)
    if batch.whole:
        rejects += _of_whole(batch, records, columns)
    else:
        rejects += [
            Reject(batch.at[n], "sink", reason, row)
            for (n, reason), row in zip(records.items(), row_numbers(batch, list(records)), strict=True)
        ]
    rejects += [Reject(batch.deletes[n].at, "sink", reason) for n, reason in deletes.items()]
    return batch.with_records(
        [batch.records[n] for n in stay],
        [batch.at[n] for n in stay],
        rejects,
        [d for n, d in enumerate(batch.deletes) if n not in deletes],
    )


def _of_whole(batch: Batch[Any], records: dict[int, str], columns: Sequence[str]) -> list[Reject]:
    """Bad rows of a batch that is whole: each with its number in the batch, and itself as JSON."""
    last = max(len(batch.messages) - 1, 0)
    gone = {reject.row for reject in batch.rejects if reject.value is not None}
    numbers = [row for row in range(len(batch.records) + len(gone)) if row not in gone]  # as before the first ones were taken out
    return [Reject(last, "sink", reason, numbers[n], _as_json(batch.records[n], columns)) for n, reason in records.items()]


def _as_json(record: Any, columns: Sequence[str]) -> bytes:
    if type(record) is tuple and len(record) == len(columns):
        record = dict(zip(columns, record, strict=True))
    elif hasattr(record, "_asdict"):  # a named tuple
        record = record._asdict()
    elif hasattr(record, "model_dump"):  # a pydantic model
        record = record.model_dump()
    try:
        return msgspec.json.encode(record, enc_hook=str)
    except (TypeError, ValueError):  # no JSON has such keys, or such text
        return repr(record).encode("utf-8", "backslashreplace")


def said(stage: str, reason: str) -> str:
    """A reason as it may stand in a log: a database's detail may hold the whole row, and belongs into the dead letter alone."""
    return reason if stage != "sink" or reason.startswith("column ") else reason.partition(": ")[0]


# Of a reason these say which one, not what is wrong: numbers, and what stands in quotes.
_ITS_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|[+-]?\d[\d.,:TZ+-]*")
KINDS_MAX = 100


def first_of_kind(told: set[str], letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """The dead letters with a reason of which there was none yet, whatever values stand in it; `told` remembers."""
    out = []
    for letter in letters:
        kind = f"{letter.stage}: {_ITS_OWN.sub('', said(letter.stage, letter.reason))}"
        if kind not in told and len(told) < KINDS_MAX:
            told.add(kind)
            out.append(letter)
    return out


def halves(batches: list[Batch[Any]]) -> tuple[list[Batch[Any]], list[Batch[Any]]]:
    """Two parts with about as many messages that have rows; the second is empty when there is only one such message.

    All rows of one message stay together, and so do all of a batch that is whole.
    """
    with_rows = [
        (number, at)
        for number, batch in enumerate(batches)
        for at in ([0] if batch.whole else sorted({*batch.at, *(delete.at for delete in batch.deletes)}))
        if batch.records or batch.deletes
    ]
    if len(with_rows) < 2:
        return batches, []
    number, at = with_rows[len(with_rows) // 2]
    batch = batches[number]
    if at == 0:
        return batches[:number], batches[number:]
    return [*batches[:number], batch.part(0, at)], [batch.part(at, len(batch.messages)), *batches[number + 1 :]]


class Units:
    """The rows and deletes of some batches, one by one: numbered from 0, in the order of their messages."""

    def __init__(self, batches: list[Batch[Any]]) -> None:
        self._batches = batches
        self._places: list[tuple[int, bool, int]] = []  # batch, is it a delete, its number there
        for number, batch in enumerate(batches):
            steps = [] if batch.deletes else [(number, False, n) for n in range(len(batch.records))]
            if batch.deletes:
                events = [(at, False, n) for n, at in enumerate(batch.at)]
                events += [(delete.at, True, n) for n, delete in enumerate(batch.deletes)]
                steps = [(number, is_delete, n) for _, is_delete, n in sorted(events)]
            self._places += steps
        records = list(accumulate((len(batch.records) for batch in batches), initial=0))
        deletes = list(accumulate((len(batch.deletes) for batch in batches), initial=records[-1]))
        self.numbers = [(deletes if is_delete else records)[number] + n for number, is_delete, n in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def is_delete(self, unit: int) -> bool:
        """Is it a tombstone?"""
        return self._places[unit][1]

    def only(self, units: Iterable[int]) -> list[Batch[Any]]:
        """The batches with these of their rows and deletes, and nothing else."""
        out = []
        for number, places in groupby((self._places[unit] for unit in units), itemgetter(0)):
            batch, chosen = self._batches[number], list(places)
            rows = [n for _, is_delete, n in chosen if not is_delete]
            gone = [batch.deletes[n] for _, is_delete, n in chosen if is_delete]
            out.append(batch.with_records([batch.records[n] for n in rows], [batch.at[n] for n in rows], (), gone))
        return out


def dead_letters(batch: Batch[Any]) -> list[DeadLetter]:
    """The rejects of a batch as dead letters. Their key is a function of the message alone.

    That of a bad row of a batch that is whole is not: it is the offset of the batch's last message, with the row's number, and
    where batches end differs from run to run. So it tells where the row was met, and no more; the value is the row itself. It
    is stored once all the same, since the transaction that stores it also moves the position behind the batch: what was rolled
    back, with its key, never happened, and a batch of another cut that comes again begins at the stored position. Nor do two
    of them meet in one key: batches of a stream end at different offsets. Key and headers are of no one message, and left out.
    """
    taken: set[tuple[int, int]] = set()
    out = []
    for reject in batch.rejects:
        at, row = reject.at, reject.row
        while (at, row) in taken:
            row += 1
        taken.add((at, row))
        if reject.value is not None:
            last = batch.messages.offsets[-1] if len(batch.messages) else batch.offset_next - 1
            out.append(DeadLetter(batch.stream, last, row, reject.stage, reject.reason, None, reject.value, (), -1))
            continue
        # A part of one message: fields of all the others would be made for nothing.
        m = batch.messages.part(at, at + 1)
        place = batch.stream, m.offsets[0], row, reject.stage, reject.reason
        out.append(DeadLetter(*place, m.keys[0], m.values[0], m.headers[0], m.timestamps_ms[0]))
    return out
