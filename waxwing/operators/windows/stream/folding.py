"""A batch's records that are not too late, by (window, key): the bulk of a fold's work."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from waxwing.batch import Batch
from waxwing.operators.windows.aggregates.parts import Entries, FoldError
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Group, Piece, Sessions, buckets_of
from waxwing.operators.windows.stream.reading import Read, chosen, taker

# A group of records that are in the same windows: the slot alone when all of these are still open to it, else with how many
# of the slot's windows (by rising end) are gone for good, and how many are no longer on time.
Slot = int | tuple[int, int, int]

# From this share of different keys in a batch on, it is faster to let the buckets do all the folding.
SINGLE_FROM = 0.9
# From so many records a slot on, on average, each slot of a batch is folded for itself.
SLOT_RECORDS_MIN = 64


def fold_windows(definition: Windows, batch: Batch[Any], read: Read, slots: Sequence[Slot] | None, pieces: list[Piece]) -> None:
    """Add the records to the pieces, whose windows are those of their slots; None: those of their times, none of them gone.

    Raises:
        FoldError: a user's function refused records, by their numbers among all of the batch.
    """
    for slot, part in _by_slot(definition, read, slots):
        if isinstance(slot, list):
            _fold_slots(definition, batch, part, slot, pieces)
        else:
            _fold_slot(definition, batch, part, slot, pieces)


def _by_slot(definition: Windows, read: Read, slots: Sequence[Slot] | None) -> Iterator[tuple[Slot | list[Slot], Read]]:
    """Each slot with its records, or, where these are few, all records with the slot of each."""
    grid, span = definition.grid, read.span
    if slots is None:
        lowest, highest = grid.slot(span.lowest), grid.slot(span.highest)
        if lowest == highest:
            yield lowest, read
            return
        if span.rising and (highest - lowest) // grid.slot_us * SLOT_RECORDS_MIN < len(read.times):
            first, slot = 0, lowest
            while slot <= highest:
                behind = grid.behind(slot)
                end = bisect_left(read.times, behind, first)
                if end > first:
                    yield slot, chosen(read, range(first, end))
                first, slot = end, behind
            return
        slots = grid.slots(read.times)
    if len(set(slots)) * SLOT_RECORDS_MIN > len(slots):
        yield list(slots), read
        return
    runs: defaultdict[Slot, list[int]] = defaultdict(list)
    for n, one in enumerate(slots):
        runs[one].append(n)
    for one, run in runs.items():
        yield one, chosen(read, run)


def _fold_slot(definition: Windows, batch: Batch[Any], read: Read, slot: Slot, pieces: list[Piece]) -> None:
    keys: Sequence[Any] = read.keys
    numbers: Sequence[int] = range(len(keys))
    distinct = dict.fromkeys(keys)
    folded = len(distinct) < SINGLE_FROM * len(keys)
    if folded:
        ids = dict(zip(distinct, count()))
        numbers, keys = list(map(ids.__getitem__, keys)), list(ids)
    states = _states(definition, batch, read, numbers, len(keys))
    runs: list[list[int]] = [[] for _ in pieces]
    add = [run.append for run in runs]
    for n, bucket in enumerate(buckets_of(keys, len(definition.by), len(pieces))):
        add[bucket](n)
    for piece, run in zip(pieces, runs, strict=True):
        if run:
            take = taker(run)
            group = Group(0, False, take(keys), [take(column) for column in states], distinct=len(keys) == len(distinct))
            _add_group(definition, piece, slot, group)


def _fold_slots(definition: Windows, batch: Batch[Any], read: Read, slots: Sequence[Slot], pieces: list[Piece]) -> None:
    keys: Sequence[Any] = read.keys
    numbers: Sequence[int] = range(len(keys))
    if len(set(keys)) < SINGLE_FROM * len(keys):
        ids: defaultdict[tuple[Slot, Any], int] = defaultdict(count().__next__)
        numbers = list(map(ids.__getitem__, zip(slots, keys, strict=True)))
        keys, slots = [key for _, key in ids], [slot for slot, _ in ids]
    states = _states(definition, batch, read, numbers, len(keys))
    runs: defaultdict[tuple[Slot, int], list[int]] = defaultdict(list)
    for n, place in enumerate(zip(slots, buckets_of(keys, len(definition.by), len(pieces)), strict=True)):
        runs[place].append(n)
    for (slot, bucket), run in runs.items():
        take = taker(run)
        _add_group(definition, pieces[bucket], slot, Group(0, False, take(keys), [take(column) for column in states]))


def _add_group(definition: Windows, piece: Piece, slot: Slot, group: Group) -> None:
    """To each window of the slot."""
    whole, gone, behind = slot if isinstance(slot, tuple) else (slot, 0, 0)
    for n, end in enumerate(definition.grid.ends(whole)):
        if n >= gone:
            piece.groups.append(group._replace(end_us=end, grace=n < behind))


def fold_sessions(definition: Windows, batch: Batch[Any], read: Read, pieces: list[Piece]) -> None:
    """What lies close together becomes one entry; the buckets join entries. Raises as `fold_windows` does."""
    gap = definition.gap_us or 0
    times, numbers = read.times, [0] * len(read.times)
    keys: list[Any] = []
    firsts: list[int] = []
    lasts: list[int] = []
    newest: dict[Any, int] = {}
    for n in sorted(range(len(times)), key=times.__getitem__):
        t, key = times[n], read.keys[n]
        number = newest.get(key)
        if number is None or t - lasts[number] >= gap:
            number = newest[key] = len(keys)
            keys.append(key)
            firsts.append(t)
            lasts.append(t)
        else:
            lasts[number] = t
        numbers[n] = number
    states = _states(definition, batch, read, numbers, len(keys))
    runs: dict[int, list[int]] = defaultdict(list)
    for n, bucket in enumerate(buckets_of(keys, len(definition.by), len(pieces))):
        runs[bucket].append(n)
    for bucket, run in runs.items():
        take = taker(run)
        sessions = Sessions(take(keys), take(firsts), take(lasts), [take(column) for column in states])
        pieces[bucket].sessions = sessions


def _states(definition: Windows, batch: Batch[Any], read: Read, numbers: Sequence[int], size: int) -> list[list[Any]]:
    entries = Entries(numbers, size, read.columns, read.records, read.times, batch.messages, read.at, batch.stream.partition)
    try:
        return [part.fold(entries) for part in definition.parts]
    except FoldError as error:
        raise FoldError({read.numbers[n]: reason for n, reason in error.bad.items()}) from error
