"""Dead letters of a Delta target: a second table, whose rows each bear the number of their commit."""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from sinks.delta.files import Files, Folder
from sinks.delta.library import load
from sinks.delta.log import DeltaLog
from sinks.delta.records import Key, key_of
from waxwing.batch import Headers, Stream
from waxwing.change import DeadLetter
from waxwing.errors import ConfigError
from waxwing.ledger.contents import Letter, Letters
from waxwing.ledger.store import Step

NUMBER = "change_number"
# Names as in the dead letters of a database.
_TEXTS = ("flow", "step", "stage", "reason", "source", "source_id")
_INTEGERS = ("source_partition", "source_offset", "row_index", "message_timestamp_ms", NUMBER)
_BYTES = ("message_key", "message_value")


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
        pa = load().pyarrow
        return pa.schema(
            [
                *(pa.field(name, pa.string()) for name in _TEXTS),
                *(pa.field(name, pa.int64()) for name in _INTEGERS),
                *(pa.field(name, pa.binary()) for name in _BYTES),
                pa.field("message_headers", pa.string()),
            ]
        )

    def prepare(self) -> None:
        """Make the table, or look whether it is one of ours.

        Raises:
            ConfigError: it is not.
        """
        schema = self._schema()
        if not self.log.exists():
            self.log.create(schema, [])
        there = {field.name: field.type for field in self.log.table.schema().fields}
        wanted = {field.name: field.type for field in load().Schema.from_arrow(schema).fields}
        if problems := [name for name, kind in wanted.items() if there.get(name) != kind]:
            raise ConfigError(
                f"{self.log.folder.path} is no table of dead letters: {', '.join(problems)} are not as they should be.",
                hint="Move it away; it is made anew.",
            )

    def write(self, step: Step, letters: Sequence[DeadLetter], number: int) -> Any:
        """A data file with these, for a commit with this number: its AddAction."""
        library, path = load(), f"part-{secrets.token_hex(16)}.zstd.parquet"
        rows = [_row(step, letter, number) for letter in letters]
        table = library.pyarrow.Table.from_pylist(rows, schema=self._schema())
        with self._files.asked("written"), self._files.open_new(path) as file:
            library.parquet.write_table(table, file, compression="zstd")
            size = self._files.finish(path, file)
        only = {NUMBER: number}  # by it readers, and deletes, find the file
        stats = {"numRecords": len(rows), "minValues": only, "maxValues": only, "nullCount": {NUMBER: 0}}
        return library.AddAction(path, size, {}, time.time_ns() // 1_000_000, data_change=True, stats=json.dumps(stats))

    def all(self, step: Step) -> list[Letter]:
        """Those of a step, in the order of their places."""
        self.log.refresh()
        found = load().pyarrow.RecordBatchReader.from_stream(self.log.table.scan(predicate=_of_step(step))).read_all()
        letters = [_letter(step, row) for row in found.to_pylist()]
        return [(step, letter) for letter in sorted(letters, key=lambda one: one.place)]

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
            f"AND source_partition = {partition} AND source_offset >= {offset})"
            for (source, source_id, partition), offset in gone
        ]
        return " OR ".join(parts)


def _of_step(step: Step) -> str:
    return f"flow = {_quoted(step.flow)} AND step = {_quoted(step.name)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _row(step: Step, letter: DeadLetter, number: int) -> dict[str, Any]:
    stream = letter.stream
    return {
        "flow": step.flow,
        "step": step.name,
        "stage": letter.stage,
        "reason": _text(letter.reason),
        "source": stream.source,
        "source_id": stream.source_id,
        "source_partition": stream.partition,
        "source_offset": letter.offset,
        "row_index": letter.row,
        "message_key": letter.key,
        "message_value": letter.value,
        "message_headers": _dumped(letter.headers),
        "message_timestamp_ms": None if letter.timestamp_ms < 0 else letter.timestamp_ms,
        NUMBER: number,
    }


def _text(given: str) -> str:
    """What files take: no half of a pair."""
    return given.encode(errors="backslashreplace").decode()


def _dumped(headers: Headers) -> str | None:
    """Pairs as JSON, with values in Base64, as a database has them."""
    pairs = [[_text(name), None if value is None else b64encode(value).decode()] for name, value in headers]
    return msgspec.json.encode(pairs).decode() if pairs else None


def _letter(step: Step, row: Mapping[str, Any]) -> DeadLetter:
    headers = msgspec.json.decode(row["message_headers"] or "[]")
    at = row["message_timestamp_ms"]
    return DeadLetter(
        stream=Stream(step.flow, row["source"], row["source_id"], row["source_partition"]),
        offset=row["source_offset"],
        row=row["row_index"],
        stage=row["stage"],
        reason=row["reason"],
        key=row["message_key"],
        value=row["message_value"],
        headers=tuple((name, None if value is None else b64decode(value)) for name, value in headers),
        timestamp_ms=-1 if at is None else at,
    )
