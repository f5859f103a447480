"""Modes: what becomes of a row in the table that it is written into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waxwing.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Append:
    """Insert every row. A row that breaks a unique key is a bad row."""


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """Insert, or update the row of the same key.

    Args:
        keys: the key columns: a primary key or unique constraint of the table.
        newer_by: a column that must be greater than the stored row's (strictly) for the row to be written.
        delete_on_tombstone: a message with a key and a null value deletes the row of that key: the one that `parse` has
            decoded, or else the message's key, as UTF-8 text, in the single key column. Not together with `newer_by`.
    """

    keys: tuple[str, ...]
    newer_by: str | None = None
    delete_on_tombstone: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for what contradicts itself, whatever the target."""
        if self.delete_on_tombstone and self.newer_by:
            raise ConfigError("delete_on_tombstone takes no newer_by: a tombstone brings a key and no version.")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Insert, or merge into the row of the same key: for rows that are parts of a whole, such as totals of a batch.

    A null on one side gives the other side, as SQL's aggregates skip nulls. Columns that are named nowhere here are set to
    the new value. Sums are exact for integers and decimals; floats depend on the order in which they are added. A sum that
    its column can't hold makes a bad row.

    Args:
        keys: the key columns: a primary key or unique constraint of the table.
        add: numbers that become stored + new.
        least: numbers, dates or timestamps of which the smaller stays.
        greatest: those of which the greater stays.
        mean: column -> (sum, count), both among `add`: the database sets it to stored sum / stored count, rounded to the
            column's decimals, half away from zero; null where nothing was counted. Rows do not bring it. (SQLite divides
            floats, and may round what lies exactly between two values either way.)
    """

    keys: tuple[str, ...]
    add: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    greatest: tuple[str, ...] = ()
    mean: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def merged(self) -> tuple[str, ...]:
        """The columns that rows bring and that are merged."""
        return (*self.add, *self.least, *self.greatest)


# Modes with one row per key.
Keyed = Upsert | Merge
Mode = Append | Keyed


def keys_of(mode: Mode) -> tuple[str, ...]:
    """The key columns of a mode; none where every row is inserted."""
    return mode.keys if isinstance(mode, Keyed) else ()
