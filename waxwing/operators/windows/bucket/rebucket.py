"""Buckets divided anew, while the flow does not run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import localcontext
from typing import Any

from waxwing.batch import Stream
from waxwing.errors import ConfigError
from waxwing.operators.windows.aggregates.parts import EXACT
from waxwing.operators.windows.bucket import packing, state
from waxwing.operators.windows.bucket.window import Table, Window
from waxwing.operators.windows.definition import Windows
from waxwing.operators.windows.pieces import Held, buckets_of


def rebucket(definition: Windows, packed: Sequence[bytes], buckets: int) -> list[bytes]:
    """The states of so many buckets, made of these.

    Raises:
        ConfigError: the buckets do not stand at the same positions, as they do after a clean stop.
    """
    old = [state.unpack(definition, one) for one in packed]
    headers = [header for header, _, _ in old]
    if any(_places(header) != _places(headers[0]) for header in headers):
        raise ConfigError(
            "The buckets of windows stand at different positions.",
            hint="Start the flow once more and stop it cleanly (SIGTERM, exit 0), then try again.",
        )
    # A decision of the clock may have reached one bucket and not another: what one has written is never opened again, and what it
    # has forgotten neither.
    header = headers[0]._replace(
        closed_to=max(one.closed_to for one in headers),
        dropped_to=max(state.forgotten_to(definition, one) for one in headers),
        passed=max(one.passed for one in headers),
        held={stream: _lowest([one.held[stream] for one in headers]) for stream in headers[0].held},
    )
    _close_alike([held for _, held, _ in old])
    windows: list[dict[int, list[tuple[Window, list[int], list[int]]]]] = [{} for _ in range(buckets)]
    for _, held, _ in old:
        for end, window in held.items():
            on_time, grace = (_routed(definition, list(table.ids), buckets) for table in (window.on_time, window.grace))
            for bucket in on_time.keys() | grace.keys():
                windows[bucket].setdefault(end, []).append((window, on_time[bucket], grace[bucket]))
    sessions = _sessions(definition, [kept for _, _, kept in old], buckets)
    return [
        state.pack(definition, header, {end: _joined(definition, parts) for end, parts in kept.items()}, of_bucket)
        for kept, of_bucket in zip(windows, sessions, strict=True)
    ]


def _places(header: state.Header) -> dict[Stream, tuple[int, ...]]:
    return {stream: one[:4] for stream, one in header.held.items()}


def _lowest(held: Sequence[Held]) -> Held:
    """Of the same place under several names that which can be read from first: from there all buckets can go on."""
    return min(held, key=lambda one: -1 if one.token_offset is None else one.token_offset)


def _routed(definition: Windows, keys: Sequence[Any], buckets: int) -> defaultdict[int, list[int]]:
    """The numbers of the keys by bucket."""
    out: defaultdict[int, list[int]] = defaultdict(list)
    for number, bucket in enumerate(buckets_of(keys, len(definition.by), buckets)):
        out[bucket].append(number)
    return out


def _joined(definition: Windows, parts: list[tuple[Window, list[int], list[int]]]) -> Window:
    """One window of parts of several; the keys that were written when it closed stand first, as everywhere."""
    spans = {part.span for part, _, _ in parts}
    if len(spans) > 1:
        raise ConfigError(
            "Of a window that is open the rules of its time zone have changed, and buckets have written it by either.",
            hint="Start the flow once more, and divide the buckets when that window, and its grace, are over.",
        )
    order = [(part, n) for part, numbers, _ in parts for n in numbers]
    order.sort(key=lambda one: one[0].size is not None and one[1] >= one[0].size)
    out = Window(spans.pop(), _table(definition, [(part.on_time, n) for part, n in order]), _table(definition, _grace(parts)))
    if any(part.size is not None for part, _, _ in parts):
        out.size = sum(1 for part, n in order if n < (part.size or 0))
    out.changed = {number for number, (part, n) in enumerate(order) if n in part.changed}
    out.revisions = {number: part.revisions[n] for number, (part, n) in enumerate(order) if n in part.revisions}
    return out


def _close_alike(held: Sequence[dict[int, Window]]) -> None:
    """A window that has closed in one bucket has closed in all; what the others hold of it is still to be written."""
    closed = {end for windows in held for end, window in windows.items() if window.size is not None}
    with localcontext(EXACT):
        for window in (windows[end] for windows in held for end in closed & windows.keys()):
            if window.size is None:
                window.close()
                window.size, window.changed = 0, set(range(len(window.on_time.ids)))


def _grace(parts: list[tuple[Window, list[int], list[int]]]) -> list[tuple[Table, int]]:
    return [(part.grace, n) for part, _, numbers in parts for n in numbers]


def _table(definition: Windows, places: list[tuple[Table, int]]) -> Table:
    names: dict[int, list[Any]] = {}
    keys = [names.setdefault(id(table), list(table.ids))[n] for table, n in places]
    columns = [[table.columns[part][n] for table, n in places] for part in range(len(definition.parts))]
    return Table(definition.parts, keys, columns)


def _sessions(definition: Windows, packed: Sequence[Sequence[Any]], buckets: int) -> list[list[Any]]:
    """Sessions, as they are packed: columns, of which the first holds the keys."""
    out: list[list[list[Any]]] = [[[] for _ in range(3 + len(definition.parts))] for _ in range(buckets)]
    for one in packed:
        columns = [packing.unpack_column(column) for column in one]
        for bucket, numbers in _routed(definition, columns[0], buckets).items():
            for column, values in zip(out[bucket], columns, strict=True):
                column.extend(values[n] for n in numbers)
    return [[packing.pack_column(column) for column in kept] for kept in out]
