"""What the log says of a data file, so that readers can pass over it: how many rows, and of columns the bounds and the nulls.

Bounds that can't be said exactly lie outside of the values, never inside. Where a column's can't be said at all, none are given
of the whole file: beside bounds of others, deltalake's pyarrow dataset takes lacking ones for null, and passes over the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

# As others write them: of a text so many characters, and what is longer ends in the last character there is.
TEXT_CHARACTERS_MAX = 32
LAST_CHARACTER = "\U0010ffff"
_MILLISECOND = timedelta(milliseconds=1)
_encode = msgspec.json.Encoder(decimal_format="number").encode
_NOTHING = object()


def stats_of(metadata: Any, names: Collection[str], with_nan: Collection[str]) -> str:
    """The statistics of a file, as JSON.

    Args:
        metadata: what pyarrow says of the file (pyarrow.parquet.FileMetaData).
        names: the columns that may have bounds; those that the file lacks are null in all of its rows.
        with_nan: those that hold a NaN, which Parquet's own bounds leave out.
    """
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls = dict.fromkeys(names, metadata.num_rows)
    is_bounded = True
    for at in range(metadata.num_columns):
        name = metadata.schema.column(at).path
        if name not in nulls:
            continue
        groups = [metadata.row_group(number).column(at).statistics for number in range(metadata.num_row_groups)]
        nulls[name] = sum(one.null_count for one in groups)
        bounded = [one for one in groups if one.num_values]
        if not bounded:
            continue
        low = high = _NOTHING
        if name not in with_nan and all(one.has_min_max for one in bounded):
            low, high = _below(min(one.min for one in bounded)), _above(max(one.max for one in bounded))
        if low is _NOTHING or high is _NOTHING:
            is_bounded = False
        lowest[name], highest[name] = low, high
    bounds = {"minValues": lowest, "maxValues": highest} if is_bounded else {}
    return _encode({"numRecords": metadata.num_rows, **bounds, "nullCount": nulls}).decode()


def _below(value: Any) -> Any:
    return _BELOW[type(value)](value) if type(value) in _BELOW else _NOTHING


def _above(value: Any) -> Any:
    return _ABOVE[type(value)](value) if type(value) in _ABOVE else _NOTHING


def _same(value: Any) -> Any:
    return value


def _finite(value: float) -> Any:
    return value if math.isfinite(value) else _NOTHING


def _prefix(value: str) -> str:
    return value[:TEXT_CHARACTERS_MAX]


def _prefix_and_more(value: str) -> Any:
    if len(value) <= TEXT_CHARACTERS_MAX:
        return value
    at = next((at for at in range(TEXT_CHARACTERS_MAX, -1, -1) if value[at] < LAST_CHARACTER), None)
    return _NOTHING if at is None else value[:at] + LAST_CHARACTER


def _moment(value: datetime) -> str:
    """In milliseconds, cut."""
    text = value.replace(tzinfo=None).isoformat(sep="T" if value.tzinfo else " ", timespec="milliseconds")
    return f"{text}Z" if value.tzinfo else text


def _moment_behind(value: datetime) -> Any:
    if value.microsecond % 1_000:
        if value.replace(tzinfo=UTC) > datetime.max.replace(tzinfo=UTC) - _MILLISECOND:
            return _NOTHING
        value += _MILLISECOND
    return _moment(value)


_BOTH: Mapping[type, Callable[[Any], Any]] = {
    bool: _same,
    int: _same,
    Decimal: _same,
    float: _finite,
    date: date.isoformat,
}
_BELOW: Mapping[type, Callable[[Any], Any]] = {**_BOTH, str: _prefix, datetime: _moment}
_ABOVE: Mapping[type, Callable[[Any], Any]] = {**_BOTH, str: _prefix_and_more, datetime: _moment_behind}
