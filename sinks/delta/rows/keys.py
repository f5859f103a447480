"""Columns that divide a Delta table, and are made of others."""

from __future__ import annotations

from datetime import date
from typing import Any

from sinks.delta.library import load
from waxwing.errors import RowError
from waxwing.tables.files.keys import PartitionKey

_TYPES = {"text": str, "integer": int, "date": date}
_INTEGER_MAX = 2**63 - 1


def field_of(key: PartitionKey) -> Any:
    """The pyarrow.Field of a key."""
    pa = load().pyarrow
    return pa.field(key.name, {"text": pa.string(), "integer": pa.int64(), "date": pa.date32()}[key.type])


def made(key: PartitionKey, column: Any) -> Any:
    """The key of each value of a record batch's column.

    Raises:
        RowError: some have none.
    """
    library = load()
    if key.floor and library.pyarrow.types.is_timestamp(column.type):  # moments differ, their days and hours do not
        column = library.compute.floor_temporal(column, unit=key.floor)
    encoded = column.dictionary_encode(null_encoding="encode")
    values: list[Any] = []
    reasons: dict[int, str] = {}
    for at, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(None if value is None else _checked(key, key.value(value)))
        except Exception as error:  # noqa: BLE001 - a function of the flow's own
            values.append(None)
            reasons[at] = f"column {key.column}: no key {key.name} can be made of {value!r}: {error}"
    if reasons:
        bad = {number: reasons[at] for number, at in enumerate(encoded.indices.to_pylist()) if at in reasons}
        raise RowError(f"{len(bad)} rows have no partition", bad=bad)
    return library.pyarrow.array(values, field_of(key).type).take(encoded.indices)


def _checked(key: PartitionKey, value: Any) -> Any:
    if value is None:
        return None
    if type(value) is not _TYPES[key.type]:
        raise TypeError(f"{value!r} is no {key.type}")
    if isinstance(value, int) and abs(value) > _INTEGER_MAX:
        raise ValueError(f"{value} has more than 64 bits")
    if isinstance(value, str):
        value.encode()
    return value
