"""Dead letters as rows of files: of whichever format, with the same columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.ledger.store import Step
from waxwing.tables.files.arrow import load

# The last moment of the year 9999: readers know none behind it.
TIMESTAMP_MAX_MS = 253_402_300_799_999


def schema() -> Any:
    """The message as it came, and why it was refused. `row`: which of the message's rows it was; `timestamp`: null where nobody
    knows, or it lies behind the year 9999.
    """
    pa = load()
    header = pa.struct([("name", pa.string()), ("value", pa.binary())])
    return pa.schema(
        [
            ("stage", pa.string()),
            ("error", pa.string()),
            ("source", pa.string()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
            ("key", pa.binary()),
            ("value", pa.binary()),
            ("headers", pa.list_(header)),
            ("timestamp", pa.timestamp("us", tz="UTC")),
            ("row", pa.int64()),
            ("flow", pa.string()),
            ("step", pa.string()),
            ("source_id", pa.string()),
        ]
    )


def batch(letters: Sequence[DeadLetter], step: Step) -> Any:
    """A record batch of these, of `schema`."""
    rows = [
        (
            letter.stage,
            _text(letter.reason),
            letter.stream.source,
            letter.stream.partition,
            letter.offset,
            letter.key,
            letter.value,
            [{"name": _text(name), "value": value} for name, value in letter.headers],
            letter.timestamp_ms * 1_000 if 0 <= letter.timestamp_ms <= TIMESTAMP_MAX_MS else None,
            letter.row,
            *step,
            letter.stream.source_id,
        )
        for letter in letters
    ]
    pa, wanted = load(), schema()
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), wanted.types, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def letters_in(table: Any) -> list[DeadLetter]:
    """The letters of a table of such rows, in its order."""
    at = table.schema.get_field_index("timestamp")
    rows = table.set_column(at, "timestamp", table.column(at).cast(load().int64())).to_pylist()
    return [_letter(row) for row in rows]


def _letter(row: Mapping[str, Any]) -> DeadLetter:
    at = row["timestamp"]
    return DeadLetter(
        stream=Stream(row["flow"], row["source"], row["source_id"], row["partition"]),
        offset=row["offset"],
        row=row["row"],
        stage=row["stage"],
        reason=row["error"],
        key=row["key"],
        value=row["value"],
        headers=tuple((header["name"], header["value"]) for header in row["headers"] or ()),
        timestamp_ms=-1 if at is None else at // 1_000,
    )


def _text(text: str) -> str:
    """What half of a surrogate pair becomes its escape in."""
    return text.encode("utf-8", "backslashreplace").decode()
