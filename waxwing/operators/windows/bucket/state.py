"""The bytes of a bucket: a version, a head with the positions, and the open windows, compressed where that pays.

Head and body have a checksum in front, so that the head can be read alone, and what is damaged is never taken for a state.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataError
from waxwing.ledger.windows import NEVER
from waxwing.operators.windows.bucket import packing
from waxwing.operators.windows.bucket.window import Table, Window
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.definition.text import grace_of
from waxwing.operators.windows.pieces import Held

# The last one is written where a stream has a token, so that others can go back to the release that did not know tokens.
WITHOUT_TOKENS, WITH_TOKENS = 3, 4
VERSIONS_READ = (2, WITHOUT_TOKENS, WITH_TOKENS)
# The version, the head's checksum, the head's size; behind the head the body's checksum, and the body.
_CRC_BYTES = 4
_HEAD_FROM = 9
RESTORE = (
    "Restore what keeps the windows from its backup; or forget them (in a database: waxwing step drop FLOW STEP), empty what "
    "they wrote, and start anew."
)


class Header(NamedTuple):
    """The definition's text, up to where windows are closed, how far the bucket has come, what it waits to hear of, and bad
    records in a row by stream (None: version 2, which has none). Windows that end at `dropped_to` or before are forgotten, of a
    calendar those up to that which `passed` is in, too (NEVER: none, or no calendar)."""

    text: str
    closed_to: int
    held: dict[Stream, Held]
    awaited: list[Stream]
    bad_runs: dict[Stream, int] | None = None
    dropped_to: int = NEVER
    passed: int = NEVER


def pack(definition: Windows, header: Header, windows: Mapping[int, Window], sessions: list[Any]) -> bytes:
    """All of it as bytes."""
    calendar = definition.by_calendar
    body = packing.encode([[_pack_window(end, window, calendar=calendar) for end, window in windows.items()], sessions])
    return _joined(header, packing.compress(body))


def renamed(state: bytes, flow: str) -> bytes:
    """The same state of a flow that bears another name.

    Raises:
        DataError: these are not the bytes of a bucket, or those of another version.
    """
    header, head_crc, rest = _read(state)
    body = rest[_CRC_BYTES:]
    _check(rest[:_CRC_BYTES], zlib.crc32(body, head_crc))
    held = {stream._replace(flow=flow): one for stream, one in header.held.items()}
    awaited = [stream._replace(flow=flow) for stream in header.awaited]
    runs = {stream._replace(flow=flow): run for stream, run in (header.bad_runs or {}).items()}
    return _joined(header._replace(held=held, awaited=awaited, bad_runs=runs), body)


def _joined(header: Header, body: bytes) -> bytes:
    with_tokens = any(one.token is not None for one in header.held.values())
    held = [[*stream, *(one if with_tokens else one[:4])] for stream, one in header.held.items()]
    runs = [[*stream, run] for stream, run in (header.bad_runs or {}).items() if run]
    passed = [] if header.passed == NEVER else [header.passed]
    head = packing.encode([header.text, header.closed_to, held, header.awaited, runs, header.dropped_to, *passed])
    version = WITH_TOKENS if with_tokens else WITHOUT_TOKENS
    head_crc = _head_crc(head, version)
    front = bytes([version]) + head_crc.to_bytes(_CRC_BYTES) + len(head).to_bytes(4)
    return front + head + zlib.crc32(body, head_crc).to_bytes(_CRC_BYTES) + body


def has_header(head: bytes) -> bool:
    """Whether this beginning of a state holds all of the header, as far as it can be told."""
    return len(head) >= _HEAD_FROM + int.from_bytes(head[1 + _CRC_BYTES : _HEAD_FROM])


def read_header(state: bytes) -> Header:
    """The header alone.

    Raises:
        DataError: these are not the bytes of a bucket, or those of another version.
    """
    return _read(state)[0]


def unpack(definition: Windows, state: bytes) -> tuple[Header, dict[int, Window], list[Any]]:
    """Header, windows and sessions (as they were packed).

    Raises:
        ConfigError: it was packed under another definition.
        DataError: these are not the bytes of a bucket, or those of another version.
    """
    header, head_crc, rest = _read(state)
    if not definition.means_the_same(header.text):
        raise ConfigError(
            f"The windows kept so far are of another definition: {header.text}; now it is {definition.text}.",
            hint="Go back to that definition, or give the new one a step name of its own, which begins anew.",
        )
    body = rest[_CRC_BYTES:]
    _check(rest[:_CRC_BYTES], zlib.crc32(body, head_crc))
    windows, sessions = packing.decode(packing.decompress(body))
    interned: dict[Any, Any] = {}
    loaded = {end: _load_window(definition, end, packed, interned) for end, *packed in windows}
    return header, _by_rules_of_now(definition, loaded) if definition.by_calendar else loaded, sessions


def forgotten_to(definition: Windows, header: Header) -> int:
    """Up to where windows were written and forgotten, by whatever grace and rules of a time zone: they are not opened again."""
    forgotten = max(header.dropped_to, header.closed_to - grace_of(header.text))
    return forgotten if header.passed == NEVER else max(forgotten, _window_at(definition, header.passed)[1])


def _by_rules_of_now(definition: Windows, windows: dict[int, Window]) -> dict[int, Window]:
    """A calendar's windows, each under the end that folds send now: the rules of its zone may have changed. One that is open
    begins and ends by those of now; rows that are written, and so their corrections, keep what they say."""
    out: dict[int, Window] = {}
    for window in windows.values():
        span = _window_at(definition, window.middle)
        if span[1] in out:
            raise ConfigError(
                f"By the rules that this machine has of the time zone now, two open windows of {definition.kind!r} are one.",
                hint="Run with the time zone data of before (package tzdata) until they have closed.",
            )
        out[span[1]] = window
        if window.size is None:
            window.span = span
    return out


def _window_at(definition: Windows, time_us: int) -> tuple[int, int]:
    slot = definition.grid.slot(time_us)
    return slot, definition.grid.behind(slot)


def _read(state: bytes) -> tuple[Header, int, bytes]:
    """The header, its checksum, and what follows it."""
    if not state:
        raise DataError("The state of a bucket of windows is missing.", hint=RESTORE)
    if state[0] not in VERSIONS_READ:
        raise DataError(
            f"The state of a bucket of windows has version {state[0]}, this Waxwing reads {WITH_TOKENS}.",
            hint=f"Use the Waxwing that wrote it. If that is this one, the state is damaged. {RESTORE}",
        )
    behind = _HEAD_FROM + int.from_bytes(state[1 + _CRC_BYTES : _HEAD_FROM])
    head = state[_HEAD_FROM:behind]
    head_crc = _head_crc(head, state[0])
    _check(state[1 : 1 + _CRC_BYTES], head_crc)
    text, closed_to, held, awaited, *more = packing.decode(head)
    streams = {Stream(*row[:4]): Held(*row[4:]) for row in held}
    runs = {Stream(*row[:4]): row[4] for row in more[0]} if more else None
    header = Header(text, closed_to, streams, [Stream(*row) for row in awaited], runs, *more[1:])
    return header, head_crc, state[behind:]


def _head_crc(head: bytes, version: int) -> int:
    return zlib.crc32(head, version)  # so that of nothing it is not 0: a row of zeros is no state


def _check(kept: bytes, crc: int) -> None:
    if kept != crc.to_bytes(_CRC_BYTES):
        raise DataError("The state of a bucket of windows is damaged: its checksum is wrong.", hint=RESTORE)


def _pack_window(end: int, window: Window, *, calendar: bool) -> list[Any]:
    tables = [
        [packing.pack_column(list(table.ids)), [packing.pack_column(column) for column in table.columns]]
        for table in (window.on_time, window.grace)
    ]
    out = [end, *tables, window.size, sorted(window.changed), list(window.revisions.items())]
    return [*out, window.span] if calendar else out


def _load_window(definition: Windows, end: int, packed: list[Any], interned: dict[Any, Any]) -> Window:
    tables = []
    for keys, columns in packed[:2]:
        # A key that stands in many windows is one object.
        known = [interned.setdefault(key, key) for key in packing.unpack_column(keys)]
        tables.append(Table(definition.parts, known, [packing.unpack_column(column) for column in columns]))
    window = Window(tuple(packed[5]) if definition.by_calendar else (definition.start_of(end), end), *tables)
    window.size, window.changed, window.revisions = packed[2], set(packed[3]), dict(packed[4])
    return window
