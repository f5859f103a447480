"""What a source is, for those who write one: describe yourself, read, close. The rest stands here, once for all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Generator, Iterator

from bytewax.inputs import FixedPartitionedSource
from typing_extensions import override

from sources.kit.any_source import AnySource
from sources.kit.reading.by_stream import OneByOne
from sources.kit.reading.lane import Lane
from sources.kit.starting.described import described
from sources.kit.starting.feeds import Durable
from sources.kit.state import Kept
from sources.kit.watch import Watch
from sources.kit.words import Alert, LaneReader, NotThere, Place, Raw, Run
from waxwing import runtime
from waxwing.batch import lane_name
from waxwing.errors import ConfigError, DataLoss
from waxwing.target import Expected


class LaneSource(AnySource, FixedPartitionedSource[Raw, Kept | None]):
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

    _shared: tuple[Watch, Durable] | None = None

    @override
    def listed(self) -> Collection[tuple[str, str, int]]:
        """The streams of `describe` by (source, source id, partition): asked often, for those to whom the rest comes dear."""
        return [(one.source, one.source_id, one.partition) for one in described(self)]

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
            with self._lock:
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
