"""Dead letters of a Delta target: a second table, whose rows each bear the number of their commit."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sinks.delta.files import Files, Folder
from sinks.delta.library import load
from sinks.delta.log import DeltaLog
from sinks.delta.records import Key, key_of
from sinks.delta.rows.stats import stats_of
from waxwing.change import DeadLetter
from waxwing.errors import ConfigError
from waxwing.ledger.contents import Letter, Letters
from waxwing.ledger.store import Step
from waxwing.tables.files import letters

NUMBER = "change_number"
_INDEXED = ("stage", "error", "source", "partition", "offset", "timestamp", "row", "flow", "step", "source_id", NUMBER)


class LettersTable:
    """The table.

    Args:
        folder: of it.
        files: in there.
        options: of the package deltalake.
    """

    def __init__(self, folder: Folder, files: Files, options: Mapping[str, str]) -> None:
        self.log, self._files = DeltaLog(folder, options), files

    @staticmethod
    def _schema() -> Any:
        return letters.schema().append(load().pyarrow.field(NUMBER, load().pyarrow.int64()))

    def prepare(self) -> None:
        """Make the table, or look whether it is one of ours.

        Raises:
            ConfigError: it is not.
        """
        schema = self._schema()
        if not self.log.exists() and self.log.is_to_be_made(self._files):
            self.log.create(schema, [])
        there = {field.name: field.type for field in self.log.table.schema().fields}
        wanted = {field.name: field.type for field in load().Schema.from_arrow(schema).fields}
        if problems := [name for name, kind in wanted.items() if there.get(name) != kind]:
            raise ConfigError(
                f"{self.log.folder.path} is no table of dead letters: {', '.join(problems)} are not as they should be.",
                hint="Move it away; it is made anew.",
            )

    def write(self, step: Step, found: Sequence[DeadLetter], number: int) -> Any:
        """A data file with these, for a commit with this number: its AddAction."""
        library, path = load(), f"part-{secrets.token_hex(16)}.zstd.parquet"
        made = letters.batch(found, step)
        numbers = library.pyarrow.array([number] * len(found), library.pyarrow.int64())
        table = library.pyarrow.Table.from_arrays([*made.columns, numbers], schema=self._schema())
        # In memory first: a writer whose file can't be written complains when it is let go.
        packed, metadata = library.pyarrow.BufferOutputStream(), list[Any]()
        with library.parquet.ParquetWriter(packed, table.schema, compression="zstd", metadata_collector=metadata) as writer:
            writer.write_table(table)
        with self._files.asked("written"), self._files.open_new(path) as file:
            file.write(packed.getvalue())
            size = self._files.finish(path, file)
        stats = stats_of(metadata[0], _INDEXED, ())
        return library.AddAction(path, size, {}, time.time_ns() // 1_000_000, data_change=True, stats=stats)

    def all(self, step: Step) -> list[Letter]:
        """Those of a step, in the order of their places."""
        self.log.refresh()
        found = load().pyarrow.RecordBatchReader.from_stream(self.log.table.scan(predicate=_of_step(step))).read_all()
        return [(step, letter) for letter in sorted(letters.letters_in(found), key=lambda one: one.place)]

    def gone(self, step: Step, kept: Letters) -> list[tuple[Key, int]]:
        """Of each stream the offset from which on letters are no longer kept."""
        stay = {letter.place for of, letter in kept.all() if of == step}
        out: dict[Key, int] = {}
        for _, letter in self.all(step):
            if letter.place not in stay:
                key = key_of(letter.stream)
                out[key] = min(letter.offset, out.get(key, letter.offset))
        return sorted(out.items())

    @staticmethod
    def those(step: Step, numbers: Collection[int | None], gone: Sequence[tuple[Key, int]]) -> str:
        """A predicate of the letters that bear these numbers, and of what is gone; empty: of none."""
        parts = [f"{NUMBER} = {number}" for number in sorted(number for number in numbers if number is not None)]
        parts += [
            f"({_of_step(step)} AND source = {_quoted(source)} AND source_id = {_quoted(source_id)} "
            f'AND "partition" = {partition} AND "offset" >= {offset})'
            for (source, source_id, partition), offset in gone
        ]
        return " OR ".join(parts)


def _of_step(step: Step) -> str:
    return f"flow = {_quoted(step.flow)} AND step = {_quoted(step.name)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
