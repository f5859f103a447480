"""Rows to messages: a key, a value, a time, headers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

import msgspec
import sqlalchemy as sa

from waxwing.batch import Batch, Delete
from waxwing.change import Change
from waxwing.errors import ConfigError, RowError
from waxwing.tables.columns import kind_of
from waxwing.tables.dialect import MEMORY, Dialect
from waxwing.tables.keys import is_zoned
from waxwing.tables.modes import Append
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker

# JSON has no NaN and no infinities.
TOPIC: Dialect = replace(MEMORY, name="kafka", float_nan=False, float_infinity=False)
# What a message takes beside its key and its value: its own head and that of its batch.
MESSAGE_HEAD_BYTES = 100

Key = str | Sequence[str] | Callable[[Any], bytes | str | None]
Header = str | Callable[[Any], bytes | str | None]
Headers = list[tuple[str, str | bytes | None]]
# Its key, its value, its time (0: that of its sending), its headers.
Message = tuple[bytes | None, bytes | None, int, Headers | None]
_encoder = msgspec.json.Encoder(decimal_format="number")


class MessageMaker:
    """Turns a change's records into messages, in the order of the messages that they were made of.

    Args:
        table: the columns that a message's value has, with their types.
        columns: those of them that records bring; None: all.
        key: a column, whose value is the key as plain text; several, which are a JSON object; or a function of the record.
        headers: by their names: a column, whose value stands as plain text; or a function of the record.

    Raises:
        ConfigError: the table does not fit, or lacks a column of the key or of a header.
    """

    def __init__(
        self, table: sa.Table, columns: Sequence[str] | None, key: Key | None, headers: Mapping[str, Header] | None
    ) -> None:
        self.plan = plan(table, Append(), dialect=TOPIC, columns=columns)
        self.names = [column.name for column in self.plan.columns]
        self._rows = RowMaker(self.plan, self.names, TOPIC)
        self._zoned = [n for n, one in enumerate(self.plan.columns) if kind_of(one) == "datetime" and is_zoned(one)]
        self._row = (
            msgspec.defstruct("Row", [str(name) for name in self.names]) if all(map(str.isidentifier, self.names)) else None
        )
        self._key = None if key is None else self._of(key, "key")
        self._headers = {name: self._of(header, f"header {name}") for name, header in (headers or {}).items()}
        self._key_names = (key,) if isinstance(key, str) else () if key is None or callable(key) else tuple(key)

    def _of(self, what: Key, called: str) -> Callable[[Any, tuple[Any, ...]], bytes | None]:
        """A function of the record and its row."""
        if callable(what):
            return lambda record, _row: _bytes(what(record))
        names = (what,) if isinstance(what, str) else tuple(what)
        if lacking := [name for name in names if name not in self.names]:
            raise ConfigError(
                f"Topic's table {self.plan.table.name}: there is no column {', '.join(lacking)}, which is to be the {called}.",
                hint=f"It has {', '.join(self.names)}.",
            )
        at = [self.names.index(name) for name in names]
        if isinstance(what, str):
            return lambda _record, row: _text(row[at[0]])
        return lambda _record, row: _encoder.encode(dict(zip(names, (row[n] for n in at), strict=True)))

    def misfits(self, records: Sequence[Any]) -> dict[int, str]:
        """By their numbers the reasons of the records that the columns can't hold."""
        return self._rows.misfits(records)

    def of(self, change: Change, message_bytes_max: int) -> list[Message]:
        """The messages.

        Raises:
            RowError: with the number and the reason of each row that the columns can't hold, or a message can't.
        """
        batches = change.batches
        deleting = any(batch.deletes for batch in batches)
        bare = [replace(batch, deletes=()) for batch in batches] if deleting else batches
        rows = self._in_utc(self._rows.of(replace(change, batches=bare)).rows)
        out: list[Message] = []
        bad: dict[int, str] = {}
        first, gone = 0, len(rows)
        for batch in batches:
            of_batch = rows[first : first + len(batch.records)]
            made = self._made(batch, of_batch, first, bad)
            out += _in_order(batch, made, [self._deleting(delete, gone + n, bad) for n, delete in enumerate(batch.deletes)])
            first, gone = first + len(batch.records), gone + len(batch.deletes)
        if _size_max(out) > message_bytes_max:
            self._too_large(out, message_bytes_max, numbers_of(batches), bad)
        if bad:
            raise RowError(f"{len(bad)} rows can't be messages", bad=bad)
        return out

    def _in_utc(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows with their times in UTC. Most are, and stay as they are."""
        for at in self._zoned:
            for number, row in enumerate(rows):
                if row[at] is not None and row[at].tzinfo is not UTC:
                    rows[number] = (*row[:at], row[at].astimezone(UTC), *row[at + 1 :])
        return rows

    def _made(self, batch: Batch[Any], rows: Sequence[tuple[Any, ...]], first: int, bad: dict[int, str]) -> list[Message]:
        encode = _encoder.encode
        if self._row is not None:
            values = [encode(self._row(*row)) for row in rows]
        else:
            values = [encode(dict(zip(self.names, row, strict=True))) for row in rows]
        keys: list[bytes | None] = [None] * len(rows)
        headers: list[Headers | None] = [None] * len(rows)
        if self._key is not None or self._headers:
            for number, (record, row) in enumerate(zip(batch.records, rows, strict=True)):
                try:
                    if self._key is not None:
                        keys[number] = self._key(record, row)
                    if self._headers:
                        headers[number] = [(name, of(record, row)) for name, of in self._headers.items()]
                except Exception as error:  # noqa: BLE001 - a function of the flow's author failed on this record
                    bad[first + number] = f"its key or a header can't be made: {type(error).__name__}: {error}"
        return list(zip(keys, values, _times_ms(batch), headers, strict=True))

    def _too_large(self, messages: Sequence[Message], bytes_max: int, numbers: Sequence[int], bad: dict[int, str]) -> None:
        for number, message in zip(numbers, messages, strict=True):
            if (size := _size_max([message])) > bytes_max:
                bad.setdefault(number, f"a message of {size:,} bytes; the topic takes {bytes_max:,} (max.message.bytes)")

    def _deleting(self, delete: Delete, number: int, bad: dict[int, str]) -> Message:
        key = delete.key
        if isinstance(key, tuple):
            held = dict(zip(delete.names or self._key_names, key, strict=True))
            if not self._key_names or held.keys() != set(self._key_names):
                bad[number] = (
                    f"a tombstone of {', '.join(held)}, where the key is made of {', '.join(self._key_names) or 'nothing'}"
                )
                key = b""
            elif len(self._key_names) == 1:
                key = _text(key[0]) or b""
            else:
                key = _encoder.encode({name: held[name] for name in self._key_names})
        return key, None, 0, None


def _times_ms(batch: Batch[Any]) -> list[int]:
    """Of each record the time of its message."""
    if batch.whole:
        return [0] * len(batch.records)
    times, now_ms = batch.messages.timestamps_ms, time.time_ns() // 1_000_000
    # Brokers refuse messages of the future.
    return [time_ms if 0 < time_ms <= now_ms else 0 for time_ms in map(times.__getitem__, batch.at)]


def _size_max(messages: Sequence[Message]) -> int:
    """What the largest of them takes, in bytes."""
    return max((len(key or b"") + len(value or b"") for key, value, _, _ in messages), default=0) + MESSAGE_HEAD_BYTES


def _in_order(batch: Batch[Any], made: list[Message], deletes: list[Message]) -> Iterator[Message]:
    if not deletes:
        yield from made
        return
    events = [(at, 0, message) for at, message in zip(_places(batch), made, strict=True)]
    events += [(delete.at, 1, message) for delete, message in zip(batch.deletes, deletes, strict=True)]
    yield from (message for _, _, message in sorted(events, key=lambda event: event[:2]))


def _places(batch: Batch[Any]) -> Sequence[int]:
    """The message of each record; those of a batch that is whole stand in their own order."""
    return range(len(batch.records)) if batch.whole else batch.at


def numbers_of(batches: Sequence[Batch[Any]]) -> list[int]:
    """The number of each message in a RowError: records of all batches first, then deletes."""
    out: list[int] = []
    first, gone = 0, sum(len(batch.records) for batch in batches)
    for batch in batches:
        events = [(at, 0, first + n) for n, at in enumerate(_places(batch))] + [
            (d.at, 1, gone + n) for n, d in enumerate(batch.deletes)
        ]
        out += [number for _, _, number in (sorted(events) if batch.deletes else events)]
        first, gone = first + len(batch.records), gone + len(batch.deletes)
    return out


def _text(value: Any) -> bytes | None:
    """A value as plain text: that of JSON, without quotes."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return _encoder.encode(value).strip(b'"')


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"a {type(value).__name__}, where bytes, a str or None are needed")
