"""Windows without state: what each batch adds to each window, for a database that adds it up."""

from __future__ import annotations

from dataclasses import replace
from decimal import localcontext
from types import MappingProxyType
from typing import Any

from waxwing.batch import Batch, Reject
from waxwing.errors import ConfigError
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.aggregates.functions import Count, Max, Mean, Min, Sum
from waxwing.operators.windows.aggregates.parts import EXACT
from waxwing.operators.windows.definition import Session, Windows
from waxwing.operators.windows.definition.misfits import Takes
from waxwing.operators.windows.pieces import Opening
from waxwing.operators.windows.rows import Rows, no_rows, rows_of_window
from waxwing.operators.windows.stream.fold import StreamFold
from waxwing.tables.modes import Merge


class Live:
    """Pre-aggregates batches. No record is late, since nothing closes.

    Args:
        windows: Tumbling, Hopping or Calendar ones, of Count, Sum, Min, Max and Mean. A mean needs the sum and the count of its
            field beside it, for the database keeps those and divides.
        stage: the step's name, in what becomes of rejects.
        takes: by field of a Min or Max the types that its column takes: a value of another is a reject of its own.

    Raises:
        ConfigError: windows that can't be merged row by row.
    """

    def __init__(self, windows: Windows, stage: str = "windows", takes: Takes = MappingProxyType({})) -> None:
        if isinstance(windows.kind, Session):
            raise ConfigError("Sessions can't be live: a record may join two of them.", hint="Write them when they close.")
        if other := [name for name, a in windows.aggregates.items() if not isinstance(a, Count | Sum | Min | Max | Mean)]:
            raise ConfigError(
                f"Live windows can't compute {', '.join(other)}.",
                hint="They take Count, Sum, Min, Max and Mean; the others are for windows that are written when they close.",
            )
        self.windows, self._stage, self.takes = windows, stage, takes
        self._definition = windows.never_late()

    def merge(self, keys: tuple[str, ...]) -> Merge:
        """How rows of these key columns are merged."""
        of = self.windows.aggregates
        means = {
            name: (self._beside(name, a, Sum), self._beside(name, a, Count)) for name, a in of.items() if isinstance(a, Mean)
        }
        return Merge(
            keys=keys,
            add=tuple(name for name, a in of.items() if isinstance(a, Count | Sum)),
            least=tuple(name for name, a in of.items() if isinstance(a, Min)),
            greatest=tuple(name for name, a in of.items() if isinstance(a, Max)),
            mean=means,
        )

    def _beside(self, name: str, mean: Mean, kind: type[Count | Sum]) -> str:
        for other, aggregate in self.windows.aggregates.items():
            if isinstance(aggregate, kind) and aggregate.field == mean.field:
                return other
        raise ConfigError(
            f"The live mean {name!r} needs {kind.__name__}({mean.field!r}) beside it.",
            hint=f'Such as aggregates={{..., "{mean.field}_{kind.__name__.lower()}": {kind.__name__}("{mean.field}")}}.',
        )

    def place_of(self, batch: Batch[Any], place: int) -> int | None:
        """Where a stream begins in event time (see Held), with its first batch; None: there is no good record in it."""
        start = batch.offset_first
        fold = StreamFold(self.windows, batch.stream, 1, Opening(start, start, NEVER, (), place), self._stage, takes=self.takes)
        fold.pieces(batch)
        return None if fold.watermark == NEVER else fold.place

    def fold(self, batch: Batch[Any], place: int = NEVER) -> tuple[Rows, list[Reject], int]:
        """What the batch adds, one row per window and key; all its rejects; and how many rows of windows that began before the
        place are left out.
        """
        first = batch.offset_first
        fold = StreamFold(self._definition, batch.stream, 1, Opening(first, first, NEVER), self._stage, takes=self.takes)
        [piece], read = fold.pieces(batch)
        rows, left_out = no_rows(self.windows), 0
        with localcontext(EXACT):
            for group in piece.groups:
                start = self.windows.start_of(group.end_us)
                if start < place:
                    left_out += len(group.keys)
                else:
                    rows.extend(rows_of_window(self.windows, (start, group.end_us), group.keys, group.states))
        return rows, fold.rejects(batch, read), left_out

    def whole(self, batch: Batch[Any], rows: list[Any], rejects: list[Reject]) -> Batch[Any]:
        """The batch, with these rows in place of its records."""
        return replace(batch, whole=True, stands_for=batch.arrived).with_records(rows, [0] * len(rows), rejects, ())
