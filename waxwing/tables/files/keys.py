"""Keys that divide a table into folders, made of its columns: days and hours of event time, or anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from waxwing.tables.values.rules import Kind


@dataclass(frozen=True, kw_only=True)
class PartitionKey:
    """A key that is made of a column.

    Args:
        name: of the key: readers get a column of this name.
        column: of the table; it stays in the files.
        value: makes the key of a value that is no null (a null stays one): the same for the same value at any time.
        type: of the key, where targets have types for it (Delta); in names of folders everything is text.
        floor: of timestamps of one day, or hour (in UTC), the key is the same, and is made once.
        kinds: of columns that it can be made of; empty: of any.
    """

    name: str
    column: str
    value: Callable[[Any], object]
    type: Literal["text", "integer", "date"] = "text"
    floor: Literal["", "day", "hour"] = ""
    kinds: tuple[Kind, ...] = ()


def day(column: str, name: str = "date") -> PartitionKey:
    """The day of a column of dates or timestamps; of those with a zone in UTC."""
    kinds: tuple[Kind, ...] = ("datetime", "date")
    return PartitionKey(name=name, column=column, value=_day, type="date", floor="day", kinds=kinds)


def hour(column: str, name: str = "hour") -> PartitionKey:
    """The hour of a column of timestamps, 0 to 23 (00 to 23 in names of folders); of those with a zone in UTC."""
    kinds: tuple[Kind, ...] = ("datetime",)
    return PartitionKey(
        name=name, column=column, value=lambda at: int(_in_utc(at).hour), type="integer", floor="hour", kinds=kinds
    )


def _day(value: Any) -> date:
    moment = _in_utc(value)
    return date(moment.year, moment.month, moment.day)


def _hour(value: Any) -> int:
    return int(_in_utc(value).hour)


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value
