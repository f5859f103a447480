"""The bytes of a bucket: a version, a header with the positions, and the open windows, compressed where that pays."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataError
from waxwing.operators.windows import packing
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Held
from waxwing.operators.windows.rows import Table, Window

VERSION = 1


class Header(NamedTuple):
    """The definition's text, up to where windows are closed, how far the bucket has come, and what it waits to hear of."""

    text: str
    closed_to: int
    held: dict[Stream, Held]
    awaited: list[Stream]


def pack(header: Header, windows: Mapping[int, Window], sessions: list[Any]) -> bytes:
    """All of it as bytes."""
    held = [[*stream, *one] for stream, one in header.held.items()]
    head = packing.encode([header.text, header.closed_to, held, header.awaited])
    body = packing.encode([[_pack_window(end, window) for end, window in windows.items()], sessions])
    return bytes([VERSION]) + len(head).to_bytes(4) + head + packing.compress(body)


def read_header(state: bytes) -> Header:
    """The header alone.

    Raises:
        DataError: these are not the bytes of a bucket, or those of a later version.
    """
    if state[:1] != bytes([VERSION]):
        raise DataError(
            f"The state of a bucket of windows has version {state[0] if state else 'none'}, this Waxwing reads {VERSION}.",
            hint="Use the Waxwing that wrote it, or a later one.",
        )
    try:
        text, closed_to, held, awaited = packing.decode(state[5 : 5 + int.from_bytes(state[1:5])])
    except (msgspec.DecodeError, ValueError) as error:
        raise _damaged(error) from error
    return Header(text, closed_to, {Stream(*row[:4]): Held(*row[4:]) for row in held}, [Stream(*row) for row in awaited])


def unpack(definition: Windows, state: bytes) -> tuple[Header, dict[int, Window], list[Any]]:
    """Header, windows and sessions (as they were packed).

    Raises:
        ConfigError: it was packed under another definition.
        DataError: these are not the bytes of a bucket, or those of a later version.
    """
    header = read_header(state)
    if header.text != definition.text:
        raise ConfigError(
            f"The windows kept so far are of another definition: {header.text}; now it is {definition.text}.",
            hint="Go back to that definition, or give the new one a step name of its own, which begins anew.",
        )
    try:
        windows, sessions = packing.decode(packing.decompress(state[5 + int.from_bytes(state[1:5]) :]))
    except (msgspec.DecodeError, zlib.error, ValueError) as error:
        raise _damaged(error) from error
    interned: dict[Any, Any] = {}
    return header, {end: _load_window(definition, packed, interned) for end, *packed in windows}, sessions


def _damaged(error: Exception) -> DataError:
    return DataError(f"The state of a bucket of windows is damaged: {error}.", hint="Restore the target from its backup.")


def _pack_window(end: int, window: Window) -> list[Any]:
    tables = [
        [packing.pack_column(list(table.ids)), [packing.pack_column(column) for column in table.columns]]
        for table in (window.on_time, window.grace)
    ]
    return [end, *tables, window.size, sorted(window.changed), list(window.revisions.items())]


def _load_window(definition: Windows, packed: list[Any], interned: dict[Any, Any]) -> Window:
    tables = []
    for keys, columns in packed[:2]:
        # A key that stands in many windows is one object.
        known = [interned.setdefault(key, key) for key in packing.unpack_column(keys)]
        tables.append(Table(definition.parts, known, [packing.unpack_column(column) for column in columns]))
    window = Window(*tables)
    window.size, window.changed, window.revisions = packed[2], set(packed[3]), dict(packed[4])
    return window
