"""What a source says of itself, and is asked by its lanes and by who begins them."""

from __future__ import annotations

import re
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from sources.kit.options import Options
from sources.kit.starting.feeds import Durable, Feeds
from sources.kit.state import LaneState
from sources.kit.words import Alert, Begin, LaneReader, Log, Place
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss
from waxwing.target import Target


class AnySource(ABC):
    """What any source is to its lanes and to who begins them; see `LaneSource` for its arguments and attributes."""

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
        self._lock = threading.Lock()  # workers of one process build their lanes at once

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

    @abstractmethod
    def listed(self) -> Collection[tuple[str, str, int]]:
        """The streams of `describe` by (source, source id, partition): asked often, for those to whom the rest comes dear."""

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

    def started(self, flow: str, closing: threading.Event, durable: Durable) -> None:  # noqa: B027 - for those who care
        """A run begins; `closing` is set when it ends, and `durable` says what its server may be told."""

    def begun(self) -> None:  # noqa: B027 - likewise
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
