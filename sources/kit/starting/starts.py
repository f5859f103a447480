"""Where all streams of a source start: stored in the targets before anything is read, and checked against the logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from sources.kit.any_source import AnySource
from sources.kit.starting.described import described
from sources.kit.starting.opening import Lost, missing, part, recreated, recreated_error, start_time_ms
from sources.kit.starting.positions import Answers, StartAt, StepAt, open_feeds
from sources.kit.state import LaneState
from sources.kit.words import Begin, Log, NotThere, OpenPart, Place
from waxwing import log
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss
from waxwing.target import Target

T = TypeVar("T")

NAMED_MAX = 3


class Says(Protocol):
    """Asks the source; one that is away is asked again, for a while."""

    def __call__(self, call: Callable[[], T]) -> T: ...


class Starts:
    """The logs of a source's streams, and where each is read from. Used by one thread.

    Args:
        source: which.
        feeds: the targets.
        flow: the flow's name.
        says: how the source is asked.
        answers: how targets are.
    """

    def __init__(self, source: AnySource, feeds: Sequence[Target], flow: str, says: Says, answers: Answers) -> None:
        self._source, self._options, self._feeds, self._flow = source, source.options, feeds, flow
        self._says, self._answers = says, answers
        self._bounded, self._anew = self._options.until == "end", self._options.begin == "anew"
        self.logs: Mapping[Stream, Log] = {}
        self._starts: Mapping[Stream, StartAt] = {}
        self._tokens: dict[tuple[Stream, int], bytes] = {}  # of places

    def open(self) -> None:
        """Store and learn where every stream starts, those of other processes' lanes too: START is one moment."""
        logs = self._look_at()
        sources: dict[str, set[str]] = {}
        for stream in logs:
            sources.setdefault(stream.source, set()).add(stream.source_id)
        for feed in self._feeds:
            for name in sources:
                feed.claim(name, self._source)
        held = [position for feed in self._feeds for position in self._answers(feed, feed.positions)]
        # Positions of an earlier one of this name: its records were wanted from the start of the log on, whatever START says.
        known = {position.stream.source for position in held}
        for name, ids in sources.items():
            if (loss := recreated(self._source.noun, name, ids, held)) is not None:
                self._fail_unless_continue(loss, f"Reading the new {self._source.noun} {name} from its log's start.")
        firsts = {stream: one.first for stream, one in sorted(logs.items())}
        self._tokens |= {(s, one.first): one.token for s, one in logs.items() if one.token is not None}
        policy = partial(self._policy, logs, firsts, known)
        until = {stream: one.end for stream, one in logs.items()} if self._bounded else None
        if self._feeds:
            not_kept = frozenset(stream for stream, one in logs.items() if not one.kept)
            starts = open_feeds(
                self._feeds, firsts, policy, until, self._answers, anew=self._anew, token_of=self._token_of, not_kept=not_kept
            )
        else:  # opened before, what is new begins at its log's start
            at = firsts if self.logs else policy()
            starts = {stream: self._starts.get(stream) or self._alone(stream, at[stream], until) for stream in logs}
        self.logs, self._starts = logs, starts

    def _token_of(self, stream: Stream, offset: int) -> bytes | None:
        return self._tokens.get((stream, offset))

    def _alone(self, stream: Stream, offset: int, until: Mapping[Stream, int | None] | None) -> StartAt:
        """Where a stream begins if no target remembers."""
        token = self._token_of(stream, offset)
        return StartAt(offset, (), until[stream] if until else None, (), token, None if token is None else offset)

    def _look_at(self) -> dict[Stream, Log]:
        found = self._says(partial(described, self._source))
        return {Stream(self._flow, one.source, one.source_id, one.partition): one for one in found}

    def _policy(self, logs: Mapping[Stream, Log], firsts: Mapping[Stream, int], known: set[str]) -> Mapping[Stream, int]:
        """START as an offset of each stream."""
        fresh = {stream: one for stream, one in logs.items() if stream.source not in known}
        start = self._options.start
        if start == "earliest":
            self._tell_of_empty(fresh)
            return firsts
        if (time_ms := start_time_ms(start)) is None:
            time_ms = time.time_ns() // 1_000_000
            if unknown := [str(stream) for stream, one in fresh.items() if one.end is None]:
                raise ConfigError(
                    f"START=latest: nobody knows where {', '.join(unknown[:NAMED_MAX])} ends.", hint="Take START=earliest."
                )
            at = {stream: Begin(one.end or 0, one.end_token) for stream, one in fresh.items()}
        else:
            at = dict(self._says(lambda: self._source.at_time(time_ms, fresh)))
        self._tokens |= {(stream, begin.offset): begin.token for stream, begin in at.items() if begin.token is not None}
        # At the log's first record nobody knows what was before it.
        moments_us = {stream: time_ms * 1_000 for stream, one in fresh.items() if at[stream].offset > one.first}
        for feed in self._feeds:
            feed.moments_us = {**feed.moments_us, **moments_us}
        return {stream: at[stream].offset if stream in at else first for stream, first in firsts.items()}

    def _tell_of_empty(self, logs: Mapping[Stream, Log]) -> None:
        """Of a log without a record nobody knows of which time those were that it held."""
        empty = {stream: one.first for stream, one in logs.items() if 0 < one.first == one.end and one.written in (None, one.end)}
        if gone := [f"{stream} ({first:,})" for stream, first in sorted(empty.items())]:
            log.warning(
                "log_empty",
                f"Before this first start all records of {', '.join(gone)} were deleted: they are in no row and no window, "
                "not even in one that records of other partitions still make.",
                **{self._source.noun: self._source.called},
            )

    def parts(self, lane: int, resume: LaneState | None, known: Collection[Stream]) -> dict[OpenPart, StartAt]:
        """The streams of a lane that are not known yet, ready to be read, with where each step begins."""
        mine = {s: start for s, start in self._starts.items() if self._source.lane_of(s) == lane and s not in known}
        mine = {stream: self._with_resume(stream, start, resume) for stream, start in mine.items()}
        self._check(mine, resume)
        out = {}
        for stream, start in mine.items():
            one = part(stream, start, self.logs[stream], resume.stream(stream) if resume else None, alone=not self._feeds)
            begun = self._begun(one, start, resume)
            if (loss := self._lost_at(one)) is not None:
                one = self._begin_again(stream, loss)
                begun = begun._replace(steps=tuple(step._replace(offset=one.offset, anew=True) for step in begun.steps))
            out[one] = begun
        return out

    def _lost_at(self, opened: OpenPart) -> DataLoss | None:
        """A source may know only where it reads that a place is no longer there. The lowest is read in any case, and is asked
        for where it could be helped; the highest, where others are lower, by nobody else: what is new there would be cut."""
        one = self.logs[opened.stream]
        places = [opened.place] if self._options.on_data_loss == "continue" else []
        if opened.splits and one.kept and self._source.asks_places:
            held = [p for feed in self._feeds for p in self._answers(feed, feed.positions) if p.stream == opened.stream]
            named = [Place(p.stream, p.token_offset, p.token) for p in held if p.token_offset is not None]
            plain = [Place(p.stream, p.offset_next) for p in held] if opened.token is None else []
            places += sorted(named or plain, key=lambda place: place.offset)[-1:]
        asked = (self._says(partial(self._source.lost_at, place)) for place in places if place.offset > one.first)
        return next((loss for loss in asked if loss is not None), None)

    def _begin_again(self, stream: Stream, loss: DataLoss) -> OpenPart:
        """Read a stream from its log's start, since its place is no longer there."""
        if (now := self._look_at().get(stream)) is None:
            raise NotThere(stream)
        if not now.kept:  # nobody could say which of its records were taken in
            raise loss
        self.logs = {**self.logs, stream: now}
        self._fail_unless_continue(loss, f"Reading {stream} from its log's start, {now.first}.")
        for feed in self._feeds:
            for position in self._answers(feed, feed.positions):
                if position.stream == stream:
                    self._answers(feed, partial(feed.jump, stream, position.offset_next, now.first))
        token_offset = None if now.token is None else now.first
        return OpenPart(stream, now.first, (), now.end if self._bounded else None, now.token, token_offset)

    def _begun(self, opened: OpenPart, start: StartAt, resume: LaneState | None) -> StartAt:
        """Where each step begins, for people: on the log, whatever was lost of it."""
        if self._feeds:
            nearest = self.logs[opened.stream].nearest
            return start._replace(steps=tuple(one._replace(offset=nearest(one.offset)) for one in start.steps))
        known = resume is not None and resume.stream(opened.stream) is not None
        return start._replace(steps=(StepAt("of Bytewax's own sink", opened.offset, not known),))

    def _with_resume(self, stream: Stream, start: StartAt, resume: LaneState | None) -> StartAt:
        """Without targets: a stream that the recovery store does not know is new; an unfinished bounded run keeps its ends."""
        if self._feeds or resume is None:
            return start
        if (stood := resume.stream(stream)) is None:
            one = self.logs[stream]
            return start._replace(offset=one.first, token=one.token, token_offset=None if one.token is None else one.first)
        if self._bounded and resume.unfinished:
            return start._replace(offset_end=stood.end)
        return start

    def _check(self, mine: Mapping[Stream, StartAt], resume: LaneState | None) -> None:
        """Positions that the log does not hold: stop, or move them onto it.

        Below the log's start they move to its start. Beyond its end they move back to its end: what was written from there on
        is no longer in the log, and what comes now was never read.
        """
        alone = None if self._feeds else resume
        if alone:
            for name in dict.fromkeys(stream.source for stream in mine):
                ids = {stream.source_id for stream in mine if stream.source == name}
                if (before := alone.ids(name)) and not before & ids:
                    detail = "The recovery store's positions are of the old one."
                    error = recreated_error(self._source.noun, name, ", ".join(ids), ", ".join(before), detail)
                    self._fail_unless_continue(error, f"Reading the new {self._source.noun} {name} from its log's start.")
        # A read below what targets hold is only a replay, so a resume offset counts where it decides.
        wanted = [Lost(s, stood.offset) for s in mine if alone and (stood := alone.stream(s)) is not None]
        wanted += [Lost(s, at) for s, start in mine.items() if self._feeds for at in (start.offset, *start.splits)]
        outside = [lost for lost in wanted if self.logs[lost.stream].nearest(lost.position) != lost.position]
        if not outside or (gone := self.loss(outside)) is None:
            return
        self._fail_unless_continue(gone, "Going on from the log's nearest offset.")
        for feed in self._feeds:
            for stream, position in [(p.stream, p.offset_next) for p in self._answers(feed, feed.positions) if p.stream in mine]:
                if (at := self.logs[stream].nearest(position)) != position:
                    self._answers(feed, partial(feed.jump, stream, position, at))

    def loss(self, outside: Sequence[Lost]) -> DataLoss | None:
        """Look once more at the logs of positions that seem lost."""
        found = self._look_at()
        if gone := [lost for lost in outside if lost.stream not in found]:
            raise NotThere(gone[0].stream)
        self.logs = {**self.logs, **{lost.stream: found[lost.stream] for lost in outside}}
        return missing(outside, self.logs, self._source.lost_aside)

    def _fail_unless_continue(self, error: DataLoss, then: str) -> None:
        if self._options.on_data_loss == "fail":
            raise error
        log.warning("data_loss", f"{error.message} {then} (ON_DATA_LOSS=continue)", **error.context)
