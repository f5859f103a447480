"""Where a source starts: the lowest position of the targets it feeds, with the split points between them.

Shared by all sources that feed targets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from waxwing import log
from waxwing.batch import Stream
from waxwing.change import Position, Start
from waxwing.errors import ConfigError, DataError
from waxwing.target import Target

T = TypeVar("T")


class StepAt(NamedTuple):
    """Where one step stands in a stream. `anew`: it has taken nothing of it in yet."""

    step: str
    offset: int
    anew: bool


class StartAt(NamedTuple):
    """Where to read a stream from (`offset`), where batches must end (`splits`, rising, above it), where to stop (or None),
    and where each step stands. `token`: the highest place at or below `offset` that has one, whose number is `token_offset`."""

    offset: int
    splits: tuple[int, ...] = ()
    offset_end: int | None = None
    steps: tuple[StepAt, ...] = ()
    token: bytes | None = None
    token_offset: int | None = None


class Answers(Protocol):
    """Asks a target; one that is away is asked again, for as long as its own settings say."""

    def __call__(self, target: Target, call: Callable[[], T]) -> T: ...


def at_once(target: Target, call: Callable[[], T]) -> T:  # noqa: ARG001 - others look at the target's settings
    """Asks a target once."""
    return call()


def _no_token(stream: Stream, offset: int) -> None:
    """The offset says it all."""


def open_feeds(
    feeds: Sequence[Target],
    log_starts: Mapping[Stream, int],
    resolve: Callable[[], Mapping[Stream, int]],
    ends: Mapping[Stream, int | None] | None,
    answers: Answers = at_once,
    *,
    anew: bool = False,
    token_of: Callable[[Stream, int], bytes | None] = _no_token,
    not_kept: Collection[Stream] = (),
) -> dict[Stream, StartAt]:
    """Store a position in every target that has none, before anything is read, and say where each stream starts.

    Args:
        feeds: the targets.
        log_starts: every stream that is read, with the first offset of its log.
        resolve: the START policy's offset of each of these; asked only at the flow's first start. A partition that
            appears later begins at its log's start; a step that appears later where the other steps first began.
        ends: the log's ends, for a bounded run (None: nobody knows it); an unfinished one keeps the ends it began with.
        answers: how targets are asked.
        anew: a step without positions begins although another flow took the same records into the same place (BEGIN=anew).
        token_of: what the source calls the place of an offset, where it has tokens: known for the log's start and START's.
        not_kept: streams whose log begins where it was first read: a step that appears later begins at the lowest place of the
            others that has a token.

    Raises:
        ConfigError: a target keeps no tokens, and a log is not kept.
        DataError: a step without positions would take in what another flow took into the same place: it was renamed.
    """
    held = [_by_stream(answers(target, target.positions), log_starts) for target in feeds]
    for target, positions in zip(feeds, held, strict=True):
        if not positions:
            answers(target, partial(_refuse_doubles, target, log_starts, anew=anew))
    known = {stream for positions in held for stream in positions}
    stood = {(target.step, stream) for target, positions in zip(feeds, held, strict=True) for stream in positions}
    policy = log_starts if known else resolve()
    began_with = _unfinished_ends(held)
    out: dict[Stream, list[tuple[str, Position]]] = {stream: [] for stream in log_starts}
    for number, target in enumerate(feeds):
        begins = []
        for stream, log_start in log_starts.items():
            of_stream = [position for positions in held for position in positions.get(stream, ())]
            first = max(min(one.offset_start for one in of_stream), log_start) if of_stream else policy[stream]
            token = token_of(stream, first)
            if stream in not_kept and of_stream:
                first, token = _lowest_place(of_stream)
            if ends is None:
                end = None
            elif began_with is not None:
                end = began_with.get(stream, None if ends[stream] is None else first)
            else:
                end = ends[stream]
            begins.append(Start(stream, first, end, token))
        stored = answers(target, partial(target.begin, begins))
        if lacking := {one.stream.source for one in stored if one.stream in not_kept and one.token is None}:
            raise ConfigError(
                f"{target.name} keeps no tokens, and the log of {', '.join(sorted(lacking))} is not kept: it could "
                "not be read again from where this target stands.",
                hint="Read it into a table or a topic, and that into this target.",
                step=target.step,
            )
        # Another process may have been first, with another `latest`: the targets behind this one follow what is stored now.
        held[number] = _by_stream(stored, log_starts)
        for position in stored:
            if position.stream in out:
                out[position.stream].append((target.step, position))
    log_tokens = {stream: (log_start, token_of(stream, log_start)) for stream, log_start in log_starts.items()}
    starts = {s: _start_at(found, None if s in not_kept else log_tokens[s]) for s, found in out.items() if found}
    # One that has taken nothing in stood at START's place before, if not at the log's start: it goes on there. (At the log's
    # start nothing tells it from one that another process of this very start has just stored.)
    return {
        stream: start._replace(
            steps=tuple(
                one._replace(anew=one.anew and not ((one.step, stream) in stood and one.offset > log_starts[stream]))
                for one in start.steps
            )
        )
        for stream, start in starts.items()
    }


# A target may hold several positions of one stream: each bucket of windows has its own.
Held = dict[Stream, list[Position]]


def _by_stream(positions: Iterable[Position], streams: Mapping[Stream, int]) -> Held:
    out: Held = {}
    for position in positions:
        if position.stream in streams:
            out.setdefault(position.stream, []).append(position)
    return out


def _unfinished_ends(held: Sequence[Held]) -> dict[Stream, int] | None:
    """The ends of a bounded run that has not reached them all; None: there is none.

    Those of the targets that have not reached theirs count: another one, which was no part of that run, may still hold the
    ends of its own last one.
    """
    every = [[position for of_stream in positions.values() for position in of_stream] for positions in held]
    of_run = [position for positions in every if any(map(_is_unfinished, positions)) for position in positions]
    if not of_run:
        return None
    out: dict[Stream, int] = {}
    for position in sorted(of_run, key=lambda p: (_is_unfinished(p), p.offset_end or 0)):  # what is unfinished says it best
        if position.offset_end is not None:
            out[position.stream] = position.offset_end
    return out


def _is_unfinished(position: Position) -> bool:
    return position.offset_end is not None and position.offset_next < position.offset_end


def _lowest_place(positions: Sequence[Position]) -> tuple[int, bytes | None]:
    """The lowest offset that has a token: that of a log that is not kept, where each position has one."""
    return min((one.token_offset or 0, one.token) for one in positions)


def _start_at(found: Sequence[tuple[str, Position]], log_token: tuple[int, bytes | None] | None) -> StartAt:
    """`log_token`: the log's start, with its token; None: the log is not kept."""
    offsets = sorted({position.offset_next for _, position in found})
    ends = [position.offset_end for _, position in found if position.offset_end is not None]
    of_steps: dict[str, list[Position]] = {}
    for step, position in found:
        of_steps.setdefault(step, []).append(position)
    steps = tuple(
        StepAt(step, min(p.offset_next for p in of_step), all(p.offset_next == p.offset_start for p in of_step))
        for step, of_step in of_steps.items()
    )
    places = [(p.token_offset, p.token) for _, p in found if p.token is not None and p.token_offset is not None]
    if log_token is not None and log_token[1] is not None:
        places.append((log_token[0], log_token[1]))
    # Of one number the first: what is stored, which may be later than the log's start. Tokens themselves have no order.
    below = [place for place in places if place[0] <= offsets[0]]
    token_offset, token = max(below, key=lambda place: place[0], default=(None, None))
    return StartAt(offsets[0], tuple(offsets[1:]), max(ends) if ends else None, steps, token, token_offset)


