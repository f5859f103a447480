"""What a target is: a place that takes in batches and remembers, in the same atomic step, how far it got.

A `Target` is one per sink step and process: plain configuration, shared by the step's partitions.
A `Session` is one per partition: one connection, one writer, used by one thread at a time.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from waxwing.batch import Batch, Stream
from waxwing.change import Change, Order, Position, Size, Start
from waxwing.errors import ConfigError
from waxwing.ledger.ledger import UNFED_HINT
from waxwing.ledger.ownership import Owners, Ownership
from waxwing.settings import SinkSettings

__all__ = ["UNFED_HINT", "Expected", "Session", "Target", "TryingSession"]


class Session(ABC):
    """One partition's connection to the target.

    Every method may raise TransientError (the connection is then gone: the caller closes the
    session and opens another with the same token), ConfigError, TargetError or Fenced.
    """

    @abstractmethod
    def take_over(self, stream: Stream) -> Position:
        """Become the owner of the stream's position, then return it.

        Raises:
            Fenced: another owner has taken the target from us.
            ConfigError: the step has no position for the stream.
        """

    @abstractmethod
    def commit(self, change: Change) -> None:
        """Write rows, dead letters, state and positions in one transaction; positions first, by compare-and-set.

        Raises:
            RowError: rows that can't be stored; nothing was written. Its `bad` counts the records of all
                batches first, then their deletes.
            TransientError: its `committing` is True when the outcome of COMMIT is unknown.
            TableAltered: the table is no longer what it was when it was looked at; nothing was written.
        """

    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        """Take in the records of these, all or none, to be committed with the next change, which does not bring them once more.

        For a target whose changes are staged (see Size). What was staged belongs to the target: it outlives this session, and
        goes with the process.

        Raises:
            RowError: rows that can't be stored, named in its `bad`.
        """
        raise NotImplementedError(f"{type(self).__name__} takes in whole changes")

    @abstractmethod
    def close(self) -> None:
        """Close the connection; what is not committed is rolled back. Never raises."""


class TryingSession(Session):
    """One that can try a change: bad rows that the target does not name are then looked for."""

    @abstractmethod
    def attempt(self, change: Change) -> None:
        """A dry run: everything that `commit` does, and then it is rolled back.

        Where the change is written in parts, that may wait for the next call: if it begins with the same parts, the session goes
        on with what it has. Raises as `commit` does.
        """

    def order(self, change: Change) -> Order:  # noqa: ARG002 - a target without keys has no order
        """In which order rows and deletes have to be written; by default in any."""
        return Order()


class Expected(NamedTuple):
    """What a reader of the flow reads: a source of this name, or with `pattern` all whose names this regular expression fits."""

    name: str
    pattern: bool = False

    def has(self, source: str) -> bool:
        """Is it of this?"""
        return re.fullmatch(self.name, source) is not None if self.pattern else source == self.name


class Target(ABC):
    """A place that keeps results and positions together."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings
        self._flow = ""
        self._step = ""
        self.reasons_told: set[str] = set()  # kinds of dead letters that the log has named in this process
        self._flow_targets: dict[str, Target] = {}
        self._claims: dict[str, object] = {}  # by the source's name
        self.table_given: object = None  # the flow's sa.Table that one record's row goes into, if there is just one
        # The sources that the flow reads into this target, known before the first of them begins.
        self.expected: set[Expected] = set()
        self._lanes_reading: Counter[str] = Counter()  # of this process, of all sources, that go on reading
        self.ownership = Ownership()

    # -- which step it serves ------------------------------------------------------------------

    def bind(self, flow: str, step: str, flow_targets: dict[str, Target] | None = None) -> None:
        """Called by the `sink` operator: names the step that this target serves.

        `flow_targets` is one dict for all targets of the flow, by step; this one is added to it.

        Raises:
            ConfigError: it serves another step already.
        """
        if self._step and (self._flow, self._step) != (flow, step):
            raise ConfigError(
                f"one target object serves one step: it serves {self._step!r} and is given to {step!r}.",
                hint="Make a second target object for the second step.",
            )
        self._flow, self._step = flow, step
        if flow_targets is None or self._flow_targets is not flow_targets:  # another Dataflow, whose sources are others
            self._claims, self.expected = {}, set()
        self._flow_targets = {} if flow_targets is None else flow_targets
        # One owner for all targets of the flow.
        self.ownership = next((other.ownership for other in self._flow_targets.values() if other is not self), Ownership())
        self._flow_targets[step] = self
        if (owners := self.owners()) is not None:
            self.ownership.add(flow, step, owners)

    def stands_behind(self, other: Target) -> None:
        """Another target of the step is the flow's, and stands in front of this one."""
        self._flow_targets, self.ownership = other._flow_targets, other.ownership

    def expect(self, source: Expected | str) -> None:
        """Called by whoever feeds this target, in each process, before any source of the flow is read: see `expected`."""
        self.expected.add(Expected(source) if isinstance(source, str) else source)

    def not_begun(self, streams: Iterable[Stream]) -> set[Expected]:
        """What is expected and has none of these streams yet. (Those of a pattern begin together; later ones join.)"""
        begun = {stream.source for stream in streams}
        return {one for one in self.expected if not any(map(one.has, begun))}

    def claim(self, source: str, reader: object) -> None:
        """Called by whoever feeds this target, before it reads: one reader a source.

        Raises:
            ConfigError: another one of the same flow reads a source of this name into it.
        """
        if self._claims.setdefault(source, reader) is not reader:
            raise ConfigError(
                f"Flow {self.flow} reads {source!r} twice into step {self.step}, where nothing tells the two apart.",
                hint="Read it once: a source may feed any number of steps; or give each a source name of its own, or a step of "
                "its own.",
                step=self.step,
                source=source,
            )

    def lane_begins(self, lane: str) -> None:
        """Called by each lane of this process that has something to read into this target, by its name; and `lane_ends` once it
        reads no more. (Lanes of several sources have the same names.)"""
        self._lanes_reading[lane] += 1

    def lane_ends(self, lane: str) -> None:
        """See `lane_begins`."""
        self._lanes_reading[lane] -= 1

    def is_read(self, lane: str = "") -> bool:
        """Does this lane of the process go on reading into it; or any?"""
        return self._lanes_reading[lane] > 0 if lane else self._lanes_reading.total() > 0

    @property
    def flow(self) -> str:
        return self._flow

    @property
    def step(self) -> str:
        return self._step

    @abstractmethod
    def owners(self) -> Owners | None:
        """The owners' records of the step; None where nobody else can write."""

    def token(self) -> str:
        """Names the owner of positions, for a writer that begins: one for all in this process, where there are records."""
        return secrets.token_hex(8) if self.owners() is None else self.ownership.token

    @property
    def flow_steps(self) -> frozenset[str]:
        """All steps of the flow that write into targets of ours, whichever source feeds them."""
        return frozenset(self._flow_targets)

    @property
    def store(self) -> Hashable:
        """What all targets have in common that keep their positions in one place."""
        return id(self)

    @property
    def steps_here(self) -> frozenset[str]:
        """The steps of the flow whose positions are kept where this one's are."""
        return frozenset(step for step, target in self._flow_targets.items() if target.store == self.store)

    @property
    def parts_max(self) -> int | None:
        """How many sink partitions may write at once: 1 for a database with one writer, None for no limit."""
        return None

    @property
    def idle_after_s(self) -> float | None:
        """After how many seconds at a log's end the source marks a partition as idle; None: nobody asks."""
        return None

    # When all records before a stream's start were written, in microseconds since 1970, where the source knows: it says so
    # before `begin`. For windows, which leave out those that are not whole.
    moments_us: Mapping[Stream, int] = MappingProxyType({})

    def held_back(self) -> tuple[bool, frozenset[Stream]]:
        """Does its step hold nothing back from now on; and the streams of which it still does (see waxwing.steps.holding)."""
        return True, frozenset()

    @property
    def size(self) -> Size:
        """How large and how old its changes get. Below a tenth of a second round trips and the commit show in a database, above
        it nothing is gained, and more rows wait in memory."""
        return Size(self.settings.flush_rows_max, self.settings.flush_interval_s)

    @property
    def resends(self) -> bool:
        """Does a dry run begin anew, and not go on behind the parts that it has written?"""
        return True

    # -- what a source asks --------------------------------------------------------------------

    @abstractmethod
    def prepare(self) -> None:
        """Make or check the tables. Called once per process before anything is read.

        Raises:
            ConfigError: all differences in one message.
            TransientError: the server is not there.
        """

    @abstractmethod
    def steps(self) -> Mapping[str, int]:
        """The steps of this flow that have positions in this target, with how many."""

    @property
    def folds_windows(self) -> bool:
        """Does it keep windows? Then it may hold several positions of one stream, and takes in no batch in part."""
        return False

    def alive(self, steps: Collection[str]) -> str:  # noqa: ARG002 - for those that others may write, too
        """Where a process runs that owns one of these steps of the flow here, and beats; else empty."""
        return ""

    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:  # noqa: ARG002 - for those that know
        """Steps of other flows, as (flow, step), that took these streams into this very place: of a flow that was renamed."""
        return ()

    def forgets(self, flow: str, step: str) -> str:
        """What makes it forget a step: a command, or what is to be deleted."""
        return f"delete what it keeps of step {step} of flow {flow}"

    def renames(self, old: str, new: str) -> str:
        """What to do where a flow was renamed."""
        return f"Go on under its earlier name: FLOW_NAME={old} in place of {new}."

    def left_behind(self) -> str:
        """What it holds although nothing is remembered of it, so that somebody has lost its positions; empty: nothing, or nobody
        can tell."""
        return ""

    @property
    def again(self) -> str:
        """What it means for this target that records are taken in a second time."""
        return "what it holds of these records is written again"

    @abstractmethod
    def positions(self) -> Sequence[Position]:
        """Every stored position of this step: a plain read, for sources and lag reports."""

    @abstractmethod
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        """Store a position for each stream that has none; return all positions of their sources. One transaction.

        A stream that has one keeps it; its `offset_end` is set to the given one (None clears it).
        """

    @abstractmethod
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        """Move a stored position over records that no longer exist (or back onto a shortened log).

        For ON_DATA_LOSS=continue, at the start, before the sink partition takes the stream over.
        """

    # -- what a sink partition asks ------------------------------------------------------------

    @abstractmethod
    def connect(self, part: str, token: str) -> Session:
        """A session for the sink partition `part`, for use by one thread.

        `token` names the owner (see `token`); what it took over it keeps over a lost connection.
        """

    def check_records(self, kind: Any) -> None:  # noqa: B027 - a target without columns takes any
        """Refuse a type of records (None: nobody has declared it) of which not one could be written.

        Raises:
            ConfigError: with all that does not fit.
        """

    def misfits(self, records: Sequence[Any]) -> Mapping[int, str]:  # noqa: ARG002 - as above
        """Reasons of records that the target's columns can't hold, by their numbers; those that the sink would give.

        Asked by the operator `check`, of any thread, before records come to the sink: it asks no server.

        Raises:
            ConfigError: its rows are not made of one record each.
        """
        return {}

    def check_keys(self, kind: Any) -> None:  # noqa: B027 - as above
        """Refuse a way of reading tombstones' keys (None: nobody said) by which not one could be a key here.

        Raises:
            ConfigError: with all that does not fit.
        """

    @property
    def columns(self) -> Sequence[str]:
        """What the values of rows that are plain tuples are called; empty where nobody knows."""
        return ()

    @property
    def resume_command(self) -> str:
        """What an operator types to let bad records pass."""
        return f"waxwing resume {self.flow}"

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages: table and server, without user and password."""
