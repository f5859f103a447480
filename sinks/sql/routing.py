"""Which table a record goes into: a change by table, and numbers of rows back to those of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from waxwing.batch import Batch, Into
from waxwing.change import Change
from waxwing.errors import ConfigError, RowError


class Routed(NamedTuple):
    """What of a change goes into one table; `numbers` are those that its records, then its deletes, have in the whole change."""

    change: Change
    numbers: Sequence[int]

    def refused(self, error: RowError) -> RowError:
        """The error, with the numbers of the whole change."""
        error.bad = {self.numbers[n]: reason for n, reason in error.bad.items()}
        return error


def routed(change: Change, names: Sequence[str]) -> Mapping[str, Routed]:
    """A change by table, in the order in which they come.

    Args:
        change: its records are Into(table, record), unless there is only one table.
        names: of the tables that there are, for messages.
    """
    records: dict[str, list[int]] = {}
    deletes: dict[str, list[int]] = {}
    parts: dict[str, list[Batch[Any]]] = {}
    first, behind = 0, sum(len(batch.records) for batch in change.batches)
    for batch in change.batches:
        rows: dict[str, list[int]] = {}
        gone: dict[str, list[int]] = {}
        for n, record in enumerate(batch.records):
            if not isinstance(record, Into):
                raise ConfigError(
                    f"A record of type {type(record).__name__} does not say which table it goes into.",
                    hint=f"Give Into(table, record); tables are: {', '.join(names)}.",
                )
            rows.setdefault(record.table, []).append(n)
        for n, delete in enumerate(batch.deletes):
            gone.setdefault(delete.table, []).append(n)
        for name in dict.fromkeys([*rows, *gone]):
            chosen, dropped = rows.get(name, []), gone.get(name, [])
            of_table = replace(
                batch,
                records=[batch.records[n].record for n in chosen],
                at=[batch.at[n] for n in chosen],
                deletes=[batch.deletes[n] for n in dropped],
                rejects=(),
            )
            parts.setdefault(name, []).append(of_table)
            records.setdefault(name, []).extend(first + n for n in chosen)
            deletes.setdefault(name, []).extend(behind + n for n in dropped)
        first, behind = first + len(batch.records), behind + len(batch.deletes)
    return {
        name: Routed(replace(change, batches=batches), [*records.get(name, []), *deletes.get(name, [])])
        for name, batches in parts.items()
    }