def _refuse_doubles(target: Target, streams: Mapping[Stream, int], *, anew: bool) -> None:
    others = target.taken_elsewhere(streams)
    if not others:
        if held := target.left_behind():
            _refuse_lost(target, held, anew=anew)
        return
    flow = next(iter(streams)).flow
    sources = ", ".join(sorted({stream.source for stream in streams}))
    who = ", ".join(f"step {step} of flow {other}" for other, step in others)
    what = f"{target.name} was filled from {sources} by {who}; step {target.step} of flow {flow} has no positions"
    if anew:
        log.warning("begins_anew", f"{what} and begins anew (BEGIN=anew): {target.again}.", step=target.step)
        return
    old = others[0][0]
    drops = "; ".join(target.forgets(other, step) for other, step in others)
    raise DataError(
        f"{what}, so beginning anew would do it again: {target.again}.",
        hint=f"Was the flow renamed? {target.renames(old, flow)} Is the other flow out of use? Empty what it wrote, and forget "
        f"it: {drops}. If it is meant, start with BEGIN=anew.",
        step=target.step,
        source=sources,
    )


def _refuse_lost(target: Target, held: str, *, anew: bool) -> None:
    what = f"{target.name} holds {held}, and step {target.step} of flow {target.flow} has no positions there"
    if anew:
        log.warning("begins_anew", f"{what} and begins anew (BEGIN=anew): {target.again}.", step=target.step)
        return
    raise DataError(
        f"{what}: beginning anew might do again what was done: {target.again}.",
        hint="Were the positions lost? Restore them, or empty it. Did others write it, or is it meant? Start with BEGIN=anew.",
        step=target.step,
    )
