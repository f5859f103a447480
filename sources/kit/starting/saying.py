"""Where each step begins, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sources.kit.starting.positions import StartAt, StepAt
from waxwing import log
from waxwing.batch import Stream

# So many partitions of a step are named one by one where a start says where it begins; more are summed up.
NAMED_MAX = 8


def say_starts(flow: str, starts: Mapping[Stream, StartAt], start: str = "", *, anew: bool = False) -> None:
    """Say where each step begins, a line a step.

    Args:
        flow: the flow's name.
        starts: the streams that are about to be read.
        start: START, where it was given: where positions are stored it has no say.
        anew: BEGIN=anew was given.
    """
    places: dict[str, dict[Stream, StepAt]] = {}
    for stream, at in sorted(starts.items()):
        for place in at.steps:
            places.setdefault(place.step, {})[stream] = place
    for step, streams in places.items():
        begins = {stream: place.offset for stream, place in streams.items() if place.anew}
        goes_on = {stream: place.offset for stream, place in streams.items() if not place.anew}
        if len(streams) <= NAMED_MAX:
            parts = [f"{stream} goes on at {offset}" for stream, offset in goes_on.items()]
            parts += [f"{stream} begins anew at {offset}" for stream, offset in begins.items()]
        else:
            parts = [
                f"{len(found)} of {len(streams)} partitions of {_names(found)} {verb} at {_range(found.values())}"
                for found, verb in ((goes_on, "go on"), (begins, "begin anew"))
                if found
            ]
        ignored = f" START={start} counts only where no position is stored." if start and goes_on else ""
        if anew and goes_on:
            ignored += " BEGIN=anew does nothing for a step that has positions: take it out."
        log.info(
            "begins",
            f"Flow {flow}, step {step}: {', '.join(parts)}.{ignored}",
            step=step,
            goes_on={str(stream): offset for stream, offset in goes_on.items()},
            begins_anew={str(stream): offset for stream, offset in begins.items()},
        )


def _names(streams: Iterable[Stream]) -> str:
    first, *others = dict.fromkeys(stream.source for stream in streams)
    return f"{first} and {len(others)} {'others' if len(others) > 1 else 'other'}" if others else first


def _range(offsets: Iterable[int]) -> str:
    low, high = min(offsets := list(offsets)), max(offsets)
    return str(low) if low == high else f"{low} to {high}"
