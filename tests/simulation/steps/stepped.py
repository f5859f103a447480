"""The shipped writer without its thread: its steps are taken one by one, when the schedule says so."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from sinks.writer.commits import Commits
from sinks.writer.crew import Crew
from sinks.writer.writer import Writer

if TYPE_CHECKING:
    from sinks.writer.admission import Admits
    from tests.simulation.process import Process
    from waxwing.target import Target

# One reading hands over so many records to a writer at most.
HANDED_OVER_MAX = 12
# And, in pieces of windows.
PIECES_WEIGH_MAX = 2_000


class Wake(threading.Condition):
    """The writer's condition. Nothing runs beside the caller, so there is nothing to lock; to wait is to step the writer."""

    def __init__(self, writer: SteppedWriter) -> None:  # no lock is made, so Condition's own is not called
        self._writer = writer

    @override
    def __enter__(self) -> bool:
        return True

    @override
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is locked."""

    @override
    def notify_all(self) -> None:
        self._writer.due_s = 0.0

    @override
    def wait(self, timeout: float | None = None) -> bool:
        # Only the worker comes here: the writer's own waits are yielded.
        self._writer.at_it.advance()
        return True


class Joined(threading.Thread):
    """Stands for the writer's thread: to join it is to take all steps that are left."""

    def __init__(self, writer: SteppedWriter) -> None:  # no thread is made, so Thread's own is not called
        self._writer = writer

    @override
    def join(self, timeout: float | None = None) -> None:
        # A step that is under way below the caller can't be waited for; it is left behind, as one that waits for a silent server.
        while not self._writer.ended and not self._writer.busy:
            self._writer.advance()


class SteppedWriter(Writer):
    """The shipped writer, its thread's steps taken one by one."""

    def __init__(
        self, process: Process, target: Target, part: str, admission: Admits | None = None, crew: Crew | None = None
    ) -> None:
        self.process, self._weigh_max = process, HANDED_OVER_MAX if admission is None else PIECES_WEIGH_MAX
        self.busy = self.ended = False
        self.due_s = 0.0
        crew = crew or Crew(admission or process.world.parts.admission(target.settings))
        super().__init__(target, part, process.world.now_s, crew=crew)

    @override
    def _make_commits(self) -> Commits:
        kind = self.process.world.parts.commits
        return kind(self._target, self._part, self._now_s, self._admission, lambda: self._closing)

    @override
    def _start(self) -> None:
        self._wake = Wake(self)
        self._thread = Joined(self)

    def advance(self) -> None:
        """One step of the thread, later than whatever it waits for."""
        if self.ended:
            return
        world = self.process.world
        world.clock_s = max(world.clock_s, self.due_s)
        self.busy = True
        try:
            wait_s = self._step()
        finally:
            self.busy = False
        if wait_s is None:
            self.ended = True
        else:
            self.due_s = world.clock_s + wait_s

    @property
    def blocks(self) -> bool:
        """Might handing over wait for a step that is under way?"""
        return self.at_it.busy and self._waiting + self._weigh_max > self._settings.queue_records_max

    @property
    def at_it(self) -> SteppedWriter:
        """Who writes what was handed over here: this one, or another that helps."""
        helpers = (other for other in self._crew.writers if self in other._helping)
        return cast("SteppedWriter", next(helpers, self))

    @property
    def holds(self) -> bool:
        """Is something handed over that is not durable?"""
        return self._under_way > 0

    @property
    def error(self) -> BaseException | None:
        """What ended the thread."""
        return self._error
