"""A batch's records that are not too late, by (window, key): the bulk of a fold's work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any

from waxwing.batch import Batch
from waxwing.operators.windows.aggregates.parts import Entries, FoldError
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Group, Piece, Sessions, buckets_of
from waxwing.operators.windows.stream.reading import Read

# A group of records that are in the same windows: the slot alone when all of these are still open to it, else with how many
# of the slot's windows (by rising end) are gone for good, and how many are no longer on time.
Slot = int | tuple[int, int, int]

# From this share of different keys in a batch on, it is faster to let the buckets do all the folding.
SINGLE_FROM = 0.75


def fold_windows(definition: Windows, batch: Batch[Any], read: Read, slots: Sequence[Slot] | int, pieces: list[Piece]) -> None:
    """Add the records to the pieces, whose windows are those of their slots.

    Raises:
        FoldError: a user's function refused records, by their numbers among all of the batch.
    """
    ids: defaultdict[Any, int] = defaultdict(count().__next__)
    runs: dict[Any, list[int]] = defaultdict(list)
    numbers: Sequence[int] = range(len(read.keys))
    keys: Sequence[Any] = read.keys
    if len(set(keys)) < SINGLE_FROM * len(keys):
        if isinstance(slots, int):
            numbers = list(map(ids.__getitem__, keys))
            keys = list(ids)
        else:
            numbers = list(map(ids.__getitem__, zip(slots, keys, strict=True)))
            keys, slots = [key for _, key in ids], [slot for slot, _ in ids]
    buckets = buckets_of(keys, len(definition.by), len(pieces))
    if isinstance(slots, int):
        for n, bucket in enumerate(buckets):
            runs[bucket].append(n)
        runs = {(slots, bucket): run for bucket, run in runs.items()}
    else:
        for n, place in enumerate(zip(slots, buckets, strict=True)):
            runs[place].append(n)
    states = _states(definition, batch, read, numbers, len(keys))
    for (slot, bucket), run in runs.items():
        take = _taker(run)
        taken, columns = take(keys), [take(column) for column in states]
        whole, gone, behind = slot if isinstance(slot, tuple) else (slot, 0, 0)
        for n, end in enumerate(definition.ends(whole)):
            if n >= gone:
                pieces[bucket].groups.append(Group(end, n < behind, taken, columns))


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
        take = _taker(run)
        sessions = Sessions(take(keys), take(firsts), take(lasts), [take(column) for column in states])
        pieces[bucket].sessions = sessions


def _states(definition: Windows, batch: Batch[Any], read: Read, numbers: Sequence[int], size: int) -> list[list[Any]]:
    offsets, at = batch.messages.offsets, read.at
    if not (isinstance(at, range) and at == range(len(offsets))):
        offsets = [offsets[n] for n in at]
    entries = Entries(numbers, size, read.columns, read.records, read.times, offsets, batch.stream.partition)
    try:
        return [part.fold(entries) for part in definition.parts]
    except FoldError as error:
        raise FoldError({read.numbers[n]: reason for n, reason in error.bad.items()}) from error


def _taker(numbers: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    # itemgetter is the fastest way, but for one number it returns no tuple.
    return itemgetter(*numbers) if len(numbers) > 1 else lambda values: (values[numbers[0]],)
