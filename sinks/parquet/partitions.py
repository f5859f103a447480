"""Which folder a row's file lies in: Hive's way, `date=2026-01-31/hour=12`, which DuckDB, polars, pyarrow and Spark read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from waxwing.errors import ConfigError
from waxwing.tables.columns import kind_of
from waxwing.tables.files.arrow import encoder_of
from waxwing.tables.files.keys import PartitionKey
from waxwing.tables.values.rules import Kind

# What stands for a null, in all of these.
NULL = "__HIVE_DEFAULT_PARTITION__"
# A name of a folder holds so much.
NAME_BYTES_MAX = 255
_KINDS: tuple[Kind, ...] = ("text", "enum", "integer", "boolean", "date", "uuid")
# Letters and digits of any script, and what no reader takes for its own.
_PLAIN = re.compile(r"[^\w.~-]|\x7f")

# So many values of a key are remembered.
KNOWN_MAX = 100_000

Row = tuple[Any, ...]
Part = tuple[str, str]
Folders = tuple[list[str], dict[int, str]]


class Partitions:
    """The folders of a table's rows.

    Args:
        keys: names of columns, which then stand in no file; or keys that are made of a column.
        columns: that rows bring, in their order.
        table: its name, for messages.

    Attributes:
        names: of the keys.
        written: numbers of the columns that stand in files.

    Raises:
        ConfigError: a key that can't be one.
    """

    def __init__(self, keys: Sequence[str | PartitionKey], columns: Sequence[sa.Column[Any]], table: str) -> None:
        by_name: dict[Any, int] = {column.name: number for number, column in enumerate(columns)}
        plain = {key for key in keys if isinstance(key, str)}
        strange = [key for key in plain if key not in by_name]
        made = [_plain(key, columns[by_name[key]]) if isinstance(key, str) else key for key in keys if key not in strange]
        self.names = tuple(key.name for key in made)
        lacking = [*strange, *(key.column for key in made if key.column not in by_name)]
        problems = [f"rows bring no column {name}" for name in lacking]
        lower = [name.lower() for name in self.names]
        taken = {name.lower() for name in by_name if name not in plain}
        problems += [
            f"the key {name} is there twice" for name in {name for name in lower if lower.count(name) > 1 or name in taken}
        ]
        problems += [f"{name!r} can't be the name of a folder's key" for name in self.names if not name or _PLAIN.search(name)]
        kinds = {name: kind_of(columns[number]) for name, number in by_name.items()}
        problems += [
            f"column {key.column} ({columns[by_name[key.column]].type!r}) can't be the key {key.name}"
            for key in made
            if key.column in kinds and key.kinds and kinds[key.column] not in key.kinds
        ]
        if problems:
            raise ConfigError(
                f"Files of {table} can't be divided like that: {'; '.join(problems)}.",
                hint="A key is a column of texts, integers, dates, booleans or UUIDs; or day() or hour() of timestamps.",
            )
        self._keys = [(by_name[key.column], key) for key in made]
        self._floors = [key.floor if kind_of(columns[number]) == "datetime" else "" for number, key in self._keys]
        self.written = [number for name, number in by_name.items() if name not in plain]
        if not self.written:
            raise ConfigError(f"Files of {table} would have no column: all are keys of folders.", hint="Leave one in the files.")
        self._known: list[dict[Any, Part]] = [{} for _ in made]

    def of(self, rows: Sequence[Row], batch: Any) -> Folders:
        """The folder of each row; and the reasons of those that can't be in any, by their numbers. `batch`: the same rows, as a
        record batch of all columns."""
        parts = []
        bad: dict[int, str] = {}
        for (number, key), floor, known in zip(self._keys, self._floors, self._known, strict=True):
            if len(known) > KNOWN_MAX:
                known.clear()
            if floor:
                of_key = self._floored(key, batch.column(number), floor, known)
            else:
                values = [row[number] for row in rows]
                for value in set(values) - known.keys():
                    known[value] = self._part(key, value)
                of_key = [known[value] for value in values]
            if any(why for _, why in {*of_key}):
                bad |= {n: f"column {key.column}: {why}" for n, (_, why) in enumerate(of_key) if why}
            parts.append([name for name, _ in of_key])
        return ["/".join(of_row) for of_row in zip(*parts, strict=True)] if len(parts) > 1 else parts[0], bad

    def _floored(self, key: PartitionKey, column: Any, floor: str, known: dict[Any, Part]) -> list[Part]:
        """Timestamps differ, their days and hours do not."""
        import pyarrow.compute as pc  # noqa: PLC0415 - see waxwing.tables.files.arrow

        encoded = pc.floor_temporal(column, unit=floor).dictionary_encode(null_encoding="encode")
        for value in set(moments := encoded.dictionary.to_pylist()) - known.keys():
            known[value] = self._part(key, value)
        of_moment = [known[value] for value in moments]
        return [of_moment[number] for number in encoded.indices.to_pylist()]

    def _part(self, key: PartitionKey, value: Any) -> Part:
        """The folder's name, and why it can't be one."""
        made = None if value is None else key.value(value)
        if made is None:
            return f"{key.name}={NULL}", ""
        text = f"{made:02}" if key.floor == "hour" else _text_of(made)
        name = f"{key.name}={_PLAIN.sub(_escaped, text)}"
        if not text or text == NULL:
            return name, f"{text!r} is a null to readers, as a key of folders"
        if (size := len(name.encode())) > NAME_BYTES_MAX:
            return name, f"as the name of a folder it has {size} bytes, at most {NAME_BYTES_MAX}"
        return name, ""


def _plain(name: str, column: sa.Column[Any]) -> PartitionKey:
    encode = encoder_of(column)
    return PartitionKey(
        name=name, column=name, value=_text_of if encode is None else lambda value: str(encode([value])[0]), kinds=_KINDS
    )


def _escaped(letter: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in letter[0].encode())


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    return str(value)
