"""Records judged by a table before the stream branches: so that the table and what stands beside it see the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import bytewax.operators as op
import sqlalchemy as sa
from bytewax.dataflow import Stream as Flowing

from waxwing.batch import Batch
from waxwing.errors import ConfigError
from waxwing.operators.declared import declare, declare_key, field_types, key_type, record_type
from waxwing.operators.parse import without
from waxwing.operators.records import without_bad
from waxwing.tables.dialect import MEMORY
from waxwing.tables.modes import Append
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker

R = TypeVar("R")
Judge = Callable[[Sequence[Any]], Mapping[int, str]]


class Judging(Protocol):
    """A target, as far as it says which records can be rows."""

    @property
    def folds_windows(self) -> bool: ...
    def check_records(self, kind: Any) -> None: ...
    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]: ...


def check(step_id: str, up: Flowing[Batch[R]], table: Judging | sa.Table) -> Flowing[Batch[R]]:
    """Reject the records that the table's columns can't hold, with the reason that its sink would give.

    Stands before a stream branches into a table and windows (or further tables): what is refused here reaches none of them.
    Asks no server. What only shows when it is written (a constraint, a trigger, a key that is there already, a sum that does not
    fit) is refused in the sink, as before.

    Args:
        step_id: the step's name, and the stage of its rejects.
        up: records as they go into the table.
        table: the target that they go into: then they are judged for its database and by the columns that its table has there.
            Or an sa.Table: as for the target of the flow that was given this very object; where there is none, by what the Table
            declares.

    Parallelism: where the batch is.
    Delivery: as `map` (tests/waxwing/operators/test_check.py).

    Raises:
        ConfigError: the target has several tables, or folds windows; or not one record of the declared type could be written.
    """
    if isinstance(table, sa.Table):
        judge: Judge = _OfTable(table, up)
    elif table.folds_windows:
        raise ConfigError(
            f"check {step_id}: its target folds windows, whose rows are not made of one record each.",
            hint="Give it the target of the table that the records go into.",
        )
    else:
        judge = table.misfits
        judge(())
        table.check_records(record_type(up))

    def checked(batch: Batch[R]) -> Batch[R]:
        bad = dict(sorted(judge(batch.records).items()))
        if not bad:
            return batch
        return without_bad(step_id, batch, bad, without(batch.records, bad))

    return declare_key(declare(op.map(step_id, up, checked), record_type(up)), key_type(up))


class _OfTable:
    """Judges as the target of the flow does that writes the table: its sink may be drawn later, so it is looked for at the first
    batch."""

    def __init__(self, table: sa.Table, up: Flowing[Any]) -> None:
        self._table, self._flow, self._kind = table, up.flow(), record_type(up)
        self._judge: Judge | None = None

    def __call__(self, records: Sequence[Any]) -> Mapping[int, str]:
        if self._judge is None:
            targets = vars(self._flow).get("_waxwing_targets", {}).values()
            theirs = (one.misfits for one in targets if one.table_given is self._table and not one.folds_windows)
            self._judge = next(theirs, None) or self._declared()
        return self._judge(records)

    def _declared(self) -> Judge:
        planned = plan(self._table, Append(), dialect=MEMORY)
        numbered = self._table.autoincrement_column
        if numbered is not None:
            if (fields := field_types(self._kind)) is None:
                raise ConfigError(
                    f"check: nobody knows whether records bring {numbered.name}, a number that {self._table.fullname} may give.",
                    hint="Give check the target that writes the table, or declare the records' type (parse does).",
                )
            names = {column.name for column in planned.columns} | ({numbered.name} & fields.keys())
            brought = [column.name for column in self._table.c if column.name in names]
            planned = plan(self._table, Append(), dialect=MEMORY, columns=brought)
        return RowMaker(planned, [column.name for column in planned.columns], MEMORY).misfits
