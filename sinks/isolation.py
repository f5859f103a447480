"""Bad rows: looking for them in halves, taking them out of their batches, and turning rejects into dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waxwing.batch import Batch, Reject
from waxwing.target import DeadLetter


def without_rows(batches: list[Batch[Any]], bad: Mapping[int, str], *, keep_rejects: bool = False) -> list[Batch[Any]]:
    """The batches without these rows, which become rejects (with `keep_rejects` they are only left out).

    Rows are numbered over the records of all batches first, then over their deletes, as in RowError.bad.
    """
    out = []
    record, delete = 0, sum(len(batch.records) for batch in batches)
    for batch in batches:
        records = {n - record: bad[n] for n in range(record, record + len(batch.records)) if n in bad}
        deletes = {n - delete: bad[n] for n in range(delete, delete + len(batch.deletes)) if n in bad}
        record, delete = record + len(batch.records), delete + len(batch.deletes)
        out.append(_without(batch, records, deletes, keep_rejects) if records or deletes else batch)
    return out


def _without(batch: Batch[Any], records: dict[int, str], deletes: dict[int, str], keep_rejects: bool) -> Batch[Any]:
    stay = [n for n in range(len(batch.records)) if n not in records]
    rejects = list(batch.rejects)
    if not keep_rejects:
        rejects += [
            Reject(batch.at[n], "sink", reason, row)
            for (n, reason), row in zip(records.items(), _row_numbers(batch, list(records)), strict=True)
        ]
        rejects += [Reject(batch.deletes[n].at, "sink", reason) for n, reason in deletes.items()]
    return batch.with_records(
        [batch.records[n] for n in stay],
        [batch.at[n] for n in stay],
        rejects,
        [d for n, d in enumerate(batch.deletes) if n not in deletes],
    )


def _row_numbers(batch: Batch[Any], records: Sequence[int]) -> list[int]:
    """Each record's number among the rows that its message made, those rejected before included."""
    out = []
    for record in records:
        at = batch.at[record]
        taken = {reject.row for reject in batch.rejects if reject.at == at}
        before = sum(1 for n in range(record) if batch.at[n] == at) if _several(batch, record) else 0
        free = (row for row in range(len(taken) + before + 1) if row not in taken)
        out.append(next(row for number, row in enumerate(free) if number == before))
    return out


def _several(batch: Batch[Any], record: int) -> bool:
    return record > 0 and batch.at[record - 1] == batch.at[record]


def halves(batches: list[Batch[Any]]) -> tuple[list[Batch[Any]], list[Batch[Any]]]:
    """Two parts with about as many messages that have rows; the second is empty when there is only one such message.

    All rows of one message stay together.
    """
    with_rows = [
        (number, at)
        for number, batch in enumerate(batches)
        for at in sorted({*batch.at, *(delete.at for delete in batch.deletes)})
    ]
    if len(with_rows) < 2:
        return batches, []
    number, at = with_rows[len(with_rows) // 2]
    batch = batches[number]
    if at == 0:
        return batches[:number], batches[number:]
    return [*batches[:number], batch.part(0, at)], [batch.part(at, len(batch.messages)), *batches[number + 1 :]]


def dead_letters(batch: Batch[Any]) -> list[DeadLetter]:
    """The rejects of a batch as dead letters. Their key is a function of the message alone."""
    taken: set[tuple[int, int]] = set()
    out = []
    for reject in batch.rejects:
        at, row = reject.at, reject.row
        while (at, row) in taken:
            row += 1
        taken.add((at, row))
        # A part of one message: fields of all the others would be made for nothing.
        m = batch.messages.part(at, at + 1)
        place = batch.stream, m.offsets[0], row, reject.stage, reject.reason
        out.append(DeadLetter(*place, m.keys[0], m.values[0], m.headers[0], m.timestamps_ms[0]))
    return out
