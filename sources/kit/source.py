"""What a source is, for those who write one: describe yourself, read, close. The rest stands here, once for all of them."""

from __future__ import annotations

import re
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import ClassVar

from bytewax.inputs import FixedPartitionedSource
from typing_extensions import override

from sources.kit.by_stream import OneByOne
from sources.kit.described import described
from sources.kit.lane import Lane
from sources.kit.options import Options
from sources.kit.starting.feeds import Durable, Feeds
from sources.kit.state import Kept, LaneState
from sources.kit.watch import Watch
from sources.kit.words import Alert, Begin, LaneReader, Log, NotThere, Place, Raw, Run
from waxwing import runtime
from waxwing.batch import Stream, lane_name
from waxwing.errors import ConfigError, DataLoss
from waxwing.target import Expected, Target


class LaneSource(FixedPartitionedSource[Raw, Kept | None], ABC):
    """A source whose lanes read all of their streams over one connection. Most are a `Source`, which reads one by one.

    Args:
        names: what is read, as positions are stored under it: topics, tables. All streams of a name have one source id.
        pattern: or a regular expression, from end to end, of names that are not known before.
        options: what any source is told.
        feeds: the targets that say where to start; by default those of all sinks behind this source.
        flow: the flow's name in the keys of positions; by default the Dataflow's own.

    Attributes:
        replayable: read again from a place it gives the same records under the same numbers.
        noun: what a name stands for, in messages.
        place: where they are, in messages, such as " at server:port".
        create_hint, await_hint: what to do about a name of which there is nothing, where that is refused or waited for.
        lost_aside: what else may be among lost offsets.
        flow_by: who named the flow.

    Parallelism: `lanes` readers over all workers and processes; each stream has one (see lane_of).
    Delivery: exactly once into the targets behind it (tests/sources/test_source_kit.py), if it keeps to what `describe` and
        `replayable` say. Into a plain Bytewax sink at least once, with Bytewax's recovery.

    Raises:
        ConfigError: neither names nor a pattern; what it feeds can't be (see `replayable`).
    """

    replayable: bool = True
    noun: str = "source"
    place: str = ""
    create_hint: str = "Create it, or correct its name."
    await_hint: str = "Waiting for it; is its name right?"
    lost_aside: str = ""
    asks_places: ClassVar[bool] = False  # is `lost_at` more than what `describe` tells?
    flow_by: str = ""
    _made = False

    def __init__(
        self,
        *names: str,
        pattern: str = "",
        options: Options | None = None,
        feeds: Sequence[Target] | None = None,
        flow: str = "",
    ) -> None:
        if bool(names) == bool(pattern):
            raise ConfigError(f"{type(self).__name__} needs names, or a pattern of them.", hint="Give it either.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{type(self).__name__}: the pattern {pattern!r} is no regular expression: {error}.",
                hint=r"A name fits it from end to end: r'.+\.csv', where a shell would have *.csv.",
            ) from None
        self._made = True
        self.names, self.pattern, self.options, self._flow = names, pattern, options or Options(), flow
        self._targets = Feeds(feeds)
        self._shared: tuple[Watch, Durable] | None = None
        self._lock = threading.Lock()

    # -- what one who writes a source says -----------------------------------------------------------

    @abstractmethod
    def describe(self) -> Sequence[Log]:
        """The streams that there are now, with what each log holds. A name of which there is nothing is left out.

        Raises:
            NotThere: a source went away meanwhile; its name.
            TransientError: the server is away: it is asked again, for `away_max_s`.
        """

    @abstractmethod
    def lane(self, name: str, alert: Alert) -> LaneReader:
        """The reader of a lane. It alerts the kit where something is odd, with the stream whose log lacks the position."""

    @abstractmethod
    def close(self) -> None:
        """The run is over; another one may begin."""

    def listed(self) -> Collection[tuple[str, str, int]]:
        """The streams of `describe` by (source, source id, partition): asked often, for those to whom the rest comes dear."""
        return [(one.source, one.source_id, one.partition) for one in described(self)]

    def at_time(self, time_ms: int, logs: Mapping[Stream, Log]) -> Mapping[Stream, Begin]:  # noqa: ARG002 - for those that know
        """Where each log's records of this time (milliseconds since 1970) and later begin.

        Raises:
            ConfigError: the source knows no times.
        """
        latest = "" if any(log.end is None for log in logs.values()) else " or latest"
        raise ConfigError(f"START: {self.called} knows no times.", hint=f"Take START=earliest{latest}.")

    def lost_at(self, place: Place) -> DataLoss | None:  # noqa: ARG002 - for those that are asked where they read
        """Why this place can't be read from, where `describe` does not tell that."""
        return None

    def started(self, flow: str, closing: threading.Event, durable: Durable) -> None:
        """A run begins; `closing` is set when it ends, and `durable` says what its server may be told."""

    def begun(self) -> None:
        """All streams are open."""

    # -- what the kit makes of it --------------------------------------------------------------------

    @property
    def called(self) -> str:
        """What is read, for people."""
        return ", ".join(self.names) or self.pattern

    def fits(self, name: str) -> bool:
        """Is it a name that is read?"""
        return name in self.names or (bool(self.pattern) and re.fullmatch(self.pattern, name) is not None)

    def lane_of(self, stream: Stream) -> int:
        """The number of the lane that reads a stream: where many have one partition each, they are spread as well."""
        shift = 0 if len(self.names) == 1 else zlib.crc32(stream.source.encode())
        return (shift + stream.partition) % self.options.lanes

    def feed(self, graph: object, target: Target) -> None:
        """A sink of this graph stands behind it."""
        self._demand_made()
        self._targets.add(graph, target)

    @property
    def _feeds(self) -> Sequence[Target]:
        return self._targets.targets

    def _demand_made(self) -> None:
        if not self._made:
            name = type(self).__name__
            hint = 'It says what is read: super().__init__("name"), or super().__init__(pattern="...").'
            raise ConfigError(f"{name}.__init__ does not call super().__init__.", hint=hint)

    @override
    def list_parts(self) -> list[str]:
        self._demand_made()
        for feed in self._feeds:
            for name in self.names:
                feed.expect(name)
            if self.pattern:
                feed.expect(Expected(self.pattern, pattern=True))
        return [lane_name(lane) for lane in range(self.options.lanes)]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Kept | None) -> Lane:
        try:
            flow = self._flow_of(step_id)
            with self._lock:  # workers of one process build their lanes at once
                watch, durable = self._shared_by_lanes(flow)
                return Lane(self, self.list_parts().index(for_part), watch, durable, resume_state)
        except Exception as error:  # noqa: BLE001 - the process ends by it, or it is raised
            runtime.fail(error)

    def _flow_of(self, step_id: str) -> str:
        flow = next((feed.flow for feed in self._feeds if feed.flow), "") or self._flow or step_id.partition(".")[0]
        if self._flow and flow != self._flow:
            raise ConfigError(
                f"{self.flow_by or f'{type(self).__name__}(flow={self._flow!r})'} feeds targets of the flow {flow!r}.",
                hint=f"Leave flow= out, or name the flow so: Dataflow({self._flow!r}); or by FLOW_NAME, for all of it.",
            )
        return flow

    def _shared_by_lanes(self, flow: str) -> tuple[Watch, Durable]:
        """What all lanes of this process share; a second run of the same source begins anew."""
        if self._shared is None or self._shared[0].closed:
            self._refuse_to_feed()
            for feed in self._feeds:
                for name in self.names:
                    feed.claim(name, self)
            watch = Watch(self, self._feeds, flow)
            durable = Durable(self._targets, watch.reads)
            self.started(flow, watch.closing, durable)
            self._shared = (watch, durable)
            watch.start()
        return self._shared

    def _refuse_to_feed(self) -> None:
        """What can't be read again the same way feeds one sink step, and no windows."""
        if self.replayable or not self._feeds:
            return
        why = f"{self.called} can't be read again the same way ({type(self).__name__}), so it feeds one sink step"
        if len(self._feeds) > 1:
            raise ConfigError(
                f"{why}, and here are {len(self._feeds)}: {', '.join(feed.step for feed in self._feeds)}.",
                hint="Write it to one place (a topic), and read that into all of them.",
            )
        if self._feeds[0].folds_windows:
            raise ConfigError(
                f"{why}, and {self._feeds[0].step} folds windows, whose parts stand at different positions.",
                hint="Write it to one place (a topic or table of a database), and read that into windows.",
            )

    def resumed(self, number: int, kept: object) -> LaneState | None:
        """What Bytewax's recovery store holds for a lane.

        Raises:
            ConfigError: it is of another number of lanes, so that streams would begin anew in others.
        """
        state = LaneState.of(kept, self.names[0] if len(self.names) == 1 else "")
        if state is None or self._feeds:  # these remember; what can't be read again goes on where they stand alone
            return state if self.replayable else None
        if state.lanes == 0 and len(self.names) != 1:
            raise ConfigError(
                f"The recovery store (-r) is of an earlier Waxwing and of one topic, and now {self.called} is read.",
                hint="Read that topic alone; or make a new folder for -r, and begin by START.",
            )
        was = f"LANES was {state.lanes}" if state.lanes not in (0, self.options.lanes) else ""
        if not was and any(self.lane_of(Stream("", *key)) != number for key in state.streams):
            was = "LANES or what is read was another"
        if was:
            raise ConfigError(
                f"The recovery store (-r) holds lane {number} of another division: {was}.",
                hint="Start with the LANES and sources that it was made with; or make a new folder for -r, and begin by START.",
            )
        return state


class Source(LaneSource):
    """A source that reads its streams one by one: `describe`, `read`, `close`. See docs/your-own-source.md.

    Parallelism: as a LaneSource; the streams of a lane take turns.
    Delivery: exactly once into the targets behind it (tests/docs/test_own_source.py).
    """

    asks_places = True

    @abstractmethod
    def read(self, place: Place) -> Iterator[Run | None]:
        """What a stream holds from a place on, run by run.

        None: there is nothing now, ask again in a moment. To end means the same, and `read` is called again after
        `poll_interval_s`, from the last place that has a name (a token, or an offset where there are no tokens).

        Raises:
            TransientError: the server is away: it is read again from there, for `away_max_s`.
            DataLoss: the place is no longer there; said before the first run. With ON_DATA_LOSS=continue the next start reads the
                stream from its log's start.
        """

    @override
    def lost_at(self, place: Place) -> DataLoss | None:
        runs = self.read(place)
        try:
            next(iter(runs), None)
        except DataLoss as loss:
            return loss
        except NotThere:  # found, and told, where it is read
            return None
        finally:
            if isinstance(runs, Generator):
                runs.close()
        return None

    @override
    def lane(self, name: str, alert: Alert) -> LaneReader:
        return OneByOne(self.read, self.options)
