"""The topic, as one thread per process knows it: opens it at the start, then watches it. Lanes never wait for a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from confluent_kafka.admin import OffsetSpec

from sources.kafka_broker import Broker, Stopped, Topic, UnknownTopic
from sources.kafka_start import Bounds, LaneState, Lost, OpenPart, missing, part, recreated, recreated_error, start_time_ms
from sources.patience import ask
from waxwing import log, runtime
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss, TransientError
from waxwing.positions import StartAt, StepAt, let_go, open_feeds, own_feeds, prepare_feeds, say_starts
from waxwing.settings import KafkaSettings
from waxwing.target import Target

T = TypeVar("T")

TOPIC_POLL_S = 1.0
SAY_AGAIN_S = 60.0  # what lasts is said again
# Metadata may lag for a moment; missing for longer, the topic was deleted.
TOPIC_GONE_S = 2.0


class TopicWatch:
    """Opens a topic for all lanes of the process, then looks for new partitions, a re-created topic, and lost positions.

    Attributes:
        error: why reading has to stop; each lane raises it.
        revision: rises when partitions were opened.
        feeds: the targets.
    """

    def __init__(self, settings: KafkaSettings, feeds: Sequence[Target], flow: str) -> None:
        self._settings, self._feeds, self.feeds, self._flow = settings, feeds, feeds, flow
        self._name = settings.source_topic
        self.bounded = settings.until == "end"
        self._anew = settings.begin == "anew"
        self.error: BaseException | None = None
        self.revision = 0
        self._closing, self._wake = threading.Event(), threading.Event()
        self._broker = Broker(settings, self._closing)
        self._lock = threading.Lock()
        self._topic: Topic | None = None
        self._starts: dict[Stream, StartAt] = {}
        self._bounds: dict[int, Bounds] = {}
        self._joined: dict[int, LaneState | None] = {}
        self._parts: dict[int, list[OpenPart]] = {}  # by lane, once it was admitted
        self._lost: list[Lost] = []
        self._gone_since_s: float | None = None

    def start(self) -> None:
        """Begin; lanes may come before or after."""
        threading.Thread(target=self._run, name=f"topic-{self._name}", daemon=True).start()

    @property
    def idle_after_s(self) -> list[float]:
        """After how long at its log's end a partition is marked as idle, rising; empty: nobody asks."""
        return sorted({after_s for feed in self._feeds if (after_s := feed.idle_after_s) is not None})

    @property
    def topic_id(self) -> str:
        """The topic's id; empty before it is known."""
        return self._topic.id if self._topic else ""

    # -- what lanes call ---------------------------------------------------------------------------

    def enter(self, lane: int, resume: LaneState | None) -> None:
        """A lane of this process begins; what a recovery store holds for it comes along."""
        with self._lock:
            self._joined[lane] = resume
        self._wake.set()

    def leave(self, lane: int) -> None:
        """A lane ends; with the last one so does the thread."""
        with self._lock:
            self._joined.pop(lane, None)
            if not self._joined:
                self._closing.set()
                self._wake.set()

    @property
    def closed(self) -> bool:
        """Have all lanes ended?"""
        return self._closing.is_set()

    def opened(self, lane: int) -> tuple[int, Sequence[OpenPart]]:
        """The partitions of a lane, with the revision; -1: not known yet."""
        with self._lock:
            return (self.revision, list(self._parts[lane])) if lane in self._parts else (-1, ())

    def lost(self, lost: Lost) -> None:
        """The log does not hold a lane's position: look why, and stop."""
        self._lost.append(lost)
        self._wake.set()

    def look(self) -> None:
        """Something is odd: look at the topic now."""
        self._wake.set()

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._feeds:
                prepare_feeds(self._feeds, self._flow, self._answers, anew=self._anew)
                own_feeds(self._feeds, self._pause, self._answers)
            self._open(self._await_topic())
            log.info("reading", f"Flow {self._flow}: {self._what()}.", topic=self._name)
            self._broker.prompt = False
            while not self._closing.is_set():
                self._admit()
                self._wake.wait(self._settings.partition_refresh_interval_s)
                self._wake.clear()
                if not self._closing.is_set():
                    self._refresh()
        except Stopped:
            pass
        except UnknownTopic:
            self.error = TransientError(f"Topic {self._name} went away while it was opened.", hint="Start again.")
        except BaseException as error:  # noqa: BLE001 - the lanes raise it
            self.error = error
            if not runtime.is_run():  # there, whoever says the error asks first who owns
                let_go(self._feeds)

    def _what(self) -> str:
        """What the flow does, for people."""
        targets = ", ".join(dict.fromkeys(feed.name for feed in self._feeds)) or "a plain Bytewax sink"
        assert self._topic is not None
        partitions = f"{len(self._topic.partitions)} partitions in {self._settings.lanes} lanes"
        bounded = ", to the log's end" if self.bounded else ""
        return f"from {self._name} at {self._settings.kafka_bootstrap_servers} ({partitions}{bounded}) into {targets}"

    def _await_topic(self) -> Topic:
        """The topic, waited for where the settings say so."""
        said, say_again_s = False, 0.0
        while (topic := self._broker.topic(self._name)) is None or not topic.partitions:
            message = f"Topic {self._name!r} does not exist on {self._settings.kafka_bootstrap_servers}."
            if self._settings.on_unknown_topic == "fail":
                hint = "Create it, correct SOURCE_TOPIC, or set ON_UNKNOWN_TOPIC=wait."
                raise ConfigError(message, hint=self._settings.told(hint), topic=self._name)
            if time.monotonic() > say_again_s:
                hint = "Waiting for it to be created (ON_UNKNOWN_TOPIC=wait); is SOURCE_TOPIC right?"
                log.warning("unknown_topic", f"{message} {self._settings.told(hint)}", topic=self._name)
                said, say_again_s = True, time.monotonic() + SAY_AGAIN_S
            self._pause(TOPIC_POLL_S)
        if said:
            log.info("topic_found", f"Topic {self._name!r} is there now.", topic=self._name)
        return topic

    def _open(self, topic: Topic) -> None:
        """Store and learn where every partition starts, those of other processes' lanes too: START is one moment."""
        firsts = self._broker.offsets(self._name, topic.partitions, OffsetSpec.earliest())
        ends = self._broker.offsets(self._name, topic.partitions, OffsetSpec.latest())
        streams = {Stream(self._flow, self._name, topic.id, number): first for number, first in sorted(firsts.items())}
        held = [position for feed in self._feeds for position in self._answers(feed, feed.positions)]
        if (loss := recreated(self._name, topic.id, held)) is not None:
            self._fail_unless_continue(loss, f"Reading the new topic {self._name} from its log's start.")
        # Positions of an earlier topic of this name: its records were wanted from the start of the log on, whatever START says.
        known = any(position.stream.source == self._name for position in held)
        policy = partial(self._policy, streams, ends) if not known else partial(dict, streams)
        until = {stream: ends[stream.partition] for stream in streams} if self.bounded else None
        if self._feeds:
            starts = open_feeds(self._feeds, streams, policy, until, self._answers, anew=self._anew)
        elif self._topic is not None:  # opened before, so what is new begins at its log's start
            starts = {stream: self._starts.get(stream, StartAt(first)) for stream, first in streams.items()}
        else:
            starts = {stream: StartAt(first, (), until[stream] if until else None) for stream, first in policy().items()}
        with self._lock:
            self._topic, self._starts = topic, starts
            self._bounds = {number: Bounds(first, max(first, ends[number])) for number, first in firsts.items()}

    def _policy(self, streams: Mapping[Stream, int], ends: Mapping[int, int]) -> Mapping[Stream, int]:
        """START as an offset of each partition."""
        if self._settings.start == "earliest":
            self._tell_of_empty({stream: first for stream, first in streams.items() if 0 < first == ends[stream.partition]})
            return streams
        if (time_ms := start_time_ms(self._settings.start)) is None:
            time_ms = time.time_ns() // 1_000_000
            at = {stream: ends[stream.partition] for stream in streams}
        else:
            found = self._broker.offsets(self._name, list(ends), OffsetSpec.for_timestamp(time_ms))
            # -1: all records are older
            at = {s: found[s.partition] if found[s.partition] >= 0 else ends[s.partition] for s in streams}
        for feed in self._feeds:  # at the log's first record nobody knows what was before it
            feed.moments_us = {stream: time_ms * 1_000 for stream, first in streams.items() if at[stream] > first}
        return at

    def _tell_of_empty(self, streams: Mapping[Stream, int]) -> None:
        """Of a log without a record nobody knows of which time those were that it held."""
        ends = self._broker.offsets(  # behind open transactions too
            self._name, [stream.partition for stream in streams], OffsetSpec.latest(), committed=False
        )
        if gone := [f"{stream} ({first:,})" for stream, first in streams.items() if ends[stream.partition] == first]:
            log.warning(
                "log_empty",
                f"Before this first start all records of {', '.join(gone)} were deleted: they are in no row and no window, "
                "not even in one that records of other partitions still make.",
                topic=self._name,
            )

    def _admit(self) -> None:
        """Open the partitions of lanes that have joined. A position is moved here, by the one process that has its lane."""
        with self._lock:
            lanes = dict(self._joined)
        known = {one.stream for parts in self._parts.values() for one in parts}
        begun: dict[Stream, StartAt] = {}
        for lane, resume in lanes.items():
            mine = {
                s: start for s, start in self._starts.items() if s.partition % self._settings.lanes == lane and s not in known
            }
            if not mine and lane in self._parts:
                continue
            mine = {stream: self._with_resume(stream, start, resume) for stream, start in mine.items()}
            self._check(mine, resume)
            opened = [
                part(
                    stream,
                    start,
                    self._bounds[stream.partition],
                    resume.offset(stream) if resume else None,
                    alone=not self._feeds,
                )
                for stream, start in mine.items()
            ]
            with self._lock:
                self._parts[lane] = self._parts.get(lane, []) + opened
                self.revision += 1
            begun |= {one.stream: self._begun(one, mine[one.stream], resume) for one in opened}
        given = self._settings.start if "start" in self._settings.model_fields_set else ""
        say_starts(self._flow, begun, given, anew=self._anew)

    def _begun(self, opened: OpenPart, start: StartAt, resume: LaneState | None) -> StartAt:
        """Where each step begins, for people: on the log, whatever was lost of it."""
        log_of = self._bounds[opened.stream.partition]
        if self._feeds:
            return start._replace(steps=tuple(one._replace(offset=log_of.nearest(one.offset)) for one in start.steps))
        known = resume is not None and resume.offset(opened.stream) is not None
        return start._replace(steps=(StepAt("of Bytewax's own sink", opened.offset, not known),))

    def _with_resume(self, stream: Stream, start: StartAt, resume: LaneState | None) -> StartAt:
        """Without targets: a partition that the recovery store does not know is new; an unfinished bounded run keeps its ends."""
        if self._feeds or resume is None:
            return start
        if resume.offset(stream) is None:
            return start._replace(offset=self._bounds[stream.partition].first)
        if self.bounded and resume.unfinished:
            return start._replace(offset_end=resume.ends.get(stream.partition))
        return start

    def _check(self, mine: Mapping[Stream, StartAt], resume: LaneState | None) -> None:
        """Positions that the log does not hold: stop, or move them onto it.

        Below the log's start they move to its start. Beyond its end they move back to its end: what was written from there on
        is no longer in the log, and what comes now was never read.
        """
        alone = None if self._feeds else resume
        if alone and alone.topic_id != self.topic_id:
            error = recreated_error(
                self._name, self.topic_id, alone.topic_id, "The recovery store's positions are of the old one."
            )
            self._fail_unless_continue(error, f"Reading the new topic {self._name} from its log's start.")
        # A read below what targets hold is only a replay, so a resume offset counts where it decides.
        wanted = [Lost(s, at) for s in mine if alone and (at := alone.offset(s)) is not None]
        wanted += [Lost(s, at) for s, start in mine.items() if self._feeds for at in (start.offset, *start.splits)]
        outside = [lost for lost in wanted if self._bounds[lost.stream.partition].nearest(lost.position) != lost.position]
        if (gone := self._loss(outside)) is None:
            return
        self._fail_unless_continue(gone, "Going on from the log's nearest offset.")
        for feed in self._feeds:
            for stream, position in [(p.stream, p.offset_next) for p in self._answers(feed, feed.positions) if p.stream in mine]:
                if (at := self._bounds[stream.partition].nearest(position)) != position:
                    self._answers(feed, partial(feed.jump, stream, position, at))

    def _loss(self, outside: Sequence[Lost]) -> DataLoss | None:
        """Look once more at the logs of positions that seem lost; a position is lost only behind open transactions too."""
        numbers = {lost.stream.partition for lost in outside}
        firsts = self._broker.offsets(self._name, numbers, OffsetSpec.earliest())
        stable = self._broker.offsets(self._name, numbers, OffsetSpec.latest())
        ends = self._broker.offsets(self._name, numbers, OffsetSpec.latest(), committed=False)
        self._bounds.update({number: Bounds(firsts[number], stable[number]) for number in numbers})
        return missing(outside, {number: Bounds(firsts[number], ends[number]) for number in numbers})

    def _fail_unless_continue(self, error: DataLoss, then: str) -> None:
        if self._settings.on_data_loss == "fail":
            raise error
        log.warning("data_loss", f"{error.message} {then} (ON_DATA_LOSS=continue)", **error.context)

    def _refresh(self) -> None:
        """Look at the topic again."""
        assert self._topic is not None
        now = self._broker.topic(self._name)
        if now is None or not now.partitions:
            self._gone()
            return
        self._gone_since_s = None
        if now.id != self._topic.id:
            detail = "What was read in the meantime may be of either."
            self._stop_for(recreated_error(self._name, now.id, self._topic.id, detail))
        lost, self._lost = self._lost, []
        try:
            if lost:
                refused = TransientError(f"Kafka refused to read {self._name} from {lost[0].position}.", hint="Start again.")
                self._stop_for(self._loss(lost) or refused)
            added = sorted(now.partitions - self._topic.partitions)
            if added and not self.bounded:  # a bounded run reads what was there when it began
                log.info("partitions_added", f"Topic {self._name} has new partitions: {added}.", topic=self._name)
                self._open(now)
        except UnknownTopic:
            self._gone()

    def _gone(self) -> None:
        """The topic is not there: metadata may lag for a moment; deleted for good it may be created again."""
        now_s = time.monotonic()
        self._gone_since_s = self._gone_since_s or now_s
        if now_s - self._gone_since_s < TOPIC_GONE_S:
            return
        if self._settings.on_unknown_topic == "fail":
            hint = "Create it again and start with ON_DATA_LOSS=continue."
            raise DataLoss(f"Topic {self._name} was deleted while it was read.", hint=hint)
        what = f"Topic {self._name!r} was deleted while it was read."
        log.warning("unknown_topic", f"{what} Waiting for it.", topic=self._name)
        self._gone_since_s = float("inf")  # said once

    def _stop_for(self, error: DataLoss | TransientError) -> None:
        """Stop while running: sinks have their streams open, so a position can only be moved by the next start."""
        if isinstance(error, DataLoss) and self._settings.on_data_loss == "continue":
            hint = "The next start goes on from what is there."
            raise TransientError(f"{error.message} (ON_DATA_LOSS=continue)", hint=hint, **error.context)
        raise error

    # -- waiting -------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (rest_s := until_s - time.monotonic()) > 0:
            if self._closing.wait(min(rest_s, 0.1)) or runtime.stopping():
                raise Stopped

    def _answers(self, target: Target, call: Callable[[], T]) -> T:
        return ask(call, target.settings.retry_max_s, self._pause)
