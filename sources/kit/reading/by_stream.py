"""A lane over a source that reads its streams one by one: each has its turn, and its patience with the server."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from sources.kit.options import Options
from sources.kit.starting.described import HINT, demand_token
from sources.kit.words import EMPTY, Fetched, LaneReader, NotThere, Place, Run
from waxwing import log
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataLoss, TargetError, TransientError

# A reading that has nothing now is asked again so much later.
REST_S = 0.02
RETRY_FIRST_S = 0.2
RETRY_WAIT_MAX_S = 10.0
CONTINUE_HINT = "ON_DATA_LOSS=continue reads the stream anew from its log's start: what is lost stays lost, the rest comes again."


class _Reading:
    """One stream's reading: begun at a place, and begun again at the last place that can be named."""

    def __init__(self, place: Place, read: Callable[[Place], Iterator[Run | None]], options: Options) -> None:
        self.place, self._read, self._options = place, read, options
        self.awake_s = 0.0
        self._stands = place.offset  # what comes next has this number, or a higher one
        self._runs: Iterator[Run | None] | None = None
        self._failing_since_s: float | None = None
        self._pause_s = RETRY_FIRST_S

    def next(self) -> Fetched | None:
        """The next run; None: the server is away, and there is still patience.

        Raises:
            TransientError: it stayed away.
        """
        stream, now_s = self.place.stream, time.monotonic()
        try:
            if self._runs is None:
                self._runs, self._stands = self._begun(), self.place.offset
            run = next(self._runs)
        except StopIteration:
            self._runs, self.awake_s = None, now_s + self._options.poll_interval_s
            self._well()
            return Fetched(stream, Run(EMPTY, self.place.offset), at_end=True, over=bool(self._options.until))
        except NotThere:  # the watch over the source finds that, and says what becomes of it
            self.close()
            self.awake_s = now_s + self._options.poll_interval_s
            return None
        except DataLoss as error:
            self.close()
            if self._options.on_data_loss == "continue":  # sinks have the stream open: the next start moves its position
                hint = "The next start reads it from its log's start."
                raise TransientError(f"{error.message} (ON_DATA_LOSS=continue)", hint=hint, **error.context) from error
            error.hint = f"{error.hint} {CONTINUE_HINT}".lstrip()
            raise
        except TransientError as error:
            self.close()
            self._failing_since_s = self._failing_since_s or now_s
            if now_s - self._failing_since_s + self._pause_s > self._options.away_max_s:
                raise
            log.lasting("source_away", error.message, f"{error.message.rstrip('.')}; still trying.", **error.context)
            self.awake_s = now_s + self._pause_s * random.uniform(0.5, 1.0)
            self._pause_s = min(self._pause_s * 2, RETRY_WAIT_MAX_S)
            return None
        self._well()
        if run is None:
            self.awake_s = now_s + REST_S
            return Fetched(stream, Run(EMPTY, self.place.offset), at_end=True)
        self._demand_types(run)
        offsets = run.messages.offsets
        if offsets and offsets[0] < self._stands:  # it would look like what was read before
            raise TargetError(f"{stream}: the source gave offset {offsets[0]}, and what comes next is {self._stands} or higher.")
        end = run.offset_next if run.offset_next is not None else offsets[-1] + 1 if offsets else self._stands
        self._stands = end
        if run.token is not None or self.place.token is None:
            self.place = Place(stream, end, run.token)
        return Fetched(stream, run)

    def _begun(self) -> Iterator[Run | None]:
        runs: object = self._read(self.place)
        if not isinstance(runs, Iterable):
            raise ConfigError(f"{self.place.stream}: read() gave {runs!r}.", hint="It yields Runs; none, where there is nothing.")
        return iter(runs)

    def _demand_types(self, run: object) -> None:
        """Of each run the first value, so that a record costs nothing."""
        stream = self.place.stream
        if not isinstance(run, Run):
            raise ConfigError(f"{stream}: read() gave {run!r}, which is no Run.", hint=HINT)
        demand_token(f"{stream}: the token of a Run", run.token)
        if not (isinstance(run.offset_next, int) or run.offset_next is None):
            raise ConfigError(f"{stream}: offset_next of a Run is {run.offset_next!r}, and has to be an int.", hint=HINT)
        if not len(run.messages):
            return
        offset, value, key = run.messages.offsets[0], run.messages.values[0], run.messages.keys[0]
        if not isinstance(offset, int):
            raise ConfigError(f"{stream}: an offset is {offset!r}, and has to be an int.", hint=HINT)
        for what, given in (("value", value), ("key", key)):
            if not (given is None or isinstance(given, bytes)):
                raise ConfigError(
                    f"{stream}: the {what} of offset {offset} is {given!r}, and has to be bytes (or None).", hint=HINT
                )

    def _well(self) -> None:
        self._failing_since_s, self._pause_s = None, RETRY_FIRST_S

    def close(self) -> None:
        runs, self._runs = self._runs, None
        if isinstance(runs, Generator):  # what it holds open is let go
            runs.close()


class OneByOne(LaneReader):
    """Gives a run of each stream in turn."""

    def __init__(self, read: Callable[[Place], Iterator[Run | None]], options: Options) -> None:
        self._read, self._options = read, options
        self._turns: deque[_Reading] = deque()

    def open(self, places: Sequence[Place]) -> None:
        self._turns.extend(_Reading(place, self._read, self._options) for place in places)

    def read(self, records_max: int) -> Sequence[Fetched]:  # noqa: ARG002 - a source says itself how large its runs are
        for _ in range(len(self._turns)):
            reading = self._turns[0]
            self._turns.rotate(-1)
            if reading.awake_s <= time.monotonic() and (fetched := reading.next()) is not None:
                return [fetched]
        return []

    def leave(self, stream: Stream) -> None:
        for reading in [one for one in self._turns if one.place.stream == stream]:
            reading.close()
            self._turns.remove(reading)

    def close(self) -> None:
        for reading in self._turns:
            reading.close()
