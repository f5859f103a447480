"""Dead letters as rows of waxwing_dead_letters: whatever a message holds, its letter can be stored.

What is text in them is escaped to what the database's encoding holds; what of a message is too large for the server is left out,
and the reason says so. Else the flow would stop at that message for good.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from waxwing.batch import Headers
from waxwing.change import DeadLetter
from waxwing.secrets import scrub

REASON_CHARACTERS_MAX = 2_000
STAGE_CHARACTERS_MAX = 100
# What stands before the hexadecimal digits of a header's value that is no text, or none that the database holds.
HEX = "hex:"
# Bytes of a row besides key, value, headers and reason, roughly.
_ROW_BYTES = 1_000


def held(text: str, encoding: str | None) -> str:
    """Text that the database takes: no U+0000, no lone surrogates, and what its encoding lacks is escaped.

    `encoding`: Python's name of it, None for all of Unicode.
    """
    return text.replace("\x00", "\\x00").encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def statements(
    step: str, letters: Iterable[DeadLetter], *, bytes_max: int, encoding: str | None
) -> Iterator[list[dict[str, object]]]:
    """The rows of dead letters, in as many statements as the server needs (`bytes_max` of keys, values and headers each)."""
    rows: list[dict[str, object]] = []
    size = 0
    for letter in letters:
        row, own = row_of(step, letter, bytes_max=bytes_max, encoding=encoding)
        if rows and size + own > bytes_max:
            yield rows
            rows, size = [], 0
        rows.append(row)
        size += own
    if rows:
        yield rows


def row_of(step: str, letter: DeadLetter, *, bytes_max: int, encoding: str | None) -> tuple[dict[str, object], int]:
    """A letter as a row, and its size. The largest of key, value and headers are left out until the rest fits `bytes_max`."""
    headers: list[Any] = [_header(name, value, encoding) for name, value in letter.headers]
    sizes = [len(letter.key or b""), len(letter.value or b""), *(len(json.dumps(header)) + 2 for header in headers)]
    total, gone = sum(sizes), set()
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        if total <= bytes_max:
            break
        gone.add(number)
        total -= sizes[number]
    reason = scrub(letter.reason)
    if gone:
        reason = f"{reason[: REASON_CHARACTERS_MAX - 500]} ({_left_out(letter.headers, sizes, sorted(gone))})"
    reason = held(reason, encoding)[:REASON_CHARACTERS_MAX]
    row: dict[str, object] = {
        "flow": letter.stream.flow,
        "step": step,
        "source_id": letter.stream.source_id,
        "source_partition": letter.stream.partition,
        "source_offset": letter.offset,
        "row_index": letter.row,
        "source": letter.stream.source,
        "stage": held(letter.stage, encoding)[:STAGE_CHARACTERS_MAX],
        "reason": reason,
        "message_key": None if 0 in gone else letter.key,
        "message_value": None if 1 in gone else letter.value,
        "message_headers": json.dumps([header for number, header in enumerate(headers, 2) if number not in gone]),
        "message_timestamp_ms": letter.timestamp_ms,
    }
    return row, total + 4 * len(reason) + _ROW_BYTES


def _left_out(headers: Headers, sizes: Sequence[int], gone: Sequence[int]) -> str:
    names = {0: "key", 1: "value"}
    parts = [f"its {names[number]} of {sizes[number]:,} bytes" for number in gone if number in names]
    left = [number for number in gone if number not in names]
    if len(left) == 1:
        parts.append(f"its header {headers[left[0] - 2][0][:50]!r} of {sizes[left[0]]:,} bytes")
    elif left:
        parts.append(f"{len(left)} headers of {sum(sizes[number] for number in left):,} bytes")
    are = "is" if len(parts) == 1 and len(left) < 2 else "are"
    return f"{' and '.join(parts)} {are} not kept: the server takes no statement so large"


def _header(name: str, value: bytes | None, encoding: str | None) -> list[str | None]:
    return [held(name, encoding), None if value is None else _header_text(value, encoding)]


def _header_text(value: bytes, encoding: str | None) -> str:
    """A header's value as text that stands in JSON of this database, else in hex; so is what looks like hex, to be told apart."""
    try:
        text = value.decode()
        if encoding is not None:
            text.encode(encoding)
    except UnicodeError:
        return HEX + value.hex()
    # U+0000 is a character of JSON's that no database's type for it takes.
    return HEX + value.hex() if "\x00" in text or text.startswith(HEX) else text
