"""What a source has to keep to, tried out on what it holds now: for tests. See docs/your-own-source.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sources.kit.reading.by_stream import OneByOne
from sources.kit.reading.lane import Lane
from sources.kit.source import Source
from sources.kit.starting.described import described, listed
from sources.kit.words import Log, Place
from waxwing.batch import Messages, Stream

PLACES_MAX = 25  # so many places of a stream are tried, and so many restarts
Record = tuple[int, bytes | None, bytes | None, int, Any]


def check_source(make: Callable[[], Source]) -> Mapping[str, Sequence[bytes | None]]:
    """Read all that a source holds, whole and from each place on, and stop and go on: it has to be the same each time.

    Args:
        make: gives the source, a new one each time, with until="end"; what it reads must not change meanwhile.

    Returns the values of each stream, by its name and partition ("a.csv[0]").

    Raises:
        AssertionError: it gave something else, or ended elsewhere.
        ConfigError: what it says can't be: types, lengths, names, ids.
    """
    source = make()
    _demand(source.options.until == "end", "make a source with Options(until='end'): a check has to come to an end")
    logs = {Stream("check", one.source, one.source_id, one.partition): one for one in described(source)}
    for what, again in (("listed()", listed(source)), ("another describe()", [_named(one) for one in described(make())])):
        was = sorted(_named(one) for one in logs.values())
        _demand(sorted(again) == was, f"{what} gave {sorted(again)}, and describe() gave {was}")
    whole = {stream: _check_stream(make, stream, log) for stream, log in logs.items()}
    source.close()
    batches, _ = _driven(make(), {}, None)
    _demand_same(whole, batches, "a whole run")
    sizes = range(1, sum(len(messages) > 0 for _, messages in batches))
    for number in _some(sizes):
        before, kept = _driven(make(), {}, number)
        after, _ = _driven(make(), kept, None)
        _demand_same(whole, before + after, f"a run that was stopped after {number} batches, and the next one")
    return {str(stream): [record[2] for record in records] for stream, records in whole.items()}


def _check_stream(make: Callable[[], Source], stream: Stream, log: Log) -> list[Record]:
    """Its records, read from the start, and again from each place that has a name."""
    source = make()
    whole, places = _read(source, Place(stream, log.first, log.token), log.end)
    offsets = [record[0] for record in whole]
    _demand(offsets == sorted(set(offsets)), f"{stream}: the offsets do not rise: {offsets}")
    stands = places[-1].offset if places else log.first
    _demand(
        log.end is None or stands == max(log.end, log.first),
        f"{stream}: read from its start it ends at {stands}, and describe() says {log.end}: a bounded run would wait for that",
    )
    if log.end is not None and log.end_token is not None:
        places.append(Place(stream, log.end, log.end_token))
    if log.token is None:
        places = [Place(stream, offset) for offset in offsets] + places[-1:]
    named = [place for place in places if (place.token is None) == (log.token is None)]
    for place in _some(named) if source.replayable else ():
        again, _ = _read(make(), place, None if place.offset == log.end else log.end)
        wanted = [record for record in whole if record[0] >= place.offset]
        _demand(again == wanted, f"{stream}, read from {place.offset} (token {place.token!r}): {_difference(wanted, again)}")
    return whole


def _read(source: Source, place: Place, end: int | None) -> tuple[list[Record], list[Place]]:
    """What a stream holds from a place on, and the places behind its runs."""
    reader = OneByOne(source.read, source.options)
    reader.open([place])
    records: list[Record] = []
    places: list[Place] = []
    at_end = end is not None and place.offset >= end
    while not at_end:
        for fetched in reader.read(source.options.batch_records_max):
            at_end = fetched.at_end
            if at_end:
                break
            run = fetched.run
            records += _records(run.messages)
            stands = records[-1][0] + 1 if records else place.offset
            stands = stands if run.offset_next is None else run.offset_next
            _demand(
                not len(run.messages) or records[-1][0] < stands,
                f"{place.stream}: a run has the offset {records[-1:]}, and ends at {stands}",
            )
            places.append(Place(place.stream, stands, run.token))
            at_end = end is not None and stands >= end
    reader.close()
    return records, places


def _driven(
    source: Source, kept: Mapping[str, Any], batches_max: int | None
) -> tuple[list[tuple[Stream, Messages]], dict[str, Any]]:
    """The batches of a run by the kit's own lanes, stopped after so many with records; what each lane keeps for the next run."""
    lanes: dict[str, Lane] = {name: source.build_part("check.in", name, kept.get(name)) for name in source.list_parts()}
    running = dict(lanes)
    out: list[tuple[Stream, Messages]] = []
    with_records = 0
    try:
        while running:
            for name, lane in list(running.items()):
                if with_records == batches_max:
                    return out, {name: lane.snapshot() for name, lane in lanes.items()}
                try:
                    batches = [(one.stream, one.messages) for one in lane.next_batch()]
                except StopIteration:
                    del running[name]
                    continue
                out += batches
                with_records += sum(len(messages) > 0 for _, messages in batches)
                if not batches and (awake := lane.next_awake()) is not None:
                    time.sleep(max(0.0, (awake - datetime.now(UTC)).total_seconds()))
        return out, {name: lane.snapshot() for name, lane in lanes.items()}
    finally:
        for lane in lanes.values():
            lane.close()


def _demand_same(whole: Mapping[Stream, list[Record]], batches: Sequence[tuple[Stream, Messages]], what: str) -> None:
    found: dict[tuple[str, str, int], list[Record]] = {}
    for stream, messages in batches:
        found.setdefault(stream[1:], []).extend(_records(messages))
    for stream, records in whole.items():
        again = found.pop(stream[1:], [])
        _demand(again == records, f"{stream}, {what}: {_difference(records, again)}")
    _demand(not any(found.values()), f"{what} read what describe() did not give before: {sorted(found)}")


def _records(messages: Messages) -> list[Record]:
    return list(
        zip(messages.offsets, messages.keys, messages.values, messages.timestamps_ms, map(tuple, messages.headers), strict=True)
    )


def _difference(wanted: Sequence[Record], found: Sequence[Record]) -> str:
    at = next(
        (n for n, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), min(len(wanted), len(found))
    )
    return f"record {at} is {next(iter(found[at:]), 'not there')}, and was {next(iter(wanted[at:]), 'not there')}"


def _named(log: Log) -> tuple[str, str, int]:
    return log.source, log.source_id, log.partition


def _some(of: Sequence[Any]) -> list[Any]:
    """Of many some, the first and the last among them."""
    step = max(1, -(-len(of) // PLACES_MAX))
    return [*of[::step], *(of[-1:] if len(of) > 1 and (len(of) - 1) % step else ())]


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
