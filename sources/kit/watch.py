"""A source as one thread per process knows it: opens it at the start, then watches it. Lanes never wait for a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from sources.kit.any_source import AnySource
from sources.kit.patience import ask
from sources.kit.starting.described import listed
from sources.kit.starting.opening import Lost, recreated_error
from sources.kit.starting.positions import StartAt
from sources.kit.starting.preparing import let_go, own_feeds, prepare_feeds
from sources.kit.starting.saying import say_starts
from sources.kit.starting.starts import Starts
from sources.kit.state import LaneState
from sources.kit.words import NotThere, OpenPart
from waxwing import log, runtime
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss, TransientError
from waxwing.target import Target

T = TypeVar("T")

POLL_S = 1.0
SAY_AGAIN_S = 60.0  # what lasts is said again
# What a server says may lag for a moment; missing for longer, a source was deleted.
GONE_S = 2.0
JOIN_MAX_S = 10.0


class Stopped(Exception):
    """The wait ended because the source is closing."""


class Watch:
    """Opens a source for all lanes of the process, then looks for new streams, a re-created source, and lost positions.

    Attributes:
        error: why reading has to stop; each lane raises it.
        revision: rises when streams were opened.
        feeds: the targets.
    """

    def __init__(self, source: AnySource, feeds: Sequence[Target], flow: str) -> None:
        self._source, self._options, self.feeds, self._flow = source, source.options, feeds, flow
        self.bounded = self._options.until == "end"
        self._anew = self._options.begin == "anew"
        self.error: BaseException | None = None
        self.revision = 0
        self.closing, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{source.called}", daemon=True)
        self._lock = threading.Lock()
        self._joined: dict[int, LaneState | None] = {}
        self._parts: dict[int, list[OpenPart]] = {}  # by lane, once it was admitted
        self._admitted = threading.Event()
        self._lost: list[Lost] = []
        self._gone_since_s: dict[str, float] = {}  # by name
        self._said_missing: dict[str, float] = {}
        self._starts = Starts(source, feeds, flow, self._source_says, self._answers)

    def start(self) -> None:
        """Begin; lanes may come before or after."""
        self._thread.start()

    @property
    def idle_after_s(self) -> list[float]:
        """After how long at its log's end a stream is marked as idle, rising; empty: nobody asks."""
        return sorted({after_s for feed in self.feeds if (after_s := feed.idle_after_s) is not None})

    # -- what lanes call ---------------------------------------------------------------------------

    def enter(self, lane: int, resume: LaneState | None) -> None:
        """A lane of this process begins; what a recovery store holds for it comes along."""
        with self._lock:
            self._joined[lane] = resume
        self._wake.set()

    def leave(self, lane: int) -> None:
        """A lane ends; with the last one so does the thread, which is waited for where the process goes on."""
        with self._lock:
            self._joined.pop(lane, None)
            if self._joined:
                return
            self.closing.set()
            self._wake.set()
        if not runtime.is_run():
            self._thread.join(JOIN_MAX_S)

    @property
    def closed(self) -> bool:
        """Have all lanes ended?"""
        return self.closing.is_set()

    def opened(self, lane: int) -> tuple[int, Sequence[OpenPart]]:
        """The streams of a lane, with the revision; -1: not known yet."""
        with self._lock:
            return (self.revision, list(self._parts[lane])) if lane in self._parts else (-1, ())

    def admits(self, wait_s: float) -> bool:
        """Have streams been opened, if not now then within so many seconds?"""
        return self._admitted.wait(wait_s)

    def demand_well(self) -> None:
        """Raises what ended the watch."""
        if self.error is not None:
            if not runtime.is_run():  # there, whoever says the error asks first who owns
                runtime.met(self.error)  # before writers say that they own nothing any more
                let_go(self.feeds)
            raise self.error

    def reads(self, stream: Stream) -> bool:
        """Is it one of the source's streams?"""
        return stream in self._starts.logs

    def lost(self, lost: Lost) -> None:
        """The log does not hold a lane's position: look why, and stop."""
        self._lost.append(lost)
        self._wake.set()

    def look(self) -> None:
        """Something is odd: look at the source now."""
        self._wake.set()

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._begin()
            while not self.closing.is_set():
                self._admit()
                self._wake.wait(self._options.refresh_interval_s)
                self._wake.clear()
                if not self.closing.is_set():
                    self._refresh()
        except Stopped:
            pass
        except NotThere:
            self.error = TransientError(f"{self._called.capitalize()} went away while it was opened.", hint="Start again.")
        except BaseException as error:  # noqa: BLE001 - the lanes raise it
            self.error = error
        self.closing.wait()
        self._source.close()
        for feed in self.feeds:  # writers let go of them, but a run may end before any of those has begun
            feed.ownership.release_unused()

    @property
    def _called(self) -> str:
        return f"{self._source.noun} {self._source.called}"

    def _begin(self) -> None:
        if self.feeds:
            prepare_feeds(self.feeds, self._flow, self._answers, anew=self._anew)
            own_feeds(self.feeds, self._pause, self._answers)
        self._await()
        self._starts.open()
        log.info("reading", f"Flow {self._flow}: {self._what()}.", **{self._source.noun: self._source.called})
        self._source.begun()

    def _what(self) -> str:
        """What the flow does, for people."""
        targets = ", ".join(dict.fromkeys(feed.name for feed in self.feeds)) or "a plain Bytewax sink"
        size = f"{len(self._starts.logs)} partitions in {self._options.lanes} lanes"
        bounded = ", to the log's end" if self.bounded else ""
        return f"from {self._source.called}{self._source.place} ({size}{bounded}) into {targets}"

    def _listed(self) -> dict[str, set[Stream]]:
        """The streams that there are now, by the source's name."""
        out: dict[str, set[Stream]] = {}
        for source, source_id, number in self._source_says(partial(listed, self._source)):
            out.setdefault(source, set()).add(Stream(self._flow, source, source_id, number))
        return out

    def _await(self) -> None:
        """Wait for the source where the settings say so: a bounded run for all names, another one for the first of them."""
        while True:
            there = self._listed()
            lacking = [name for name in self._source.names if name not in there]
            self._say_lacking(lacking, none=not there)
            if there and not (lacking and self.bounded):
                return
            self._pause(POLL_S)

    def _say_lacking(self, lacking: Sequence[str], *, none: bool = False) -> None:
        """Names of which there is nothing: refused, or told, and told again."""
        now_s, noun = time.monotonic(), self._source.noun
        for name in self._said_missing.keys() - set(lacking):
            if not (none and name == self._source.called):
                log.info(f"{noun}_found", f"{noun.capitalize()} {name!r} is there now.", **{noun: name})
                del self._said_missing[name]
        for name in lacking or ([self._source.called] if none else []):
            what = repr(name) if lacking else f"of the pattern {name!r}"
            message = f"{noun.capitalize()} {what} does not exist{self._source.place.replace(' at ', ' on ')}."
            if self._options.on_unknown == "fail":
                raise ConfigError(message, hint=self._source.create_hint, **{noun: name})
            if now_s > self._said_missing.get(name, 0.0):
                hint = self._source.await_hint
                log.warning(f"unknown_{noun}", f"{message} {hint}", **{noun: name})
                self._said_missing[name] = now_s + SAY_AGAIN_S

    def _admit(self) -> None:
        """Open the streams of lanes that have joined. A position is moved here, by the one process that has its lane."""
        with self._lock:
            lanes = dict(self._joined)
        known = {one.stream for parts in self._parts.values() for one in parts}
        begun: dict[Stream, StartAt] = {}
        for lane, resume in lanes.items():
            opened = self._starts.parts(lane, resume, known)
            if not opened and lane in self._parts:
                continue
            with self._lock:
                self._parts[lane] = self._parts.get(lane, []) + list(opened)
                self.revision += 1
            self._admitted.set()
            begun |= {one.stream: start for one, start in opened.items()}
        say_starts(self._flow, begun, self._options.start if self._options.start_given else "", anew=self._anew)

    def _refresh(self) -> None:
        """Look at the source again."""
        try:
            there = self._listed()
        except NotThere:  # it went away at this moment: the next look says what is there
            return
        known: dict[str, set[Stream]] = {}
        for stream in self._starts.logs:
            known.setdefault(stream.source, set()).add(stream)
        for name, streams in known.items():
            if name not in there:
                self._gone(name)
                continue
            self._gone_since_s.pop(name, None)
            now_id, before = next(iter(there[name])).source_id, next(iter(streams)).source_id
            if now_id != before:
                detail = "What was read in the meantime may be of either."
                self._stop_for(recreated_error(self._source.noun, name, now_id, before, detail))
        lost, self._lost = self._lost, []
        try:
            if lost:
                refused = TransientError(f"{lost[0].stream} can't be read from {lost[0].position}.", hint="Start again.")
                self._stop_for(self._starts.loss(lost) or refused)
            if self.bounded:  # a bounded run reads what was there when it began
                return
            added = {stream for streams in there.values() for stream in streams} - self._starts.logs.keys()
            self._say_lacking([name for name in self._source.names if name not in there and name not in known])
            if added:
                self._say_added(added, known.keys())
                self._starts.open()
        except NotThere as gone:
            if gone.args and isinstance(gone.args[0], str):
                self._gone(gone.args[0])

    def _say_added(self, added: set[Stream], known: Collection[str]) -> None:
        noun = self._source.noun
        if names := sorted({stream.source for stream in added} - set(known)):
            log.info(f"{noun}s_added", f"New {noun}s are read from their logs' start: {', '.join(names)}.", **{f"{noun}s": names})
        for name in sorted({stream.source for stream in added} & set(known)):
            numbers = sorted(stream.partition for stream in added if stream.source == name)
            log.info("partitions_added", f"{noun.capitalize()} {name} has new partitions: {numbers}.", **{noun: name})

    def _gone(self, name: str) -> None:
        """It is not there: what a server says may lag for a moment; deleted for good it may be created again."""
        now_s = time.monotonic()
        since_s = self._gone_since_s.setdefault(name, now_s)
        if now_s - since_s < GONE_S:
            return
        what = f"{self._source.noun.capitalize()} {name!r} was deleted while it was read."
        if self._options.on_unknown == "fail":
            raise DataLoss(what, hint="Create it again and start with ON_DATA_LOSS=continue.")
        log.warning(f"unknown_{self._source.noun}", f"{what} Waiting for it.", **{self._source.noun: name})
        self._gone_since_s[name] = float("inf")  # said once

    def _stop_for(self, error: DataLoss | TransientError) -> None:
        """Stop while running: sinks have their streams open, so a position can only be moved by the next start."""
        if isinstance(error, DataLoss) and self._options.on_data_loss == "continue":
            hint = "The next start goes on from what is there."
            raise TransientError(f"{error.message} (ON_DATA_LOSS=continue)", hint=hint, **error.context)
        raise error

    # -- waiting -------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (rest_s := until_s - time.monotonic()) > 0:
            if self.closing.wait(min(rest_s, 0.1)) or runtime.stopping():
                raise Stopped

    def _answers(self, target: Target, call: Callable[[], T]) -> T:
        return ask(call, target.settings.retry_max_s, self._pause)

    def _source_says(self, call: Callable[[], T]) -> T:
        return ask(call, self._options.away_max_s, self._pause, "source_away")
